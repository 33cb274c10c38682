"""Tiny wheels written by hand, and environments that hold one zone and nothing of another."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def write_wheel(folder, name, version="1.0", files=None, requires=(), points="", extra=""):
    """Write a wheel of plain files and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    head += [f"Requires-Dist: {line}" for line in requires]
    if extra:
        head.append(extra)
    content = {
        **(files or {f"{name}.py": f"VERSION = {version!r}\n"}),
        f"{about}/METADATA": "\n".join(head) + "\n\nTiny.\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        **({f"{about}/entry_points.txt": points} if points else {}),
    }
    content[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{about}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for member, text in content.items():
            file.writestr(member, text)
    return path


def silent_network():
    """Return what runs a command in a namespace without a network, or nothing where it cannot."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None:
        return []
    done = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if done.returncode == 0 else []


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def whole_wheel(tmp_path_factory) -> Path:
    """Septum's wheel of all zones, built from the tree without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check"),
            *("--wheel-dir", str(folder), str(ROOT)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("septum-*.whl")
    return wheel


@pytest.fixture(scope="session")
def others_packages(tmp_path_factory) -> Path:
    """What is installed beside Septum here, without any Septum, editable or not."""
    folder = tmp_path_factory.mktemp("packages")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            ours = "septum" in entry.name.lower() or entry.suffix == ".pth"
            if not ours and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def python_with(tmp_path, others_packages):
    """Run code in a fresh interpreter that finds ``folder`` and others' packages alone."""

    def run(folder, code):
        start = f"import sys; sys.path += {[str(folder), str(others_packages)]!r}\n"
        ours = ("FLWR_", "PYTHON", "SEPTUM_", "PYTEST_", "COV_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", start + code],
            env=kept | {"HOME": str(tmp_path), "COLUMNS": "100"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run
