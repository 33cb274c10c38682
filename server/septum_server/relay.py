"""What the edge and the operators' desk share: the way to the SuperLink and back."""

import json
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import httpx

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GATE: Final = "x-septum-gate"
"""The header by which the SuperLink knows the edge; see :mod:`septum_server.superlink`."""

_ANSWERED: Final = frozenset({b"content-type", b"content-length", b"cache-control"})
_AGAIN: Final = (b"retry-after", b"5")
_WORDS: Final = {
    400: "not a call that may be made",
    401: "who asks?",
    403: "not here",
    405: "only POST",
    411: "say how long the body is",
    413: "too large",
    431: "too many headers",
    502: "no answer from within",
    503: "busy; ask again",
    504: "no answer in time",
}


def upstream(port: int, *, ca: str, seconds: float = 120.0) -> httpx.AsyncClient:
    """Return a client of the SuperLink on the loopback interface.

    Args:
      port: Where it listens.
      ca: Path of the one CA that is believed.
      seconds: Until an answer must begin.

    Guarantees:
      - No proxy of the environment is used, no redirect followed.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}",
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(seconds, connect=5.0),
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=64),
    )


async def relay(answer: httpx.Response, send: Send) -> None:
    """Send the SuperLink's answer on, part by part, with few of its headers."""
    try:
        headers = [pair for pair in answer.headers.raw if pair[0].lower() in _ANSWERED]
        await send({"type": "http.response.start", "status": answer.status_code,
                    "headers": headers})  # fmt: skip
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await answer.aclose()


async def say(send: Send, status: int, *, close: bool = False) -> None:
    """Answer with a status and a word, and ``close``; nothing of the request is repeated."""
    body = json.dumps({"detail": _WORDS[status]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status >= 500:
        headers.append(_AGAIN)
    if status < 500 or close:
        headers.append((b"connection", b"close"))  # an unread body must not be taken for a request
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def live(receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
    """Take part in ASGI's start and end; ``close`` at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await close()
            await send({"type": "lifespan.shutdown.complete"})
            return
