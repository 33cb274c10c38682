"""Which connected node is which hospital, by the key that its study names for it."""

from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from septum.errors import ConfigError
from septum.study import Study


def sites_by_key(study: Study) -> dict[bytes, str]:
    """Return the study's hospitals by their node keys (DER); empty if it names none.

    Raises:
      ConfigError: A node key is not an OpenSSH public key.
    """
    found = {}
    for site in study.sites:
        if not site.node_key:
            continue
        try:
            key = load_ssh_public_key(site.node_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(
                f"sites.node_key of {site.name} is not an OpenSSH public key.",
                remedy="Take it from the site's card.",
            ) from None
        found[key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)] = site.name
    return found


def sites_of(nodes: Iterable[tuple[int, bytes]], known: dict[bytes, str]) -> dict[int, str]:
    """Return the hospital of each node that is one of the study's.

    Args:
      nodes: Number and public key (PEM, as Flower keeps it) of each connected node.
      known: From :func:`sites_by_key`.
    """
    found = {}
    for number, pem in nodes:
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            continue  # a simulated node has none; it is nobody's here
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if der in known:
            found[number] = known[der]
    return found
