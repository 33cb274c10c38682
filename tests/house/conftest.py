"""What the house tests read: the tree as git would carry it."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZONES = (
    "septum",
    "client/septum_client",
    "server/septum_server",
    "strategies/septum_strategies",
    "simulations/septum_bench",
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> tuple[str, ...]:
    """Every file that git carries or would carry, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = listed.stdout.decode().split("\0")
    return tuple(sorted(name for name in names if name and (ROOT / name).is_file()))


@pytest.fixture(scope="session")
def source() -> dict[str, str]:
    """The text of each Python file of the five packages."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for zone in ZONES
        for path in sorted((ROOT / zone).rglob("*.py"))
    }


@pytest.fixture(scope="session")
def trees(source: dict[str, str]) -> dict[str, ast.Module]:
    """The same files, parsed."""
    return {name: ast.parse(text) for name, text in source.items()}


@pytest.fixture(scope="session")
def modules(source: dict[str, str]) -> tuple[str, ...]:
    """The dotted name of every module of the five packages."""
    names = []
    for name in source:
        parts = list(Path(name).with_suffix("").parts)
        parts = parts if parts[0] == "septum" else parts[1:]
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return tuple(names)


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in a new interpreter with an empty home and none of our variables set."""

    def run(code: str, *arguments: str) -> str:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        ours = ("FLWR_", "RAY_", "MPL", "XDG_", "SEPTUM_", "COV_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=kept | {"HOME": str(home)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
