"""A node's key: ECDSA P-384 in OpenSSH's one form, and the proof that whoever names it holds it.

A node key lets a connection in, and its public half is in every study: without
the proof, one hospital's card could name another's.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from septum.signing import Purpose, message


def parse(text: str) -> EllipticCurvePublicKey:
    """Return the key that ``text`` holds in its one form: two texts of one key would be two keys.

    Raises:
      ValueError: It is no ECDSA P-384 key, or is written in another way.
    """
    try:
        key = load_ssh_public_key(text.encode())
    except Exception:  # noqa: BLE001 - the parser raises many kinds, and a foreign file feeds it
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ValueError("is not an ECDSA P-384 public key in OpenSSH's form")
    if text_of(key) != text:
        raise ValueError("is not written as OpenSSH writes it")
    return key


def text_of(key: EllipticCurvePublicKey) -> str:
    """Return the key in OpenSSH's form, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def prove(key: EllipticCurvePrivateKey, *, site: str, public: str) -> str:
    """Return the node key's signature over a site's name and signing key, as hex.

    Args:
      key: The node's.
      site: The site's public name.
      public: The site's public signing key.
    """
    said = message(Purpose.NODE_KEY, {"site": site, "key": public})
    return key.sign(said, ECDSA(SHA384())).hex()


def proved(text: str, proof: str, *, site: str, public: str) -> bool:
    """Tell whether ``proof`` is the signature of the node key ``text`` over this site and key."""
    said = message(Purpose.NODE_KEY, {"site": site, "key": public})
    try:
        parse(text).verify(bytes.fromhex(proof), said, ECDSA(SHA384()))
    except (ValueError, InvalidSignature):
        return False
    return True
