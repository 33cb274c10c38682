import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from septum import processes
from septum.child_process import environment
from septum.errors import EngineError, Interrupted
from septum.processes import Service, Supervisor

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")


def until(condition, *, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", textwrap.dedent(code))


def test_services_start_one_after_the_other_and_end_with_the_block(tmp_path):
    marker = tmp_path / "ready"
    first = Service(
        name="first",
        argv=python(f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(60)"),
        ready=marker.exists,
    )
    said = []
    with Supervisor([first, Service(name="second", argv=SLEEP)], tmp_path, notice=said.append) as s:
        pids = [s.pid("first"), s.pid("second")]
        assert all(alive(pid) for pid in pids)
        assert (tmp_path / "pids/first.pid").read_text() == f"{pids[0]}\n"
    assert not any(alive(pid) for pid in pids)
    assert not list((tmp_path / "pids").glob("*.pid"))
    assert [sentence.split()[0] for sentence in said][:2] == ["first", "second"]


def test_a_service_that_is_killed_is_started_again(tmp_path):
    with Supervisor([Service(name="one", argv=SLEEP)], tmp_path) as running:
        first = running.pid("one")
        os.kill(first, signal.SIGKILL)
        until(lambda: running.pid("one") not in {None, first})
        assert running.restarts("one") == 1


def test_a_service_that_cannot_be_started_again_now_is_tried_later(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LONGEST_PAUSE_S", 0.1)
    refusals = [OSError(28, "No space left on device")] * 2
    real = subprocess.Popen

    def full(*arguments, **options):
        if running.restarts("one") and refusals:
            raise refusals.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(processes.subprocess, "Popen", full)
    running = Supervisor([Service(name="one", argv=SLEEP)], tmp_path)
    with running:
        first = running.pid("one")
        os.kill(first, signal.SIGKILL)
        until(lambda: running.pid("one") not in {None, first})
        assert running.restarts("one") == 3
    assert "No space left on device" in (tmp_path / "logs/supervisor.log").read_text()


def test_what_a_service_left_behind_ends_with_it(tmp_path):
    note = tmp_path / "child"
    code = f"""
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        part = pathlib.Path({str(note)!r} + ".part")
        part.write_text(str(child.pid))
        part.rename({str(note)!r})
        time.sleep(60)
    """
    service = Service(name="one", argv=python(code), ready=note.exists, restart=False)
    with Supervisor([service], tmp_path) as running:
        child = int(note.read_text())
        assert alive(child)
        os.kill(running.pid("one"), signal.SIGKILL)
        assert running.wait(20)
        until(lambda: not alive(child))


def test_a_service_that_ignores_the_request_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    marker = tmp_path / "deaf"
    code = f"""
        import pathlib, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path({str(marker)!r}).touch()
        time.sleep(60)
    """
    with Supervisor([Service(name="deaf", argv=python(code), ready=marker.exists)], tmp_path) as s:
        pid = s.pid("deaf")
    assert not alive(pid)
    assert "was killed" in (tmp_path / "logs/supervisor.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_services_end_when_the_supervisor_is_killed(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from septum.processes import Service, Supervisor
        service = Service(name="one", argv={SLEEP!r})
        with Supervisor([service], Path({str(tmp_path)!r})) as running:
            print(running.pid("one"), flush=True)
            time.sleep(60)
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    try:
        pid = int(supervisor.stdout.readline())
        assert alive(pid)
    finally:
        supervisor.kill()
        supervisor.communicate()
    until(lambda: not alive(pid))


def test_two_supervisors_never_run_in_one_folder(tmp_path):
    with Supervisor([Service(name="one", argv=SLEEP)], tmp_path):  # noqa: SIM117
        with pytest.raises(EngineError, match="another process"):
            Supervisor([Service(name="one", argv=SLEEP)], tmp_path).__enter__()
    with Supervisor([Service(name="one", argv=SLEEP)], tmp_path):
        pass


def test_a_service_that_never_becomes_ready_is_an_error_and_leaves_nothing(tmp_path):
    pids = []

    def never():
        text = (tmp_path / "pids/one.pid").read_text()
        pids.append(int(text))
        return False

    service = Service(name="one", argv=SLEEP, ready=never, ready_s=0.3)
    with pytest.raises(EngineError, match=r"one did not become ready within 0\.3 s"):
        Supervisor([service], tmp_path).__enter__()
    assert pids
    assert not alive(pids[0])


def test_who_gives_up_while_services_start_waits_no_longer_and_leaves_nothing(tmp_path):
    service = Service(name="one", argv=SLEEP, ready=lambda: False, ready_s=600)
    pid_file = tmp_path / "pids/one.pid"
    pids = []

    def cancelled():
        pids.extend([int(pid_file.read_text())] if pid_file.is_file() else [])
        return bool(pids)

    with pytest.raises(Interrupted):
        Supervisor([service], tmp_path, cancelled=cancelled).__enter__()
    assert not alive(pids[0])


def test_a_service_gets_a_named_environment_and_private_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPTUM_TOKEN", "hush")
    monkeypatch.setenv("LANG", "C.UTF-8")
    out = tmp_path / "out"
    code = f"""
        import json, os, pathlib
        part = pathlib.Path({str(out)!r} + ".part")
        part.write_text(json.dumps(dict(os.environ)))
        part.rename({str(out)!r})
    """
    service = Service(name="one", argv=python(code), env={"OURS": "1"}, restart=False)
    with Supervisor([service], tmp_path) as running:
        assert running.wait(20)
    assert "hush" not in out.read_text()
    assert '"OURS": "1"' in out.read_text()
    assert '"FLWR_TELEMETRY_ENABLED": "0"' in out.read_text()
    assert out.stat().st_mode & 0o077 == 0
    assert (tmp_path / "logs/one.log").stat().st_mode & 0o077 == 0
    assert "SEPTUM_TOKEN" not in environment({})


def test_a_service_shown_in_an_error_or_a_log_shows_no_variable():
    assert "hush" not in repr(Service(name="one", argv=SLEEP, env={"TOKEN": "hush"}))
