"""Long-running processes of one side, started in order, kept running, and never left behind.

A coordinator and a hospital each run a handful of Flower's processes. The
supervisor starts them, starts one again when it ends, and ends all of them
with itself. It knows nothing of Flower and nothing of studies.
"""

import contextlib
import fcntl
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, Self

from septum import child_process
from septum.durable import replace
from septum.errors import EngineError, Interrupted

GRACE_S: Final = 10.0
"""Seconds that a process has to end after SIGTERM before its group is killed."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
"""A process that ran as long as this is started again without waiting for longer."""

LARGEST_LOG_BYTES: Final = 20 << 20

_TURN_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process.

    Args:
      name: Of its log and its pid file.
      argv: Program and arguments. No secret: every user of the machine can read them.
      env: Variables beside the few that are inherited (:func:`septum.child_process.environment`).
      ready: Whether it serves; the next service starts after that. ``None``: at once.
      restart: Start it again when it ends.
      ready_s: Seconds that it has to become ready at the first start.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    ready: Callable[[], bool] | None = None
    restart: bool = True
    ready_s: float = 60.0


@dataclass(kw_only=True)
class _Running:
    """A service and its present process; touched by the supervisor's own thread alone."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    due: float | None = None
    restarts: int = 0
    ended: int | None = None


class Supervisor:
    """Runs services from ``with`` to its end.

    Guarantees:
      - Each service starts after the one before it is ready, in a process group
        of its own, with files that nobody else can read (umask 077).
      - One that ends is started again, after a pause that doubles up to
        :data:`LONGEST_PAUSE_S`.
      - After :meth:`stop` no process of the groups is left: SIGTERM in reverse
        order, SIGKILL after :data:`GRACE_S`. Where this process is killed, the
        system ends the services (Linux).
      - Two supervisors never run in one folder.

    Args:
      services: In the order of starting; names are unique.
      folder: Gets ``logs/NAME.log`` and ``pids/NAME.pid``.
      notice: Told of each start and end, one sentence each; called by another thread.
      cancelled: Asked while the services start: whether to give up.

    Raises:
      EngineError: On entering: another supervisor runs in ``folder``, or a service
        did not become ready; what had started was ended.
      Interrupted: On entering: ``cancelled``.
    """

    def __init__(
        self,
        services: Sequence[Service],
        folder: Path,
        *,
        notice: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._all = [_Running(service=service) for service in services]
        self._folder = folder
        self._notice = notice
        self._cancelled = cancelled
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._up: queue.SimpleQueue[EngineError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        for name in ("logs", "pids"):
            (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(self._folder / "pids" / "lock")
        # The system ends children when the thread that made them ends: one thread makes them all.
        self._thread.start()
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_up(self) -> None:
        while True:
            try:
                failure = self._up.get(timeout=_TURN_S)
            except queue.Empty:
                if self._cancelled():
                    raise Interrupted("stopped before everything had started.") from None
                continue
            if failure is not None:
                raise failure
            return

    def pid(self, name: str) -> int | None:
        """Return the number of the service's present process, or ``None`` between two."""
        process = self._of(name).process
        return process.pid if process is not None and process.returncode is None else None

    def restarts(self, name: str) -> int:
        """Return how often the service was started again."""
        return self._of(name).restarts

    def restart(self, name: str) -> None:
        """Ask a service to end; it is started again as after any other end."""
        if (process := self._of(name).process) is not None:
            process.terminate()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until a service that is not started again ended; whether one did."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """End all services, last started first; may be called twice."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _of(self, name: str) -> _Running:
        return next(running for running in self._all if running.service.name == name)

    def _supervise(self) -> None:
        try:
            for running in self._all:
                self._start(running)
                self._await(running)
            self._up.put(None)
            while not self._stopping.wait(_TURN_S):
                for running in self._all:
                    self._look_after(running)
        except EngineError as failure:
            self._up.put(failure)
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
            self._up.put(EngineError(f"the supervisor failed ({type(error).__name__}: {error})."))
        finally:
            self._ended.set()
            for running in reversed(self._all):
                self._end(running)

    def _await(self, running: _Running) -> None:
        service = running.service
        if service.ready is None:
            return
        deadline = time.monotonic() + service.ready_s
        while not service.ready():
            if self._stopping.is_set():
                return
            self._look_after(running)
            gone = running.process is None and not service.restart
            if gone or time.monotonic() > deadline:
                raise EngineError(
                    f"{service.name} did not become ready within {service.ready_s:g} s.",
                    remedy=f"Read {self._log(service.name)}.",
                )
            self._stopping.wait(_TURN_S)

    def _look_after(self, running: _Running) -> None:
        service, process = running.service, running.process
        if process is not None and process.poll() is not None:
            child_process.kill_group(process.pid)  # what it started and left behind
            running.process, running.ended = None, process.returncode
            self._pid_file(service.name).unlink(missing_ok=True)
            if not service.restart:
                self._say(f"{service.name} ended with {process.returncode}.")
                self._ended.set()
                return
            if time.monotonic() - running.started > STEADY_S:
                running.pause_s = FIRST_PAUSE_S
            running.due = time.monotonic() + running.pause_s
            self._say(
                f"{service.name} ended with {process.returncode}; "
                f"starting it again in {running.pause_s:g} s."
            )
            running.pause_s = min(2 * running.pause_s, LONGEST_PAUSE_S)
        if running.due is not None and time.monotonic() >= running.due:
            running.restarts += 1
            try:
                self._start(running)
            except OSError as error:  # a full disk or no memory now may be no longer then
                running.due = time.monotonic() + LONGEST_PAUSE_S
                self._say(f"{service.name} cannot be started ({error.strerror}); trying again.")

    def _start(self, running: _Running) -> None:
        service = running.service
        log = self._log(service.name)
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LARGEST_LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
        with child_process.private_file(log) as sink:
            process = subprocess.Popen(  # noqa: S603 - argv is ours, never a shell's
                child_process.argv(service.argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=child_process.environment(service.env),
                start_new_session=True,
                umask=0o077,
            )
        running.process, running.started, running.due = process, time.monotonic(), None
        number = f"{process.pid}\n".encode()
        with contextlib.suppress(OSError):  # a full disk
            replace(self._pid_file(service.name), lambda file: file.write(number))
        self._say(f"{service.name} started (process {process.pid}).")

    def _end(self, running: _Running) -> None:
        process = running.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._say(f"{running.service.name} did not end within {GRACE_S:g} s and was killed.")
        child_process.kill_group(process.pid)
        process.wait()
        running.process = None
        self._pid_file(running.service.name).unlink(missing_ok=True)

    def _say(self, sentence: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with (
            contextlib.suppress(OSError),
            child_process.private_file(self._log("supervisor")) as log,
        ):
            log.write(f"{at} {sentence}\n".encode())
        if self._notice is not None:
            self._notice(sentence)

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"

    def _pid_file(self, name: str) -> Path:
        return self._folder / "pids" / f"{name}.pid"


def _lock(path: Path) -> IO[bytes]:
    file = child_process.private_file(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise EngineError(
            f"another process already runs the services of {path.parent.parent}.",
            remedy="Stop that one first, or choose another folder.",
        ) from None
    return file
