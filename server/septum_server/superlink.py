"""Flower's SuperLink, which answers the edge and SuperExec and nobody else on the machine.

Run as ``python -P -m septum_server.superlink`` with Flower's own arguments. On
the loopback interface Flower lets every user of the machine steer it; here, all
but the Runtime API, which has its own secret, needs the edge's.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import uvicorn
from anyio import to_thread
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore import sql_mixin
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.state.schema.corestate_models import (
    ObjectPushSession,
    ObjectPushSessionPending,
)
from flwr.supercore.state.schema.linkstate_models import MessageRes
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from flwr.superlink.cli import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import exists, literal, select

from septum_server import uploads
from septum_server.coordinator import VARIABLE
from septum_server.relay import GATE, Receive, Scope, Send, say
from septum_server.uploads import ANNOUNCING, refused

_OPEN: Final = ("/v1/runtime/",)
_GATE: Final = GATE.encode()

AT_ONCE: Final = 8
"""Calls that Flower answers at a time. Its database has one writer: of forty that wait for
it some would give up, and a SuperNode that is told so ends."""

_PRAGMAS: Final = {"busy_timeout": "60000", "cache_size": "-8000"}
"""Milliseconds until who waits for the database gives up; KiB that each connection keeps."""

MOST_OBJECTS: Final = 1024
"""Parts of one message: 200 million numbers are 160 chunks of 5 MiB."""


class Gate:
    """An ASGI application in front of Flower's.

    Guarantees:
      - A request without the edge's secret is answered by 403, unless it is to
        the Runtime API or asks for the server's health.
      - Flower works at :data:`AT_ONCE` requests at a time; others wait their turn.
    """

    def __init__(self, app: Any, *, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass or refuse."""
        if scope["type"] == "lifespan":
            to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
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
        the message says of its source), answers another, goes to the server, and
        announces its own objects, at most :data:`MOST_OBJECTS`; anything else is not
        stored. Unasked messages would be stored without limit, and handed to the
        ServerApp.
      - A message's name is the digest of itself, its source among it: that of nobody
        else's message, or part of one.
      - Who announces a part says nothing of it: see :func:`listed`.
    """
    kept = listed(push)

    def push_messages(request: Any, state: Any) -> Any:
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise refused("not one message")
        about = request.messages_list[0].metadata
        if about.src_node_id != request.node.node_id:
            raise refused("another node's")
        if not about.reply_to_message_id or about.dst_node_id != SUPERLINK_NODE_ID:
            raise refused("not an answer to the server")
        tree = request.message_object_trees[0]
        if len(list(islice(_below(tree), MOST_OBJECTS))) == MOST_OBJECTS:
            raise refused("too many objects")
        if not about.message_id == tree.object_id == _digest(request.messages_list[0], tree):
            raise refused("the parts of another")
        return kept(request, state)

    return push_messages


def listed(push: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of messages, told which parts each has, and not how they nest.

    Flower keeps a part under the digest of its content, for all studies and senders
    together. It believes whoever announces a part first what that part is made of,
    before its content has come, and answers whoever says otherwise with an error. A
    hospital could foretell another's metrics, or the first model of a study, and so
    make the other's answer, or the coordinator's order, impossible.

    Guarantees:
      - Of every part the same is stored, whoever announces it: that it is made of
        nothing. What it is made of is read from its content.
    """

    def push_messages(request: Any, *rest: Any, **named: Any) -> Any:
        for tree in request.message_object_trees:
            names = dict.fromkeys(part.object_id for part in _below(tree))
            names.pop(tree.object_id, None)
            flat = type(tree)(children=[type(tree)(object_id=name) for name in names])
            flat.object_id = tree.object_id
            tree.CopyFrom(flat)
        return push(request, *rest, **named)

    return push_messages


def _below(tree: Any) -> Iterator[Any]:
    """Yield every part that ``tree`` announces below itself."""
    waiting = list(tree.children)
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(part.children)


