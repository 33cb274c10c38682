"""TLS in both directions: without the right certificate nobody is served and nothing is fetched."""

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pynetdicom import AE, evt

from septum.errors import ConfigError
from septum_client.pacs.archive import Archive
from septum_client.pacs.receive import receive
from septum_client.pacs.settings import Pull, Receive, Settings, Tls

WAIT_S = 20
VERIFICATION = "1.2.840.10008.1.1"


def make(folder, name, signer=None):
    """Write ``name.pem`` and ``name.key`` for 127.0.0.1, signed by ``signer`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    issuer, signing = signer or (subject, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return subject, key


@pytest.fixture
def certificates(tmp_path):
    authority = make(tmp_path, "authority")
    make(tmp_path, "site", authority)
    make(tmp_path, "peer", authority)
    make(tmp_path, "stranger", make(tmp_path, "other"))
    return tmp_path


@pytest.fixture
def port(certificates, pacs):
    tls = Tls(
        certificate=certificates / "site.pem",
        key=certificates / "site.key",
        peers=certificates / "authority.pem",
    )
    part = Receive(peers=("PACS",), port=0, tls=tls, acse_s=WAIT_S)
    ready, stop, found = threading.Event(), threading.Event(), []
    thread = threading.Thread(
        target=receive,
        args=(Settings(receive=part), pacs.inbox()),
        kwargs={"stop": stop, "announce": lambda at: (found.append(at.port), ready.set())},
    )
    thread.start()
    assert ready.wait(WAIT_S)
    yield found[0]
    stop.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def associate(port, folder, name):
    ae = AE(ae_title="PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_S
    ae.add_requested_context(VERIFICATION)
    context = None
    if name != "plain":
        context = ssl.create_default_context(cafile=folder / "authority.pem")
        if name != "nobody":
            context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    tls = None if context is None else (context, "127.0.0.1")
    wires = []
    kept = (evt.EVT_CONN_OPEN, lambda event: wires.append(event.assoc.dul.socket.socket))
    association = ae.associate(
        "127.0.0.1", port, ae_title="SEPTUM", tls_args=tls, evt_handlers=[kept]
    )
    if not association.is_established:
        # pynetdicom leaves open what the other side had closed.
        for wire in wires:
            wire.close()
    return association


def test_a_peer_with_a_certificate_of_our_authority_is_served(port, certificates):
    association = associate(port, certificates, "peer")
    assert association.send_c_echo().Status == 0x0000
    association.release()


@pytest.mark.parametrize("name", ["stranger", "nobody", "plain"])
def test_a_peer_without_one_is_not(port, certificates, name):
    assert not associate(port, certificates, name).is_established


def test_a_peer_that_never_shakes_hands_keeps_nobody_waiting(port, certificates):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
        association = associate(port, certificates, "peer")
        assert association.is_established
        association.release()


def test_certificates_that_are_none_are_named_by_their_key(tmp_path, pacs):
    part = Receive(
        peers=("A",), port=0, tls=Tls(certificate=tmp_path, key=tmp_path, peers=tmp_path)
    )
    with pytest.raises(ConfigError, match=r"receive\.tls"):
        receive(
            Settings(receive=part), pacs.inbox(), stop=threading.Event(), announce=lambda _: None
        )


@pytest.fixture
def https(certificates):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"DICM")

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass

    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=certificates / "authority.pem"
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "site.pem", certificates / "site.key")
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(WAIT_S)
    server.server_close()


def test_a_server_is_believed_by_the_named_authority_and_knows_us_by_our_certificate(
    https, certificates
):
    archive = Archive(
        Pull(
            url=https,
            authorities=certificates / "authority.pem",
            certificate=certificates / "peer.pem",
            key=certificates / "peer.key",
        )
    )
    assert archive.instance("studies/1") == b"DICM"
    archive.close()


@pytest.mark.parametrize("authority", [None, "other.pem"])
def test_a_server_that_cannot_be_verified_is_not_asked(https, certificates, authority):
    named = None if authority is None else certificates / authority
    archive = Archive(Pull(url=https, authorities=named))
    with pytest.raises(ConfigError, match="cannot be verified"):
        archive.instance("studies/1")
    archive.close()
