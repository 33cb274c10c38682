"""A task's token is in its own environment, and in nobody's arguments."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, subprocess_executor

from septum import superexec
from septum.child_process import TASK
from septum.errors import EngineError

TOKEN = "a-token-that-nobody-may-list"

# Tells its own arguments, those of the process that started it, and its variable.
PROGRAM = f"""\
#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline > "$TOLD.partial"
tr '\\0' ' ' < /proc/$PPID/cmdline >> "$TOLD.partial"
printf '\\n%s\\n' "${TASK}" >> "$TOLD.partial"
mv "$TOLD.partial" "$TOLD"
"""

LAUNCH = """
import sys
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, subprocess_executor
from septum import superexec
superexec.stand()
started = []
real = superexec.subprocess.Popen
superexec.subprocess.Popen = lambda *a, **o: started.append(real(*a, **o))
spec = ExecutionSpec(
    task_type=TaskType.CLIENT_APP, runtime_api_address="127.0.0.1:1", token=sys.stdin.read(),
    insecure=True, root_certificates_path=None, runtime_dependency_install=False,
    parent_pid=None, suppress_output=False, task_id=1,
)
subprocess_executor.SubprocessExecutor().launch(spec)
sys.exit(started[0].wait())
"""


@pytest.fixture
def place(monkeypatch):
    """Flower's module, put back afterwards."""
    monkeypatch.setattr(subprocess_executor, "subprocess", subprocess)
    return subprocess_executor


@pytest.mark.skipif(sys.platform != "linux", reason="arguments are read in /proc")
def test_no_process_is_started_with_the_token_among_its_arguments(tmp_path):
    program = tmp_path / TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP]
    program.write_text(PROGRAM)
    program.chmod(0o700)
    told = tmp_path / "told"
    (tmp_path / "launch.py").write_text(LAUNCH)
    more = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TOLD": str(told)}
    subprocess.run(
        [sys.executable, tmp_path / "launch.py"],
        input=TOKEN, text=True, env=os.environ | more, check=True, timeout=100,
    )  # fmt: skip
    arguments, _, variable = told.read_text().partition("\n")
    assert program.name in arguments
    assert TOKEN not in arguments
    assert variable.split()[:5] == [
        "--runtime-api-address", "127.0.0.1:1", "--token", TOKEN, "--insecure",
    ]  # fmt: skip


@pytest.mark.parametrize("quiet", [True, False])
def test_whatever_flower_starts_is_started_by_its_name_alone(place, monkeypatch, quiet):
    seen = []
    monkeypatch.setattr(superexec.subprocess, "Popen", lambda argv, **_: seen.append(argv))
    superexec.stand()
    for kind in TaskType:
        spec = ExecutionSpec(
            task_type=kind, runtime_api_address="127.0.0.1:1", token=TOKEN, insecure=False,
            root_certificates_path="ca.crt", runtime_dependency_install=True,
            parent_pid=1, suppress_output=quiet, task_id=1,
        )  # fmt: skip
        place.SubprocessExecutor().launch(spec)
    assert seen == [[TASK_TYPE_TO_COMMAND[kind]] for kind in TaskType]


def test_another_flower_is_noticed_before_any_task_is_asked_for(place, monkeypatch):
    monkeypatch.setattr(place, "subprocess", SimpleNamespace())
    monkeypatch.setattr(superexec, "flower_superexec", pytest.fail)
    with pytest.raises(EngineError, match="another way"):
        superexec.main()


def test_superexec_is_flowers_own_in_all_else(place, monkeypatch):
    ran = []
    monkeypatch.setattr(superexec, "flower_superexec", lambda: ran.append(True))
    superexec.main()
    assert ran == [True]
