"""The coordinator's own certificate authority: one CA that hospitals pin, one server certificate.

ECDSA P-256 throughout. The CA signs this coordinator's server certificate and
nothing else; a hospital trusts it for one address and no other purpose.
"""

import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from septum.errors import ConfigError

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 90
RENEW_DAYS: Final = 30
"""A server certificate with fewer days left is renewed when the server starts, and daily."""

LOOPBACK: Final = ("localhost", "127.0.0.1")
"""Names that every server certificate carries: the edge reaches the SuperLink by them."""

_SKEW: Final = timedelta(hours=1)
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and its key, both PEM; the key never leaves the coordinator."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Issued({len(self.certificate)} bytes)"


def make_ca(name: str, *, now: datetime) -> Issued:
    """Return a fresh self-signed CA.

    Args:
      name: Shown to people; at most 64 characters.
      now: When it begins, aware of its zone; an hour less, for clocks that are late.

    Guarantees:
      - It can sign no other CA (path length 0).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usage = _usage(certificates=True)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return Issued(certificate=certificate.public_bytes(Encoding.PEM), key=_pem(key))


def issue(ca: Issued, hosts: Sequence[str], *, now: datetime, days: int = SERVER_DAYS) -> Issued:
    """Return a server certificate for ``hosts`` and the loopback names, signed by ``ca``.

    Args:
      ca: From :func:`make_ca`.
      hosts: DNS names or IP addresses at which hospitals reach the server.
      now: When it begins, aware of its zone; an hour less, for clocks that are late.
      days: How long it lasts; never beyond the CA.

    Raises:
      ConfigError: A host is neither, or ``ca`` cannot be read.
    """
    try:
        authority = x509.load_pem_x509_certificate(ca.certificate)
        signer = load_pem_private_key(ca.key, password=None)
    except (ValueError, TypeError):
        signer = None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError("the CA cannot be read.", remedy="Restore tls/ from a backup.")
    names = list(dict.fromkeys([*hosts, *LOOPBACK]))
    alternatives = [_name(host) for host in names]
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + timedelta(days=days), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(signer, SHA256())
    )
    return Issued(certificate=certificate.public_bytes(Encoding.PEM), key=_pem(key))


def days_left(certificate: bytes, *, now: datetime) -> int:
    """Return whole days until the certificate (PEM) ends; negative when it has ended.

    Raises:
      ConfigError: It cannot be read.
    """
    try:
        ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        raise ConfigError(
            "the server's certificate cannot be read.", remedy="Run `septum server renew`."
        ) from None
    return math.floor((ends - now) / timedelta(days=1))


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _DNS.fullmatch(host):
        raise ConfigError(
            f"{host!r} is neither a host name nor an IP address.",
            remedy="Name the host as hospitals reach it, without a scheme or port.",
        )
    return x509.DNSName(host)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
