"""What a hospital and a coordinator hand each other before a study: public files, no secret.

A :class:`SiteCard` goes to the coordinator, an :class:`Invitation` comes back.
Both travel by any way, mail included: neither is believed for how it came. Each
is signed by the key that it names, so nothing in it can be changed on the way
without changing that key too, and a person compares the key's fingerprint,
heard over another way.
"""

import json
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

import tomlkit
from pydantic import Field, ValidationError, model_validator

from septum import __version__
from septum.errors import ConfigError, SignatureError, explain
from septum.fab import fab_digest
from septum.node_key import proved
from septum.participants import WHOLE_KEY, Name
from septum.signing import PUBLIC, Purpose, SigningKey, Value, verify
from septum.toml_text import TomlError, as_json
from septum.training import Part

MOST_BYTES: Final = 4 << 20
"""Largest file read here: a study and two certificates take a hundredth of it."""

_MOST_CERTIFICATES: Final = 4  # while a coordinator changes its CA, the old and the new one
_SIGNATURE: Final = r"^[0-9a-f]{128}$"
_Signed = TypeVar("_Signed", "SiteCard", "Invitation")

PublicKey = Annotated[str, Field(pattern=PUBLIC)]
"""An Ed25519 public key: 32 bytes, as 64 hex digits."""

NodeKey = Annotated[
    str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]{100,300}={0,2}$"), WHOLE_KEY
]
"""An ECDSA P-384 public key in OpenSSH's form, without a comment."""

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}):[0-9]{1,5}$")]
"""A host's name or IPv4 address, and a port."""


class SiteCard(Part):
    """What a hospital tells a coordinator of itself; made by :func:`make_card`.

    Args:
      name: Its public name.
      key: What its approvals and releases are verified by.
      node_key: What its connection is let in by.
      patients: The training patients that it declares, a public constant
        rounded by the hospital; 0 while it has not said.
      proof: Of ``node_key`` over name and ``key`` (:mod:`septum.node_key`): that it is
        this hospital's own, and not copied from another's card.
      signature: Of ``key`` over the rest.
    """

    format: Literal[2] = 2
    name: Name
    key: PublicKey
    node_key: NodeKey
    proof: str = Field(pattern=r"^([0-9a-f]{2}){64,110}$")
    patients: int = Field(0, ge=0, le=100_000_000)
    signature: str = Field(pattern=_SIGNATURE)

    def to_toml(self) -> str:
        """Return the card as TOML that :func:`read_card` reads back."""
        return tomlkit.dumps(self.model_dump(mode="json"))


class Invitation(Part):
    """What a coordinator hands one hospital; made by :func:`make_invitation`.

    Args:
      site: The hospital that it is for.
      address: The one address that the hospital will speak to.
      ca: Certificates (PEM), one of which the address's own must be signed by.
      coordinator: What this invitation, the study and each instruction are verified by.
      study: The signed study, as the TOML of :mod:`septum.signed_study`.
      septum: The coordinator's version of Septum.
      bundle: SHA-256 of its Flower bundle (:mod:`septum.fab`), which a hospital compares
        with its own: different versions of Septum may make different ones.
      signature: Of ``coordinator`` over the rest.
    """

    format: Literal[1] = 1
    site: Name
    address: Address
    ca: str = Field(min_length=100, max_length=1 << 16)
    coordinator: PublicKey
    study: str = Field(min_length=1, max_length=1 << 20)
    septum: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,64}$")
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=_SIGNATURE)

    @model_validator(mode="after")
    def _public(self) -> Self:
        check_certificates(self.ca)
        if not 0 < port_of(self.address) < 1 << 16:
            raise ValueError(f"address has port {port_of(self.address)}; it must be 1 to 65535")
        return self

    def to_toml(self) -> str:
        """Return the invitation as TOML that :func:`read_invitation` reads back."""
        return tomlkit.dumps(self.model_dump(mode="json"))


def make_card(
    key: SigningKey, *, name: str, node_key: str, proof: str, patients: int = 0
) -> SiteCard:
    """Return the card of the hospital that signs with ``key``.

    Args:
      key: The hospital's.
      name: Its public name.
      node_key: Public half of its node key, in OpenSSH's form.
      proof: From :func:`septum.node_key.prove`.
      patients: Training patients that it declares; 0 to say nothing yet.

    Raises:
      ConfigError: A value is not of its form.
    """
    fields: dict[str, Value] = {
        "format": 2, "name": name, "key": key.public, "node_key": node_key, "proof": proof,
        "patients": patients,
    }  # fmt: skip
    return _parse(SiteCard, _signed(key, Purpose.SITE_CARD, fields), source="the site card")


