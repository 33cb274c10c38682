"""A task's token is in its own environment, and in nobody's arguments."""

import http.server
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
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
    ended = SimpleNamespace(wait=lambda: 0)
    monkeypatch.setattr(superexec.subprocess, "Popen", lambda argv, **_: seen.append(argv) or ended)
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


@pytest.fixture
def runtime():
    """Serve Flower's Runtime API on a free port, and keep who told what."""
    told, code = [], [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((self.path, self.headers["flwr-task-token"], body))
            self.send_response(code[0])
            self.send_header("content-type", "application/protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(address=f"127.0.0.1:{server.server_port}", told=told, code=code)
        server.shutdown()


@pytest.fixture
def task(runtime, tmp_path, monkeypatch):
    """Run a task of a kind whose program ends in a way, until all that follows has happened."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def run(kind, ends):
        program = tmp_path / TASK_TYPE_TO_COMMAND[kind]
        program.write_text(f"#!/bin/sh\n{ends}\n")
        program.chmod(0o700)
        before = set(threading.enumerate())
        process = superexec._started(
            [program.name, "--runtime-api-address", runtime.address, "--token", TOKEN,
             "--insecure"],
        )  # fmt: skip
        process.wait(60)
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
        return runtime.told

    return run


def test_a_server_app_that_is_killed_is_reported_at_once_by_who_started_it(task):
    ((path, token, body),) = task(TaskType.SERVER_APP, "kill -9 $$")
    said = PushTaskOutputRequest.FromString(body)
    assert (path, token) == ("/v1/runtime/push-task-output", TOKEN)
    assert said.sub_status == SubStatus.FAILED
    assert said.details == "its process was ended by signal 9"
    assert not said.HasField("context")


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        (TaskType.SERVER_APP, "exit 0"),  # told by itself
        (TaskType.SERVER_APP, "exit 1"),  # Flower starts it again
        (TaskType.CLIENT_APP, "kill -9 $$"),  # Flower answers for it later, or not at all
    ],
)
def test_no_other_end_of_a_task_is_reported(task, kind, ends):
    assert task(kind, ends) == []


def test_a_token_that_holds_no_longer_does_not_end_who_reports_for_all_others(
    task, runtime, monkeypatch, caplog
):
    runtime.code[0] = 401  # the run was stopped before
    ended = []
    monkeypatch.setattr(os, "kill", lambda *given: ended.append(given))
    assert len(task(TaskType.SERVER_APP, "kill -9 $$")) == 1
    assert ended == []
    assert "could not be reported" in caplog.text
    assert TOKEN not in caplog.text
