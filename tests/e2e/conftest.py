"""A coordinator and hospitals as real processes, on tiny cohorts: seconds to make, minutes to run.

Every process is started by this test run and ended by its own number.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from septum.errors import SeptumError
from septum.processes import Supervisor
from septum_bench import deployment as deploy
from septum_bench.deployment import Deployment
from septum_client.card import read_keys
from septum_client.site import Site

KEY = b"k" * 32
"""The key that the tiny cohorts were made under."""

LONGEST_S = 200
"""The longest deadline: what waits for the round's record waits for 300 s."""


# The guard of a hospital with one thing wrong; everything else is the guard's own.
WRONG = """
import time
from datetime import timedelta
from septum_client import guard
real = guard.Guard
def wrong(*, app, refusing):
    def later():
        from septum_client import gate, train
        {change}
        return app()
    return real(app=later, refusing=refusing)
guard.Guard = wrong
guard.main()
"""


class Program:
    """A program that SuperExec finds by name, changed and put back."""

    def __init__(self, path: Path, *, ready: Callable[[], int] | None = None) -> None:
        self.path = path
        self.text = path.read_text()
        self.ready = ready

    def change(self, text: str) -> None:
        # In one step, since SuperExec may look at any moment.
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(0o700)
        beside.replace(self.path)

    def end(self) -> None:
        """End what forks for each message, which is the program as it was, with its tasks."""
        if self.ready:
            os.kill(self.ready(), signal.SIGKILL)

    def fill_the_disk(self) -> None:
        first, rest = self.text.split("\n", 1)
        self.change(f"{first}\nulimit -f 0\n{rest}")
        self.end()

    def go_wrong(self, change: str) -> None:
        beside = self.path.with_name("wrong.py")
        beside.write_text(WRONG.format(change=change))
        self.change(self.text.replace("-m septum_client.guard", f"'{beside}'"))
        self.end()

    def restore(self) -> None:
        self.change(self.text)
        self.end()


class World:
    """One deployment and its supervisor, and the numbers of its processes."""

    def __init__(self, made: Deployment, folder: Path) -> None:
        self.made = made
        self.folder = folder
        self.supervisor: Supervisor | None = None

    @contextmanager
    def up(self, *, without: tuple[str, ...] = ()) -> Iterator["World"]:
        """Run every process, or all but some hospitals; afterwards none is left."""
        services = [s for s in deploy.services(self.made) if s.name not in without]
        try:
            with Supervisor(services, self.folder) as self.supervisor:
                yield self
        finally:
            left = processes_of(self.folder)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left: {left}"

    def until(self, done: Callable[[], object], *, seconds: float = 300.0, what: str) -> None:
        try:
            deploy.until(lambda: bool(done()), seconds=seconds, what=what)
        except SeptumError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def connected(self, *names: str) -> None:
        wanted = set(names or self.made.sites)
        self.until(lambda: wanted <= set(deploy.connected(self.made)), what=f"{wanted} connected")

    def recorded(self, number: int) -> None:
        """Wait for the record of a round."""
        self.until(
            lambda: any(entry.round >= number for entry in self.made.rounds()),
            what=f"round {number}",
        )

    def finished(self) -> str:
        self.until(lambda: deploy.ended(self.made), what="the end of the run")
        return deploy.ended(self.made)

    def pid(self, side: str, name: str) -> int:
        """Return the number of a service's present process: ``coordinator`` or a hospital."""
        home = (
            self.folder / "coordinator" if side == "coordinator" else self.made.sites[side].folder
        )
        found: list[int] = []

        def look() -> bool:
            with suppress(OSError, ValueError):
                found[:] = [int((home / "pids" / f"{name}.pid").read_text())]
            return bool(found)

        self.until(look, what=f"{name} of {side}")
        return found[0]

    def task(self, side: str) -> int:
        """Return the number of the process that answers a message, or runs the rounds."""
        parent = self.pid(side, "superexec") if side == "coordinator" else self.ready(side)
        return self._child(parent, what=f"a task of {side}")

    def ready(self, name: str) -> int:
        """Return the number of the process that forks for each message to a hospital."""
        return self._child(self.pid(name, "superexec"), what=f"what forks at {name}")

    def program(self, side: str) -> Program:
        """Return the program that answers for a hospital, or that runs the rounds."""
        if side == "coordinator":
            return Program(self.folder / "coordinator/flower/bin/flwr-serverapp")
        path = self.made.sites[side].folder / "flower/bin/flwr-clientapp"
        return Program(path, ready=lambda: self.ready(side))

    def _child(self, parent: int, *, what: str) -> int:
        found: list[int] = []

        def look() -> bool:
            found[:] = children_of(parent)
            return bool(found)

        self.until(look, what=what)
        return found[0]

    def charges(self, name: str) -> int:
        return len(self.made.sites[name].ledger.charges(self.made.digest))

    def charged(self, name: str, count: int) -> None:
        """Wait, closely, until a hospital was charged so many rounds."""
        deadline = time.monotonic() + 300
        while self.charges(name) < count:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def entry(self, number: int):
        return next(entry for entry in self.made.rounds() if entry.round == number)

    def logs(self) -> str:
        """Return the ends of all logs, for a test that fails."""
        return "\n".join(
            f"== {path.relative_to(self.folder)}\n" + path.read_text(errors="replace")[-1500:]
            for path in sorted(self.folder.rglob("*.log"))
            if path.stat().st_size
        )


@pytest.fixture
def world(tmp_path, tiny):
    """Make a world of the hospitals that are named, with a study of the given parts."""

    def make(*names: str, quorum: int = 1, policy=None, **parts) -> World:
        study = tiny.study(**parts)
        coordinator = deploy.make_coordinator(tmp_path / "coordinator")
        sites, lines = {}, []
        for name in names:
            home = tmp_path / "sites" / name
            site = Site.create(home, name=name, policy=policy or tiny.policy(), key=KEY)
            tiny.cohort(site.cohort_path, study)
            keys = read_keys(site.folder)
            line = {"name": name, "patients": 10}
            lines.append(line | {"key": keys.signing.public, "node_key": keys.node_public})
            sites[name] = site
        fields = study.model_dump(mode="json") | {"sites": lines}
        fields["strategy"]["minimum_sites"] = quorum
        made = deploy.agree(coordinator, sites, fields, folder=tmp_path)
        return World(made, tmp_path)

    return make


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid`` now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after = path.read_text().rpartition(")")[2].split()
            if int(after[1]) == pid and after[0] != "Z":
                found.append(int(path.parent.name))
    return found


def processes_of(folder: Path) -> list[int]:
    """Return every process whose arguments or environment name ``folder``, this one apart."""
    found = []
    for home in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (home / "cmdline").read_bytes() + (home / "environ").read_bytes()
            if str(folder).encode() in told and int(home.name) != os.getpid():
                found.append(int(home.name))
    return found


@pytest.fixture
def deadline_s() -> int:
    """Return a round's deadline, in seconds, that who answers keeps on this machine as it is now.

    A hospital that starts, connects, trains and answers takes three to four times as long
    as the import that is timed here; a test that must wait for a deadline waits no longer
    than a quiet machine needs.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import septum_client.app"], check=True)
    return min(LONGEST_S, max(60, round(8 * (time.monotonic() - began))))


@pytest.fixture
def system() -> SimpleNamespace:
    return SimpleNamespace(children_of=children_of, processes_of=processes_of)
