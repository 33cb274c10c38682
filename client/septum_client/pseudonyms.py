"""Keyed hashes of identifiers: HMAC-SHA256 under a key that never leaves the site.

An unkeyed hash of a Patient ID is found by trying all IDs. Each purpose is
part of the hashed text, so a hash made for one says nothing about another.
"""

import hashlib
import hmac
from typing import Final

from septum.errors import ConfigError

MIN_KEY_BYTES: Final = 16
HEX_CHARACTERS: Final = 32


def require_key(key: bytes) -> None:
    """Pass when ``key`` is long enough to hide identifiers.

    Raises:
      ConfigError: It is shorter than 16 bytes.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"key has {len(key)} bytes and must have at least {MIN_KEY_BYTES}.",
            remedy="Use the site key that `septum site init` made.",
        )


def pseudonym(key: bytes, patient_id: str) -> str:
    """Return the name a patient has inside this site: 32 hex characters."""
    return _keyed(key, "patient", patient_id).hex()[:HEX_CHARACTERS]


def image_pseudonym(key: bytes, sop_instance_uid: str) -> bytes:
    """Return 32 bytes that order a patient's images without telling their age."""
    return _keyed(key, "image", sop_instance_uid)


def linkage(linkage_key: bytes, patient_id: str) -> str:
    """Return 32 hex characters that are equal at all sites which share ``linkage_key``."""
    return _keyed(linkage_key, "linkage", patient_id).hex()[:HEX_CHARACTERS]


def is_held_out(key: bytes, patient_id: str, fraction: float) -> bool:
    """Return whether a patient is in the test split.

    Guarantees:
      - It depends on the key, the patient and the fraction alone: another
        patient who joins or leaves never moves this one, and a larger
        fraction only adds to the test split.
    """
    return int.from_bytes(_keyed(key, "split", patient_id)[:8], "big") < fraction * 2**64


def _keyed(key: bytes, purpose: str, text: str) -> bytes:
    return hmac.digest(key, f"{purpose}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256)
