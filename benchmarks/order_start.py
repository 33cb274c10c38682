"""What beginning to answer an order costs a hospital: a process of its own, or a fork of one.

    .venv/bin/python benchmarks/order_start.py [--rounds 9]

Both ways take turns. Counted is all from the moment at which SuperExec hands the task over until
the app that answers is made, before anything is received: seconds on the clock, and on a processor
by the process that answers. The memory of the process that waits is as /proc/PID/smaps_rollup has
it; forks share it until they write.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from septum.child_process import TASK
from septum.forking import Ready

# The guard itself, which says what it cost where it would begin to ask for its message.
PROGRAM = """\
#!{python} -P
import json, os, sys, time
from pathlib import Path
from septum_client import guard
def answer():
    guard._app(Path("."))
    told = {{"clock": time.time() - float(sys.argv[1]), "cpu": time.process_time()}}
    Path("told.new").write_text(json.dumps(told))
    os.replace("told.new", "told")
guard.flwr_clientapp = answer
guard.main()
"""
WAYS = ("a process of its own", "a fork")


def told() -> dict[str, float]:
    """Wait for what the process that answered says of itself."""
    path = Path("told")
    while not path.exists():
        time.sleep(0.002)
    said: dict[str, float] = json.loads(path.read_text())
    path.unlink()
    return said


def alone(program: Path) -> dict[str, float]:
    """Answer in a process that is started for it."""
    environment = {**os.environ, TASK: str(time.time())}
    subprocess.run([program], env=environment, check=True)
    return told()


def forked(ready: Ready) -> dict[str, float]:
    """Answer in a fork of the process that waits."""
    ready.hand([str(time.time())])
    return told()


def held_mib(parent: int) -> tuple[float, float]:
    """Return what the child of ``parent`` has in memory, and how much of it is no file."""
    for home in Path("/proc").glob("[0-9]*"):
        stat = (home / "stat").read_text() if (home / "stat").exists() else ""
        if stat and int(stat.rpartition(")")[2].split()[1]) == parent:
            lines = (line.split() for line in (home / "smaps_rollup").read_text().splitlines()[1:])
            sizes = {name: int(size) / 1024 for name, size, _ in lines}
            return sizes["Rss:"], sizes["Anonymous:"]
    raise SystemExit("the process that waits is gone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        program = Path(folder) / "program"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o700)
        os.environ |= {"PATH": folder, "SEPTUM_SITE": folder}
        ready = Ready("program")
        # Once each, uncounted: files are read from the disk, and the one that waits gets ready.
        alone(program)
        forked(ready)
        seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            seen[WAYS[0]].append(alone(program))
            seen[WAYS[1]].append(forked(ready))
        held, made = held_mib(os.getpid())
        os.chdir("/")
    print(f"load average {os.getloadavg()[0]:.1f}; medians of {given.rounds}\n")
    print("| answered by | seconds | CPU, s |")
    print("|---|---|---|")
    for way, runs in seen.items():
        cells = [statistics.median(run[name] for run in runs) for name in ("clock", "cpu")]
        print(f"| {way} | {cells[0]:.2f} | {cells[1]:.2f} |")
    print(f"\nThe process that waits has {held:.0f} MiB in memory, {made:.0f} of them no file's.")


if __name__ == "__main__":
    main()
