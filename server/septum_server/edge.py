"""The public port: Flower's Fleet API and nothing else, limited before a byte of a body is read.

Flower's SuperLink serves its three APIs on one port, reads a body of any size
before it asks who sent it, and lets anybody steer it. So it listens on the
loopback interface, and this stands before it. Too much is answered with 503,
not with the more usual 429: a SuperNode waits and asks again after a 503, and
ends after a 429.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import httpx

from septum_server.limits import Buckets, Limits
from septum_server.relay import GATE, Receive, Scope, Send, live, relay, say

_FLEET: Final = re.compile(rb"/v1/fleet/[a-z]+(?:-[a-z]+)*")
_ACTIVATE: Final = b"/v1/fleet/activate-node"
_ACTIVATE_BYTES: Final = 4 << 10
_UPLOADS: Final = frozenset({b"/v1/fleet/push-object", b"/v1/fleet/push-messages"})
_SMALL_BYTES: Final = 64 << 10
"""Bodies up to this are read whole before the SuperLink hears of them."""

_FORWARDED: Final = frozenset({b"content-type", b"accept", b"user-agent", b"traceparent"})
_OURS: Final = b"flwr-"
_MOST_HEADER_BYTES: Final = 16 << 10


Headers = Sequence[tuple[bytes, bytes]]


class _TooLargeError(Exception):
    """The body is larger than it may be, or than it said."""


class _TooSlowError(Exception):
    """The body did not come in time."""


class _GoneError(Exception):
    """The peer went away in mid-body."""


class Edge:
    """An ASGI application that passes Fleet calls to the SuperLink.

    Guarantees:
      - Any path but ``/v1/fleet/NAME`` is refused, whatever the SuperLink serves
        at it; so is any method but POST, and any query.
      - Before the body is read, the request has passed the limits on its peer's
        rate and on its declared size, and is signed by a registered SuperNode's
        key; a stranger may but ask to be let in, in 4 KiB.
      - A small body, a stranger's always, is read whole and within
        ``limits.small_s`` seconds before a connection to the SuperLink is taken: who
        sends slowly takes none. A larger one is streamed, and given up when it stops
        or its average rate falls below the least. None is longer than it was declared.
      - While the disk is full, no upload is passed, however small.
      - Of the request's headers only the content's own and Flower's are passed.

    Args:
      upstream: From :func:`septum_server.relay.upstream`.
      gate: Secret that tells the SuperLink that the edge asks.
      limits: What a peer may take.
      free_bytes: Free disk where the SuperLink keeps what is uploaded.
      known: Whether the headers are signed by a registered SuperNode.
      clock: Seconds, monotonic.
    """

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        *,
        gate: str,
        limits: Limits,
        free_bytes: Callable[[], int],
        known: Callable[[Headers], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._gate = gate.encode()
        self._limits = limits
        self._free = free_bytes
        self._known = known
        self._clock = clock
        self._requests = Buckets(rate=limits.requests_per_s, most=limits.burst)
        self._bytes = Buckets(rate=limits.bytes_per_s, most=limits.burst_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await live(receive, send, self._upstream.aclose)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        status = self._refused(scope)
        if status is not None:
            await say(send, status)
            return
        await self._pass_on(scope, receive, send)

    def _refused(self, scope: Scope) -> int | None:
        """Return the status of a refusal before the body is read, or ``None``."""
        peer = str((scope.get("client") or ("",))[0])
        now = self._clock()
        size = _declared(scope)
        headers = sum(len(name) + len(value) for name, value in scope["headers"])
        # In this order, and no further than the first that holds: a bucket is charged but once.
        rules: tuple[tuple[int, Callable[[], bool]], ...] = (
            (503, lambda: not self._requests.take(peer, 1.0, now=now)),
            (403, lambda: not _FLEET.fullmatch(scope.get("raw_path") or b"")),
            (403, lambda: bool(scope["query_string"])),
            (405, lambda: scope["method"] != "POST"),
            (431, lambda: headers > _MOST_HEADER_BYTES),
            (411, lambda: size is None),
            (413, lambda: (size or 0) > self._limits.body_bytes),
            (401, lambda: not self._is_known(scope, size or 0)),
            (503, lambda: self._is_full(scope, size or 0)),
            (503, lambda: not self._bytes.take(peer, float(size or 0), now=now)),
        )
        return next((status for status, holds in rules if holds()), None)

    def _is_known(self, scope: Scope, size: int) -> bool:
        if self._known(scope["headers"]):
            return True
        # Flower's own answer to a node that it does not know says why; the edge's would not.
        return scope["raw_path"] == _ACTIVATE and size <= _ACTIVATE_BYTES

    def _is_full(self, scope: Scope, size: int) -> bool:
        kept = scope["raw_path"] in _UPLOADS or size > _SMALL_BYTES
        return kept and self._free() < self._limits.least_free_bytes

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = _declared(scope) or 0
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name in _FORWARDED or name.startswith(_OURS)
        ]
        headers += [(b"content-length", str(size).encode()), (GATE.encode(), self._gate)]
        body = self._body(receive, size=size)
        try:
            content = b"".join([part async for part in body]) if size <= _SMALL_BYTES else body
            request = self._upstream.build_request(
                "POST", scope["raw_path"].decode("ascii"), headers=headers, content=content
            )
            answer = await self._upstream.send(request, stream=True)
        except _GoneError:
            return
        except _TooLargeError:
            await say(send, 413)
        except _TooSlowError:
            # Not 408, after which a SuperNode ends: it may be we who are slow.
            await say(send, 503, close=True)
        except httpx.TimeoutException:
            await say(send, 504)
        except httpx.HTTPError:
            await say(send, 502)
        else:
            await relay(answer, send)

    async def _body(self, receive: Receive, *, size: int) -> AsyncIterator[bytes]:
        """Yield the body; raise as soon as it is longer than declared, or comes too slowly."""
        seen = 0
        # Of the peer alone: while the SuperLink is slow, the peer is not.
        waited = 0.0
        while True:
            left = self._allowed_s(size, seen) - waited
            began = self._clock()
            try:
                message = await asyncio.wait_for(receive(), min(left, self._limits.body_s))
            except TimeoutError:
                raise _TooSlowError from None
            waited += self._clock() - began
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            seen += len(part)
            if seen > size:
                raise _TooLargeError
            if waited > self._allowed_s(size, seen):
                raise _TooSlowError
            if part:
                yield part
            if not message.get("more_body"):
                return

    def _allowed_s(self, size: int, seen: int) -> float:
        """Return the seconds that the peer may have taken for the first ``seen`` bytes."""
        if size <= _SMALL_BYTES:
            return self._limits.small_s
        return self._limits.slow_s + seen / self._limits.least_bytes_per_s


def _declared(scope: Scope) -> int | None:
    """Return the declared size of the body, or ``None`` if it is not said once, in digits."""
    said = [value for name, value in scope["headers"] if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    if chunked or len(said) != 1 or not re.fullmatch(rb"[0-9]{1,12}", said[0]):
        return None
    return int(said[0])
