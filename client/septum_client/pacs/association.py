"""One C-STORE receiver: who is not on the lists is not heard, who says too much is cut off.

pynetdicom parses what it must: association requests and command sets, both of a
bounded size. A data set is bytes to this process from the first to the last.
"""

import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.transport import AssociationServer

from septum.errors import ConfigError, EngineError, Quarantine
from septum_client.pacs.inbox import Arrival, Inbox, Outcome
from septum_client.pacs.meter import Incident, Meter
from septum_client.pacs.settings import Receive, Tls

# In our order of liking; video and deflated data sets are not asked for (PS3.5 Annex A).
TRANSFER_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202",  # High-Throughput JPEG 2000 RPCL Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
)
VERIFICATION: Final = "1.2.840.10008.1.1"
IMAGE_STORAGE: Final = tuple(
    str(context.abstract_syntax)
    for context in AllStoragePresentationContexts
    if "Image Storage" in context.abstract_syntax.name
)

# PS3.4 table B.2-1 and PS3.7 Annex C; a refusal has a failure of its own below.
_STATUS: Final = {
    Arrival.STORED: 0x0000,
    Arrival.HELD: 0x0000,
    Arrival.FULL: 0xA700,
    Arrival.FAILED: 0x0110,
}
_BAD_INSTANCE: Final = 0x0117
_BAD_CLASS: Final = 0xA900
_CANNOT_UNDERSTAND: Final = 0xC000

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_WAITING_CONNECTIONS: Final = 8
_POLL_S: Final = 0.2
_FAREWELL_S: Final = 10.0


def status(outcome: Outcome) -> int:
    """Return the C-STORE status for what became of an instance.

    Success means that it is on the disk, or was already. A refused image is a
    failure, so that no PACS believes it delivered: ``C000`` plus the number of
    the code, ``C072`` for DATA_114, and no text.

    >>> f"{status(Quarantine.BURNED_IN_TEXT):04X}"
    'C072'
    """
    if isinstance(outcome, Quarantine):
        return _CANNOT_UNDERSTAND + int(outcome.value.removeprefix("DATA_"))
    return _STATUS[outcome]


class Listener:
    """A C-STORE and C-ECHO provider (PS3.4 Annexes A and B) in front of an inbox.

    Guarantees:
      - Connections from other addresses are closed before a byte of them is read.
      - One message at a time for each peer, none longer than allowed: a peer
        that sends more is cut off while it sends, not after.
      - Nothing is logged, and nothing raw is written.

    Raises:
      ConfigError: The certificates cannot be used.
      EngineError: The address cannot be listened on.
    """

    def __init__(self, settings: Receive, inbox: Inbox) -> None:
        # Its handlers would print every request, at a cost even where nobody listens.
        _config.LOG_HANDLER_LEVEL = "none"
        self._settings = settings
        self._inbox = inbox
        self._lock = threading.Lock()
        self.incidents: Counter[Incident] = Counter()
        self._ae = _application_entity(settings)
        tls = None if settings.tls is None else _tls(settings.tls)
        try:
            self._server = self._ae.make_server(
                (settings.address, settings.port),
                ssl_context=tls,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._opened),
                    (evt.EVT_REJECTED, lambda _: self._note(Incident.REJECTED)),
                    (evt.EVT_C_ECHO, lambda _: 0x0000),
                    (evt.EVT_C_STORE, self._store),
                ],
                server_class=_Server,
                settings=settings,
                note=self._note,
            )
        except OSError as error:
            raise EngineError(
                f"port {settings.port} cannot be listened on ({error.strerror}).",
                remedy="Stop what uses it, or choose another port or address.",
            ) from None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def serve(self, stop: threading.Event) -> None:
        """Receive until ``stop`` is set; what is being received then is lost."""
        try:
            while not stop.is_set():
                self._server.handle_request()
        finally:
            self._server.server_close()
            # Closed rather than aborted: an abort waits for the unit that is being read.
            open_ones = self._server.active_associations
            for association in open_ones:
                association.dul.socket.close()
            for association in open_ones:
                association.join(_FAREWELL_S)

    def _note(self, incident: Incident) -> None:
        with self._lock:
            self.incidents[incident] += 1

    def _opened(self, event: Any) -> None:
        """Bound what this peer can make us hold, before its first byte is read."""
        Meter(event.assoc, self._settings, self._note)

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if len(uid) > 64 or not _UID.fullmatch(uid):
            return _BAD_INSTANCE
        if event.request.AffectedSOPClassUID != event.context.abstract_syntax:
            return _BAD_CLASS
        if event.request.DataSet is None:
            return _CANNOT_UNDERSTAND
        # The file meta is made anew from what was negotiated; the data set stays as it came.
        return status(self._inbox.add(event.encoded_dataset()))


# mypy does not look into pynetdicom, so to it this class has no known parent.
class _Server(AssociationServer):  # type: ignore[misc]
    """Accepts connections from the allowed addresses."""

    timeout = _POLL_S

    def __init__(
        self, *args: Any, settings: Receive, note: Callable[[Incident], None], **kwargs: Any
    ) -> None:
        self._networks = settings.allowed
        self._most = settings.maximum_associations + _WAITING_CONNECTIONS
        self._idle_s = settings.idle_s
        self._note = note
        super().__init__(*args, **kwargs)
        self.timeout = _POLL_S

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; a silent peer's TLS handshake must not keep others waiting."""
        connection, address = self.socket.accept()
        connection.settimeout(self._idle_s)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - inherited
        """Return whether this address may connect, and whether there is room."""
        peer = ip_address(client_address[0])
        peer = getattr(peer, "ipv4_mapped", None) or peer
        allowed = any(peer in network for network in self._networks)
        if allowed and len(self.active_associations) < self._most:
            return True
        self._note(Incident.ADDRESS)
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        """Close the connection; the inherited one prints the peer's address."""
        self.shutdown_request(request)


def _application_entity(settings: Receive) -> Any:
    ae = AE(ae_title=settings.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(settings.peers)
    ae.maximum_associations = settings.maximum_associations
    ae.maximum_pdu_size = settings.maximum_pdu
    ae.acse_timeout = settings.acse_s
    ae.dimse_timeout = settings.idle_s
    ae.network_timeout = settings.idle_s
    ae.add_supported_context(VERIFICATION)
    for sop_class in IMAGE_STORAGE:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    return ae


def _tls(settings: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        context.load_verify_locations(settings.peers)
    except OSError:
        raise ConfigError(
            "the certificates for TLS cannot be used.",
            remedy="Check receive.tls: certificate, key and peers are PEM files.",
        ) from None
    return context
