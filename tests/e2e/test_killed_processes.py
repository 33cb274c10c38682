"""Each kind of process is killed in the middle of a round, by its number, with no warning."""

import os
import signal
import sys

import pytest

from septum.errors import Code
from septum_bench import deployment as deploy
from septum_server import checkpoint

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]

# Long enough to be killed in; the noise pays for it.
LONG = {"noise_multiplier": 8.0, "steps_per_round": 60}

NEVER = "gate.answer = lambda *_, **__: time.sleep(600)"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_hospitals_processes_die_and_the_study_goes_on_with_each_round_charged_once(world):
    there = world("north", "south", "east", "west", rounds=2, privacy=LONG)
    with there.up():
        there.connected()
        # East's SuperExec dies before its task can train: the task goes with it.
        east = there.program("east")
        east.go_wrong(NEVER)
        deploy.start(there.made)
        there.task("east")
        east.change(east.text)
        kill(there.pid("east", "superexec"))
        # North's training dies after the charge: this round is lost to it.
        there.charged("north", 1)
        kill(there.task("north"))
        # South loses its connection while it trains.
        there.charged("south", 1)
        kill(there.pid("south", "supernode"))
        assert there.finished().startswith("finished:completed"), there.logs()
    first, second = there.entry(1), there.entry(2)
    assert "west" in first.answered
    assert "east" in first.answered, first.said
    # Asked again by the next connection while it may still train for the one that was killed.
    assert first.refused.get("south") != Code.ROUND_ALREADY_CHARGED, first.said
    assert first.refused["north"] == Code.ROUND_ALREADY_CHARGED
    assert "north" in first.said
    assert set(second.answered) == set(there.made.sites), second.said
    assert deploy.audited(there.made) == dict.fromkeys(there.made.sites, 2)


def test_the_coordinators_processes_die_and_the_study_resumes_without_a_second_charge(world):
    there = world("north", "south", rounds=3, quorum=2, privacy=LONG)
    with there.up():
        there.connected()
        deploy.start(there.made)
        # SuperLink: the run survives on the same database.
        there.charged("north", 1)
        kill(there.pid("coordinator", "superlink"))
        there.recorded(1)
        # ServerApp: the run ends, says so before its heartbeat is missed, and is resumed.
        there.charged("north", 2)
        kill(there.task("coordinator"))
        ended = there.finished()
        assert "failed" in ended
        assert f"signal {signal.SIGKILL:d}" in ended
        deploy.start(there.made, resume=True)
        there.recorded(2)
        # SuperExec: its task goes with it.
        there.charged("north", 3)
        kill(there.pid("coordinator", "superexec"))
        there.until(lambda: "failed" in deploy.ended(there.made), what="the failed run")
        deploy.start(there.made, resume=True)
        there.until(
            lambda: deploy.ended(there.made).startswith("finished:completed"), what="the last round"
        )
    assert [entry.round for entry in there.made.rounds()] == [1, 2, 3]
    assert all(set(entry.answered) == {"north", "south"} for entry in there.made.rounds())
    assert deploy.audited(there.made) == {"north": 3, "south": 3}
    last = checkpoint.latest(there.made.folder, digest=there.made.digest)
    assert last is not None
    assert last.round == 3
