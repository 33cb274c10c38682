"""Which connected node is which hospital, by the key that its study names for it."""

from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from septum import node_key
from septum.study import Study


def sites_by_key(study: Study) -> dict[bytes, str]:
    """Return the study's hospitals by their node keys (DER); empty if it names none."""
    found = {}
    for site in study.sites:
        if site.node_key:  # a whole one: no study holds another (septum.participants)
            key = node_key.parse(site.node_key)
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
