"""What one peer may make the receiver hold: so many bytes, one message at a time."""

import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from socket import SHUT_RDWR
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF

from septum_client.pacs.settings import Receive

# An association request lists every class and syntax that the peer can send.
_ASSOCIATE_BYTES: Final = 2**20
_COMMAND_BYTES: Final = 2**14


class Incident(StrEnum):
    """What the receiver turned away before it was an instance."""

    ADDRESS = "connections from an address that is not allowed, or too many at once"
    REJECTED = "associations rejected: AE title or number"
    CUT = "associations cut off: more sent than is allowed"


class Meter:
    """Weighs what one peer sends and cuts it off when it is too much.

    pynetdicom would read a protocol data unit of 4 GiB, collect a message of any
    length and queue any number of them; none of that is negotiable by its settings.
    """

    def __init__(
        self, association: Any, settings: Receive, note: Callable[[Incident], None]
    ) -> None:
        self._association = association
        self._settings = settings
        self._note = note
        self._plain = association.dul.socket.socket
        self._recv = association.dul.socket.recv
        self._command = self._data = 0
        self._completed = self._answered = 0
        self._cut = self._asked = False
        association.dul.socket.recv = self._read
        association.dul.run = self._quietly(association.dul.run)
        association.bind(evt.EVT_PDU_RECV, self._weigh)
        association.bind(evt.EVT_DIMSE_RECV, self._complete)
        association.bind(evt.EVT_DIMSE_SENT, self._answer)
        association.bind(evt.EVT_REQUESTED, self._ask)
        association.bind(evt.EVT_CONN_CLOSE, self._leave)
        # pynetdicom starts its own clock anew at every byte: one byte a second holds a place.
        self._clock = threading.Timer(settings.acse_s, self._too_late)
        self._clock.daemon = True
        self._clock.start()

    def _read(self, count: int) -> bytearray:
        """Read ``count`` bytes; OSError ends the connection in pynetdicom's state machine."""
        longest = (
            self._settings.maximum_pdu if self._association.is_established else _ASSOCIATE_BYTES
        )
        if count > longest:
            self._end()
        if self._cut:
            raise OSError
        read: bytearray = self._recv(count)
        return read

    def _weigh(self, event: Any) -> None:
        """Count the fragments of a message (PS3.8 Annex E.2: bit 0 marks a command)."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        for item in event.pdu.presentation_data_value_items:
            fragment = item.presentation_data_value
            if fragment[:1] and fragment[0] & 1:
                self._command += len(fragment) - 1
            else:
                self._data += len(fragment) - 1
        # The window is one operation (PS3.7 D.3.3.3): a second may not begin unanswered.
        early = self._completed > self._answered
        too_long = self._data > self._settings.maximum_instance or self._command > _COMMAND_BYTES
        if early or too_long:
            self._end()

    def _complete(self, _: Any) -> None:
        """A whole message is there."""
        self._command = self._data = 0
        self._completed += 1

    def _answer(self, _: Any) -> None:
        """Its answer is about to be sent."""
        self._answered += 1

    def _ask(self, _: Any) -> None:
        """Its association request is being looked at."""
        self._asked = True
        self._clock.cancel()

    def _leave(self, _: Any) -> None:
        """Close the socket, and free the place of a peer that left before it asked for anything.

        Without a request (states 2 and 13, PS3.8 table 9-10) pynetdicom would
        wait for one until ``acse_s`` is over; an empty answer ends the wait.
        """
        self._clock.cancel()
        # pynetdicom leaves open what the other side had closed.
        self._plain.close()
        state = self._association.dul.state_machine.current_state
        if not self._asked and state in {"Sta2", "Sta13"}:
            self._association.dul.to_user_queue.put(None)

    def _too_late(self) -> None:
        """Cut off a peer whose association request is not complete in time."""
        if self._asked:
            return
        self._end()
        # Wakes the read that waits for the next byte.
        with suppress(OSError):
            self._plain.shutdown(SHUT_RDWR)

    def _end(self) -> None:
        if not self._cut:
            self._cut = True
            self._note(Incident.CUT)
            if self._association.is_established:
                self._association.abort(block=False)

    def _quietly(self, run: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                run()
            except Exception:  # noqa: BLE001 - its text could quote the peer, and stderr would show it
                self._association.dul.socket.close()
                if not self._asked:
                    self._association.dul.to_user_queue.put(None)

        return guarded
