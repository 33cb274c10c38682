"""Versions are pinned, and what is pinned may be shipped."""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Run-time packages under the LGPL would be named here, each with its reason. There are none.
LGPL: frozenset[str] = frozenset()


def _pins(root: Path) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _closure(*roots: str) -> set[str]:
    """Return what ``roots`` need on this machine, extras followed, by canonical name."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in roots]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(canonicalize_name(requirement.name))
        for line in metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return found - {"septum"}


def _licences(name: str) -> Iterator[str]:
    about = metadata.metadata(name)
    expression = about.get("License-Expression")
    yield from [expression] if expression else []
    yield from (line for line in about.get_all("Classifier") or [] if line.startswith("License ::"))
    yield (about.get("License") or "").strip().split("\n")[0]


def test_every_package_of_the_environment_is_pinned_at_its_version(root: Path) -> None:
    pins = {canonicalize_name(name): version for name, version in _pins(root).items()}
    closure = _closure("septum[dev]")
    assert len(closure) > 60
    installed = {name: metadata.version(name).split("+")[0] for name in closure}
    assert {name: (v, pins.get(name)) for name, v in installed.items() if pins.get(name) != v} == {}


def test_every_line_pins_exactly_one_version_without_a_local_tag(root: Path) -> None:
    for name, version in _pins(root).items():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name), name
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), version


def test_torch_is_the_one_version_that_everything_was_tested_with(root: Path) -> None:
    assert _pins(root)["torch"] == "2.13.0"
    assert '"torch==2.13.0"' in (root / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["nvidia", "cuda", "cupy", "triton", "cudnn"])
def test_no_package_needs_a_graphics_card(word: str, root: Path) -> None:
    assert not [name for name in _pins(root) if word in name.lower()]


def test_nothing_at_run_time_is_under_the_gpl() -> None:
    faults = {
        name: licence
        for name in _closure("septum[bench]")
        for licence in _licences(name)
        if re.search(r"\b(?:A?GPL|Affero|GNU General Public)", licence)
    }
    assert faults == {}


def test_what_is_under_the_lgpl_at_run_time_is_listed() -> None:
    found = {
        name
        for name in _closure("septum[bench]")
        for licence in _licences(name)
        if re.search(r"\bLGPL|Lesser General Public", licence)
    }
    assert found == LGPL


def test_the_wheel_carries_the_five_packages_and_their_data(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    for package in ("septum", "client/septum_client", "server/septum_server"):
        assert f'"{package}"' in text
    templates = root / "simulations/septum_bench/report/templates"
    assert list(templates.glob("*.j2"))
    assert list(templates.glob("*.css"))
