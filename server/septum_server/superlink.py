"""Flower's SuperLink, which answers the edge and SuperExec and nobody else on the machine.

Run as ``python -P -m septum_server.superlink`` with Flower's own arguments. On
the loopback interface Flower lets every user of the machine steer it; here, all
but the Runtime API, which has its own secret, needs the edge's.
"""

import os
import secrets
from pathlib import Path
from typing import Any, Final

import uvicorn
from flwr.superlink.cli import flower_superlink

from septum_server.coordinator import VARIABLE
from septum_server.relay import GATE, Receive, Scope, Send, say

_OPEN: Final = ("/v1/runtime/",)
_GATE: Final = GATE.encode()


class Gate:
    """An ASGI application in front of Flower's.

    Guarantees:
      - A request without the edge's secret is answered by 403, unless it is to
        the Runtime API or asks for the server's health.
    """

    def __init__(self, app: Any, *, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass or refuse."""
        if scope["type"] == "http" and not self._passes(scope):
            await say(send, 403)
            return
        await self._app(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == "/health" or path.startswith(_OPEN):
            return True
        said = [value for name, value in scope["headers"] if name == _GATE]
        return len(said) == 1 and secrets.compare_digest(said[0], self._secret)


def main() -> None:
    """Run the SuperLink until it is ended."""
    secret = (Path(os.environ[VARIABLE]) / "gate").read_text(encoding="ascii")
    run = uvicorn.run

    def gated(app: Any, **options: Any) -> None:
        run(Gate(app, secret=secret), **options | {"access_log": False, "proxy_headers": False})

    # Flower calls it by this name, and offers no other way to put anything before its app.
    uvicorn.__dict__["run"] = gated
    flower_superlink()


if __name__ == "__main__":
    main()
