"""The site's own keys, and the card that says their public halves. Private ones never leave.

``signing.key`` signs approvals, releases and refusals. ``node.key`` lets the
site's connection in at the coordinator's door, and nothing more. Neither
derives from the other, nor from ``key``, by which patients are pseudonymised.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from septum.errors import ConfigError
from septum.joining import SiteCard, make_card
from septum.signing import SigningKey
from septum_client.site import write_durably

SIGNING_KEY: Final = "signing.key"
NODE_KEY: Final = "node.key"
NODE_PUBLIC: Final = "node.pub"
CARD: Final = "site-card.toml"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the site signs with, and the public half of what it connects with."""

    signing: SigningKey
    node_public: str


def make_keys(folder: Path, *, signing: SigningKey | None = None) -> Identity:
    """Write the keys that ``folder`` lacks, each at mode 0600, and return what is there.

    Args:
      folder: The site directory.
      signing: Signs instead of a fresh key; the bench, which must be reproducible, passes it.

    Guarantees:
      - A key that exists is kept.
    """
    if not (folder / SIGNING_KEY).exists():
        (signing or SigningKey.create()).save(folder / SIGNING_KEY)
    if not (folder / NODE_KEY).exists():
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
    remedy = "Restore it from a backup; if it never existed, run `septum site card`."
    try:
        found = load_ssh_private_key((folder / NODE_KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"the site's {NODE_KEY} cannot be read.", remedy=remedy) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"the site's {NODE_KEY} is of another kind.", remedy=remedy)
    if not (folder / SIGNING_KEY).is_file():
        raise ConfigError(f"the site's {SIGNING_KEY} is missing.", remedy=remedy)
    public = found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Identity(signing=SigningKey.load(folder / SIGNING_KEY), node_public=public.decode())


def write_card(folder: Path, *, name: str, patients: int = 0) -> SiteCard:
    """Write ``site-card.toml``, which the hospital sends to the coordinator, and return it.

    Args:
      folder: The site directory.
      name: The site's public name.
      patients: Training patients that the hospital declares; 0 to say nothing yet.

    Raises:
      ConfigError: A key is missing or damaged.
    """
    keys = read_keys(folder)
    card = make_card(keys.signing, name=name, node_key=keys.node_public, patients=patients)
    write_durably(folder / CARD, card.to_toml().encode())
    return card
