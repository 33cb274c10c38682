"""A step of DP-SGD in every way, beside plain torch: CPU time and extra peak memory.

    .venv/bin/python benchmarks/dp/compare.py [--rounds 9] [--models small_cnn,resnet18]

Batch 32, 64x64x1, two threads. Time: in one process per network, the ways take
turns in another order each round; a figure is a way's median over plain
torch's. CPU time of all threads, because the machine may have other work.
The C library keeps freed memory in every way, as it does at a hospital.
Memory: each way in a process of its own, the most it ever held (VmHWM) while
taking three steps, over what it held with the network built and nothing run.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # an idle thread that spins is no work done

import torch
from ways import WAYS, make, network

from septum_client.allocator import keep_memory

BATCH, SIDE, THREADS = 32, 64, 2
MODELS = ("small_cnn", "resnet18", "densenet121", "vit")
BARS = {"small_cnn": 1.10, "resnet18": 1.10, "densenet121": 1.25, "vit": 1.25}
MEMORY_BAR = 1.5


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((BATCH, 1, SIDE, SIDE), generator=generator)
    return pixels, torch.randint(0, 2, (BATCH,), generator=generator)


def held_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def times(model: str, rounds: int) -> dict[str, list[float]]:
    pixels, labels = images()
    steps, order = {}, list(WAYS)
    for way in WAYS:
        step = steps[way] = make(way, model, BATCH)
        for _ in range(2):
            step(pixels, labels)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    repeats = 10 if model == "small_cnn" else 1
    for _ in range(rounds):
        random.shuffle(order)
        for way in order:
            before = time.process_time()
            for _ in range(repeats):
                steps[way](pixels, labels)
            taken[way].append((time.process_time() - before) / repeats)
    return taken


def memory(way: str, model: str) -> int:
    """Return the MiB that three steps take at most, over the process before them."""
    pixels, labels = images()
    step = make(way, model, BATCH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = held_kib("VmRSS")
    for _ in range(3):
        step(pixels, labels)
    return (held_kib("VmHWM") - before) >> 10


def in_a_child(job: str, *arguments: str) -> str:
    command = [sys.executable, __file__, "--job", job, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def table(model: str, taken: dict[str, list[float]], peaks: dict[str, int]) -> str:
    count = sum(p.numel() for p in network(model).parameters())
    lines = [
        f"### {model}, {count:,} weights (bars: time {BARS[model]:.2f}, memory {MEMORY_BAR})",
        "",
        "| way | CPU s | x plain | extra MiB | x plain |",
        "|---|---|---|---|---|",
    ]
    plain, room = taken["plain torch"], peaks["plain torch"]
    for way, each in taken.items():
        ratio = statistics.median(each) / statistics.median(plain)
        lines.append(
            f"| {way} | {statistics.median(each):.3f} | {ratio:.2f} "
            f"| {peaks[way]} | {peaks[way] / room:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    torch.set_num_threads(THREADS)
    if given.job:
        keep_memory()
        job, *named = [*given.job, *rest]
        made = memory(*named) if job == "memory" else times(named[0], int(named[1]))
        print(json.dumps(made))
        return
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {THREADS} threads, batch {BATCH}")
    if "FASTDP" not in os.environ:
        print("fast-differential-privacy is on no registry: name a checkout in FASTDP to run it")
    for model in given.models.split(","):
        taken = json.loads(in_a_child("times", model, str(given.rounds)))
        peaks = {way: int(in_a_child("memory", way, model)) for way in WAYS}
        print("\n" + table(model, taken, peaks), flush=True)


if __name__ == "__main__":
    main()
