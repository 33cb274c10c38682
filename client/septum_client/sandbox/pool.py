"""Child processes that do what they are told, one task each at a time."""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

from septum.errors import EngineError, Quarantine
from septum_client.sandbox.frames import pack, unpack

MEMORY_BYTES: Final = 4 * 2**30
# Tesseract's own limit for five pictures in two polarities, and two minutes for the rest.
SECONDS: Final = 720.0
_START_SECONDS: Final = 120.0
_PART_BYTES: Final = 2**20
# -P: not the caller's folder on the path.
_COMMAND: Final = (sys.executable, "-P", "-m", "septum_client.sandbox.child")
# One thread each: the children are the parallelism.
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing to do, and how long it may take by the wall clock.

    Args:
      verb: Of :data:`septum_client.reading.VERBS`.
      fields: Its arguments, as JSON can carry them.
      body: Some bytes.
      seconds: After so long the child is ended.
    """

    verb: str
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    seconds: float = SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a child answered. ``fields`` has a ``code`` where the file was refused."""

    fields: Mapping[str, Any] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


STOPPED: Final = Answer(fields={"code": Quarantine.WORKER_STOPPED.value})


class _StoppedError(Exception):
    """The child ended, hung or answered nonsense."""


class Pool:
    """Some children, started when first needed and replaced when they stop.

    Args:
      workers: How many; at least 1.
      memory_bytes: Address space of one child.

    Guarantees:
      - A task whose child crashes, hangs, or runs out of memory is answered
        with ``WORKER_STOPPED``; the next task has a new child.
      - What a child prints goes nowhere: it could quote a file.
    """

    def __init__(self, workers: int = 1, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._workers = workers
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        self._children = [_Child(memory_bytes) for _ in range(workers)]
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def map(
        self, tasks: Iterable[Task | Answer], *, settings: Mapping[str, Any]
    ) -> Iterator[Answer]:
        """Yield the answer to each task, in the order of the tasks.

        Args:
          tasks: Taken as they are needed; a few more than ``workers`` at a time.
            What is an answer already comes back in its place.
          settings: What holds for all of them; a child is told once.

        Raises:
          EngineError: A child cannot be started at all.
        """
        told = json.dumps(settings, sort_keys=True)
        waiting: deque[Future[Answer]] = deque()
        try:
            for task in tasks:
                if isinstance(task, Answer):
                    done: Future[Answer] = Future()
                    done.set_result(task)
                    waiting.append(done)
                else:
                    waiting.append(self._threads.submit(self._do, task, told))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Nobody waits for what is left: not this process at its end either.
            if [future for future in waiting if not future.cancel() and not future.done()]:
                for child in self._children:
                    child.interrupt()

    def close(self) -> None:
        """End the children."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.end()

    def _do(self, task: Task, settings: str) -> Answer:
        child = self._idle.get()
        try:
            return child.ask(task, settings=settings)
        except _StoppedError:
            child.end()
            return STOPPED
        finally:
            self._idle.put(child)


@functools.cache
def shared(workers: int) -> Pool:
    """Return this process's pool: starting a child costs a second, so they are kept.

    They end with this process: at the latest, when its end of their pipe closes.
    """
    pool = Pool(workers)
    atexit.register(pool.close)
    return pool


class _Child:
    """One process and its two pipes."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = ""

    def ask(self, task: Task, *, settings: str) -> Answer:
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._settings != settings:
            self._exchange("settings", json.loads(settings), b"", SECONDS)
            self._settings = settings
        return self._exchange(task.verb, task.fields, task.body, task.seconds)

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def interrupt(self) -> None:
        process = self._process
        if process is not None:
            _kill(process)

    def _start(self) -> None:
        self.end()
        self._settings = ""
        # A session of its own: Ctrl-C is the parent's.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*_COMMAND, str(self._memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,
            bufsize=0,
        )
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
        self._process = process
        try:
            self._exchange("ready", {}, b"", _START_SECONDS)
        except _StoppedError:
            self.end()
            raise EngineError(
                "the process that reads images could not be started.",
                remedy="Check the installation and the free memory.",
            ) from None

    def _exchange(
        self, verb: str, fields: Mapping[str, Any], body: bytes, seconds: float
    ) -> Answer:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise _StoppedError
        deadline = time.monotonic() + seconds
        sink, source = process.stdin.fileno(), process.stdout.fileno()
        try:
            for part in pack({"verb": verb, "fields": dict(fields)}, body):
                _send(sink, part, deadline)
            header, answer = unpack(lambda size: _exactly(source, size, deadline))
            if "code" in header:
                Quarantine(header["code"])
        except (OSError, ValueError, RecursionError):
            raise _StoppedError from None
        return Answer(fields=header, body=answer)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Its own session: what it started, tesseract for one, ends with it.
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _send(sink: int, content: bytes, deadline: float) -> None:
    view = memoryview(content)
    while view:
        _wait(sink, select.POLLOUT, deadline)
        # The pipe does not block: it takes what it has room for.
        view = view[os.write(sink, view[:_PART_BYTES]) :]


def _exactly(source: int, size: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        _wait(source, select.POLLIN, deadline)
        part = os.read(source, min(size - len(found), _PART_BYTES))
        if not part:
            raise _StoppedError
        found += part
    return bytes(found)


def _wait(pipe: int, event: int, deadline: float) -> None:
    ready = select.poll()
    ready.register(pipe, event)
    left = deadline - time.monotonic()
    if left <= 0 or not ready.poll(left * 1000):
        raise _StoppedError
