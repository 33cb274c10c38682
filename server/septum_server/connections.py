"""Connections of the edge: none that only waits."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from septum_server.limits import Limits


def guarded(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's own protocol for HTTP, held to ``limits``.

    Guarantees:
      - A connection that has not sent the whole head of a request within
        ``limits.head_s`` seconds is closed: uvicorn alone waits for ever.
    """

    class Guarded(H11Protocol):
        """Closes itself when no request comes."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
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
