"""How a process of ours is started: a named environment, and an end with its parent."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from septum import SILENCE

TASK: Final = "SEPTUM_TASK"
"""The variable that hands a task's program its arguments, one a line, a token among them."""

_PR_SET_PDEATHSIG: Final = 1

_INHERITED: Final = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
    }
)

# The parent may be gone before the child asks, so the child compares. A program of its own, not
# `preexec_fn`, which may not run where there are threads.
_LAUNCH: Final = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(0)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return a process's whole environment: few inherited variables, Flower silenced, ``extra``.

    Guarantees:
      - A variable of this process that is not on the list stays here; tokens and
        passwords are thus handed on by name or not at all.
    """
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED}
    return {**kept, **SILENCE, "PYTHONUNBUFFERED": "1", **extra}


def argv(command: Sequence[str]) -> list[str]:
    """Return ``command`` so that, on Linux, it gets SIGTERM when the calling thread ends.

    It keeps the number of the process that starts it. What it starts in turn is
    not covered: see :func:`end_with_parent`.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the system to send this process ``number`` when its parent ends (Linux; else nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def kill_group(group: int) -> None:
    """Kill every process of a group, if there is one left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def private_file(path: Path) -> IO[bytes]:
    """Open ``path`` to append; if it is not there, make it at mode 0600."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