def _digest(message: Any, tree: Any) -> str:
    """Return the name that Flower gives ``message``, of the parts that ``tree`` says it has."""
    told = type(message)()
    told.CopyFrom(message)
    told.ClearField("content")
    told.metadata.message_id = ""
    body = told.SerializeToString(deterministic=True)
    parts = ",".join(part.object_id for part in tree.children)
    head = HEAD_VALUE_DIVIDER.join((Message.__qualname__, parts, str(len(body))))
    return get_object_id(head.encode() + HEAD_BODY_DIVIDER + body)


def whole_only(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of the ServerApp's pulls, held to answers that are there.

    Flower hands an answer out once its node has announced it, and the ServerApp
    then waits for its parts, in front of everybody else's answers: a hospital
    that sends a part every minute, or none, would hold a study for hours.

    Guarantees:
      - An answer is handed out once all of its objects are stored. Until then it is
        as if the node had not answered, and nobody waits for it.
      - An answer of which nobody can send the rest any more is handed out as it is:
        the ServerApp cannot read it, and may ask again.
    """

    def pull_messages(request: Any, state: Any, task: Any) -> Any:
        # What was announced between this look and Flower's own would be handed out too early.
        with ANNOUNCING:
            held = _arriving(state, list(request.message_ids))
            left = [name for name in request.message_ids if name not in held]
            del request.message_ids[:]
            request.message_ids.extend(left)
            return pull(request, state, task)

    return pull_messages


def _arriving(state: Any, asked: Iterable[str]) -> set[str]:
    """Return the messages whose answer is announced, and of which a part can still come."""
    with state.session() as session:
        answers = session.execute(
            select(MessageRes.reply_to_message_id, MessageRes.message_id).where(
                MessageRes.reply_to_message_id.in_(asked), MessageRes.delivered_at == ""
            )
        ).all()
        return {name for name, root in answers if session.scalar(select(_awaited(root)))}


def _awaited(root: str) -> Any:
    """Return the question whether an object below ``root`` is missing and may still come."""
    tree = select(literal(root).label("name")).cte("tree", recursive=True)
    tree = tree.union(  # without repeats: a part may be named more than once
        select(ObjectChild.child_id).where(ObjectChild.parent_id == tree.c.name)
    )
    pending = ObjectPushSessionPending
    return exists(
        select(StoredObject.object_id)
        .join(tree, tree.c.name == StoredObject.object_id)
        .join(pending, pending.object_id == StoredObject.object_id)
        .join(ObjectPushSession, ObjectPushSession.session_id == pending.session_id)
        # Another's session may name a part that has come: only what is missing is waited for.
        .where(StoredObject.is_available == 0, ObjectPushSession.expires_at > datetime.now(UTC))
    )


def main() -> None:
    """Run the SuperLink until it is ended."""
    secret = (Path(os.environ[VARIABLE]) / "gate").read_text(encoding="ascii")
    run = uvicorn.run

    def gated(app: Any, **options: Any) -> None:
        run(Gate(app, secret=secret), **options | {"access_log": False, "proxy_headers": False})

    # Flower calls all by these names, and offers no other way to put anything before them.
    database = sql_mixin.__dict__
    database["SQLITE_PRAGMAS"] = tuple((dict(database["SQLITE_PRAGMAS"]) | _PRAGMAS).items())
    fleet, runtime = fleet_handlers.__dict__, runtime_handlers.__dict__
    fleet["push_messages"] = answers_only(uploads.announced(fleet["push_messages"]))
    fleet["push_object"] = uploads.part(fleet["push_object"])
    runtime["push_messages"] = listed(uploads.ordered(runtime["push_messages"]))
    runtime["pull_messages"] = whole_only(uploads.handed_out(runtime["pull_messages"]))
    uvicorn.__dict__["run"] = gated
    flower_superlink()


if __name__ == "__main__":
    main()
