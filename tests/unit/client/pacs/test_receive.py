"""The C-STORE receiver against peers that keep to no rule: raw sockets on loopback."""

import contextlib
import logging
import socket
import struct
import threading
import time
from types import SimpleNamespace

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role

from septum.errors import ConfigError, EngineError, Quarantine
from septum_client.pacs import receive
from septum_client.pacs.association import IMAGE_STORAGE, TRANSFER_SYNTAXES, VERIFICATION, status
from septum_client.pacs.inbox import Arrival
from septum_client.pacs.settings import Receive, Settings

DX = "1.2.840.10008.5.1.4.1.1.1.1"
WAIT_S = 20
P_DATA, ABORT = 4, 7


@pytest.fixture
def serving(pacs):
    """Return a function that starts a receiver; all are stopped and joined at the end."""
    with contextlib.ExitStack() as running:

        @contextlib.contextmanager
        def run(inbox, **fields):
            settings = Settings(receive=Receive(**({"peers": ("PACS",), "port": 0} | fields)))
            ready, stop, said = threading.Event(), threading.Event(), SimpleNamespace()

            def serve():
                try:
                    said.result = receive.receive(
                        settings,
                        inbox,
                        stop=stop,
                        announce=lambda at: (setattr(said, "port", at.port), ready.set()),
                    )
                finally:
                    ready.set()

            thread = threading.Thread(target=serve)
            thread.start()
            said.stop = lambda: (stop.set(), thread.join(WAIT_S))
            try:
                assert ready.wait(WAIT_S)
                yield said
            finally:
                said.stop()
                assert not thread.is_alive()

        yield lambda inbox=None, **fields: running.enter_context(
            run(inbox or pacs.inbox(), **fields)
        )


def associate(port, *, called="SEPTUM", calling="PACS", classes=(DX, VERIFICATION), syntaxes=None):
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_S
    for sop_class in classes:
        ae.add_requested_context(sop_class, syntaxes or [ExplicitVRLittleEndian])
    return ae.associate("127.0.0.1", port, ae_title=called)


def pdu(kind, body):
    return struct.pack(">BxI", kind, len(body)) + body


def request():
    """Return an association request for DX and C-ECHO (PS3.8 9.3.2), as a peer would send it."""
    ae = AE(ae_title="PACS")
    ae.add_requested_context(DX, ExplicitVRLittleEndian)
    ae.add_requested_context(VERIFICATION, ExplicitVRLittleEndian)

    def item(kind, body):
        return struct.pack(">BxH", kind, len(body)) + body

    contexts = b"".join(
        item(
            0x20,
            struct.pack(">Bxxx", number)
            + item(0x30, sop_class.encode())
            + item(0x40, b"1.2.840.10008.1.2.1"),
        )
        for number, sop_class in ((1, DX), (3, VERIFICATION))
    )
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    return pdu(
        1,
        struct.pack(">Hxx16s16s32x", 1, b"SEPTUM".ljust(16), b"PACS".ljust(16))
        + item(0x10, b"1.2.840.10008.3.1.1.1")
        + contexts
        + item(0x50, user),
    )


def fragment(body, *, context=1, command=False, last=False):
    control = int(command) | 2 * int(last)
    return pdu(P_DATA, struct.pack(">IBB", len(body) + 2, context, control) + body)


def command(sop_class=DX, instance="1.2.3.1", field=1, data=True, extra=b""):
    """Return a command set (PS3.7 9.3.1) in Implicit VR Little Endian."""

    def element(number, value):
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    body = (
        element(0x0002, sop_class.encode())
        + element(0x0100, struct.pack("<H", field))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1 if data else 0x0101))
        + element(0x1000, instance.encode())
        + extra
    )
    return element(0, struct.pack("<I", len(body))) + body


class Peer:
    """A peer that says what it likes."""

    def __init__(self, port, *, established=True):
        self.wire = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        if established:
            self.wire.sendall(request())
            kind, _ = self.answer()
            assert kind == 2

    def answer(self):
        """Return type and body of the next unit; ``(None, b"")`` once the connection is gone."""
        try:
            head = self._exactly(6)
            kind, length = struct.unpack(">BxI", head)
            return kind, self._exactly(length)
        except (ConnectionError, EOFError):
            return None, b""

    def is_cut_off(self):
        """Return whether the other side aborts or closes before anything else is said."""
        return self.answer()[0] in {ABORT, None}

    def send(self, *units):
        """Send; a connection that breaks meanwhile is for :meth:`is_cut_off` to tell."""
        with contextlib.suppress(ConnectionError):
            for unit in units:
                self.wire.sendall(unit)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.wire.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self):
        self.wire.close()


