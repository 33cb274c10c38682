"""A coordinator under the traffic of many hospitals: real processes, TLS and keys, on loopback.

    .venv/bin/python benchmarks/scale/load.py [--sites 100] [--rounds 3] [--json]

Runs ``septum server up`` (SuperLink, edge, desk, SuperExec, ServerApp) and beside it
``fleet.py``, whose hospitals have registered node keys, ask as SuperNodes do and answer with
signed noise. Memory is each process's proportional set size, looked at four times a second;
that the most of it is the same in every round is what is to be shown.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from septum.models import network_of, to_vector  # first: switches Flower's telemetry off

# isort: split
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fleet import name_of, node_of, signing_of

from septum.errors import SeptumError
from septum.processes import Supervisor
from septum.study import Study
from septum.wire import Release
from septum_bench import deployment as deploy
from septum_server.launch import desk
from septum_server.noise_score import Implied
from septum_server.studies import sign_study

LOOK_S = 0.25
PATIENTS = 400
SERVICES = ("superlink", "edge", "desk", "superexec")
SERVER_APP = "serverapp"


def line_of(number: int) -> dict[str, Any]:
    """Return a hospital's line in the study."""
    public = node_of(number).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    key = {"key": signing_of(number).public, "node_key": public.decode()}
    return {"name": name_of(number), "patients": PATIENTS, **key}


def study_of(given: argparse.Namespace, coordinator: str) -> Study:
    return Study.model_validate(
        {
            "name": "load",
            "purpose": "load test",
            "coordinator": coordinator,
            "sites": [line_of(number) for number in range(1, given.sites + 1)],
            "data": {"labels": ("finding",), "image_size": 32},
            "model": {"name": given.model},
            "privacy": {
                "noise_multiplier": 1.0,
                "sampling_rate": 0.5,
                "steps_per_round": 1,
                "delta": 1e-5,
            },
            "strategy": {"minimum_sites": given.sites},
            "participation": {"deadline_s": 900},
            "rounds": given.rounds,
        }
    )


def plan_of(given: argparse.Namespace, deployment: deploy.Deployment) -> dict[str, Any]:
    """Return what the fleet is told: how loud noise is, and where the coordinator is."""
    study, coordinator = deployment.signed.study, deployment.coordinator
    terms = study.privacy
    blank = Release(
        study=study.digest,
        site=name_of(1),
        round=1,
        instruction="0" * 64,
        noise_multiplier=terms.noise_multiplier,
        max_grad_norm=terms.max_grad_norm,
        ledger_head="0" * 64,
        update=to_vector(network_of(study)),
    )
    implied = Implied.of(blank, study)
    return {
        "address": coordinator.settings.address,
        "ca": coordinator.ca_path.read_text(),
        "sites": given.sites,
        "one_address": given.one_address,
        "noise_multiplier": terms.noise_multiplier,
        "max_grad_norm": terms.max_grad_norm,
        "std": implied.std if implied else 1.0,
        "parameters": len(blank.update),
    }


