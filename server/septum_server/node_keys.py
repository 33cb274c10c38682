"""Which SuperNodes the edge knows, and whether a request is signed by one of them."""

import base64
import binascii
import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from septum import node_key
from septum.durable import replace
from septum.errors import ConfigError

FILE: Final = "nodes.json"
"""In the coordinator's folder: the public node keys that are let in, with their sites' names."""

OLDEST: Final = timedelta(seconds=300)
"""How old a signed time may be, and how far ahead: Flower's own limit."""

_KEY: Final = b"flwr-public-key"
_TIME: Final = b"flwr-timestamp"
_SIGNATURE: Final = b"flwr-signature"


def pem_of(openssh: str) -> bytes:
    """Return an ECDSA public key as Flower sends it.

    Raises:
      ConfigError: It is not one in OpenSSH's form.
    """
    try:
        key = node_key.parse(openssh)
    except ValueError:
        raise ConfigError(
            "a site's node key is not in OpenSSH's form.", remedy="Take it from the site's card."
        ) from None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def openssh_of(pem: bytes) -> str:
    """Return the key in OpenSSH's form, without a comment; the counterpart of :func:`pem_of`."""
    key: Any = load_pem_public_key(pem)
    return node_key.text_of(key)


def save(folder: Path, keys: Mapping[str, str]) -> None:
    """Write which keys are let in, with their sites' names, for :class:`NodeKeys` to find."""
    text = json.dumps(dict(keys), sort_keys=True).encode()
    replace(folder / FILE, lambda file: file.write(text))


class NodeKeys:
    """The keys of :func:`save`, read again when the file has changed.

    Args:
      folder: The coordinator's.

    Guarantees:
      - Without the file nobody is known.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._seen: tuple[int, int] | None = None
        self._keys: dict[bytes, ec.EllipticCurvePublicKey] = {}

    def signed(self, headers: Iterable[tuple[bytes, bytes]], *, now: datetime) -> bool:
        """Whether Flower's three headers are a known key's signature of about this time."""
        self._read()
        said = dict(headers)
        try:
            key = self._keys.get(base64.b64decode(said[_KEY], validate=True))
            at = datetime.fromisoformat(said[_TIME].decode("ascii"))
            signature = base64.b64decode(said[_SIGNATURE], validate=True)
            if key is None or abs(now - at.replace(tzinfo=at.tzinfo or UTC)) > OLDEST:
                return False
            key.verify(signature, said[_TIME], ec.ECDSA(SHA256()))
        except (KeyError, ValueError, OverflowError, binascii.Error, InvalidSignature):
            return False
        return True

    def _read(self) -> None:
        try:
            about = self._path.stat()
            seen = (about.st_mtime_ns, about.st_ino)
            if seen == self._seen:
                return
            named = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._seen, self._keys = None, {}
            return
        loaded = {}
        for key in named:
            # One hospital's bad key must not lock the others out.
            with contextlib.suppress(ConfigError):
                pem = pem_of(key)
                loaded[pem] = load_pem_public_key(pem)
        self._keys = {
            pem: key for pem, key in loaded.items() if isinstance(key, ec.EllipticCurvePublicKey)
        }
        self._seen = seen
