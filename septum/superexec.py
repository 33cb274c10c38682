"""Flower's SuperExec, which hands a task its token by the environment, never as an argument.

Run as ``python -P -m septum.superexec`` with Flower's own arguments. Every user
of a machine may list the arguments of every process; of an environment, the
owner alone.
"""

import os
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

from flwr.supercore.cli import flower_superexec
from flwr.supercore.superexec.executor import subprocess_executor

from septum.child_process import TASK
from septum.errors import EngineError

_PLACE: Final = "subprocess"


def stand() -> None:
    """Take the place by which Flower starts a task's program.

    Raises:
      EngineError: Flower has no such place: it is another version than was looked at.
    """
    place = vars(subprocess_executor)
    if place.get(_PLACE) is not subprocess:
        raise EngineError(
            "Flower's SuperExec starts its tasks in another way.",
            remedy="Install the version of Flower that constraints.txt names.",
        )
    place[_PLACE] = SimpleNamespace(Popen=_started, DEVNULL=subprocess.DEVNULL)


def _started(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start the program that ``command`` names, with its arguments in :data:`TASK`."""
    told = {**os.environ, TASK: "\n".join(command[1:])}
    return subprocess.Popen(command[:1], env=told, **options)  # noqa: S603 - found on our own path


def main() -> None:
    """Run SuperExec until it is ended."""
    stand()
    flower_superexec()


if __name__ == "__main__":
    main()
