import re
from pathlib import Path

from septum.errors import Code
from septum_server.remedies import REMEDIES, line
from septum_server.rounds import RoundRecord

CODES = Path(__file__).parents[3] / "docs/codes.md"


def test_every_code_and_every_reason_has_a_meaning_and_a_next_step():
    section = CODES.read_text().split("## Reasons in the round record\n", 1)[1].split("\n## ")[0]
    reasons = {name.removesuffix("_n") for name in re.findall(r"^\| `(\w+)` \|", section, re.M)}
    assert set(REMEDIES) == {*Code, *reasons}
    assert all(meaning and remedy for meaning, remedy in REMEDIES.values())


def test_a_round_is_one_line_that_names_each_missing_site_and_the_remedy():
    entry = RoundRecord(
        round=4,
        asked=("a", "b", "c"),
        answered=("a",),
        refused={"b": "FLOWER_8", "c": "NO_ANSWER"},
        strays=("FORGED",),
        seconds=1.0,
        at="2026-01-01T00:00:00+00:00",
    )
    said = line(entry)
    assert "\n" not in said
    assert said.startswith("round 4: 1 of 3 sites contributed; b: FLOWER_8, ")
    assert "c: NO_ANSWER, asked, and silent at the deadline (" in said
    assert "unknown sender: FORGED" in said
    assert entry.late == ("c",)
