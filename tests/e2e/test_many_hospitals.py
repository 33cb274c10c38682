"""A dozen small hospitals at the real edge: every round is whole, and memory stays as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]

LOAD = Path(__file__).parents[2] / "benchmarks/scale/load.py"
SITES, ROUNDS = 12, 2
GROWTH_MIB = 48  # of a process from its first round to its last: less than a leak of connections


def test_every_round_of_many_hospitals_is_whole_and_memory_does_not_grow(tmp_path):
    asked = ("--sites", str(SITES), "--rounds", str(ROUNDS), "--folder", str(tmp_path), "--json")
    done = subprocess.run(
        [sys.executable, str(LOAD), *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["ended"].startswith("finished:completed")
    assert [entry["answered"] for entry in seen["rounds"]] == [SITES] * ROUNDS
    assert not any(entry["refused"] or entry["alarms"] for entry in seen["rounds"])
    assert not seen["torch"]
    # Nobody was turned away: Flower's clients would have waited and asked again.
    assert set(seen["answers"]) == {"200"}
    first, last = seen["rounds"][0]["mib"], seen["rounds"][-1]["mib"]
    grown = {name: last[name] - first[name] for name in ("superlink", "edge", "serverapp")}
    assert all(mib < GROWTH_MIB for mib in grown.values()), grown
