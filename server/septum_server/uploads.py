"""An answer takes no more of the server's disk than a release, and none once nobody waits for it.

Flower keeps whatever a node announced and sent until the ServerApp has read it whole,
else until the run ends. Parts are kept under the digest of their content, for all
senders together, and counted: what another message is made of as well stays.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from flwr.proto.message_pb2 import PushObjectResponse
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import delete, exists, func, select

from septum_server.limits import LARGEST_PART, allowed_bytes, answer_parts

_ANNOUNCEMENT: Final = 256 << 10  # bytes; a thousand names of parts take 70 KiB
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

ANNOUNCING: Final = threading.Lock()
"""Held while an answer is announced, and from the look at who has announced to its use."""

_log = logging.getLogger(__name__)


def refused(why: str) -> FlowerError:
    """Return the error by which a node is told that its answer is not taken; it goes on."""
    return FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Refused a message: {why}.")


def announced(push: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of a node's answer, held to one answer a node and run.

    For requests that :func:`septum_server.superlink.answers_only` let by: one answer,
    and all of its parts directly below it.

    Guarantees:
      - What is announced has no more parts than a release of the order's model, and
        none of them is another message, whose parts it would keep.
      - What is there already of its parts is no larger than a release.
      - With it, whatever the node answered in this run before is deleted: a round
        that is asked anew, or the next one, waits for no earlier answer.
      - Nothing is left of an announcement that Flower did not take.
    """

    def push_messages(request: Any, state: Any) -> Any:
        about = request.messages_list[0].metadata
        tree = request.message_object_trees[0]
        root, parts = tree.object_id, {part.object_id for part in tree.children}
        if request.ByteSize() > _ANNOUNCEMENT:
            raise refused("longer than an announcement is")
        with state.session() as session:
            most = _most(session, MessageIns.message_id == about.reply_to_message_id)
            why = "" if most is None else _unlike_a_release(session, root, parts, most=most)
        if why:
            raise refused(why)
        # To an order that is not there any more Flower answers itself, and keeps nothing.
        with ANNOUNCING:
            answer = push(request, state)
        with state.session() as session:
            if not answer.objects_to_push:
                session.execute(_session(answer.session_id))
            answers = _answers(session, about.run_id, [about.src_node_id])
            if root in answers:
                drop(state, answers - {root})
        return answer

    return push_messages


