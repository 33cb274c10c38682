"""A person's time from `septum site init` to the first round: typed, read and waited for.

    .venv/bin/python benchmarks/joining.py OUT

Two hospitals of phantoms and a coordinator on this machine, by the `septum`
command alone, each command typed at a terminal and each question answered
there. Of one hospital, every keystroke, every word on the screen, every word
of its policy and every second of waiting is counted; no person was timed.
Typing is taken at 260 characters a minute (Dhakal et al. 2018), reading at 238
words a minute (Brysbaert 2019), digests as typed in full, the call in which
both sides read out a fingerprint as two minutes. Not
counted: exporting the images, writing consent down, and making up one's mind.
"""

import argparse
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from septum_client.node import free_port

TYPED_A_MINUTE, READ_A_MINUTE, CALL_S = 260, 238, 120.0
LONGEST_S = 600.0
SEPTUM = Path(sys.executable).with_name("septum")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
REDRAWN = re.compile(r"[^\n]*\r(?=[^\n])")  # what a progress line showed before
PATIENTS = 60


@dataclass
class Person:
    """Somebody at a terminal, and what each step took."""

    folder: Path
    steps: list[tuple[str, float, float, float]] = field(default_factory=list)

    def does(
        self, what: str, *command: str, answers: Sequence[tuple[str, str]] = (), typed: str = ""
    ) -> str:
        """Type a command and the answer to each of its questions; return the screen."""
        keys = len(" ".join(("septum", *command))) + 1
        keys += sum(len(answer) + 1 for _, answer in answers) + len(typed)
        began = time.monotonic()
        screen = at_terminal([str(SEPTUM), *command], self.folder, answers)
        self.took(
            what,
            keys=keys,
            words=len(REDRAWN.sub("", screen).split()),
            waited=time.monotonic() - began,
        )
        return screen

    def took(self, what: str, *, keys: int = 0, words: int = 0, waited: float = 0.0) -> None:
        """Note a step."""
        self.steps.append((what, 60 * keys / TYPED_A_MINUTE, 60 * words / READ_A_MINUTE, waited))


def at_terminal(command: list[str], folder: Path, answers: Sequence[tuple[str, str]]) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "COLUMNS": "100"},
    ) as child:  # fmt: skip
        os.close(theirs)
        screen, left, told = "", list(answers), 0
        while select.select([ours], [], [], LONGEST_S)[0]:
            try:
                more = os.read(ours, 65536).decode(errors="replace")
            except OSError:  # the other end is closed: the command has ended
                break
            screen += CONTROL.sub("", more)
            if left and left[0][0] in screen[told:]:
                told = len(screen)
                os.write(ours, f"{left.pop(0)[1]}\n".encode())
        if child.wait(LONGEST_S) or left:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{screen}")
    os.close(ours)
    return screen


@contextmanager
def staying(command: list[str], folder: Path, log: Path) -> Iterator[None]:
    """Run what stays until Ctrl-C."""
    with log.open("wb") as said:
        child = subprocess.Popen([str(SEPTUM), *command], cwd=folder, stdout=said, stderr=said)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(60)


def found(pattern: str, screen: str) -> str:
    match = re.search(pattern, screen)
    if match is None:
        raise SystemExit(f"{pattern} is not in:\n{screen}")
    return match[1]


def write_register(export: Path, folder: Path) -> None:
    """Write down that everybody consents, as a hospital's system would export it."""
    images = (path for path in (export / "DICOM").rglob("*") if path.is_file())
    everybody = {dcmread(path, specific_tags=["PatientID"]).PatientID for path in images}
    folder.mkdir(mode=0o700, exist_ok=True)
    rows = ["patient_id,decision,purposes", *(f"{one},permit,HRESCH" for one in sorted(everybody))]
    (folder / "register.csv").write_text("\n".join((*rows, "")))


def joins(person: Person, name: str, export: Path) -> None:
    """Do what comes before the invitation."""
    person.does("init", "site", "init", name, "--patients", str(PATIENTS))
    policy = person.folder / "site" / "policy.toml"
    rules = policy.read_text()
    # What a hospital would set is its own; these are phantoms, and say so.
    policy.write_text(rules.replace('synthetic = "exclude"', 'synthetic = "include"'))
    person.took("read policy.toml, change one word", keys=20, words=len(rules.split()))
    write_register(export, person.folder / "site" / "consent")
    person.does("ingest", "site", "ingest", str(export), "--label", "nodule")


