"""A simulation that is killed goes on, and no hospital's budget is under-counted."""

import json
import os
import signal
import subprocess
import sys

from septum_bench.phantoms import PhantomPlan, write_hospitals
from septum_client.budget import Ledger

_SEPTUM = "import sys; from septum.cli import main; sys.argv[0] = 'septum'; main()"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", _SEPTUM, "simulate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def test_a_killed_simulation_resumes_and_never_charges_a_round_twice(tmp_path):
    hospitals, out = tmp_path / "hospitals", tmp_path / "run"
    write_hospitals(hospitals, PhantomPlan(sites=2, patients=60, seed=3, matrix=32), workers=1)
    options = ("--data", hospitals, "--out", out, "--rounds", 6, "--image-size", 32)
    quick = ("--no-baselines", "--no-attack", "--json", "--seed", 3)
    first = start(*options, *quick)
    for line in first.stdout:
        event = json.loads(line)
        if event.get("stage") == "Federation" and event.get("done") == 2:
            first.send_signal(signal.SIGKILL)
            break
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    charged = {site.name: Ledger(site / "ledger.sqlite") for site in (out / "sites").iterdir()}
    before = {}
    for name, ledger in charged.items():
        ledger.verify()
        before[name] = len(ledger.charges())
        assert before[name] >= 2

    second = start("--resume", "--out", out, "--json")
    printed, complaints = second.communicate(timeout=240)
    assert second.returncode == 0, complaints
    result = json.loads(printed.splitlines()[-1])
    assert [row["round"] for row in result["rounds"]] == list(range(1, 7))
    for name, ledger in charged.items():
        ledger.verify()
        # One charge a round: neither repeated on resuming nor forgotten.
        assert len(ledger.charges()) == 6
        releases = sum(entry.fields["kind"] == "release" for entry in ledger.entries())
        refused = sum("SITE_211" in row["refused"].get(name, "") for row in result["rounds"])
        assert releases + refused == 6
