"""A program that makes itself ready once, and answers each task in a fork of its own.

What answers a hospital's order imports torch and Flower: seconds of computing, at
every order. Here one process has done that beforehand, and does nothing else: it
reads no data, no key and no message, and each task still has a process to itself
that ends with it.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from septum.child_process import TASK, end_with_parent

READY: Final = "SEPTUM_READY"
"""The variable that names, to a SuperExec, the program to make ready."""

TASKS: Final = "SEPTUM_TASKS"
"""The variable that names, to that program, the descriptor on which tasks come."""

POSSIBLE: Final = sys.platform == "linux"
"""Elsewhere a library may not survive the fork, or a task outlive who started it."""

_LONGEST: Final = 1 << 16  # bytes of one task's arguments; Flower's are a few hundred

_log = logging.getLogger(__name__)


class Ready:
    """The program that makes itself ready, as seen by the process that hands it tasks.

    Guarantees:
      - Whatever ended it, it is started anew for the next task.
      - No argument of a task is an argument of any process, or a variable of another's.
      - It ends, and what it forked with it, when this process ends.

    Args:
      program: Found on the path; it calls :func:`task`.

    Raises:
      OSError: It cannot be started.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._start()

    def hand(self, arguments: Sequence[str]) -> None:
        """Hand over one task: what the program would be started with, without line breaks.

        Raises:
          OSError: The program ended, and cannot be started again.
        """
        said = "\n".join(arguments).encode()
        if self._sent(said):
            return
        self._tasks.close()
        self._start()
        if not self._sent(said):
            # As with any task whose process ends, who waits for its answer notices.
            _log.error("%s ended as soon as it was started.", self._program)

    def _sent(self, said: bytes) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            self._tasks.send(said)
        except (BrokenPipeError, ConnectionResetError):  # it ended since
            return False
        return True

    def _start(self) -> None:
        self._tasks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - found on our own path
                [self._program],
                env={**os.environ, TASKS: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
            )


def task(prepare: Callable[[], object]) -> list[str] | None:
    """Wait for tasks; return the arguments of one, in a fork that is there for it alone.

    Args:
      prepare: What every task needs. Done beforehand, unless a task waits already:
        Flower gives up one whose process has not spoken within 30 seconds.

    Guarantees:
      - The process that waits never returns from here: it ends when the one that
        hands tasks is gone.
      - A fork is killed when the process that waits ends. Where no fork can be made, those
        that are there go on, and Flower hands the task out again.
      - Where ``prepare`` failed, half of a library may be imported: each task then has the
        program started anew, with its arguments in :data:`~septum.child_process.TASK`.

    Returns:
      The arguments; None at once, if this process was not started by :class:`Ready`.
    """
    number = os.environ.pop(TASKS, "")
    if not number:
        return None
    tasks = socket.socket(fileno=int(number))
    waiting = os.getpid()
    prepared: bool | None = None
    while True:
        if prepared is None and not select.select([tasks], [], [], 0)[0]:
            prepared = _done(prepare)
        said = tasks.recv(_LONGEST).decode()
        if not said:
            sys.exit(0)
        _bury()
        try:
            forked = os.fork()
        except OSError as error:
            _log.error("a task has no process (%s).", error.strerror)
            continue
        if forked == 0:
            tasks.close()
            end_with_parent(signal.SIGKILL)
            if os.getppid() != waiting:
                os._exit(0)
            if prepared is False:
                os.environ[TASK] = said
                os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this very program
            return said.splitlines()


def _done(prepare: Callable[[], object]) -> bool:
    try:
        prepare()
    except Exception as error:  # noqa: BLE001 - whatever it is: the tasks find out for themselves
        _log.error("not made ready (%s).", type(error).__name__)
        return False
    return True


def _bury() -> None:
    """Let go of the forks that have ended; nobody asks how."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
