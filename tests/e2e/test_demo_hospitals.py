"""The one command of the README, as a person runs it."""

import json
import subprocess
import sys

import pytest

from septum_server import rounds

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]

COMMAND = (sys.executable, "-c", "from septum.cli import main; main()", "demo", "hospitals")


def test_one_command_takes_phantoms_to_a_model_and_leaves_no_process(tmp_path, system):
    out = tmp_path / "demo"
    asked = ("--out", str(out), "--rounds", "1", "--patients", "90", "--json")
    done = subprocess.run([*COMMAND, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert not system.processes_of(out)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert "every process has ended" in events[-1]["text"]
    (run,) = (out / "coordinator/runs").iterdir()
    (entry,) = rounds.read(run)
    assert set(entry.answered) == {"hospital-1", "hospital-2", "hospital-3"}
    assert (run / "round-00001.npz").is_file()
    keys = {(out / "sites" / name / "signing.key").read_bytes() for name in entry.answered}
    assert len(keys) == 3


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    asked = ("--out", str(tmp_path))
    done = subprocess.run([*COMMAND, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Choose another --out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