@pytest.fixture
def peer():
    with contextlib.ExitStack() as open_ones:

        def connect(port, **kwargs):
            made = Peer(port, **kwargs)
            open_ones.callback(made.close)
            return made

        yield connect


def dataset(dcm, **fields):
    return dcm.header(PatientName="SECRET^NAME", **fields)


def test_an_instance_is_stored_de_identified_and_its_file_meta_is_ours(serving, pacs, dcm):
    raw = []

    def watching(data):
        raw.append(data)
        return pacs.deidentify(data)

    at = serving(pacs.inbox(watching))
    association = associate(at.port)
    assert association.send_c_store(dataset(dcm)).Status == 0x0000
    assert association.send_c_store(dataset(dcm)).Status == 0x0000
    association.release()
    (path,) = pacs.folder.iterdir()
    assert dcmread(path).pixel_array.tobytes() == dcm.image().tobytes()
    assert b"SECRET" not in path.read_bytes()
    assert raw[0][128:132] == b"DICM"
    assert b"PACS" not in raw[0]


@pytest.mark.parametrize(
    "titles", [{"called": "OTHER"}, {"calling": "OTHER"}, {"called": "septum"}]
)
def test_a_title_that_is_not_on_the_lists_is_rejected(serving, pacs, titles):
    inbox = pacs.inbox()
    at = serving(inbox)
    assert associate(at.port, **titles).is_rejected
    at.stop()
    assert at.result.lines() == ("      1 associations rejected: AE title or number",)
    assert inbox.counts() == {}


def test_an_address_that_is_not_allowed_is_not_even_heard(serving, peer):
    at = serving(networks=("192.0.2.0/24",))
    assert peer(at.port, established=False).answer() == (None, b"")
    at.stop()
    assert "not allowed" in at.result.lines()[0]


def test_above_the_most_associations_one_more_is_rejected(serving):
    at = serving(maximum_associations=2)
    first, second, third = (associate(at.port) for _ in range(3))
    assert first.is_established
    assert second.is_established
    assert third.is_rejected
    first.release()
    second.release()


def test_connections_that_say_nothing_are_bounded_too(serving, peer):
    at = serving(maximum_associations=1)
    silent = [peer(at.port, established=False) for _ in range(9)]
    assert peer(at.port, established=False).answer() == (None, b"")
    assert len(silent) == 9


def test_only_images_and_echo_are_spoken(serving):
    at = serving()
    other = {
        "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
        "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root FIND
        "1.2.840.10008.1.20.1",  # Storage Commitment
    }
    association = associate(at.port, classes=(DX, VERIFICATION, *other))
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    assert accepted == {DX, VERIFICATION}
    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_the_classes_are_images_and_the_syntaxes_are_not_video():
    assert "1.2.840.10008.5.1.4.1.1.2" in IMAGE_STORAGE
    assert len(IMAGE_STORAGE) > 40
    assert not [uid for uid in IMAGE_STORAGE if ".88." in uid or ".104." in uid or ".11." in uid]
    assert not [uid for uid in TRANSFER_SYNTAXES if ".4.10" in uid or uid.endswith(".1.99")]


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"Modality": "OT"}, 0xC073), ({"instance": "1.2.9"}, 0xA700)],
)
def test_what_is_not_kept_is_told_as_a_failure(serving, pacs, dcm, fields, code):
    inbox = pacs.inbox(maximum_files=1)
    at = serving(inbox)
    association = associate(at.port)
    if code == 0xA700:
        association.send_c_store(dataset(dcm))
    answer = association.send_c_store(dataset(dcm, **fields))
    assert answer.Status == code
    assert "ErrorComment" not in answer
    association.release()


def test_an_engine_that_breaks_is_a_processing_failure(serving, pacs, dcm):
    def broken(data):
        raise RuntimeError("SECRET")

    at = serving(pacs.inbox(broken))
    association = associate(at.port)
    assert association.send_c_store(dataset(dcm)).Status == 0x0110
    association.release()


def test_every_outcome_has_a_status_and_only_what_is_on_the_disk_is_success():
    found = {outcome: status(outcome) for outcome in (*Arrival, *Quarantine)}
    assert {outcome for outcome, code in found.items() if code == 0} == {
        Arrival.STORED,
        Arrival.HELD,
    }
    refused = [code for outcome, code in found.items() if isinstance(outcome, Quarantine)]
    assert len(set(refused)) == len(Quarantine)
    assert all(0xC000 < code <= 0xCFFF for code in refused)


