import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from septum.errors import ConfigError
from septum_server import certs

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def ca():
    return certs.make_ca("test", now=NOW)


def handshake(tmp_path, issued, *, believed, host):
    """Return what a client that believes one CA makes of a server at ``host``."""
    for name, content in (("s.crt", issued.certificate), ("s.key", issued.key)):
        (tmp_path / name).write_bytes(content)
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    outside = ssl.create_default_context(cadata=believed.certificate.decode())
    here, there = socket.socketpair()

    def serve():
        try:
            with inside.wrap_socket(there, server_side=True) as accepted:
                accepted.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with outside.wrap_socket(here, server_hostname=host) as shaken:
            return shaken.version()
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("host", ["fl.example.org", "127.0.0.1", "localhost"])
def test_a_client_that_pins_the_ca_accepts_the_server_by_each_of_its_names(tmp_path, ca, host):
    issued = certs.issue(ca, ["fl.example.org"], now=NOW)
    assert handshake(tmp_path, issued, believed=ca, host=host) == "TLSv1.3"


def test_a_client_refuses_another_host_another_ca_and_an_ended_certificate(tmp_path, ca):
    issued = certs.issue(ca, ["fl.example.org"], now=NOW)
    other = certs.make_ca("test", now=NOW)
    ended = certs.issue(ca, ["fl.example.org"], now=NOW - timedelta(days=100))
    for server, believed, host in (
        (issued, ca, "other.example.org"),
        (issued, other, "fl.example.org"),
        (ended, ca, "fl.example.org"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(tmp_path, server, believed=believed, host=host)


def test_a_renewed_certificate_needs_no_other_ca(tmp_path, ca):
    for _ in range(2):
        renewed = certs.issue(ca, ["fl.example.org"], now=NOW)
        assert handshake(tmp_path, renewed, believed=ca, host="fl.example.org")


def test_the_ca_signs_nothing_but_servers(ca):
    authority = x509.load_pem_x509_certificate(ca.certificate)
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    server = x509.load_pem_x509_certificate(certs.issue(ca, ["h.org"], now=NOW).certificate)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_days_are_counted_down_to_below_zero(ca):
    issued = certs.issue(ca, ["h.org"], now=NOW, days=10)
    left = [certs.days_left(issued.certificate, now=NOW + timedelta(days=d)) for d in (0, 9.5, 11)]
    assert left[0] in {9, 10}
    assert left[1:] == [0, -2] or left[1:] == [0, -1]


def test_no_server_certificate_outlives_its_ca(ca):
    issued = certs.issue(ca, ["h.org"], now=NOW, days=10_000)
    assert certs.days_left(issued.certificate, now=NOW) <= certs.CA_DAYS


@pytest.mark.parametrize("host", ["", "a b", "https://h.org", "h.org:443", "x" * 64 + ".org"])
def test_what_is_no_host_is_named(ca, host):
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        certs.issue(ca, [host], now=NOW)


def test_a_key_is_in_no_text(ca):
    assert "PRIVATE" not in repr(ca)
    with pytest.raises(ConfigError, match="cannot be read"):
        certs.issue(certs.Issued(certificate=b"x", key=b"y"), ["h.org"], now=NOW)
    with pytest.raises(ConfigError, match="cannot be read"):
        certs.days_left(b"x", now=NOW)
