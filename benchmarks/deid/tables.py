"""The benchmark's tables, as Markdown."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = (
    "names, IDs",
    "dates",
    "free text",
    "device",
    "UIDs",
    "listed SQ",
    "unlisted SQ",
    "private",
    "SR text",
    "overlay, curve",
    "PDF, ICC",
    "file meta",
    "preamble, padding",
    "codestream",
    "unlisted text",
)


@dataclass(kw_only=True)
class Outcome:
    """What one tool made of one file.

    Args:
      status: ``done``, ``refused`` or ``crashed``.
      why: The code of a refusal or the type of an exception.
      path: The output, if any.
      cpu_ms: Median over the repetitions.
      image_kept: Whether the decoded image is the same; None if there was none to compare.
      new_errors: Error lines of dciodvfy beyond those of the input.
      left: Planted tokens that are still there, by class.
    """

    status: str
    why: str
    path: Path
    cpu_ms: float = 0.0
    image_kept: bool | None = None
    new_errors: int = 0
    left: Counter[str] = field(default_factory=Counter)


Outcomes = Mapping[str, Mapping[str, Outcome]]
Tokens = Mapping[str, Mapping[str, Sequence[bytes]]]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def _count(outcomes: Mapping[str, Outcome], status: str) -> int:
    return sum(outcome.status == status for outcome in outcomes.values())


def cost_table(found: Outcomes, *, compressed: Mapping[str, bool]) -> str:
    """CPU over the files that all put out; crashes, images and validity over each tool's own."""
    common = [n for n in compressed if all(each[n].status == "done" for each in found.values())]
    groups = {
        "uncompressed": [name for name in common if not compressed[name]],
        "compressed": [name for name in common if compressed[name]],
    }
    head = ["tool"]
    head += [f"CPU ms per file, {kind} ({len(names)}): median; mean; worst"
             for kind, names in groups.items()]  # fmt: skip
    head += ["put out", "refused", "crashed", "images bit-exact", "files with new dciodvfy errors",
             "new error lines"]  # fmt: skip
    rows = []
    for tool, outcomes in found.items():
        spent = [[outcomes[name].cpu_ms for name in names] for names in groups.values()]
        done = [outcome for outcome in outcomes.values() if outcome.status == "done"]
        judged = [outcome for outcome in done if outcome.image_kept is not None]
        rows.append([
            tool,
            *(f"{statistics.median(s):.1f}; {statistics.fmean(s):.1f}; {max(s):.1f}" if s else "–"
              for s in spent),
            len(done),
            _count(outcomes, "refused"),
            _count(outcomes, "crashed"),
            f"{sum(bool(o.image_kept) for o in judged)} of {len(judged)}",
            sum(o.new_errors > 0 for o in done),
            sum(o.new_errors for o in done),
        ])  # fmt: skip
    return _table(head, rows)


def survivors_table(found: Outcomes, tokens: Tokens, *, files: Sequence[str] | None) -> str:
    """Percentage of planted identifiers still in the outputs, by class."""
    rows = []
    for tool, outcomes in found.items():
        names = [n for n, o in outcomes.items() if o.status == "done"] if files is None else files
        planted, left = Counter(), Counter()
        for name in names:
            planted.update({kind: len(each) for kind, each in tokens[name].items()})
            left.update(outcomes[name].left)
        cells = [_share(left[kind], planted[kind]) for kind in CLASSES]
        whole = sum(left.values()), sum(planted.values())
        rows.append([tool, len(names), *cells, f"**{_share(*whole)}** ({whole[0]} of {whole[1]})"])
    return _table(["% left", "files", *CLASSES, "all"], rows)


def _share(left: int, planted: int) -> str:
    if not planted:
        return "–"
    share = 100 * left / planted
    return "0" if not left else f"{share:.1f}" if share < 99.95 or left == planted else ">99.9"


def refusals_table(found: Outcomes) -> str:
    """Why planted files were not put out."""
    rows = []
    for tool, outcomes in found.items():
        for status in ("refused", "crashed"):
            reasons = Counter(o.why for o in outcomes.values() if o.status == status)
            rows += [[tool, status, why, n] for why, n in sorted(reasons.items())]
    return _table(["tool", "", "why", "planted files"], rows)


def painted_table(found: Outcomes, control: Outcomes, *, words: Mapping[str, int]) -> str:
    """Words that are still in the pixels of what was put out, each tool's own pixel step on."""
    rows = []
    for tool, outcomes in found.items():
        done = [name for name, outcome in outcomes.items() if outcome.status == "done"]
        left = sum(outcomes[name].left["words"] for name in done)
        planted = sum(words.values())
        cpu = statistics.median(outcome.cpu_ms for outcome in outcomes.values())
        kept = [_count(outcomes, status) for status in ("refused", "crashed")]
        share = f"{_share(left, planted)} % ({left} of {planted})"
        bare = _count(control[tool], "refused")
        rows.append([tool, len(outcomes), len(done), *kept, share, bare, f"{cpu:.0f}"])
    head = ["tool", "painted images", "put out", "refused", "crashed",
            "words that got through", "refused without the words", "CPU ms, median"]  # fmt: skip
    return _table(head, rows)
