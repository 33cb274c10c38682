"""The child: reads tasks from standard input until it closes.

Started by :mod:`septum_client.sandbox.pool` alone. It limits itself before it
imports a parser: address space, no core dump (which would hold images), and
no file that it could write by mistake.
"""

import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from septum_client.sandbox.frames import Header, pack, unpack

Verb = Callable[[Any, Mapping[str, Any], bytes], tuple[Header, bytes]]


def main() -> None:
    """Serve until the parent closes the pipe."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The soft limit: only a defacer, which the policy must ask for, works with files.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not get between the frames.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _serve(sys.stdin.buffer, answers)


def _serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    from septum_client import reading  # noqa: PLC0415 - after the limits

    verbs: Mapping[str, Verb] = reading.VERBS
    settings: Any = None

    def exactly(size: int) -> bytes:
        found = questions.read(size)
        if len(found) < size:
            raise EOFError
        return found

    while True:
        try:
            asked, body = unpack(exactly)
        except EOFError:
            return
        header: Header = {}
        content = b""
        if asked["verb"] == "settings":
            settings = reading.Settings.of(asked["fields"])
        elif asked["verb"] != "ready":
            # An exception ends this process: the parent counts it and starts another.
            header, content = verbs[asked["verb"]](settings, asked["fields"], body)
        for part in pack(header, content):
            answers.write(part)
        answers.flush()


if __name__ == "__main__":
    main()
