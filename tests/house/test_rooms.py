"""Files stay small, and no file is a drawer for everything."""

from pathlib import Path

MOST_LINES = 300
DRAWERS = {"util", "utils", "common", "helper", "helpers", "core", "manager", "managers", "misc"}


def test_no_source_file_is_longer_than_a_reader_can_hold_in_mind(source: dict[str, str]) -> None:
    long = {
        name: lines
        for name, text in source.items()
        if (lines := len(text.splitlines())) > MOST_LINES
    }
    assert not long


def test_no_file_or_folder_is_called_after_nothing(tracked: tuple[str, ...]) -> None:
    assert not [
        name
        for name in tracked
        if {part.removesuffix(".py").strip("_") for part in Path(name).parts} & DRAWERS
    ]


def test_every_module_says_what_it_promises(source: dict[str, str]) -> None:
    assert not [name for name, text in source.items() if not text.startswith(('"""', 'r"""'))]


def test_each_package_tells_type_checkers_that_it_is_typed(root: Path) -> None:
    packages = ["septum", *(f"{zone}/septum_*" for zone in ("client", "server", "strategies"))]
    packages.append("simulations/septum_bench")
    for pattern in packages:
        (package,) = root.glob(pattern)
        assert (package / "py.typed").is_file(), package


def test_each_zone_opens_on_a_page_for_its_owner(root: Path) -> None:
    for zone in ("client", "server", "strategies", "simulations", "deploy"):
        assert (root / zone / "README.md").is_file(), zone
