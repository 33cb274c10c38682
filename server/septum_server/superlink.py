"""Flower's SuperLink, which answers the edge and SuperExec and nobody else on the machine.

Run as ``python -P -m septum_server.superlink`` with Flower's own arguments. On
the loopback interface Flower lets every user of the machine steer it; here, all
but the Runtime API, which has its own secret, needs the edge's.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.cli import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers

from septum_server.coordinator import VARIABLE
from septum_server.relay import GATE, Receive, Scope, Send, say

_OPEN: Final = ("/v1/runtime/",)
_GATE: Final = GATE.encode()

MOST_OBJECTS: Final = 1024
"""Parts of one message: 200 million numbers are 160 chunks of 5 MiB."""


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


def answers_only(push: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of a node's messages, held to answers to the server.

    Guarantees:
      - A node's message is its own (Flower authenticates the node, and believes what
        the message says of its source), answers another, goes to the server and has
        at most :data:`MOST_OBJECTS` objects; anything else is not stored. Unasked
        messages would be stored without limit, and handed to the ServerApp.
    """

    def push_messages(request: Any, state: Any) -> Any:
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise _not_an_answer("not one message")
        about = request.messages_list[0].metadata
        if about.src_node_id != request.node.node_id:
            raise _not_an_answer("another node's")
        if not about.reply_to_message_id or about.dst_node_id != SUPERLINK_NODE_ID:
            raise _not_an_answer("not an answer to the server")
        if _objects(request.message_object_trees[0]) > MOST_OBJECTS:
            raise _not_an_answer("too many objects")
        return push(request=request, state=state)

    return push_messages


def _objects(tree: Any) -> int:
    waiting, count = [tree], 0
    while waiting and count <= MOST_OBJECTS:
        waiting.extend(waiting.pop().children)
        count += 1
    return count


def _not_an_answer(why: str) -> FlowerError:
    return FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Refused a message: {why}.")


def main() -> None:
    """Run the SuperLink until it is ended."""
    secret = (Path(os.environ[VARIABLE]) / "gate").read_text(encoding="ascii")
    run = uvicorn.run

    def gated(app: Any, **options: Any) -> None:
        run(Gate(app, secret=secret), **options | {"access_log": False, "proxy_headers": False})

    # Flower calls both by these names, and offers no other way to put anything before them.
    fleet_handlers.__dict__["push_messages"] = answers_only(fleet_handlers.push_messages)
    uvicorn.__dict__["run"] = gated
    flower_superlink()


if __name__ == "__main__":
    main()
