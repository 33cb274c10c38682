"""Nine seeded faults of DP-SGD and a hundred correct runs, before the conformance checks.

    .venv/bin/python benchmarks/audit/faults.py [--seeds 20] [--correct 100] [--system]

One run is 20 recorded steps of the real client (``small_cnn``, 32 x 32, 60
patients with two images each, sampling rate 0.2, noise multiplier 1), and all
checks. The chance of a false alarm is set at 1 in 1,000 a run, by Bonferroni over
exact tests, before anything was run. Seconds are CPU seconds of one thread.
"""

import argparse
import os
import statistics
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from septum.models import network_of, to_vector
from septum_bench.conformance import LEVEL, Client, Conformance, conformance, honest, record_round
from septum_bench.conformance.practice import SITE, practice_cohort, practice_study
from septum_bench.faults import FAULTS
from septum_bench.seeded import SeededRandomness
from septum_client.randomness import SystemRandomness

SECONDS_BAR = 10.0
FALSE_ALARMS_BAR = 1


def run(client: Client, seed: int, *, system: bool) -> tuple[Conformance, float]:
    """Return what the checks say of one recorded client, and the CPU seconds of both."""
    study = practice_study()
    cohort = practice_cohort(study, seed=seed)
    model = to_vector(network_of(study))
    before = time.process_time()
    recording, _, _ = record_round(
        study,
        mechanism=study.mechanism(SITE),
        cohort=cohort,
        model=model,
        randomness=SystemRandomness() if system else SeededRandomness(seed),
        client=client,
        rng=np.random.default_rng(seed),
    )
    found = conformance([recording])
    return found, time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--correct", type=int, default=100)
    parser.add_argument("--system", action="store_true", help="the hospital's own generator")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| fault | flagged | CPU s: median, most | caught by (runs) |")
    print("|---|---|---|---|")
    fine = True
    for name, fault in FAULTS.items():
        caught, seconds, by = 0, [], Counter[str]()
        for seed in range(given.seeds):
            found, taken = run(fault.client, seed, system=given.system)
            caught += bool(found.flagged)
            seconds.append(taken)
            by.update({check.name for check in found.flagged if check.aspect == fault.aspect})
        fine &= caught == given.seeds and max(seconds) < SECONDS_BAR
        means = ", ".join(f"{check} ({runs})" for check, runs in by.most_common(3))
        print(
            f"| {name} | {caught} of {given.seeds} | {statistics.median(seconds):.1f}, "
            f"{max(seconds):.1f} | {means} |",
            flush=True,
        )
    alarms, seconds, least = 0, [], []
    for seed in range(given.correct):
        found, taken = run(honest, 10_000 + seed, system=given.system)
        alarms += bool(found.flagged)
        seconds.append(taken)
        able = [check.p_value for check in found.checks if check.p_value is not None]
        least.append(min(1.0, min(able) * len(able)))
    if least:
        allowed = f"expected {LEVEL * given.correct:.2g}"
        print(
            f"| none: a correct client | {alarms} of {given.correct} ({allowed}) | "
            f"{statistics.median(seconds):.1f}, {max(seconds):.1f} | smallest corrected p-value "
            f"of all runs {min(least):.2g}; below 0.05 in {sum(p < 0.05 for p in least)} |"
        )
    fine &= alarms <= FALSE_ALARMS_BAR
    print(f"\nbar {'held' if fine else 'missed'}")
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
