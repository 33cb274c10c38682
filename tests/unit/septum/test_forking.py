"""One process makes itself ready; each task has a fork of its own, which ends with it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from septum import forking

pytestmark = pytest.mark.skipif(not forking.POSSIBLE, reason="nothing is forked elsewhere")

TOKEN = "a-token-that-nobody-may-list"
WAIT_S = 60

# Says who it is under the name that its arguments give, then does what they say.
PROGRAM = """\
#!{python} -P
import json, os, sys, time
from pathlib import Path
from septum import forking
home = Path({home!r})
def prepare():
    with (home / "prepared").open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    {prepare}
name, *rest = forking.task(prepare) or os.environ.pop("SEPTUM_TASK").splitlines()
said = {{"pid": os.getpid(), "parent": os.getppid(), "rest": rest, "more": None}}
{more}
(home / f"{{name}}.new").write_text(json.dumps(said))
(home / f"{{name}}.new").rename(home / f"{{name}}.said")
while "stay" in rest:
    time.sleep(60)
"""

HANDS_ON = """
import os, sys, time
from septum.forking import Ready
os.environ["PATH"] = sys.argv[1]
Ready("program").hand(["first", "stay"])
time.sleep(600)
"""


def until(holds):
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def runs(pid):
    """Whether a process is there and has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write the program, and read what its forks say."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def said(name):
        path = tmp_path / f"{name}.said"
        until(path.exists)
        return SimpleNamespace(**json.loads(path.read_text()))

    def write(*, prepare="pass", more=""):
        path = tmp_path / "program"
        text = PROGRAM.format(python=sys.executable, home=str(tmp_path), prepare=prepare, more=more)
        path.write_text(text)
        path.chmod(0o700)

    def prepared():
        path = tmp_path / "prepared"
        return path.read_text().split() if path.exists() else []

    write()
    made = []

    def ready():
        made.append(forking.Ready("program"))
        return made[-1]

    yield SimpleNamespace(write=write, said=said, prepared=prepared, ready=ready, home=tmp_path)
    for each in made:
        each._process.kill()
        each._process.wait()
        each._tasks.close()


def test_each_task_has_a_process_to_itself_of_one_that_was_made_ready_once(program):
    ready = program.ready()
    until(program.prepared)
    ready.hand(["first", "--token", TOKEN])
    ready.hand(["second"])
    first, second = program.said("first"), program.said("second")
    assert first.rest == ["--token", TOKEN]
    assert second.rest == []
    assert first.pid != second.pid
    assert first.parent == second.parent
    assert program.prepared() == [str(first.parent)]


def test_no_process_has_a_tasks_arguments_among_its_own_or_in_its_environment(program):
    ready = program.ready()
    ready.hand(["first", "stay", TOKEN])
    first = program.said("first")
    for pid in (first.pid, first.parent):
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()
            assert shown
            assert TOKEN.encode() not in shown


def test_a_task_that_waits_is_not_kept_waiting_by_what_prepares(program):
    program.write(prepare="while not (home / 'on').exists(): time.sleep(0.01)")
    ready = program.ready()
    ready.hand(["first"])  # before Python can have started
    assert program.said("first").rest == []
    until(program.prepared)
    (program.home / "on").touch()
    ready.hand(["second"])
    assert program.said("second").parent == program.said("first").parent


def test_a_task_of_what_could_not_be_made_ready_begins_with_nothing_half_imported(program):
    (program.home / "fragile.py").write_text(
        "import json.tool\n"
        "from pathlib import Path\n"
        "first = Path(__file__).with_name('first')\n"
        "if not first.exists():\n"
        "    first.touch()\n"
        "    raise OSError(12, 'Cannot allocate memory')\n"
    )
    program.write(
        prepare="sys.path.append(str(home)); import fragile",
        more="said['more'] = ['json.tool' in sys.modules]; sys.path.append(str(home))\n"
        "import fragile",
    )
    ready = program.ready()
    until((program.home / "first").exists)
    ready.hand(["first", "--token", TOKEN])
    first = program.said("first")
    assert first.rest == ["--token", TOKEN]
    assert first.more == [False], "what the failed attempt imported is gone"
    ready.hand(["second"])
    assert program.said("second").parent == first.parent


def test_a_task_that_gets_no_process_costs_no_other_task_its_own(program):
    program.write(
        prepare="real, calls = os.fork, []\n"
        "    def fork():\n"
        "        calls.append(1)\n"
        "        if len(calls) == 2:\n"
        "            raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "        return real()\n"
        "    os.fork = fork",
    )
    ready = program.ready()
    until(program.prepared)
    for name in ("first", "second", "third"):
        ready.hand([name, "stay"])
    first, third = program.said("first"), program.said("third")
    assert first.parent == third.parent
    assert runs(first.pid)
    assert not (program.home / "second.said").exists()


def test_one_that_was_killed_is_started_again_for_the_next_task_and_took_its_fork_with_it(program):
    ready = program.ready()
    ready.hand(["first", "stay"])
    first = program.said("first")
    os.kill(first.parent, signal.SIGKILL)
    until(lambda: not runs(first.pid))
    ready.hand(["second"])
    assert program.said("second").parent != first.parent


def test_nothing_is_left_when_who_hands_tasks_is_killed(program):
    path = os.environ["PATH"]
    with subprocess.Popen([sys.executable, "-c", HANDS_ON, path]) as hands:
        first = program.said("first")
        assert runs(first.pid)
        assert runs(first.parent)
        hands.kill()
    until(lambda: not runs(first.pid) and not runs(first.parent))


def test_the_noise_of_one_fork_is_not_the_noise_of_the_next(program):
    program.write(
        prepare="import septum_client.app",
        more="from septum_client.randomness import system_source; import random, secrets\n"
        "source = system_source('north', 'study', 1)\n"
        "said['more'] = [*source.normal(8), *source.uniform(8), random.random(),"
        " secrets.token_hex(8)]",
    )
    ready = program.ready()
    until(program.prepared)
    for name in ("first", "second"):
        ready.hand([name])
    one, other = program.said("first").more, program.said("second").more
    assert not set(one) & set(other)


def test_a_program_that_was_started_for_one_task_waits_for_none():
    assert forking.task(pytest.fail) is None
