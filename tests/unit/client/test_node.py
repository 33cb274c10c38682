import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from septum.child_process import TASK, environment
from septum.errors import DataError
from septum_client.node import CLIENT, SITE, free_port, services


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a site's folder"
    made.mkdir()
    (made / "node.key").touch(mode=0o600)
    return made


def _services(folder: Path):
    return services(folder, address="fl.example.org:8443", ca="CERTIFICATE", port=9094)


def test_no_secret_is_an_argument_or_a_variable(folder):
    made = _services(folder)
    secret = (folder / "flower/secret").read_text()
    assert len(secret) > 40
    for service in made:
        assert secret not in " ".join(service.argv)
        assert secret not in " ".join(service.env.values())


def test_each_start_has_a_fresh_secret(folder):
    _services(folder)
    first = (folder / "flower/secret").read_text()
    _services(folder)
    assert (folder / "flower/secret").read_text() != first


def test_what_is_written_is_the_owners_alone(folder):
    _services(folder)
    written = list((folder / "flower").rglob("*"))
    assert len(written) > 6
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in written)


def test_the_process_that_speaks_to_the_coordinator_is_not_told_where_the_cohort_is(folder):
    supernode, superexec = _services(folder)
    assert SITE not in supernode.env
    assert superexec.env[SITE] == str(folder)


def test_neither_process_can_listen_beyond_the_loopback_interface(folder):
    supernode, superexec = _services(folder)
    assert supernode.argv[supernode.argv.index("--host") + 1] == "127.0.0.1"
    assert superexec.argv[superexec.argv.index("--runtime-api-address") + 1] == "127.0.0.1:9094"


def _run(folder: Path, program: str, *arguments: str, **more: str):
    path = {"PATH": f"{folder / 'flower/bin'}:/usr/bin:/bin"}
    return subprocess.run(
        [str(folder / "flower/bin" / program), *arguments],
        env=environment(path | more),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "program",
    ["flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation"],
)
def test_no_other_program_of_flower_runs_at_a_hospital(folder, program):
    _services(folder)
    done = _run(folder, program, "--token", "t")
    assert done.returncode == 1
    assert "refused" in done.stderr


def test_every_program_that_flower_starts_by_name_is_covered(folder):
    _services(folder)
    assert set(TASK_TYPE_TO_COMMAND.values()) == {
        path.name for path in (folder / "flower/bin").iterdir()
    }


def test_the_guard_finds_the_tasks_token_in_its_environment(folder, tmp_path):
    # A stand-in for the guard, on the path before it, tells what it was given.
    fake = tmp_path / "fake" / "septum_client"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("")
    (fake / "guard.py").write_text(f"import os, sys\nprint(os.environ['{TASK}'], sys.argv[1:])\n")
    _services(folder)
    done = _run(folder, CLIENT, PYTHONPATH=str(fake.parent), **{TASK: "--token\nsecret"})
    assert done.stdout.split() == ["--token", "secret", "[]"], done.stderr


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(folder):
    (folder / "flower").mkdir()
    (folder / "flower/secret").mkdir()
    with pytest.raises(DataError, match="secret could not be written"):
        _services(folder)


def test_a_free_port_can_be_bound():
    assert 1024 < free_port() < 65536


@pytest.mark.parametrize("module", ["node", "guard", "up"])
def test_a_task_is_answered_for_before_torch_is_imported(module):
    # Flower gives a task up when its process has not spoken within 30 seconds.
    program = f"import sys, septum_client.{module}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "False", done.stderr
