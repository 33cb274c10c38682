"""What an image holds: one zone's packages, built from the tree as the images are, unpacked here.

No container engine is needed: an image is the offline bundle's wheel, installed.
"""

import subprocess
import sys

import pytest

from septum.offline_wheels import ZONES, cut

EVERY = {"septum", "septum_client", "septum_server", "septum_strategies", "septum_bench"}
ASK = """
import importlib
for name in %r:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == name, error
    else:
        raise SystemExit(f"{name} can be imported")
"""
HELP = """
sys.argv = ["septum", *%r]
from septum.cli import main
main()
"""


@pytest.fixture(scope="module")
def installed(whole_wheel, tmp_path_factory):
    """Return a function that installs a zone's wheel into a plain folder, once."""
    made = {}

    def install(zone):
        if zone not in made:
            name, content = cut(whole_wheel, zone)
            wheel = tmp_path_factory.mktemp(zone) / name
            wheel.write_bytes(content)
            made[zone] = wheel.parent / "packages"
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
                    *("--no-compile", "--disable-pip-version-check"),
                    *("--target", str(made[zone]), str(wheel)),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        return made[zone]

    return install


@pytest.mark.parametrize("zone", sorted(ZONES))
def test_no_other_zone_can_be_imported_where_one_is_installed(zone, installed, python_with):
    folder = installed(zone)
    others = sorted(EVERY - set(ZONES[zone].packages))
    assert len(others) >= 2
    asked = python_with(folder, ASK % (others,))
    assert asked.returncode == 0, asked.stderr
    control = python_with(folder, ASK % (["septum"],))
    assert control.returncode != 0


@pytest.mark.parametrize(
    ("zone", "verb", "foreign"),
    [("site", "site", "server"), ("server", "server", "site"), ("server", "study", "simulate")],
)
def test_the_verbs_of_a_zone_work_alone_and_those_of_others_are_not_there(
    zone, verb, foreign, installed, python_with
):
    helped = python_with(installed(zone), HELP % ([verb, "--help"],))
    assert helped.returncode == 0, helped.stderr
    assert "Usage:" in helped.stdout
    other = python_with(installed(zone), HELP % ([foreign, "--help"],))
    assert other.returncode != 0


@pytest.mark.parametrize("zone", sorted(ZONES))
def test_every_module_of_a_zone_is_imported_where_nothing_else_of_septum_is(
    zone, installed, python_with
):
    every = f"""
import importlib, pkgutil
count = 0
for package in {ZONES[zone].packages!r}:
    module = importlib.import_module(package)
    for each in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(each.name)
        count += 1
print(count)
"""
    done = python_with(installed(zone), every)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 30


@pytest.mark.parametrize("zone", sorted(ZONES))
def test_the_data_files_that_modules_read_are_installed_too(zone, installed, root):
    folder = installed(zone)
    for package in ZONES[zone].packages:
        (source,) = [p for p in (root / package, *root.glob(f"*/{package}")) if p.is_dir()]
        assert _data(source) == _data(folder / package)


def _data(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    }