def make_invitation(key: SigningKey, *, site: str, address: str, ca: str, study: str) -> Invitation:
    """Return the invitation of ``site`` by the coordinator that signs with ``key``.

    Args:
      key: The coordinator's.
      site: The hospital's public name.
      address: ``host:port`` of the edge, as hospitals reach it.
      ca: The CA's certificate, PEM.
      study: The signed study, as TOML.

    Raises:
      ConfigError: A value is not of its form.
    """
    fields: dict[str, Value] = {
        "format": 1, "site": site, "address": address, "ca": ca, "coordinator": key.public,
        "study": study, "septum": __version__, "bundle": fab_digest(),
    }  # fmt: skip
    return _parse(Invitation, _signed(key, Purpose.INVITATION, fields), source="the invitation")


def read_card(path: Path) -> SiteCard:
    """Read a site's card; whose it is, only the fingerprint of its key tells.

    Guarantees:
      - Whoever holds the card's signing key held its node key as well.

    Raises:
      ConfigError: It cannot be read, is of an older Septum, or is no card; names the key.
      SignatureError: Something in it was changed, or the node key is somebody else's.
    """
    fields = _read(path, what="site card")
    if json.loads(fields).get("format") == 1:
        raise ConfigError(
            f"{path.name} was made by an older Septum and does not prove its node key.",
            remedy="Let the hospital run `septum site card` and send the new file.",
        )
    card = _parse(SiteCard, fields, source=path.name)
    _verify(card, card.key, Purpose.SITE_CARD)
    if not proved(card.node_key, card.proof, site=card.name, public=card.key):
        raise SignatureError(
            f"{card.name} does not hold the node key on its card.",
            remedy="Accept no such card: ask that hospital, over another channel, for its own.",
        )
    return card


def read_invitation(path: Path) -> Invitation:
    """Read an invitation; whose it is, only the fingerprint of ``coordinator`` tells.

    Raises:
      ConfigError: It cannot be read, or is no invitation; names the key.
      SignatureError: Something in it was changed.
    """
    invitation = _parse(Invitation, _read(path, what="invitation"), source=path.name)
    _verify(invitation, invitation.coordinator, Purpose.INVITATION)
    return invitation


def host_of(address: str) -> str:
    """Return the host of ``host:port``."""
    return address.rpartition(":")[0]


def port_of(address: str) -> int:
    """Return the port of ``host:port``."""
    return int(address.rpartition(":")[2])


def check_certificates(pem: str) -> None:
    """Pass when ``pem`` holds certificates and no private key.

    Raises:
      ValueError: It does not.
    """
    # A kit that carries a private key was made wrongly, and whoever forwarded it holds the key.
    if "PRIVATE KEY" in pem:
        raise ValueError("ca holds a private key; no private key belongs into any kit")
    found = pem.count("-----BEGIN CERTIFICATE-----")
    if not 1 <= found <= _MOST_CERTIFICATES:
        raise ValueError(f"ca holds {found} certificates; 1 to {_MOST_CERTIFICATES} are read")


def _signed(key: SigningKey, purpose: Purpose, fields: dict[str, Value]) -> str:
    return json.dumps(fields | {"signature": key.sign(purpose, fields)})


def _verify(said: SiteCard | Invitation, public: str, purpose: Purpose) -> None:
    try:
        verify(public, purpose, said.model_dump(exclude={"signature"}), said.signature)
    except SignatureError:
        raise SignatureError(
            f"this {purpose} was changed after it was made.",
            remedy="Ask for it again, as a file, and open it with nothing but Septum.",
        ) from None


def _read(path: Path, *, what: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                f"{path.name} is above {MOST_BYTES >> 20} MiB.", remedy=f"Name a {what}."
            )
        return as_json(content.decode())
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error.strerror}).", remedy=f"Name a readable {what}."
        ) from None
    except (UnicodeDecodeError, TomlError):
        raise ConfigError(
            f"{path.name} is no TOML text.", remedy=f"Ask for the {what} again, as a file."
        ) from None


def _parse(kind: type[_Signed], fields: str, *, source: str) -> _Signed:
    try:
        return kind.model_validate_json(fields, strict=True)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {explain(error)}.", remedy="Correct that value, or ask for the file again."
        ) from None
