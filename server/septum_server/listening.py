"""Who is listened to at all: connections are counted, and given up, before TLS has begun.

uvicorn hears of a connection when its handshake is done, and waits a minute for
that. Until then a connection costs a descriptor and a quarter of a MiB, so it is
counted where it is accepted, which only asyncio's own loop lets one do.
"""

import asyncio
import logging
import resource
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

_MOST_DESCRIPTORS: Final = 65536
_OWN_DESCRIPTORS: Final = 512
"""Kept from connections: those of the way to the SuperLink, of files and of logs."""

_MOST_CONNECTIONS: Final = 4096
_FEWEST_CONNECTIONS: Final = 64


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop whose TLS servers give up a handshake that does not come.

    Guarantees:
      - A connection whose handshake is not done after :attr:`handshake_s` seconds
        is closed; so is one whose end the peer does not confirm in that time.
    """

    handshake_s: float = 5.0

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        """Listen as asyncio does, with this loop's patience."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = self.handshake_s
            kwargs["ssl_shutdown_timeout"] = self.handshake_s
        return await super().create_server(*args, **kwargs)


@dataclass(kw_only=True)
class Places:
    """How many connections there are, of each peer and of all.

    >>> places = Places(each=1, most=2)
    >>> [places.take(peer) for peer in ("north", "north", "east", "south")]
    [True, False, True, False]
    >>> places.leave("north")
    >>> places.take("south")
    True

    Args:
      each: At most, of one peer's address.
      most: At most, of all.
    """

    each: int
    most: int
    _all: int = field(default=0, repr=False)
    _of: dict[str, int] = field(default_factory=dict, repr=False)

    def take(self, peer: str) -> bool:
        """Take a place for ``peer``; whether there was one."""
        held = self._of.get(peer, 0)
        if held >= self.each or self._all >= self.most:
            return False
        self._of[peer] = held + 1
        self._all += 1
        return True

    def leave(self, peer: str) -> None:
        """Give back one place of ``peer``."""
        self._all -= 1
        self._of[peer] -= 1
        if not self._of[peer]:
            del self._of[peer]


class _Counted(socket.socket):
    """A connection that gives its place back when it is closed, or lost."""

    leave: Callable[[], Any] = staticmethod(lambda: None)

    def close(self) -> None:
        super().close()
        self.leave()


class Listener(socket.socket):
    """A listening socket that closes each connection for which there is no place.

    Guarantees:
      - What :meth:`accept` returns has a place, until it is closed.
    """

    places: Places

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection with a place; the others before it are closed.

        Raises:
          BlockingIOError: There is none now.
        """
        for _ in range(BACKLOG):  # and no more at a stretch: others wait for the loop
            plain, address = super().accept()
            peer = str(address[0])
            if self.places.take(peer):
                made = _Counted(plain.family, plain.type, plain.proto, fileno=plain.detach())
                made.leave = weakref.finalize(made, self.places.leave, peer)
                return made, address
            plain.close()
        raise BlockingIOError


def listen(host: str, port: int, *, each: int, most: int) -> Listener:
    """Return a socket that is bound and does not listen yet.

    Args:
      host: The interface.
      port: The port; 0 for a free one.
      each: Connections of one peer's address, at most.
      most: Connections, at most.

    Raises:
      OSError: The address cannot be had.
    """
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = Listener(family, kind, number)
    made.places = Places(each=each, most=most)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def raise_descriptors() -> int:
    """Let this process open as many descriptors as it may; return for how many connections.

    Guarantees:
      - Connections do not use up the descriptors by which they are answered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, wanted - _OWN_DESCRIPTORS))


class Seldom(logging.Filter):
    """Passes what any stranger can cause once a minute, and all else always.

    Args:
      clock: Seconds, monotonic.
    """

    every_s: Final = 60.0
    caused: Final = ("socket.accept() out of system resource", "Invalid HTTP request received")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        said = record.getMessage()
        kind = next((each for each in self.caused if said.startswith(each)), None)
        if kind is None:
            return True
        now = self._clock()
        if now < self._next.get(kind, now):
            return False
        self._next[kind] = now + self.every_s
        return True
