"""An offline bundle installs one zone, and only as its maker signed it."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from septum.cli import build_app
from septum.errors import ConfigError, DataError
from septum.offline import make, pins
from septum.offline_wheels import cut, machine
from septum.signing import SigningKey, fingerprint

from .conftest import silent_network, write_wheel

KEY = SigningKey.from_seed(bytes(range(32)))
PINNED = {"tiny-one": "1.0", "tiny-two": "2.0"}
POINTS = """\
[console_scripts]
septum = septum.speech:main

[pytest11]
septum_bench.pytest_plugin = septum_bench.pytest_plugin

[septum.verbs]
site = septum_client.cli:add_verbs
server = septum_server.cli:add_verbs
bench = septum_bench.cli:add_verbs
"""
PACKAGES = ("septum", "septum_client", "septum_server", "septum_strategies", "septum_bench")


@pytest.fixture
def wheels(tmp_path):
    """A Septum of five nearly empty packages, and two wheels that its site zone needs."""
    folder = tmp_path / "wheels"
    files = {f"{package}/__init__.py": "" for package in PACKAGES}
    files["septum/speech.py"] = "import tiny_one, tiny_two\ndef main():\n    print('it speaks')\n"
    write_wheel(
        folder,
        "septum",
        "9.9",
        files,
        points=POINTS,
        requires=[
            "tiny-one>=1",
            "nothing-for-us; sys_platform == 'never'",
            "tiny-two>=2; extra == 'site'",
            "tiny-two>=2; extra == 'pacs'",
            "tiny-attack; extra == 'bench'",
        ],
        extra="Provides-Extra: site",
    )
    write_wheel(folder, "tiny_one", extra="License-Expression: MIT", requires=["tiny-two"])
    write_wheel(folder, "tiny_two", "2.0")
    write_wheel(folder, "tiny_attack")
    return folder


def bundle(tmp_path, wheels, zone="site", pinned=None):
    made = make(
        tmp_path / "bundle",
        zone=zone,
        wheels=wheels,
        pinned=pinned or PINNED,
        key=KEY,
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return tmp_path / "bundle", made


def install(folder, target, said=None, bundle=None, **environment):
    """Install in a namespace without a network, where the system allows to make one."""
    return subprocess.run(
        [
            *(*silent_network(), "sh", str(folder / "install.sh")),
            *(said or fingerprint(KEY.public), str(target)),
            *([str(bundle)] if bundle else []),
        ],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bundle_installs_its_zone_without_a_network_and_nothing_of_another(tmp_path, wheels):
    folder, made = bundle(tmp_path, wheels)
    done = install(folder, tmp_path / "target", said=made.fingerprint.lower().replace("-", " "))
    assert done.returncode == 0, done.stderr
    spoken = subprocess.run(
        [tmp_path / "target/bin/septum"], env={}, capture_output=True, text=True, check=False
    )
    assert spoken.stdout == "it speaks\n"
    asked = f"""
