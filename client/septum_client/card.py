"""The site's own keys, and the card that says their public halves. Private ones never leave.

``signing.key`` signs approvals, releases and refusals. ``node.key`` lets the
site's connection in at the coordinator's door, and nothing more. Neither
derives from the other, nor from ``key``, by which patients are pseudonymised.
"""

import contextlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from septum import node_key
from septum.errors import ConfigError, SeptumError
from septum.joining import SiteCard, make_card, read_card
from septum.signing import SigningKey
from septum_client.node import NODE_KEY, SECRET
from septum_client.site import write_durably

SIGNING_KEY: Final = "signing.key"
NODE_PUBLIC: Final = "node.pub"
CARD: Final = "site-card.toml"
_RESTORE: Final = "Restore it from a backup; if it never existed, run `septum site card`."


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the site signs with, and what it connects with.

    Args:
      signing: Signs approvals, releases and refusals.
      node_public: Public half of the node key, in OpenSSH's form.
      node: The node key; None where the half that connects has it
        (:mod:`septum_client.halves`).
    """

    signing: SigningKey
    node_public: str
    node: ec.EllipticCurvePrivateKey | None = field(repr=False)


def make_keys(folder: Path, *, signing: SigningKey | None = None) -> Identity:
    """Write the keys that ``folder`` lacks, each at mode 0600, and return what is there.

    Args:
      folder: The site directory.
      signing: Signs instead of a fresh key; the bench, which must be reproducible, passes it.

    Guarantees:
      - A key that exists is kept, also one that the other half of the site has.
    """
    if not (folder / SIGNING_KEY).exists():
        (signing or SigningKey.create()).save(folder / SIGNING_KEY)
    if not (folder / NODE_KEY).exists() and not (folder / SECRET).exists():
        key = ec.generate_private_key(ec.SECP384R1())
        kept = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_durably(folder / NODE_KEY, kept)
    identity = read_keys(folder)
    write_durably(folder / NODE_PUBLIC, f"{identity.node_public}\n".encode())
    return identity


def read_keys(folder: Path) -> Identity:
    """Return the keys of the site at ``folder``.

    Raises:
      ConfigError: One is missing or damaged.
    """
    elsewhere = (folder / SECRET).exists() and not (folder / NODE_KEY).exists()
    name = NODE_PUBLIC if elsewhere else NODE_KEY
    node = None
    try:
        content = (folder / name).read_bytes()
        if elsewhere:
            public = node_key.parse(content.decode().strip())
        else:
            node = parse_node_key(content)
            public = node.public_key()
    except (OSError, ValueError):
        raise ConfigError(f"the site's {name} cannot be read.", remedy=_RESTORE) from None
    if not (folder / SIGNING_KEY).is_file():
        raise ConfigError(f"the site's {SIGNING_KEY} is missing.", remedy=_RESTORE)
    signing = SigningKey.load(folder / SIGNING_KEY)
    return Identity(signing=signing, node_public=node_key.text_of(public), node=node)


def parse_node_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the node key that ``content`` is, as :func:`make_keys` makes one.

    Raises:
      ConfigError: It is no private key in OpenSSH's form, or one of another kind.
    """
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"the site's {NODE_KEY} cannot be read.", remedy=_RESTORE) from None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)):
        raise ConfigError(f"the site's {NODE_KEY} is of another kind.", remedy=_RESTORE)
    return key


def write_card(folder: Path, *, name: str, patients: int = 0) -> SiteCard:
    """Write ``site-card.toml``, which the hospital sends to the coordinator, and return it.

    Args:
      folder: The site directory.
      name: The site's public name.
      patients: Training patients that the hospital declares; 0 to say nothing yet.

    Raises:
      ConfigError: A key is missing or damaged; or the node key is elsewhere, and the
        card that was written while it was here is gone.
    """
    keys = read_keys(folder)
    proof = _proof(folder, keys, name=name)
    card = make_card(
        keys.signing, name=name, node_key=keys.node_public, proof=proof, patients=patients
    )
    write_durably(folder / CARD, card.to_toml().encode())
    return card


def _proof(folder: Path, keys: Identity, *, name: str) -> str:
    """Return the proof of the present card if it still holds, else a new one."""
    with contextlib.suppress(SeptumError):
        proof = read_card(folder / CARD).proof
        if node_key.proved(keys.node_public, proof, site=name, public=keys.signing.public):
            return proof
    if keys.node is None:
        raise ConfigError(
            f"{CARD} is not of these keys, and the {NODE_KEY} that a new one needs is elsewhere.",
            remedy=f"Put {NODE_KEY} back, run `septum site card`, then `septum site split`.",
        )
    return node_key.prove(keys.node, site=name, public=keys.signing.public)


def declared(folder: Path) -> int:
    """Return the patients on the site's own card, of whichever version; 0 if there is none."""
    try:
        said = tomllib.loads((folder / CARD).read_text(encoding="utf-8")).get("patients", 0)
    except (OSError, ValueError):
        return 0
    return said if isinstance(said, int) else 0
