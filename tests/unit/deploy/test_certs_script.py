"""The certificates that the script makes are of the kind that `septum server init` makes."""

import socket
import ssl
import stat
import subprocess
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from .conftest import ROOT

SCRIPT = ROOT / "deploy/certs/certs.sh"


def certs(*words):
    return subprocess.run(
        ["sh", SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def tls(tmp_path):
    for words in (("ca", tmp_path / "tls", "A CA"), ("server", tmp_path / "tls", "fl.example.org")):
        done = certs(*words)
        assert done.returncode == 0, done.stderr
    return tmp_path / "tls"


def test_a_hospital_that_pins_the_ca_reaches_the_server_by_its_name_and_by_no_other(tls):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")

    def reach(name):
        theirs, ours = socket.socketpair()

        def answer():
            try:
                with context.wrap_socket(ours, server_side=True) as served:
                    served.recv(1)
            except (ssl.SSLError, OSError):
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            client = ssl.create_default_context(cafile=tls / "ca.crt")
            with client.wrap_socket(theirs, server_hostname=name) as reached:
                return reached.version()
        finally:
            theirs.close()
            thread.join()
            ours.close()

    assert reach("fl.example.org") == "TLSv1.3"
    assert reach("localhost") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        reach("other.example.org")


def test_the_certificates_have_the_extensions_of_septums_own(tls):
    ca = x509.load_pem_x509_certificate((tls / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((tls / "server.crt").read_bytes())
    limits = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 90


def test_keys_are_their_owners_alone(tls):
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tls / name).stat().st_mode) == 0o600
        load_pem_private_key((tls / name).read_bytes(), password=None)


@pytest.mark.parametrize(("host", "kind"), [("192.0.2.10", "IP"), ("2001:db8::1", "IP")])
def test_an_address_is_named_as_an_address(tls, host, kind):
    assert certs("server", tls, host).returncode == 0
    server = x509.load_pem_x509_certificate((tls / "server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in [str(address) for address in names.get_values_for_type(x509.IPAddress)]


def test_a_second_ca_never_overwrites_the_first(tls):
    before = (tls / "ca.crt").read_bytes()
    done = certs("ca", tls, "Another")
    assert done.returncode == 2
    assert (tls / "ca.crt").read_bytes() == before


def test_a_server_certificate_is_renewed_by_the_same_ca(tls):
    before = (tls / "server.crt").read_bytes()
    assert certs("server", tls, "fl.example.org", 30).returncode == 0
    assert (tls / "server.crt").read_bytes() != before
