"""Orders on their way to the hospitals and answers on their way back, whatever these hold."""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from septum.errors import AdmissionError, EngineError, WireError
from septum.wire import (
    Declined,
    Instruction,
    Release,
    decode_refusal,
    decode_release,
    encode_instruction,
)
from septum_server.inflation import Allowance
from septum_server.limits import order_group
from septum_server.tally import Said, Tally

_GONE: Final = frozenset({3, 4})
"""Flower's numbers for an order, or an answer, that it no longer has: its time was over, or it
was handed out to a question that was given up."""


class Asking:
    """Messages on their way: who was asked how often, and whose answer is out."""

    def __init__(
        self,
        grid: Grid,
        order: Instruction,
        tally: Tally,
        *,
        tries: int,
        allowance: Allowance | None,
    ) -> None:
        self.pending: dict[str, int] = {}
        self._grid = grid
        self._order = order
        self._tally = tally
        self._tries = tries
        self._allowance = allowance
        self._asked: Counter[int] = Counter()
        self._since: dict[int, str] = {}
        self._newest: dict[int, str] = {}
        self._failed: set[int] = set()
        self._content = encode_instruction(order)

    def ask(self, connected: Mapping[int, str], *, seconds: float) -> None:
        """Ask whoever was not asked yet, whoever Flower lost on the way, and whoever came back.

        Args:
          connected: The nodes, each with what tells this connection from its next one.
          seconds: How long the order holds.
        """
        nodes = [node for node, since in connected.items() if self._due(node, since)]
        if not nodes:
            return
        messages = [
            Message(
                self._content,
                dst_node_id=node,
                message_type="train",
                # Whoever could foretell an order's name could announce it first, as a part of its
                # own: Flower would take the order for another's.
                group_id=order_group(
                    self._order.round,
                    parameters=len(self._order.model),
                    token=secrets.token_hex(16),
                ),
                # A hospital that comes back later must not find a stale order to work through.
                ttl=max(1.0, seconds),
            )
            for node in nodes
        ]
        pushed = list(self._grid.push_messages(messages))
        if len(pushed) != len(nodes):
            # Whose is missing cannot be told, and answers would be misnamed.
            raise EngineError(
                f"Flower took {len(pushed)} of {len(nodes)} orders of round {self._order.round}.",
                remedy="Look at the SuperLink's log: its limit on a message may be too small.",
            )
        for name, node in zip(pushed, nodes, strict=True):
            if name:  # Flower returns None for what it could not take
                self.pending[name] = node
                self._asked[node] += 1
                self._since[node], self._newest[node] = connected[node], name
                self._failed.discard(node)
                self._tally.ask(node)

    def _due(self, node: int, since: str) -> bool:
        if node not in self._asked or node in self._failed:
            return True
        # Flower gives an order once: a SuperNode that was started again does not have it. One that
        # was only cut off for a minute has, and answers twice with one release.
        waited_for = node in self.pending.values() and self._asked[node] < self._tries
        return waited_for and since != self._since[node]

    def hear(self, *, over: Callable[[], bool] = lambda: False) -> None:
        """Count the answers that have come, one at a time: each holds a whole update.

        Args:
          over: Whether the order's time has passed. Flower then makes an error of whatever
            is out, which says no more than that nobody answered.
        """
        for name in list(self.pending):
            if name not in self.pending:
                continue  # its node has answered another order since
            for reply in self._pull(name):
                if reply.has_error() and over():
                    continue
                answers = reply.metadata.reply_to_message_id
                node = self.pending.get(answers)
                if node is None:
                    continue  # what answers none of our messages is none of our answers
                error = reply.error.code if reply.has_error() else None
                self._take(answers, partial(read, reply, node), error=error)
                _empty(reply)

    def _pull(self, name: str) -> list[Message]:
        if self._allowance is not None:
            self._allowance.renew()
        try:
            return list(self._grid.pull_messages([name]))
        except httpx.HTTPError:
            raise  # the SuperLink's, not a hospital's
        except Exception as error:  # noqa: BLE001 - Flower builds objects of a hospital's bytes
            # Flower gives an answer once, so that this one is gone: the node has answered badly.
            self._take(name, partial(_unreadable, type(error).__name__))
            return []

    def _take(
        self, name: str, read: Callable[[], Release | Declined], *, error: int | None = None
    ) -> None:
        """Count what answers the order ``name``: the last one of its node, or one before."""
        node = self.pending.pop(name)
        newest = name == self._newest[node]
        lost = error is not None and newest and self._asked[node] < self._tries
        # What was asked before is answered too, by a node that was cut off and not started again.
        waits = not newest or node in self.pending.values()
        # Where Flower no longer has it, nobody said anything.
        said = Said.NOTHING if error in _GONE else self._tally.take(node, read, message=name)
        settled = said is Said.RELEASE or (said is Said.REFUSAL and newest)
        if lost:
            self._failed.add(node)
        if lost or settled:
            self.pending = {other: at for other, at in self.pending.items() if at != node}
        if settled or not (lost or waits):
            self._tally.finish(node)


def _empty(reply: Message) -> None:
    """Let go of the arrays of a reply that was counted.

    Flower's records refer to themselves in a circle: what they hold would stay until
    Python looks for circles, many replies later.
    """
    if reply.has_content():
        for record in reply.content.array_records.values():
            record.clear()


def _unreadable(kind: str) -> Release:
    raise WireError(f"the reply cannot be read ({kind}).")


def read(reply: Message, node: int) -> Release | Declined:
    """Return what ``node`` answered.

    Raises:
      AdmissionError: It is Flower's error, or another node's answer.
      WireError: It is not of the agreed form.
    """
    if reply.has_error():
        # Flower's error text may quote a hospital's exception: only its number is kept.
        raise AdmissionError(f"FLOWER_{reply.error.code}: no answer was made.")
    if reply.metadata.src_node_id != node:
        # Flower does not compare a reply's source with the key that authenticated its sender.
        raise AdmissionError("OTHER_NODE: another node answered in the place of this one.")
    return decode_refusal(reply.content) or decode_release(reply.content)