class Watch:
    """The most memory of each process in each round, and its time on the processor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mib: dict[int, Counter[str]] = defaultdict(Counter)
        self.cpu: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._last: dict[str, tuple[int, float]] = {}

    def look(self, number: int) -> None:
        """Look at every process, in this round."""
        for name, pid in self._pids().items():
            with suppress(OSError, ValueError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                mib = next(int(each.split()[1]) for each in lines if each.startswith("Pss:")) >> 10
                self.mib[number][name] = max(self.mib[number][name], mib)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])
                self._count(name, pid, ticks / os.sysconf("SC_CLK_TCK"))

    def _count(self, name: str, pid: int, seconds: float) -> None:
        before, spent = self._last.get(name, (pid, 0.0))
        if before != pid:
            self._ended[name] += spent
        self._last[name] = (pid, seconds)
        self.cpu[name] = self._ended[name] + seconds

    def _pids(self) -> dict[str, int]:
        found = {}
        for name in SERVICES:
            with suppress(OSError, ValueError):
                found[name] = int((self.folder / "pids" / f"{name}.pid").read_text())
        with suppress(OSError, ValueError, KeyError, IndexError):
            pid = found["superexec"]
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found[SERVER_APP] = int(children[0])
        return found


def registered(made: deploy.Deployment) -> int:
    """Return how many hospitals the server lets in; none while it is not up."""
    try:
        with desk(made.coordinator) as control:
            return len(control.nodes())
    except SeptumError:
        return 0


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the load test in ``folder`` and return what was seen."""
    coordinator = deploy.make_coordinator(folder / "coordinator")
    study = study_of(given, coordinator.public)
    signed = sign_study(coordinator, study, weights=None, today=datetime.now(UTC).date())
    made = deploy.Deployment(coordinator=coordinator, sites={}, signed=signed)
    plan = plan_of(given, made)
    (folder / "plan.json").write_text(json.dumps(plan))
    watch, begun = Watch(coordinator.folder), time.monotonic()
    seen: dict[str, Any] = {"parameters": plan["parameters"]}
    answers: Counter[str] = Counter()
    with Supervisor(deploy.services(made), folder), ExitStack() as stack:
        deploy.until(lambda: registered(made) == given.sites, seconds=300, what="registering")
        seen["seconds to register"] = round(time.monotonic() - begun, 1)
        fleets = []
        share = -(-given.sites // given.processes)
        for first in range(1, given.sites + 1, share):
            span = (str(first), str(min(first + share, given.sites + 1)))
            command = [sys.executable, str(Path(__file__).with_name("fleet.py"))]
            log = stack.enter_context((folder / f"fleet-{first}.log").open("wb"))
            fleet = subprocess.Popen(
                [*command, str(folder / "plan.json"), *span],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            stack.callback(fleet.kill)
            fleets.append(fleet)
        deploy.until(
            lambda: len(deploy.connected(made)) == given.sites, seconds=240, what="connecting"
        )
        seen["seconds to connect"] = round(time.monotonic() - begun, 1)
        run_begun = time.monotonic()
        deploy.start(made)
        looked = run_begun
        while not seen.get("ended"):
            watch.look(len(made.rounds()) + 1)
            if time.monotonic() - looked > 5:
                looked = time.monotonic()
                seen["ended"] = deploy.ended(made)
            time.sleep(LOOK_S)
        seen["seconds of the run"] = round(time.monotonic() - run_begun, 1)
        for fleet in fleets:
            said = json.loads(fleet.communicate("", timeout=120)[0].splitlines()[-1])
            answers.update(said["answers"])
            seen["torch"] = said["torch"] or seen.get("torch", False)
    return seen | {
        "rounds": [
            {
                "round": entry.round,
                "answered": len(entry.answered),
                "refused": entry.refused,
                "alarms": list(entry.alarms),
                "seconds": round(entry.seconds, 1),
                "mib": dict(watch.mib[entry.round]),
            }
            for entry in made.rounds()
        ],
        "cpu": {name: round(seconds, 1) for name, seconds in watch.cpu.items()},
        "answers": dict(answers),
    }


def show(given: argparse.Namespace, seen: dict[str, Any]) -> None:
    names = ("superlink", "edge", SERVER_APP)
    print(
        f"{given.sites} hospitals, {seen['parameters']:,} parameters; {os.cpu_count()} cores, "
        f"{platform.machine()}, load average {os.getloadavg()[0]:.1f} at the end; "
        f"registered after {seen['seconds to register']} s, connected after "
        f"{seen['seconds to connect']} s, run took {seen['seconds of the run']} s: "
        f"{seen['ended']}\n"
    )
    print(f"| round | answered | seconds | {' | '.join(f'{name}, MiB' for name in names)} |")
    print("|---|---|---|" + "---|" * len(names))
    for entry in seen["rounds"]:
        held = " | ".join(str(entry["mib"].get(name, "–")) for name in names)
        answered = f"{entry['answered']} of {given.sites}"
        print(f"| {entry['round']} | {answered} | {entry['seconds']} | {held} |")
    said = ", ".join(f"{count} × {kind}" for kind, count in sorted(seen["answers"].items()))
    print(f"\nRequests, by what came back: {said}.")
    spent = ", ".join(f"{name} {seconds}" for name, seconds in seen["cpu"].items())
    print(f"Seconds on a processor: {spent}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--processes", type=int, default=2, help="of the hospitals")
    parser.add_argument("--one-address", action="store_true", help="as behind one proxy")
    parser.add_argument("--folder", type=Path, help="is kept; else a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        seen = run(given, folder.absolute())
    if given.json:
        print(json.dumps(seen))
    else:
        show(given, seen)


if __name__ == "__main__":
    main()