def part(push: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of a part that a node sends, held to what a release can be.

    Guarantees:
      - Who sends a part again, because no answer came, hears that it is there.
      - The parts of an answer, counted by their bytes and whoever sent them, are no
        larger than a release of the order's model; none is larger than
        :data:`septum_server.limits.LARGEST_PART`.
      - An answer that would be larger is deleted, and its parts but for those that
        other messages have as well.
    """
    alone = threading.Lock()  # two at once would each find room for itself

    def push_object(request: Any, state: Any) -> Any:
        with alone:
            with state.session() as session:
                root = session.scalar(
                    select(ObjectPushSessionRoot.root_object_id).where(
                        ObjectPushSessionRoot.session_id == request.session_id
                    )
                )
                if root is None:  # Flower would look for anybody's that waits for this part
                    return PushObjectResponse(stored=False)
                parts = {root, *_below(session, root)}
                others = parts - {request.object_id}
                asked = select(MessageRes.reply_to_message_id).where(MessageRes.message_id == root)
                most = _most(session, MessageIns.message_id.in_(asked))
                size = len(request.object_content)
                fits = size <= LARGEST_PART and _stored(session, others) + size <= (most or 0)
            if not fits:
                limit = "whose order is gone" if most is None else f"of more than {most} bytes"
                _log.warning("An answer %s is dropped: %s", limit, root)
                drop(state, [root])
                raise refused("larger than a release, or nobody waits for it")
            answer = push(request, state)
            if not answer.stored and request.object_id in parts:
                # Sent again, because the answer to the first was lost on the way: Flower's "no"
                # would make its sender drop the whole of it.
                with state.session() as session:
                    answer.stored = _stored(session, {request.object_id}) > 0
            return answer

    return push_object


def ordered(push: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of the ServerApp's orders, which end the wait for earlier answers.

    Guarantees:
      - What a node answered to an earlier order of the run, and nobody took, is
        deleted when it is ordered anew.
    """

    def push_messages(request: Any, state: Any, task: Any) -> Any:
        nodes = [message.metadata.dst_node_id for message in request.messages_list]
        with state.session() as session:
            late = _answers(session, task.run_id, nodes)
        drop(state, late)
        return push(request, state, task)

    return push_messages


def handed_out(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler of the ServerApp's pulls, which end the wait for what it took.

    Guarantees:
      - When the ServerApp asks again, nothing is kept of the answers that it got
        before: it has read them (:class:`septum_server.asking.Asking` reads one at a
        time, to its end), or has found that it cannot.
      - Nor of one in whose place it got an error of Flower's own, as for an order
        that has expired or a node that is away: Flower then forgets whose it was.
    """
    taken: dict[int, list[str]] = {}

    def pull_messages(request: Any, state: Any, task: Any) -> Any:
        for root in taken.pop(task.run_id, ()):
            state.object_store.delete(root)
        asked = select(MessageRes.reply_to_message_id, MessageRes.message_id)
        with state.session() as session:
            given = MessageRes.reply_to_message_id.in_(list(request.message_ids))
            announced: dict[str, str] = dict(session.execute(asked.where(given)).all())
        answers = pull(request, state, task)
        said = [message.metadata for message in answers.messages_list]
        own = [
            announced[each.reply_to_message_id]
            for each in said
            if each.reply_to_message_id in announced
        ]
        taken[task.run_id] = [*{*own, *(each.message_id for each in said)}]
        return answers

    return pull_messages


def _unlike_a_release(session: Any, root: str, parts: set[str], *, most: int) -> str:
    """Return why an answer that is made of these parts is not taken, or nothing."""
    known = session.scalar(select(exists().where(StoredObject.object_id == root)))
    rules: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("more parts than a release has", lambda: len(parts) >= answer_parts(most)),
        ("not a digest", lambda: not all(map(_DIGEST.fullmatch, (root, *parts)))),
        ("of other parts than before", lambda: known and _below(session, root) != parts),
        (
            "made of another message",
            lambda: session.scalar(select(exists().where(ObjectChild.parent_id.in_(parts)))),
        ),
        ("larger than a release", lambda: _stored(session, {root, *parts}) > most),
    )
    return next((why for why, holds in rules if holds()), "")


def drop(state: Any, answers: Iterable[str]) -> None:
    """Delete answers, and of their parts those that no other message has."""
    for root in answers:
        with state.session() as session:
            session.execute(delete(MessageRes).where(MessageRes.message_id == root))
            mine = select(ObjectPushSessionRoot.session_id).where(
                ObjectPushSessionRoot.root_object_id == root
            )
            session.execute(_session(mine.scalar_subquery()))
            state.object_store.delete(root)


def _session(name: Any) -> Any:
    return delete(ObjectPushSession).where(ObjectPushSession.session_id == name)


def _most(session: Any, order: Any) -> int | None:
    """Return how many bytes an answer to ``order`` may take; ``None`` if there is no such order."""
    group = session.scalar(select(MessageIns.group_id).where(order))
    return None if group is None else allowed_bytes(group)


def _below(session: Any, root: str) -> set[str]:
    """Return the parts that a message was announced with."""
    return set(session.scalars(select(ObjectChild.child_id).where(ObjectChild.parent_id == root)))


def _stored(session: Any, names: set[str]) -> int:
    """Return how many bytes of these objects have come."""
    size = func.coalesce(func.sum(func.length(StoredObject.content)), 0)
    return int(session.scalar(select(size).where(StoredObject.object_id.in_(names))))


def _answers(session: Any, run: int, nodes: Iterable[int]) -> set[str]:
    """Return the answers of these nodes that the ServerApp of a run has not taken."""
    of = [uint64_to_int64(node) for node in nodes]
    return set(
        session.scalars(
            select(MessageRes.message_id).where(
                MessageRes.run_id == uint64_to_int64(run), MessageRes.src_node_id.in_(of)
            )
        )
    )
