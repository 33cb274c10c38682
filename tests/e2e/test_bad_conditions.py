"""No network, no disk, a wrong clock, a new certificate, late and lost hospitals."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from septum.errors import Code, EngineError
from septum.processes import Supervisor
from septum_bench import deployment as deploy
from septum_server.rounds import NO_ANSWER, NOT_CONNECTED

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]

LONG = {"noise_multiplier": 8.0, "steps_per_round": 60}
CHEAP = {"noise_multiplier": 2.0}
OUTAGE_S = 80

AHEAD = "now = gate.utc_now; gate.utc_now = lambda: now() + timedelta(days=1)"
# Flower's client goes on saying that it lives: this is a slow site, not a dead one.
SLOW = "train.train = lambda *_, **__: time.sleep(600)"


def test_a_certificate_that_ended_a_full_disk_or_a_wrong_clock_costs_no_charge(world):
    there = world("north", "south", "west", rounds=2, privacy=CHEAP)
    coordinator = there.made.coordinator
    with there.up():
        there.connected()
        # As it is when the CA's key is kept elsewhere and nobody brought a new certificate.
        coordinator.renew(now=datetime.now(UTC) - timedelta(days=120))
        os.kill(there.pid("coordinator", "edge"), signal.SIGKILL)
        for name, site in there.made.sites.items():
            said, log = there.folder / f"logs/{name}.log", site.folder / "logs/supernode.log"
            there.until(
                lambda said=said: "Ask the coordinator whether it was renewed" in said.read_text(),
                what=f"the refusal of {name}",
            )
            assert "certificate has expired" in log.read_text()
        coordinator.renew(now=datetime.now(UTC))
        os.kill(there.pid("coordinator", "edge"), signal.SIGKILL)
        # While the hospitals come back: a renewed certificate is enough.
        serverapp = there.program("coordinator")
        serverapp.fill_the_disk()
        deploy.start(there.made)
        assert "failed" in there.finished()
        assert not there.made.rounds()
        serverapp.restore()
        south, west = there.program("south"), there.program("west")
        south.fill_the_disk()
        west.go_wrong(AHEAD)
        deploy.start(there.made)
        there.recorded(1)
        south.restore()
        west.restore()
        there.until(
            lambda: deploy.ended(there.made).startswith("finished:completed"), what="the end"
        )
    first, second = there.entry(1), there.entry(2)
    assert first.answered == ("north",), first.said
    assert first.refused["south"] in {Code.INTERNAL, Code.LEDGER_INVALID}
    assert first.refused["west"] == Code.ORDER_LATE
    assert "clocks" in first.said
    assert set(second.answered) == {"north", "south", "west"}, second.said
    assert deploy.audited(there.made) == {"north": 2, "south": 1, "west": 1}


def test_eighty_seconds_without_network_and_a_new_certificate_lose_nothing(world):
    there = world("north", "south", rounds=1, quorum=2, privacy=LONG)
    with there.up():
        there.connected()
        deploy.start(there.made)
        there.charged("north", 1)
        edge = there.pid("coordinator", "edge")
        os.kill(edge, signal.SIGSTOP)
        began = time.monotonic()
        # Two coordinators never work on one state.
        with pytest.raises(EngineError, match="runs already"):
            deploy.start(there.made)
        second = subprocess.run(
            list(deploy.services(there.made)[0].argv), capture_output=True, text=True, check=False
        )
        assert second.returncode != 0
        assert "already runs the services" in second.stderr
        there.made.coordinator.renew(now=datetime.now(UTC))
        time.sleep(max(0.0, began + OUTAGE_S - time.monotonic()))
        os.kill(edge, signal.SIGKILL)
        assert there.finished().startswith("finished:completed"), there.logs()
    assert set(there.entry(1).answered) == {"north", "south"}
    assert deploy.audited(there.made) == {"north": 1, "south": 1}


def test_who_is_slow_joins_late_or_leaves_is_recorded_and_the_study_goes_on(world, deadline_s):
    there = world(
        *("north", "south", "west"), rounds=2, privacy=CHEAP,
        participation={"deadline_s": deadline_s},
    )  # fmt: skip
    alone = [s for s in deploy.services(there.made) if s.name == "south"]
    with there.up(without=("south",)):
        there.connected("north", "west")
        west = there.program("west")
        west.go_wrong(SLOW)
        deploy.start(there.made)
        with Supervisor(alone, there.folder / "south alone"):
            there.recorded(1)
        west.restore()
        there.finished()
    first, second = there.entry(1), there.entry(2)
    assert set(first.answered) == {"north", "south"}, first.said
    assert first.refused == {"west": NO_ANSWER}
    assert "west" in first.said
    assert (
        second.refused["south"] in {NOT_CONNECTED, NO_ANSWER} or "FLOWER" in second.refused["south"]
    )
    assert "north" in second.answered
    assert all(count <= 2 for count in deploy.audited(there.made).values())