def approves(person: Person, invitation: Path, fingerprint: str) -> None:
    """Join and approve."""
    person.took("telephone call, both fingerprints", waited=CALL_S)
    screen = person.does(
        "join: pre-flight and study card", "site", "join", str(invitation),
        answers=[("fingerprint", fingerprint)],
    )  # fmt: skip
    digest = found(r"septum site approve ([0-9a-f]{64})", screen)
    person.does(
        "approve", "site", "approve", digest, answers=[("Who approves", "J. Doe, privacy officer")]
    )


def walk(folder: Path) -> Person:
    """Take two hospitals and a coordinator to a first round; return the first hospital's person."""
    names = ("north", "south")
    coordinator, north, south = (Person(folder / name) for name in ("coordinator", *names))
    for person in (coordinator, north, south):
        person.folder.mkdir(parents=True)
    patients = str(2 * PATIENTS * 7 // 4)
    coordinator.does(
        "phantoms", "phantoms", str(folder / "exports"), "--sites", "2", "--patients", patients
    )
    exports = sorted(path for path in (folder / "exports").iterdir() if path.is_dir())
    for person, name, export in zip((north, south), names, exports, strict=True):
        joins(person, name, export)
    ports = [free_port() for _ in range(3)]
    coordinator.does(
        "init", "server", "init", f"127.0.0.1:{ports[0]}", "--bind", "127.0.0.1",
        "--control-port", str(ports[1]), "--inner-port", str(ports[2]),
    )  # fmt: skip
    cards = [("--site", str(folder / name / "site" / "site-card.toml")) for name in names]
    coordinator.does(
        "new", "study", "new", "study.toml", *(word for card in cards for word in card),
        answers=[
            ("Name", "walk"), ("question", "What does it take to join?"), ("Labels", "nodule"),
            ("Task", ""), ("Image size", ""), ("Epsilon", ""),
        ],
    )  # fmt: skip
    digest = found(
        r"Digest: ([0-9a-f]{64})", coordinator.does("sign", "study", "sign", "study.toml")
    )
    for person, name in ((north, "north"), (south, "south")):
        screen = coordinator.does("invite", "study", "invite", name)
        approves(
            person,
            coordinator.folder / f"invite-{name}.toml",
            found(r"((?:[0-9A-Z]{4}-){4}[0-9A-Z]{4})", screen),
        )
    with (
        staying(["server", "up"], coordinator.folder, folder / "server.log"),
        staying(["site", "up"], south.folder, folder / "south.log"),
    ):
        await_sites(coordinator, digest, ["south"])
        began = time.monotonic()
        with staying(["site", "up"], north.folder, folder / "north.log"):
            await_sites(coordinator, digest, sorted(names))
            coordinator.does("start", "study", "start", digest)
            while status(coordinator, digest)["rounds"] < 1:
                time.sleep(1)
            waited = time.monotonic() - began
    words = (folder / "north.log").read_text()
    north.took("up, until round 1 is recorded", keys=15, words=len(words.split()), waited=waited)
    return north


def await_sites(coordinator: Person, digest: str, names: list[str]) -> None:
    deadline = time.monotonic() + LONGEST_S
    there: list[str] = []
    while there != names:
        if time.monotonic() > deadline:
            raise SystemExit(f"only these are connected: {there}")
        sites = status(coordinator, digest)["sites"]
        there = sorted(name for name, state in sites.items() if state == "online")


def status(coordinator: Person, digest: str) -> dict:
    command = [str(SEPTUM), "study", "status", digest, "--json"]
    made = subprocess.run(
        command, check=True, cwd=coordinator.folder, capture_output=True, text=True
    )
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    person = walk(parser.parse_args().out.absolute())
    print("| step | typing, s | reading, s | waiting, s |")
    print("|---|---|---|---|")
    for what, *seconds in person.steps:
        print(f"| {what} | " + " | ".join(f"{each:.0f}" for each in seconds) + " |")
    sums = [sum(step[column] for step in person.steps) for column in (1, 2, 3)]
    print("| **all** | " + " | ".join(f"**{each:.0f}**" for each in sums) + " |")
    hands = sums[0] + sums[1] + CALL_S
    print(f"\nTyping, reading and on the telephone: {hands / 60:.1f} minutes.")
    print(f"By the clock: {sum(sums) / 60:.1f} minutes, load average {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
