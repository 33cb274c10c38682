"""Keyed hashes of identifiers: HMAC-SHA256 under a key that never leaves the site.

An unkeyed hash of a Patient ID is found by trying all IDs. Each purpose is
part of the hashed text, so a hash made for one says nothing about another.

A pseudonym and a UID that this site made carry a check that only the key can
compute. A file that was de-identified here is therefore recognised, and
de-identifying it again changes nothing.
"""

import hashlib
import hmac
import re
import unicodedata
from typing import Final

from septum.errors import ConfigError

MIN_KEY_BYTES: Final = 16
HEX_CHARACTERS: Final = 32

_NAME_CHARACTERS: Final = 24
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")
_UID_BYTES: Final = 12
_CHECK_BYTES: Final = 4
_UUID_ROOT: Final = "2.25."  # PS3.5 B.2: one integer of at most 128 bits follows
_UUID_DIGITS: Final = 39


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
    """Return the name a patient has inside this site: 32 hex characters.

    Guarantees:
      - A pseudonym of this key is its own pseudonym.
      - Another text passes for one with probability 2^-32.
      - Blanks around an ID, and how its accents are composed, make no other
        patient: registers, labels and images are typed by different hands.
        Upper and lower case do.
    """
    patient_id = plain(patient_id)
    if is_own(key, patient_id):
        return patient_id
    name = _keyed(key, "patient", patient_id).hex()[:_NAME_CHARACTERS]
    return name + _check(key, "own patient", name).hex()


def plain(patient_id: str) -> str:
    r"""Return an ID in Unicode's form C, without the characters around it that nobody sees.

    >>> plain(" MRN 7\t\u200b"), plain("\u00a0")
    ('MRN 7', '')
    """
    composed = unicodedata.normalize("NFC", patient_id)
    return composed.strip("".join(filter(_is_unseen, set(composed))))


def _is_unseen(character: str) -> bool:
    # Controls and formats; a null character is one.
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}


def looks_own(patient_id: str) -> bool:
    """Return whether an ID has the form of a pseudonym, of whichever key."""
    return _PSEUDONYM.fullmatch(patient_id) is not None


def is_own(key: bytes, patient_id: str) -> bool:
    """Return whether ``patient_id`` is a pseudonym that this key made."""
    name, check = patient_id[:_NAME_CHARACTERS], patient_id[_NAME_CHARACTERS:]
    return len(patient_id) == HEX_CHARACTERS and hmac.compare_digest(
        check.encode("utf-8", "surrogatepass"), _check(key, "own patient", name).hex().encode()
    )


def uid(key: bytes, original: str) -> str:
    """Return the UID that stands for ``original``: ``2.25.`` and an integer (PS3.5 B.2).

    Guarantees:
      - The same at every run under one key; unlinkable under another.
      - A UID that this key made is returned as it is.
    """
    if _is_own_uid(key, original):
        return original
    name = _keyed(key, "uid", original)[:_UID_BYTES]
    return _UUID_ROOT + str(int.from_bytes(name + _check(key, "own uid", name.hex()), "big"))


def image_pseudonym(key: bytes, sop_instance_uid: str) -> bytes:
    """Return 32 bytes that order a patient's images without telling their age.

    Guarantees:
      - The same for an image and for what de-identification made of it.
    """
    return _keyed(key, "image", uid(key, sop_instance_uid))


def keyed_number(key: bytes, purpose: str, text: str) -> int:
    """Return 64 bits that depend on the key, the purpose and the text alone."""
    return int.from_bytes(_keyed(key, purpose, text)[:8], "big")


def key_check(key: bytes) -> str:
    """Return 16 hex characters that tell whether data was made under ``key``, and nothing else."""
    return f"{keyed_number(key, 'key check', ''):016x}"


def linkage(linkage_key: bytes, patient_id: str) -> str:
    """Return 32 hex characters that are equal at all sites which share ``linkage_key``."""
    return _keyed(linkage_key, "linkage", plain(patient_id)).hex()[:HEX_CHARACTERS]


def is_held_out(key: bytes, patient_id: str, fraction: float) -> bool:
    """Return whether a patient is in the test split.

    Guarantees:
      - It depends on the key, the patient and the fraction alone: another
        patient who joins or leaves never moves this one, and a larger
        fraction only adds to the test split.
      - A patient and the patient's own pseudonym are in the same split.
    """
    return keyed_number(key, "split", pseudonym(key, patient_id)) < fraction * 2**64


def _is_own_uid(key: bytes, text: str) -> bool:
    digits = text.removeprefix(_UUID_ROOT)
    if digits == text or len(digits) > _UUID_DIGITS or not (digits.isascii() and digits.isdigit()):
        return False
    number = int(digits)
    if str(number) != digits or number >> 8 * (_UID_BYTES + _CHECK_BYTES):
        return False
    whole = number.to_bytes(_UID_BYTES + _CHECK_BYTES, "big")
    name, check = whole[:_UID_BYTES], whole[_UID_BYTES:]
    return hmac.compare_digest(check, _check(key, "own uid", name.hex()))


def _check(key: bytes, purpose: str, name: str) -> bytes:
    return _keyed(key, purpose, name)[:_CHECK_BYTES]


def _keyed(key: bytes, purpose: str, text: str) -> bytes:
    return hmac.digest(key, f"{purpose}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256)
