"""Flower's SuperExec, which hands a task its token by the environment, never as an argument.

Run as ``python -P -m septum.superexec`` with Flower's own arguments. Every user
of a machine may list the arguments of every process; of an environment, the
owner alone. The program that :data:`septum.forking.READY` names is made ready
once, and forks for each of its tasks. A ServerApp that is killed is reported by
the process that started it: Flower would take its run for running until its
heartbeat has been missing for a minute.
"""

import logging
import os
import subprocess
import threading
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final

from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supercore.tls import validate_and_resolve_root_certificates

from septum import forking
from septum.child_process import TASK
from septum.errors import EngineError

_PLACE: Final = "subprocess"
_SERVER_APP: Final = TASK_TYPE_TO_COMMAND[TaskType.SERVER_APP]

_log = logging.getLogger(__name__)


def stand() -> None:
    """Take the place by which Flower starts a task's program.

    Raises:
      EngineError: Flower has no such place: it is another version than was looked at.
      OSError: The program to make ready cannot be started.
    """
    place = vars(subprocess_executor)
    if place.get(_PLACE) is not subprocess:
        raise EngineError(
            "Flower's SuperExec starts its tasks in another way.",
            remedy="Install the version of Flower that constraints.txt names.",
        )
    named = os.environ.pop(forking.READY, "") if forking.POSSIBLE else ""
    ready = {named: forking.Ready(named)} if named else {}

    def start(command: Sequence[str], **options: Any) -> None:
        if command[0] in ready:
            ready[command[0]].hand(command[1:])
        else:
            _started(command, **options)

    place[_PLACE] = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)


def _started(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start the program that ``command`` names, with its arguments in :data:`TASK`."""
    told = {**os.environ, TASK: "\n".join(command[1:])}
    process = subprocess.Popen(command[:1], env=told, **options)  # noqa: S603 - found on our own path
    # Of a ClientApp's end, Flower makes an answer by its missing heartbeat alone.
    if command[0] == _SERVER_APP:
        watch = threading.Thread(target=_report, args=(process, command[1:]), daemon=True)
        watch.start()
    return process


def _report(process: "subprocess.Popen[bytes]", arguments: Sequence[str]) -> None:
    """Wait for the end of a task; tell Flower, in the task's name, if a signal was its end.

    Any other end it has told by itself, or could not begin: then Flower starts it again.
    """
    number = -process.wait()
    if number <= 0:
        return
    words = dict(pairwise(arguments))
    insecure = "--insecure" in arguments
    # Said once: where the token holds no longer, Flower's retries end this process, and with it
    # every other study's.
    client = RuntimeHttpClient.from_server_address(
        words["--runtime-api-address"],
        insecure,
        validate_and_resolve_root_certificates(words.get("--root-certificates"), insecure),
        [
            RuntimeVersionHttpInterceptor(component_name=_SERVER_APP),
            RuntimeTokenHttpInterceptor(words["--token"]),
        ],
    )
    details = f"its process was ended by signal {number}"
    ended = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=details)
    try:
        with client:
            client.PushTaskOutput(ended)
    except Exception as error:  # noqa: BLE001 - whatever it is: Flower notices within a minute
        # Also where the task had told its end before: then nothing is left to say.
        _log.warning("the end of a task could not be reported (%s).", type(error).__name__)


def main() -> None:
    """Run SuperExec until it is ended."""
    stand()
    flower_superexec()


if __name__ == "__main__":
    main()