def test_an_instance_that_is_too_long_is_cut_off_while_it_is_sent(serving, pacs, peer):
    taken = []
    limit = 200_000
    at = serving(pacs.inbox(taken.append), maximum_instance=limit)
    other = peer(at.port)
    sent = 0
    other.send(fragment(command(), command=True, last=True))
    # Never a last fragment: whoever waits for the end of the message waits for ever.
    piece = fragment(b"\0" * 16_000)
    with contextlib.suppress(ConnectionError):
        while sent < 64 * 2**20:
            other.wire.sendall(piece)
            sent += len(piece)
    assert sent < 64 * 2**20
    assert other.is_cut_off()
    at.stop()
    assert taken == []
    assert at.result.turned_away == (("associations cut off: more sent than is allowed", 1),)


def test_an_instance_of_the_longest_length_is_taken(serving, pacs, peer):
    taken = []

    def deidentify(data):
        taken.append(len(data))
        return Quarantine.NOT_DICOM

    at = serving(pacs.inbox(deidentify), maximum_instance=48_000)
    other = peer(at.port)
    other.send(
        fragment(command(), command=True, last=True),
        *[fragment(b"\0" * 16_000, last=n == 2) for n in range(3)],
    )
    assert other.answer()[0] == P_DATA
    assert len(taken) == 1
    assert 48_132 < taken[0] < 49_000


@pytest.mark.parametrize("kind", [1, P_DATA])
def test_a_unit_of_gigabytes_is_refused_on_its_first_six_bytes(serving, peer, kind):
    at = serving()
    other = peer(at.port, established=kind == P_DATA)
    other.send(struct.pack(">BxI", kind, 2**32 - 1))
    assert other.is_cut_off()
    at.stop()
    assert at.result.turned_away[0][1] == 1


def test_a_unit_longer_than_announced_is_cut_off(serving, peer):
    at = serving(maximum_pdu=16_384)
    other = peer(at.port)
    other.send(fragment(b"\0" * 16_384))
    assert other.is_cut_off()


def test_messages_may_not_be_piled_up_unanswered(serving, pacs, peer):
    started, go = threading.Event(), threading.Event()

    def slow(data):
        started.set()
        go.wait(WAIT_S)
        return Quarantine.NOT_DICOM

    at = serving(pacs.inbox(slow))
    other = peer(at.port)
    message = fragment(command(), command=True, last=True) + fragment(b"\0" * 100, last=True)
    other.send(message)
    assert started.wait(WAIT_S)
    other.send(*[message] * 50)
    cut = other.is_cut_off()
    go.set()
    at.stop()
    assert cut
    assert at.result.turned_away[0][1] == 1


def test_one_message_after_another_is_no_pile(serving, pacs, peer):
    inbox = pacs.inbox(lambda data: Quarantine.NOT_DICOM)
    at = serving(inbox, maximum_instance=150)
    other = peer(at.port)
    message = fragment(command(), command=True, last=True) + fragment(b"\0" * 100, last=True)
    for _ in range(20):
        other.send(message)
        assert other.answer()[0] == P_DATA
    assert inbox.counts() == {Quarantine.NOT_DICOM: 20}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"instance": "1.2.x"}, 0x0117),
        ({"instance": "../../etc"}, 0x0117),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, 0xA900),
    ],
)
def test_a_request_that_contradicts_itself_reaches_no_engine(serving, pacs, peer, said, code):
    inbox = pacs.inbox(lambda data: pytest.fail("reached"))
    other = peer(serving(inbox).port)
    other.send(fragment(command(**said), command=True, last=True), fragment(b"\0\0", last=True))
    kind, body = other.answer()
    if kind == P_DATA:
        assert struct.pack("<HHIH", 0, 0x0900, 2, code) in body
    assert inbox.counts() == {}


