"""What an engine costs beside training: local and Ray, the same study, training left out.

    .venv/bin/python benchmarks/engine_overhead.py [REPEATS]

Six hospitals, ten rounds. Training is replaced by a function that returns an
update of zeros at once, so that everything else is counted: the site's checks,
opening the cohort, accounting, two fsynced ledger entries, the outbox, the
wire, admission, the mean, round record and checkpoint. Each run is a process
of its own with fresh sites; engines take turns, because other work on the
machine comes and goes. Memory is the sum of proportional set sizes over the
process and all its descendants, sampled in one more run of each engine, whose
times are not used: sampling is work, too.
"""

import argparse
import functools
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from septum.accounting import noise_for
from septum.study import Data, Participant, Privacy, Study
from septum.training import Aggregation, Training
from septum_bench import engine, hospitals
from septum_bench.phantoms import PhantomPlan, write_hospitals
from septum_bench.plan import Plan
from septum_bench.seeded import SeededSource
from septum_client.app import SiteApp
from septum_client.cohort import CohortSpec
from septum_client.site import Site
from septum_client.train import Update
from septum_server.app import server_app

SITES, ROUNDS, WORKERS = 6, 10, 2
ENGINES = ("local", "ray")


def nothing(study, *, mechanism, cohort, model, randomness, device=None):  # noqa: ARG001 - stands in for septum_client.train.train

    return Update(vector=np.zeros_like(model), drawn=(0,) * mechanism.steps)


def prepare(folder: Path) -> None:
    """Make the hospitals' cohorts once: small phantoms through the usual door."""
    plan = Plan.check(sites=SITES, patients=40 * SITES)
    folders = write_hospitals(
        folder / "dicom", PhantomPlan(sites=SITES, patients=plan.patients), workers=1
    )
    hospitals.admit(
        folders,
        into=folder / "sites",
        spec=CohortSpec(image_size=plan.image_size, labels=("nodule",)),
        plan=plan,
        progress=lambda *_: None,
    )


def child(kind: str, source: Path, folder: Path) -> dict[str, object]:
    """Run the study once on fresh sites and return when each round ended."""
    shutil.copytree(source / "sites", folder / "sites")
    sites = [Site.open(path) for path in sorted((folder / "sites").iterdir())]
    study = Study(
        name="overhead",
        purpose="Measures the engine.",
        rounds=ROUNDS,
        data=Data(image_size=64, labels=("nodule",)),
        training=Training(learning_rate=1.0),
        privacy=Privacy(
            noise_multiplier=noise_for(target=8.0, delta=1e-4, sampling_rate=0.2, steps=5 * ROUNDS),
            sampling_rate=0.2,
            steps_per_round=5,
            delta=1e-4,
        ),
        strategy=Aggregation(minimum_sites=SITES),
        sites=tuple(Participant(name=site.name, patients=20) for site in sites),
    )
    for site in sites:
        site.approve(study)
    ends: list[float] = []
    server = server_app(
        study,
        folder=folder / "server",
        resume=True,
        watch=lambda record, *_: ends.append(time.monotonic()) if record.complete else None,
        key=None,
    )
    logging.getLogger("flwr").setLevel(logging.ERROR)
    locate = functools.partial(engine._locate, tuple(site.folder for site in sites))
    app = SiteApp(locate, source=SeededSource(0), train=nothing, unsigned=True)
    start = time.monotonic()
    if kind == "local":
        engine._run_local(server, app, sites=SITES, workers=WORKERS)
    else:
        engine._run_ray(server, app, sites=SITES, workers=WORKERS, home=folder / "flower")
    if len(ends) != ROUNDS:
        raise SystemExit(f"{kind}: only {len(ends)} of {ROUNDS} rounds were complete")
    return {"first_s": ends[0] - start, "later_s": np.diff(ends).tolist()}


def descendants(root: int) -> list[int]:
    """Return the process and everything it started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


def resident_mib(processes: list[int]) -> float:
    """Return the sum of proportional set sizes, in MiB."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measured(kind: str, source: Path, folder: Path, *, memory: bool = False) -> dict[str, object]:
    """Run one child and return what it said and, where asked, the peak of its memory."""
    command = [sys.executable, __file__, "--child", kind, str(source), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while memory and not done.wait(0.1):
            peak = max(peak, resident_mib(descendants(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, errors = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{kind} failed:\n{errors[-2000:]}")
    return {**json.loads(said.splitlines()[-1]), "peak_mib": peak}


def main(repeats: int) -> None:
    load = os.getloadavg()[0]
    runs: dict[str, list[dict[str, object]]] = {kind: [] for kind in ENGINES}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        prepare(source)
        for repeat in range(repeats):
            for kind in ENGINES if repeat % 2 == 0 else ENGINES[::-1]:
                folder = Path(temporary) / f"{kind}-{repeat}"
                folder.mkdir()
                runs[kind].append(measured(kind, source, folder))
        for kind in ENGINES:
            folder = Path(temporary) / f"{kind}-memory"
            folder.mkdir()
            peaks[kind] = measured(kind, source, folder, memory=True)["peak_mib"]
    print(f"{SITES} sites, {ROUNDS} rounds, {WORKERS} workers, {repeats} runs of each engine, ")
    print(f"taking turns; load average at start and end {load:.1f}, {os.getloadavg()[0]:.1f}.\n")
    print("| engine | to the end of round 1, s | later round, ms | per round and client, ms "
          "(median; 90th percentile) | peak memory, MiB |")  # fmt: skip
    print("|---|---|---|---|---|")
    for kind, found in runs.items():
        first = statistics.median(run["first_s"] for run in found)
        later = np.concatenate([run["later_s"] for run in found]) * 1000
        each = later / SITES
        print(
            f"| {kind} | {first:.2f} | {np.median(later):.0f} "
            f"| {np.median(each):.1f}; {np.percentile(each, 90):.1f} | {peaks[kind]:.0f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        kind, source, folder = options.child
        print(json.dumps(child(kind, Path(source), Path(folder))))
    else:
        main(options.repeats)