import importlib.metadata as m, importlib.util as u, json
print(json.dumps([
    [name for name in {PACKAGES!r} if u.find_spec(name)],
    m.version("septum"),
    sorted(p.name for p in m.entry_points(group="septum.verbs")),
    [p.name for p in m.entry_points(group="pytest11")],
    u.find_spec("tiny_attack") is not None,
]))"""
    told = subprocess.run(
        [tmp_path / "target/bin/python", "-I", "-c", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(told.stdout) == [
        ["septum", "septum_client"],
        "9.9+site",
        ["site"],
        [],
        False,
    ]


def damage_a_wheel(folder):
    wheel = next((folder / "wheels").glob("tiny_one*"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")


def add_a_file(folder):
    (folder / "wheels/extra-1.0-py3-none-any.whl").write_bytes(b"")


def add_a_link(folder):
    (folder / "wheels/extra").symlink_to(folder / "MANIFEST")


def change_the_manifest(folder):
    damage_a_wheel(folder)
    lines = (folder / "MANIFEST").read_text().replace("a", "b", 1)
    (folder / "MANIFEST").write_text(lines)


def sign_by_another_key(folder):
    (folder / "signer.pub").write_text(SigningKey.create().public + "\n")


def break_the_signature(folder):
    text = (folder / "MANIFEST.sig").read_text()
    (folder / "MANIFEST.sig").write_text(("1" if text[0] == "0" else "0") + text[1:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (damage_a_wheel, "not as it was signed: wheels/tiny_one"),
        (add_a_file, "not as it was signed: wheels/extra-1.0"),
        (add_a_link, "not as it was signed: wheels/extra"),
        (change_the_manifest, "signature does not verify"),
        (break_the_signature, "signature does not verify"),
        (sign_by_another_key, "another key"),
    ],
)
def test_one_changed_byte_or_file_installs_nothing(tmp_path, wheels, change, says):
    folder, _ = bundle(tmp_path, wheels)
    change(folder)
    done = install(folder, tmp_path / "target")
    assert done.returncode == 1
    assert says in done.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    "change",
    [
        "cp {evil}/wheels/* {folder}/wheels/; cp {evil}/requirements.lock {folder}/",
        "cp {evil}/MANIFEST {evil}/MANIFEST.sig {evil}/signer.pub {folder}/",
        "rm -r {folder}/wheels; cp -r {evil}/* {folder}/",
    ],
    ids=["wheels and lock", "list", "everything"],
)
@pytest.mark.parametrize("moment", [1, 2, 3], ids=["first look", "check", "installation"])
def test_a_bundle_that_changes_while_it_is_installed_installs_what_was_signed_or_nothing(
    tmp_path, wheels, change, moment
):
    folder, _ = bundle(tmp_path, wheels)
    # What a stranger signed: the same package, with another content.
    write_wheel(wheels, "tiny_one", files={"tiny_one.py": "EVIL = True\n"}, requires=["tiny-two"])
    evil = tmp_path / "evil"
    make(
        evil, zone="site", wheels=wheels, pinned=PINNED, key=SigningKey.create(),
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )  # fmt: skip
    # The installer's own calls of its interpreter are the moments between its looks.
    counter, stand_in = tmp_path / "count", tmp_path / "python"
    changed = change.format(evil=evil, folder=folder)
    stand_in.write_text(
        f"#!/bin/sh\necho >> {counter}\n"
        f"[ $(wc -l < {counter}) -ne {moment} ] || {{ {changed}; }}\n"
        f'exec {sys.executable} "$@"\n'
    )
    stand_in.chmod(0o700)
    target = tmp_path / "target"
    work = tmp_path / "work"
    work.mkdir()
    done = install(folder, target, PYTHON=str(stand_in), TMPDIR=str(work))
    if done.returncode == 0:
        assert "EVIL" not in next(target.rglob("tiny_one.py")).read_text()
    else:
        assert not target.exists()
    assert not list(work.iterdir())
    # Whatever changes after the check changes nothing.
    assert done.returncode == 0 or moment < 3, done.stderr


def test_a_copy_of_the_script_installs_whatever_becomes_of_the_bundles_own(tmp_path, wheels):
    folder, _ = bundle(tmp_path, wheels)
    own = tmp_path / "own"
    own.mkdir()
    (own / "install.sh").write_bytes((folder / "install.sh").read_bytes())
    done = install(own, tmp_path / "target", bundle=folder)
    assert done.returncode == 0, done.stderr
    (folder / "install.sh").write_text(f"touch {tmp_path}/ran\n")
    done = install(own, tmp_path / "other", bundle=folder)
    assert done.returncode == 1
    assert "not as it was signed: install.sh" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_another_fingerprint_than_the_makers_installs_nothing(tmp_path, wheels):
    folder, _ = bundle(tmp_path, wheels)
    done = install(folder, tmp_path / "target", said=fingerprint(SigningKey.create().public))
    assert done.returncode == 1
    assert "another key" in done.stderr


def test_the_lock_and_the_bill_of_materials_name_every_wheel_with_the_hash_of_its_file(
    tmp_path, wheels
):
    folder, made = bundle(tmp_path, wheels)
    hashes = {wheel.name: wheel.sha256 for wheel in made.wheels}
    assert sorted(hashes) == ["septum", "tiny-one", "tiny-two"]
    lock = (folder / "requirements.lock").read_text().splitlines()
    assert machine() in lock[0]
    assert lock[1:] == [
        f"septum==9.9+site --hash=sha256:{hashes['septum']}",
        f"tiny-one==1.0 --hash=sha256:{hashes['tiny-one']}",
        f"tiny-two==2.0 --hash=sha256:{hashes['tiny-two']}",
    ]
    bill = json.loads((folder / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["purl"] == "pkg:pypi/septum@9.9%2Bsite"
    one, two = bill["components"]
    assert (one["name"], one["version"], one["purl"]) == (
        "tiny-one",
        "1.0",
        "pkg:pypi/tiny-one@1.0",
    )
    assert one["licenses"] == [{"expression": "MIT"}]
    assert one["hashes"] == [{"alg": "SHA-256", "content": hashes["tiny-one"]}]
    assert "licenses" not in two
    used = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert used["pkg:pypi/tiny-one@1.0"] == ["pkg:pypi/tiny-two@2.0"]


def test_what_a_zone_does_not_need_stays_out_of_its_bundle(tmp_path, wheels):
    folder, made = bundle(tmp_path, wheels)
    assert made.left_out == ("tiny_attack-1.0-py3-none-any.whl",)
    assert len(list((folder / "wheels").iterdir())) == 3


def test_a_missing_wheel_is_named_and_nothing_is_made(tmp_path, wheels):
    next(wheels.glob("tiny_two*")).unlink()
    with pytest.raises(DataError, match=r"1 wheels are missing: tiny-two|2 wheels are missing"):
        bundle(tmp_path, wheels)
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_a_wheel_of_another_version_than_the_pinned_one_is_refused(tmp_path, wheels):
    with pytest.raises(DataError, match=r"tiny-two 2.0 \(pinned: 2.1\)"):
        bundle(tmp_path, wheels, pinned=PINNED | {"tiny-two": "2.1"})


def test_a_wheel_that_nothing_pins_is_refused(tmp_path, wheels):
    with pytest.raises(DataError, match=r"tiny-two 2.0 \(pinned: none\)"):
        bundle(tmp_path, wheels, pinned={"tiny-one": "1.0"})


def test_two_versions_of_one_package_are_refused(tmp_path, wheels):
    write_wheel(wheels, "tiny_two", "2.1")
    with pytest.raises(DataError, match=r"tiny-two is there twice"):
        bundle(tmp_path, wheels)


def test_a_wheel_that_is_not_what_its_name_says_is_refused(tmp_path, wheels):
    write_wheel(wheels, "other").rename(wheels / "tiny_three-1.0-py3-none-any.whl")
    with pytest.raises(DataError, match=r"tiny_three.* holds other 1.0"):
        bundle(tmp_path, wheels)


def test_a_folder_that_exists_is_never_written_into(tmp_path, wheels):
    folder, _ = bundle(tmp_path, wheels)
    before = (folder / "MANIFEST").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        bundle(tmp_path, wheels)
    assert (folder / "MANIFEST").read_bytes() == before


def test_the_cut_of_a_wheel_has_the_same_bytes_every_time(wheels):
    (whole,) = wheels.glob("septum-*.whl")
    assert cut(whole, "site") == cut(whole, "site")
    assert cut(whole, "site") != cut(whole, "server")


def test_the_verb_makes_a_key_at_its_first_use_and_says_what_to_tell_the_installer(
    tmp_path, wheels, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constraints.txt").write_text("# pins\ntiny_one==1.0\ntiny-two==2.0\n")
    said = CliRunner().invoke(
        build_app(), ["offline-bundle", "out", "--zone", "site", "--wheels", str(wheels)]
    )
    assert said.exit_code == 0, said.output
    key = SigningKey.load(tmp_path / "bundle.key")
    assert fingerprint(key.public) in said.output
    assert (tmp_path / "out/install.sh").is_file()


def test_without_wheels_the_verb_says_the_one_step_that_needs_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(build_app(), ["offline-bundle", "out", "--zone", "server"])
    assert isinstance(said.exception, ConfigError)
    assert "pip wheel -c constraints.txt -w wheels '.[server]'" in said.exception.remedy


@pytest.mark.parametrize("line", ["tiny-one>=1", "tiny-one", "-r other.txt"])
def test_a_line_that_pins_no_version_is_refused(tmp_path, line):
    (tmp_path / "constraints.txt").write_text(f"tiny-two==2.0\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        pins(tmp_path / "constraints.txt")
