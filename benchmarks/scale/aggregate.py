"""A round at the coordinator beside Flower's FedAvg: time and peak memory, by number of replies.

    .venv/bin/python benchmarks/scale/aggregate.py [--replies 10,50,100] [--rounds 3]

Each cell is processes of their own, which take turns; replies of resnet18's 11.2
million parameters are made one at a time, as they are asked for, and making them is not
counted. Septum checks each signature, norm and noise, compares every pair, writes record
and checkpoint; FedAvg averages, and can begin only when it holds every reply. So the time
from the last reply to the new model, which everybody waits for, is taken apart from all work.
Memory is the most that the process held (VmHWM) above what it held before the first reply.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from septum.models import network_of, to_vector  # first: switches Flower's telemetry off

# isort: split
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from septum.participants import Participant
from septum.signing import Purpose, SigningKey
from septum.study import Study
from septum.wire import Release, decode_instruction, encode_release
from septum_server.bridge import RoundLoop
from septum_server.noise_score import Implied

WAYS = ("Septum", "Flower FedAvg")
PATIENTS = 400


def keys(count: int) -> dict[str, SigningKey]:
    return {
        f"site-{number:03d}": SigningKey.from_seed(number.to_bytes(32, "big"))
        for number in range(1, count + 1)
    }


def study_of(signers: dict[str, SigningKey], coordinator: SigningKey) -> Study:
    return Study.model_validate(
        {
            "name": "load",
            "purpose": "load test",
            "coordinator": coordinator.public,
            "sites": tuple(
                Participant(name=name, patients=PATIENTS, key=key.public)
                for name, key in signers.items()
            ),
            "data": {"labels": ("finding",)},
            "model": {"name": "resnet18"},
            "privacy": {
                "noise_multiplier": 1.0,
                "sampling_rate": 0.5,
                "steps_per_round": 1,
                "delta": 1e-5,
            },
            "rounds": 1,
        }
    )


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds on the clock and on a processor; the second is less a matter of who else works."""

    wall: float = 0.0
    cpu: float = 0.0

    @staticmethod
    def now() -> "Spent":
        """Return both clocks."""
        return Spent(time.perf_counter(), time.process_time())

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


class Load:
    """Flower's grid, with every hospital's reply made when it is pulled."""

    def __init__(self, study: Study, signers: dict[str, SigningKey]) -> None:
        self.making, self.last = Spent(), Spent()
        self._study, self._signers = study, signers
        self._nodes = {2 + at: name for at, name in enumerate(signers)}
        self._asked: dict[str, Message] = {}
        self._noise: Any = None

    def get_node_ids(self) -> Iterable[int]:
        """Return every hospital's node."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the orders."""
        names = []
        for message in messages:
            name = f"m{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name
            self._asked[name] = message
            names.append(name)
        return names

    def pull_messages(self, names: Iterable[str]) -> Iterator[Message]:
        """Make the replies."""
        begun = Spent.now()
        made = [self._reply(self._asked.pop(name)) for name in names if name in self._asked]
        self.last = Spent.now()
        self.making += self.last - begun
        return iter(made)

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        site, order = self._nodes[node], decode_instruction(message.content)
        release = Release(
            study=order.study,
            site=site,
            round=order.round,
            instruction=order.digest,
            noise_multiplier=self._study.privacy.noise_multiplier,
            max_grad_norm=self._study.privacy.max_grad_norm,
            ledger_head="0" * 64,
            update=order.model,
        )
        if self._noise is None:
            loud = Implied.of(release, self._study)
            draws = np.random.default_rng(0).standard_normal(len(order.model), dtype=np.float32)
            self._noise = draws * np.float32(loud.std if loud else 1.0)
        release = dataclasses.replace(release, update=np.roll(self._noise, 7919 * node))
        signature = self._signers[site].sign(Purpose.RELEASE, release.statement)
        release = dataclasses.replace(release, signature=signature)
        return Message(encode_release(release), reply_to=message)


def held_mib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) >> 10


def septum_round(count: int) -> tuple[Callable[[], Any], Load]:
    signers, coordinator = keys(count), SigningKey.from_seed(bytes(32))
    study = study_of(signers, coordinator)
    grid, model = Load(study, signers), to_vector(network_of(study))
    folder = Path(tempfile.mkdtemp())
    loop = RoundLoop(study, folder=folder, key=coordinator, watch=lambda *_: None)
    return lambda: loop.run(grid, model=model, done=0), grid  # type: ignore[arg-type] # its shape


def flower_round(count: int) -> tuple[Callable[[], Any], SimpleNamespace]:
    signers = keys(2)
    study = study_of(signers, SigningKey.from_seed(bytes(32)))
    noise = np.random.default_rng(0).standard_normal(
        len(to_vector(network_of(study))), dtype=np.float32
    )
    making = SimpleNamespace(making=Spent(), last=Spent())

    def run() -> None:
        begun = Spent.now()
        replies = []
        for node in range(2, 2 + count):
            asked = Message(RecordDict(), dst_node_id=node, message_type="train")
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"model": Array(np.roll(noise, 7919 * node))}),
                    "metrics": MetricRecord({"num-examples": PATIENTS}),
                }
            )
            replies.append(Message(content, reply_to=asked))
        making.last = Spent.now()
        making.making = making.last - begun
        FedAvg().aggregate_train(1, replies)

    return run, making


def measure(way: str, count: int) -> dict[str, float]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    run, grid = septum_round(count) if way == WAYS[0] else flower_round(count)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before, begun = held_mib("VmRSS"), Spent.now()
    run()
    ended = Spent.now()
    work, after = ended - begun - grid.making, ended - grid.last
    return {
        "work": work.cpu,
        "after": after.cpu,
        "waited": after.wall,
        "mib": held_mib("VmHWM") - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", default="10,50,100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measure(given.job[0], int(given.job[1]))))
        return
    counts = [int(each) for each in given.replies.split(",")]
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for count in counts:
            for way in WAYS:
                command = [sys.executable, __file__, "--job", way, str(count)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seen.setdefault((way, count), []).append(json.loads(out.splitlines()[-1]))
    print(f"load average {os.getloadavg()[0]:.1f}; medians of {given.rounds}, most of the memory\n")
    print("| replies | way | after the last: waited, s | CPU, s | all work: CPU, s | extra MiB |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        middle = []
        for way in WAYS:
            runs = seen[way, count]
            cell = [
                statistics.median(run[name] for run in runs) for name in ("waited", "after", "work")
            ]
            middle.append([*cell, max(run["mib"] for run in runs)])
            times = " | ".join(f"{each:.2f}" for each in cell)
            print(f"| {count} | {way} | {times} | {middle[-1][-1]} |")
        ratios = " | ".join(f"{ours / theirs:.2f}" for ours, theirs in zip(*middle, strict=True))
        print(f"| {count} | *ratio* | {ratios} |")


if __name__ == "__main__":
    main()
