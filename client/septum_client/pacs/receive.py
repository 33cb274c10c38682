"""Images that a PACS pushes: received, de-identified in memory, written to the inbox.

What the PACS is told for each instance:

======================  =====================================================
status                  meaning
======================  =====================================================
0000                    on our disk, de-identified; or it was there already
A700                    the inbox is full; nothing kept
C0NN                    refused: NN is the number of the code in hexadecimal
                        (C072 is DATA_114); nothing kept; sending the same
                        image again ends the same way
0110                    failed on our side; nothing kept; worth another try
0117, A900, C000        the request itself is wrong: instance UID, class, or
                        no data set
abort                   the instance is longer than ``maximum_instance``, or
                        the peer broke the protocol; nothing kept
======================  =====================================================
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from septum.errors import ConfigError
from septum_client.pacs import missing_extra, silent
from septum_client.pacs.inbox import Inbox
from septum_client.pacs.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the receiver can be reached, once it can."""

    ae_title: str
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Received:
    """What a receiver's time brought. The inbox counts what became of the instances."""

    turned_away: tuple[tuple[str, int], ...]

    def lines(self) -> tuple[str, ...]:
        """Return the counts in words; no address, title or identifier is in them."""
        return tuple(f"{count:>7} {what}" for what, count in self.turned_away)


def receive(
    settings: Settings,
    inbox: Inbox,
    *,
    stop: threading.Event,
    announce: Callable[[Listening], None],
) -> Received:
    """Serve C-STORE and C-ECHO until ``stop`` is set; blocks meanwhile.

    Args:
      settings: Its part ``receive``.
      inbox: Where instances go. Called by one thread for each association.
      stop: Ends it within a second, and the connections with it: the PACS sees
        a transfer under way fail. An image that is being de-identified is
        waited for, ten seconds at most.
      announce: Called once, when peers can connect.

    Raises:
      ConfigError: No part ``receive``, no extra ``pacs``, unusable certificates.
      EngineError: The address cannot be listened on.
    """
    if settings.receive is None:
        raise ConfigError(
            "pacs.toml has no [receive] part, so nobody may push.",
            remedy="Add one that names the peers.",
        )
    with silent():
        try:
            from septum_client.pacs.association import Listener  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise missing_extra() from None
        listener = Listener(settings.receive, inbox)
        part = settings.receive
        announce(Listening(ae_title=part.ae_title, address=part.address, port=listener.port))
        listener.serve(stop)
    turned_away = sorted((str(what), count) for what, count in listener.incidents.items())
    return Received(turned_away=tuple(turned_away))
