"""The operators' port: Flower's Control API on the loopback interface, by token and role, audited.

Of what Flower offers there, seven calls are passed on. To start a run is to
start Septum's own bundle on a signed study: another bundle would run its code
here, at the coordinator, and nowhere else, since hospitals refuse it.
"""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import httpx

from septum.errors import ConfigError
from septum_server.operators import ROLES, Operator, audit, load
from septum_server.relay import GATE, Receive, Scope, Send, live, relay, say

_CONTROL: Final = re.compile(rb"/v1/control/([a-z]+(?:-[a-z]+)*)")
_MOST_BYTES: Final = 1 << 20
_BEARER: Final = b"Bearer "

Checked = Callable[[str, bytes], str]
"""Given a call and its body: what the audit says of it. ConfigError: it may not be made."""


class Desk:
    """An ASGI application that passes an operator's calls to the SuperLink.

    Guarantees:
      - A call without a known token is refused (401), one beyond the operator's
        role as well (403); operators are read anew at each call.
      - Each call is in the audit before it is passed on; a call that cannot be
        audited is not made.

    Args:
      upstream: From :func:`septum_server.relay.upstream`.
      gate: Secret that tells the SuperLink that the edge asks.
      operators: Where they are.
      audited: Where the audit is.
      check: Looks into a call's body.
      now: The time, aware of its zone.
    """

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        *,
        gate: str,
        operators: Path,
        audited: Path,
        check: Checked,
        now: Callable[[], datetime],
    ) -> None:
        self._upstream = upstream
        self._gate = gate
        self._operators = operators
        self._audited = audited
        self._check = check
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] == "lifespan":
            await live(receive, send, self._upstream.aclose)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        found = _CONTROL.fullmatch(scope.get("raw_path") or b"")
        if found is None or scope["query_string"] or scope["method"] != "POST":
            await say(send, 403)
            return
        call = found[1].decode("ascii")
        status, who, about, body = await self._decide(call, scope, receive)
        if not self._noted(call, who=who, about=about, status=status):
            status = 503
        if status != 0:
            await say(send, status)
            return
        await self._pass_on(call, body, send)

    async def _decide(
        self, call: str, scope: Scope, receive: Receive
    ) -> tuple[int, str, str, bytes]:
        """Return status (0 to pass on), operator, what the call is about, and its body."""
        operator = self._operator(scope)
        if operator is None:
            return 401, "?", "", b""
        if call not in ROLES[operator.role]:
            return 403, operator.name, "", b""
        body = await _read(receive)
        if body is None:
            return 413, operator.name, "", b""
        try:
            about = self._check(call, body)
        except ConfigError as error:
            return 400, operator.name, error.message, b""
        return 0, operator.name, about, body

    def _operator(self, scope: Scope) -> Operator | None:
        said = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(said) != 1 or not said[0].startswith(_BEARER):
            return None
        try:
            return load(self._operators).of(said[0].removeprefix(_BEARER).decode("ascii"))
        except (ConfigError, UnicodeDecodeError):
            return None

    def _noted(self, call: str, *, who: str, about: str, status: int) -> bool:
        did = [("call", call), ("about", about), ("answer", "passed on" if status == 0
                                                  else f"refused {status}")]  # fmt: skip
        try:
            audit(self._audited, at=self._now(), who=who, did=did)
        except OSError:
            return False
        return True

    async def _pass_on(self, call: str, body: bytes, send: Send) -> None:
        kind = "application/protobuf"
        request = self._upstream.build_request(
            "POST",
            f"/v1/control/{call}",
            headers={"content-type": kind, "accept": kind, GATE: self._gate},
            content=body,
        )
        try:
            answer = await self._upstream.send(request, stream=True)
        except httpx.HTTPError:
            await say(send, 502)
        else:
            await relay(answer, send)


async def _read(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > _MOST_BYTES or message["type"] == "http.disconnect":
            return None
        if not message.get("more_body"):
            return body
