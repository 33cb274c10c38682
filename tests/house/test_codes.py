"""Every code that Septum gives is documented, and no other."""

import ast
import re
from pathlib import Path

from septum import cli, errors
from septum.errors import Code, Quarantine

PUBLIC = re.compile(r"(?:SITE|DATA)_\d{3}")


def _rows(page: str, title: str) -> list[list[str]]:
    section = page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[2:]


def _page(root: Path) -> str:
    return (root / "docs/codes.md").read_text(encoding="utf-8")


def test_every_public_code_says_what_it_means_and_what_the_hospital_does(root: Path) -> None:
    tables = (
        ("What a hospital tells the coordinator", Code),
        ("Why a file stayed out of a cohort", Quarantine),
    )
    for title, kind in tables:
        rows = _rows(_page(root), title)
        assert [row[:2] for row in rows] == [[f"`{code.value}`", code.name] for code in kind]
        for row in rows:
            assert len(row[2]) > 15, row
            assert len(row[3]) > 5, row


def test_no_document_names_a_code_that_does_not_exist(root: Path, tracked: tuple[str, ...]) -> None:
    known = {*Code, *Quarantine}
    for name in tracked:
        if name.endswith((".md", ".j2")):
            text = (root / name).read_text(encoding="utf-8")
            assert set(PUBLIC.findall(text)) <= known, name


def test_codes_are_never_reused() -> None:
    assert len({*Code, *Quarantine}) == len(Code) + len(Quarantine)
    assert all(PUBLIC.fullmatch(code) for code in (*Code, *Quarantine))


def test_every_reason_of_the_round_record_is_documented(
    root: Path, trees: dict[str, ast.Module]
) -> None:
    given = {"NO_ANSWER", "NOT_CONNECTED", "FORM"}
    for name, tree in trees.items():
        if not name.startswith("server/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "AdmissionError":
                said = re.match(r"f?['\"]([A-Z_]+?)_?(?::|\{)", ast.unparse(node.args[0]))
                assert said, f"{name}:{node.lineno} gives no reason first"
                given.add(said[1].replace("FLOWER", "FLOWER_n"))
    documented = [row[0].strip("`") for row in _rows(_page(root), "Reasons in the round record")]
    assert sorted(documented) == sorted(given)


def test_every_exit_code_is_documented(root: Path) -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SeptumError)
    ]
    documented = {int(row[0]): row[1] for row in _rows(_page(root), "Exit codes")}
    others = {0, cli._SYSTEM}
    assert set(documented) == others | {kind.exit_code for kind in kinds}
    for kind in kinds:
        if "exit_code" in vars(kind):
            assert kind.__name__ in documented[kind.exit_code]