NEST = struct.pack("<HHI", 0, 0x0777, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "hostile",
    [
        [fragment(command(extra=NEST * 800), command=True, last=True)],
        [fragment(b"\xff" * 300, command=True, last=True)],
        [fragment(b"", command=True, last=True)],
        [fragment(b"\0" * 17_000, command=True)],
        [fragment(command(field=0x9999), command=True, last=True)],
        [fragment(command(field=0x0020), command=True, last=True), fragment(b"", last=True)],
        [fragment(command(field=0x0100), command=True, last=True), fragment(b"", last=True)],
        [fragment(command(), command=True, last=True, context=77), fragment(b"", last=True)],
        [pdu(P_DATA, b"")],
        [pdu(P_DATA, struct.pack(">IB", 1, 1))],
        [pdu(P_DATA, struct.pack(">IBB", 2**31, 1, 0))],
        [pdu(2, b"\0" * 80)],
        [pdu(9, b"\0" * 80)],
        [request()],
        [b"GET / HTTP/1.1\r\n\r\n"],
    ],
)
def test_no_message_stops_the_receiver_or_makes_it_say_anything(
    serving, pacs, peer, dcm, caplog, capfd, hostile
):
    caplog.set_level(logging.DEBUG)
    at = serving()
    bold, raw = peer(at.port), peer(at.port, established=False)
    bold.send(*hostile)
    raw.send(*hostile)
    bold.close()
    raw.close()
    association = associate(at.port)
    assert association.send_c_store(dataset(dcm)).Status == 0x0000
    association.release()
    at.stop()
    spoken = [record for record in caplog.records if record.name.startswith("pynetdicom")]
    assert spoken == []
    assert capfd.readouterr() == ("", "")


def test_names_titles_and_data_sets_are_never_logged(serving, pacs, peer, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    inbox = pacs.inbox()
    at = serving(inbox)
    other = peer(at.port)
    other.send(
        fragment(command(instance="1.2.777.1"), command=True, last=True),
        fragment(b"\x10\0\x10\0PN\x0b\0SECRET^NAME ", last=True),
    )
    assert other.answer()[0] == P_DATA
    at.stop()
    said = caplog.text + "".join(capfd.readouterr())
    assert not [word for word in ("SECRET", "1.2.777", "PACS", "127.0.0.1") if word in said]
    assert sum(inbox.counts().values()) == 1


def test_the_loggers_are_afterwards_what_they_were(serving):
    logger = logging.getLogger("pynetdicom")
    before = logger.level
    at = serving()
    assert logger.level > logging.CRITICAL
    at.stop()
    assert logger.level == before


def test_a_peer_that_goes_quiet_in_mid_message_is_dropped(serving, peer):
    at = serving(idle_s=0.5, acse_s=0.5)
    halfway, mute = peer(at.port), peer(at.port, established=False)
    halfway.send(fragment(command(), command=True, last=True)[:20])
    assert halfway.is_cut_off()
    assert mute.is_cut_off()


def test_peers_that_drip_their_request_are_cut_off_in_time_and_keep_nobody_out(serving, peer):
    at = serving(maximum_associations=1, acse_s=1, idle_s=WAIT_S)
    slow = [peer(at.port, established=False) for _ in range(9)]
    done = threading.Event()

    def drip():
        for byte in request():
            for each in slow:
                with contextlib.suppress(OSError):
                    each.wire.sendall(bytes([byte]))
            if done.wait(0.05):
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    began = time.monotonic()
    cut = [each.is_cut_off() for each in slow]
    took = time.monotonic() - began
    done.set()
    dripping.join(WAIT_S)
    assert all(cut)
    # The request has some 300 bytes, so dripping takes 15 s; the limit is one.
    assert took < 10
    association = associate(at.port)
    assert association.is_established
    association.release()


def test_stopping_ends_transfers_that_hang(serving, peer):
    at = serving()
    other = peer(at.port)
    other.send(fragment(command(), command=True, last=True), fragment(b"\0" * 50)[:20])
    at.stop()
    assert other.is_cut_off()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "AcceptorThread" in name]


def test_a_port_that_is_taken_and_a_part_that_is_absent_say_so(pacs):
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        part = Receive(peers=("A",), port=taken.getsockname()[1])
        with pytest.raises(EngineError, match="cannot be listened on"):
            receive.receive(
                Settings(receive=part), pacs.inbox(), stop=stop, announce=lambda _: None
            )
    with pytest.raises(ConfigError, match=r"no \[receive\] part"):
        receive.receive(Settings(), pacs.inbox(), stop=stop, announce=lambda _: None)


def test_a_site_without_the_extra_is_told_what_to_install(pacs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "septum_client.pacs.association", None)
    with pytest.raises(ConfigError, match=r'pip install "septum\[pacs\]"'):
        receive.receive(
            Settings(receive=Receive(peers=("A",))),
            pacs.inbox(),
            stop=threading.Event(),
            announce=lambda _: None,
        )


def test_a_peer_cannot_turn_the_roles_around(serving):
    at = serving()
    ae = AE(ae_title="PACS")
    ae.add_requested_context(DX, ExplicitVRLittleEndian)
    association = ae.associate(
        "127.0.0.1", at.port, ae_title="SEPTUM", ext_neg=[build_role(DX, scp_role=True)]
    )
    assert not [context for context in association.accepted_contexts if context.as_scp]
    association.release()
