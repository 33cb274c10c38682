"""Ed25519 over a purpose and a few plain values: who said what, checked offline.

A statement is a flat table of text, whole numbers, floats and truth values. What
is signed is its canonical JSON behind the purpose, so that a signature made for
one purpose is worth nothing for another (domain separation; RFC 8032 for the
scheme itself). Keys are kept by the party that made them: a hospital's never
leaves it, a coordinator's stays in its folder.
"""

import base64
import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from septum.durable import replace
from septum.errors import ConfigError, SignatureError

Value = str | int | float | bool

PUBLIC: Final = r"^[0-9a-f]{64}$"
"""The form of a public key: 32 bytes as hex."""

_PUBLIC: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_OTHERS: Final = 0o077
_LARGEST: Final = 4096
# Crockford's letters without I, L, O and U: nothing in them is misread or misheard for a digit.
_LETTERS: Final = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)
_SPOKEN: Final = str.maketrans("OIL", "011", " -\t")
_GROUPS: Final = 5


class Purpose(StrEnum):
    """What a signature is for. One made for a purpose verifies for no other."""

    STUDY = "study"
    APPROVAL = "approval"
    INSTRUCTION = "instruction"
    RELEASE = "release"
    REFUSAL = "refusal"
    SITE_CARD = "site card"
    NODE_KEY = "node key"
    INVITATION = "invitation"
    OFFLINE_BUNDLE = "offline bundle"


@dataclass(frozen=True)
class SigningKey:
    """A secret Ed25519 key. Its bytes are in no ``repr``, log or argument list."""

    _secret: Ed25519PrivateKey = field(repr=False)

    @staticmethod
    def create() -> "SigningKey":
        """Return a fresh key of the system's generator."""
        return SigningKey(Ed25519PrivateKey.generate())

    @staticmethod
    def from_seed(seed: bytes) -> "SigningKey":
        """Return the key of 32 known bytes; for the bench alone, which must be reproducible.

        Raises:
          ConfigError: Not 32 bytes.
        """
        if len(seed) != 32:
            raise ConfigError(f"a key's seed has {len(seed)} bytes and needs 32.")
        return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))

    @staticmethod
    def load(path: Path) -> "SigningKey":
        """Read what :meth:`save` wrote.

        Raises:
          ConfigError: Missing, no Ed25519 key, or readable by others than its owner.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(path.stat().st_mode)
                content = file.read(_LARGEST)
        except OSError as error:
            raise ConfigError(
                f"{path.name} cannot be read ({error.strerror}).",
                remedy="Restore it from a backup; a new key is a new identity.",
            ) from None
        if mode & _OTHERS:
            raise ConfigError(
                f"{path.name} can be read by others (mode {mode:03o}; the limit is 600).",
                remedy=f"Run `chmod 600 {path.name}`, and ask whether others read it.",
            )
        try:
            secret = load_pem_private_key(content, password=None)
        except (ValueError, TypeError):
            secret = None
        if not isinstance(secret, Ed25519PrivateKey):
            raise ConfigError(
                f"{path.name} holds no Ed25519 key.", remedy="Restore it from a backup."
            )
        return SigningKey(secret)

    def save(self, path: Path) -> None:
        """Write the key as PKCS 8 PEM at mode 0600, whole or not at all, and fsync it.

        Raises:
          ConfigError: ``path`` exists, since overwriting would lose an identity, or
            cannot be written.
        """
        if path.exists():
            raise ConfigError(
                f"{path.name} exists already.", remedy="Use that key, or choose another folder."
            )
        content = self._secret.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )  # the file's mode protects it; a passphrase would have to lie beside it
        try:
            replace(path, lambda file: file.write(content))
        except OSError as error:
            raise ConfigError(
                f"{path.name} could not be written ({error.strerror}).",
                remedy="Free disk space or correct the folder's permissions, then run again.",
            ) from None

    @property
    def public(self) -> str:
        """The public key, as 64 hex digits."""
        return self._secret.public_key().public_bytes_raw().hex()

    def sign(self, purpose: Purpose, statement: Mapping[str, Value]) -> str:
        """Return the signature of ``statement`` for ``purpose``, as 128 hex digits.

        Guarantees:
          - Deterministic (RFC 8032, section 5.1.6): saying the same again gives the
            same bytes.

        Raises:
          SignatureError: The statement holds a float that is not finite, or
            anything but plain values.
        """
        return self._secret.sign(message(purpose, statement)).hex()


def verify(public: str, purpose: Purpose, statement: Mapping[str, Value], signature: str) -> None:
    """Accept ``signature`` as that of ``public`` over exactly this statement and purpose.

    >>> key = SigningKey.from_seed(bytes(32))
    >>> said = {"round": 1}
    >>> verify(key.public, Purpose.RELEASE, said, key.sign(Purpose.RELEASE, said))

    Raises:
      SignatureError: It is not; why is not told apart.
    """
    formed = _PUBLIC.fullmatch(public) and _SIGNATURE.fullmatch(signature)
    try:
        if not formed:
            raise InvalidSignature
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message(purpose, statement))
    except (InvalidSignature, ValueError):
        raise SignatureError(
            f"the signature of this {purpose} is not of the key that should have made it.",
            remedy="Ask the sender over another channel which key is theirs.",
        ) from None


def fingerprint(public: str) -> str:
    """Return 100 bits of the key's SHA-256 in five groups of four, to be read aloud.

    >>> fingerprint("00" * 32)
    'CSM7-NBFR-CAYQ-EV4F-R65R'

    Raises:
      SignatureError: Not the form of a public key.
    """
    if not _PUBLIC.fullmatch(public):
        raise SignatureError("a public key has 64 hex digits.", remedy="Copy the whole key.")
    digest = hashlib.sha256(bytes.fromhex(public)).digest()
    text = base64.b32encode(digest).decode("ascii").translate(_LETTERS)
    return "-".join(text[4 * group : 4 * group + 4] for group in range(_GROUPS))


def says(public: str, spoken: str) -> bool:
    """Tell whether what a person typed is the fingerprint of ``public``, the whole of it.

    Case, spaces and hyphens do not count, and O, I and L are the digits they look like.
    """
    return spoken.upper().translate(_SPOKEN) == fingerprint(public).replace("-", "")


def message(purpose: Purpose, statement: Mapping[str, Value]) -> bytes:
    """Return the bytes that a signature of ``statement`` for ``purpose`` is made over.

    Raises:
      SignatureError: The statement holds a float that is not finite, or
        anything but plain values.
    """
    for name, value in statement.items():
        plain = type(value) in {str, int, float, bool}
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            raise SignatureError(f"{name} is not a plain, finite value and cannot be signed.")
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"septum/1 {purpose.value}\n{text}".encode()
