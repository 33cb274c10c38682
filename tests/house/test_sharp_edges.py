"""Every pitfall that a document says a test guards is guarded by a test that exists."""

import re
from pathlib import Path

GUARD = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[^)]+\.py)\)")
SEVERITIES = {"critical", "serious", "theoretical", "operational"}


def _table(root: Path) -> list[list[str]]:
    page = (root / "docs/sharp-edges.md").read_text(encoding="utf-8")
    section = page.split("## Pitfalls of training with differential privacy\n", 1)[1]
    lines = [line for line in section.split("\n## ", 1)[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines][2:]


def test_each_pitfall_has_a_severity_and_a_test_that_exists(root: Path) -> None:
    rows = _table(root)
    assert len(rows) >= 15
    for severity, what, guards in rows:
        assert severity in SEVERITIES
        assert len(what) > 30
        named = GUARD.findall(guards)
        assert named, what
        for name, path in named:
            assert f"def {name}(" in (root / path).read_text(encoding="utf-8"), (name, path)


def test_the_worst_comes_first(root: Path) -> None:
    order = ["critical", "serious", "theoretical", "operational"]
    severities = [row[0] for row in _table(root)]
    assert severities == sorted(severities, key=order.index)
