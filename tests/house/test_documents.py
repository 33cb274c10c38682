"""Documents are part of the program: what they name exists, and what they claim is claimed."""

import re
from itertools import groupby
from pathlib import Path

from septum.wire import INSTRUCTION_FIELDS, METRICS, REFUSAL_FIELDS, RELEASE_FIELDS

HERE = "tests/house/test_documents.py"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

# No measurement can earn these words. A sentence may deny them or quote them.
CLAIMS = re.compile(
    r"\banonym(?:ous|ously|ity|i[sz]ed)\b"
    r"|\b(?:HIPAA|GDPR|MDR|FDA)[- ](?:compliant|approved|certified|cleared|ready)\b"
    r"|\bcompliant\b"
    r"|\b(?:completely|fully|perfectly|provably|100 ?%) (?:private|secure|safe)\b"
    r"|\bsafe to (?:share|release|publish|send)\b"
    r"|\bkeeps? \w+(?: \w+)? safe\b"
    r"|\b(?:military|bank)[- ]grade\b"
    r"|\b(?:no|zero)[- ]risk\b"
    r"|\b(?:un(?:breakable|hackable)|state[- ]of[- ]the[- ]art|revolutionary|seamless)\b"
    r"|\bguarantees? (?:privacy|anonymity|confidentiality)\b"
    r"|\b(?:impossible to|cannot be) (?:reconstruct|re-?identif)\w*"
    r"|\bonly (?:weights|gradients|parameters|model updates) leave\b",
    re.IGNORECASE,
)
DENIED = re.compile(r"\b(?:no|not|never|nor|neither|nobody|nothing|cannot|don't)\b", re.IGNORECASE)
QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”")

# A file that names one machine or one registry works on that one only.
PLACES = re.compile(
    r"/(?:work|root|opt)/\w|/home/[a-z]|/Users/[A-Za-z]"
    r"|\bpypi\.org|pythonhosted|download\.pytorch|anaconda\.org"
    r"|--(?:extra-)?index-url|--find-links"
    r"|\b(?:docker|ghcr|quay)\.io\b|huggingface\.co",
)


def _documents(root: Path, tracked: tuple[str, ...]) -> dict[str, str]:
    return {
        name: (root / name).read_text(encoding="utf-8")
        for name in tracked
        if name.endswith((".md", ".j2"))
    }


def _anchors(text: str) -> set[str]:
    titles = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title))
        .lower()
        .replace(" ", "-")
        for title in titles
    }


def test_every_link_inside_the_tree_leads_somewhere(root: Path, tracked: tuple[str, ...]) -> None:
    broken = []
    for name, text in _documents(root, tracked).items():
        for target in LINK.findall(text):
            if target.startswith(("http:", "https:", "mailto:")) or "{{" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (root / name).parent / path if path else root / name
            if not file.exists():
                broken.append(f"{name}: {target}")
            elif anchor and anchor not in _anchors(file.read_text(encoding="utf-8")):
                broken.append(f"{name}: {target} has no such heading")
    assert not broken


def test_no_document_claims_what_no_measurement_can_show(
    root: Path, tracked: tuple[str, ...]
) -> None:
    faults = []
    for name, text in _documents(root, tracked).items():
        for sentence in re.split(r"(?<=[.!?:;])\s|\n\s*\n|\|", text):
            bare = QUOTED.sub("", sentence)
            if (found := CLAIMS.search(bare)) and not DENIED.search(bare):
                faults.append(f"{name}: {found[0]!r}")
    assert not faults


def test_the_readme_shows_both_commands_before_anything_else(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    first_screen = "\n".join(text.splitlines()[:12])
    assert "make simulate" in first_screen
    assert "make test" in first_screen


def test_the_readme_names_every_field_that_leaves_and_no_other(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    section = text.split("## What leaves a hospital\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == {"update", *RELEASE_FIELDS, *METRICS, *REFUSAL_FIELDS}


def test_an_instruction_has_no_field_for_a_privacy_parameter() -> None:
    assert set(INSTRUCTION_FIELDS) == {"study", "round", "deadline", "signature"}


def test_every_make_target_that_a_document_names_exists(
    root: Path, tracked: tuple[str, ...]
) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert {"simulate", "test", "check", "bench", "docs"} <= targets
    for name, text in _documents(root, tracked).items():
        used = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
        assert used <= targets, name


def test_the_changelog_puts_privacy_first_in_every_version(root: Path) -> None:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^(##|###) (.+)$", text, re.MULTILINE)
    versions = [i for i, (level, _) in enumerate(headings) if level == "##"]
    assert versions
    for index in versions:
        assert headings[index + 1] == ("###", "Privacy"), headings[index]


def test_the_licence_is_apache_2_0_and_whole(root: Path) -> None:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert " ".join(text.split()).startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_no_file_names_one_machine_or_one_registry(root: Path, tracked: tuple[str, ...]) -> None:
    faults = []
    for name in tracked:
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if name != HERE:
            faults += [f"{name}: {found}" for found in PLACES.findall(text)]
    assert not faults


def test_no_document_says_a_thing_twice_in_a_row(root: Path, tracked: tuple[str, ...]) -> None:
    for name, text in _documents(root, tracked).items():
        lines = (line for line in text.splitlines() if len(line) > 20)
        assert not [line for line, same in groupby(lines) if len(list(same)) > 1], name
