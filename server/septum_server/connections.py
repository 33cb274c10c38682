"""Connections of the edge: few for each peer, and none that only waits."""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from septum_server.limits import Limits


def guarded(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's own protocol for HTTP, held to ``limits``.

    Guarantees:
      - A peer's address has at most ``limits.connections`` connections; a further
        one is closed at once.
      - A connection that has not sent the whole head of a request within
        ``limits.head_s`` seconds is closed: uvicorn alone waits for ever.
    """
    open_of: Counter[str] = Counter()

    class Guarded(H11Protocol):
        """Counts itself, and closes itself when no request comes."""

        _peer = ""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
            super().connection_made(transport)
            self._peer = str((self.client or ("",))[0])
            open_of[self._peer] += 1
            if open_of[self._peer] > limits.connections:
                transport.abort()
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            open_of[self._peer] -= 1
            if open_of[self._peer] <= 0:
                del open_of[self._peer]
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle: Any = self.cycle
            if cycle is not None and not cycle.response_complete:
                self._stop_waiting()
            else:
                self._wait()

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(limits.head_s, self._too_late)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_late(self) -> None:
            self._timer = None
            cycle: Any = self.cycle
            if cycle is None or cycle.response_complete:
                self.transport.close()

    return Guarded
