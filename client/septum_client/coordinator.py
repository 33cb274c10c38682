"""Whom this site joined: one address, the CA of its certificate, and the key that it believes.

``coordinator.toml`` is written once, after a person compared the fingerprint of
the coordinator's key with what was heard over another way. Whatever comes later
is verified by that key; nothing that comes later can change the file. The keys
that the site believes no longer are in ``revoked.txt`` beside it, which outlives
it: leaving a coordinator does not mean to believe its old keys again. A person
may add keys to it; its last line is ``end``, so that half a record is no record.
Whoever may write both files decides whom the site believes: nothing here finds an
older record that is whole.
"""

import re
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Self

import tomlkit
from pydantic import Field, ValidationError, model_validator

from septum.errors import ConfigError, SignatureError, explain
from septum.joining import Address, Invitation, PublicKey, check_certificates
from septum.signing import PUBLIC, fingerprint, says
from septum.toml_text import as_json
from septum.training import Part

FILE: Final = "coordinator.toml"
REVOKED: Final = "revoked.txt"
_HEAD: Final = "# Keys that this site believes no longer, one a line; `end` stays last."
_END: Final = "end"


class Coordinator(Part):
    """What a site keeps of the coordinator that it joined.

    Args:
      address: ``host:port``, the only address that the site speaks to.
      ca: Certificates (PEM), one of which must have signed the address's own.
      key: The coordinator's public signing key.
      septum: Its version of Septum when the invitation was made.
      bundle: SHA-256 of its Flower bundle then.
      accepted: When the fingerprint was compared, ISO 8601.
      revoked: Public keys, of any party, that this site believes no longer. On
        disk they are in ``revoked.txt``; where an older Septum wrote this file
        (format 1), those in it count as well.
    """

    format: Literal[1, 2] = 2
    address: Address
    ca: str = Field(min_length=1, max_length=1 << 16)
    key: PublicKey
    septum: str = Field(max_length=64)
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$")
    accepted: str = Field(min_length=1, max_length=40)
    revoked: tuple[PublicKey, ...] = ()

    @model_validator(mode="after")
    def _public(self) -> Self:
        check_certificates(self.ca)
        return self


def load(folder: Path) -> Coordinator | None:
    """Return whom the site at ``folder`` joined; None if it joined nobody yet.

    Raises:
      ConfigError: The file is damaged, or the record of revoked keys is, or is gone
        or cut off.
    """
    try:
        fields = as_json((folder / FILE).read_text(encoding="utf-8"))
        found = Coordinator.model_validate_json(fields, strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else "it is no TOML text"
        raise ConfigError(
            f"{FILE} cannot be used: {reason}.",
            remedy="Correct the value, or join again by the invitation and the fingerprint.",
        ) from None
    record = _record(folder)
    if record is None:
        raise ConfigError(
            f"{REVOKED}, the record of revoked keys, is gone.",
            remedy="Restore it from a backup; if no key was ever added to it here, make it with "
            f"the one line `{_END}`.",
        )
    keys = dict.fromkeys((*found.revoked, *record))
    return found.model_copy(update={"revoked": tuple(keys)})


def joined(folder: Path) -> Coordinator:
    """Return whom the site at ``folder`` joined.

    Raises:
      ConfigError: It joined nobody yet, or the file is damaged.
    """
    found = load(folder)
    if found is None:
        raise ConfigError(
            "this site has joined no coordinator yet.",
            remedy="Run `septum site join INVITE --fingerprint …` first.",
        )
    return found


def trusted(folder: Path, *, simulated: str | None) -> tuple[str, Collection[str]]:
    """Return the coordinator's key that the site believes, and the keys that it revoked.

    Args:
      folder: The site directory.
      simulated: What a simulated site believes, which joins nobody; None for a hospital's.

    Raises:
      ConfigError: The site joined nobody, or left its coordinator, or a file is
        damaged, cut off or gone.
    """
    if simulated is not None and load(folder) is None and _record(folder) is None:
        return simulated, ()
    found = joined(folder)
    return found.key, found.revoked


def accept(
    folder: Path, invitation: Invitation, *, heard: str, instead: bool, at: datetime
) -> Coordinator:
    """Return what to keep of the coordinator; :func:`keep` keeps it.

    Args:
      folder: The site directory.
      invitation: A verified one.
      heard: The fingerprint that the coordinator told this hospital over another
        way. Empty is enough for the coordinator that the site joined before.
      instead: Leave another coordinator, or another key of the same one, for
        this one; the old key is revoked.
      at: The time, with its zone.

    Raises:
      SignatureError: The fingerprint is not the key's.
      ConfigError: The site joined another coordinator before, or the record of
        revoked keys is damaged or gone.
    """
    known, key = load(folder), invitation.coordinator
    revoked = known.revoked if known else _left(folder)
    if key in revoked:
        raise SignatureError(
            f"the key {fingerprint(key)} is revoked here.",
            remedy="Ask the coordinator for an invitation under its present key.",
        )
    if (heard or known is None or known.key != key) and not says(key, heard):
        raise SignatureError(
            "the fingerprint given is not that of the key that signed this invitation.",
            remedy="Call the coordinator at a number you know, and have the fingerprint read out. "
            "If it still differs, the invitation is not theirs: do not use it.",
        )
    if known is not None and known.key != key:
        if not instead:
            raise ConfigError(
                f"this site joined the coordinator {fingerprint(known.key)} before.",
                remedy="Make another site for another coordinator; or give --instead, which "
                "revokes the old key here.",
            )
        revoked = (*revoked, known.key)
    return Coordinator(
        address=invitation.address,
        ca=invitation.ca,
        key=key,
        septum=invitation.septum,
        bundle=invitation.bundle,
        accepted=at.isoformat(timespec="seconds"),
        revoked=revoked,
    )


def keep(folder: Path, coordinator: Coordinator) -> None:
    """Write ``revoked.txt``, then ``coordinator.toml``: no crash forgets a revoked key."""
    from septum_client.site import write_durably  # noqa: PLC0415 - imports torch; `up` does not

    record = "".join(f"{line}\n" for line in (_HEAD, *coordinator.revoked, _END))
    write_durably(folder / REVOKED, record.encode())
    text = tomlkit.dumps(coordinator.model_dump(mode="json", exclude={"revoked"}) | {"format": 2})
    write_durably(folder / FILE, text.encode())


def _left(folder: Path) -> tuple[str, ...]:
    """Return the keys that a site revoked which has no coordinator now.

    Raises:
      ConfigError: The record is damaged, or gone although studies are approved here.
    """
    record = _record(folder)
    if record is None and any((folder / "approved").glob("*.approval")):
        raise ConfigError(
            f"studies are approved here, and {REVOKED}, the record of revoked keys, is gone.",
            remedy="Restore it from a backup; or delete approved/, join, and approve anew.",
        )
    return record or ()


def _record(folder: Path) -> tuple[str, ...] | None:
    """Return the keys in ``revoked.txt``, one a line; None if there is no such file.

    Raises:
      ConfigError: It is damaged, or its last line is not ``end``.
    """
    try:
        lines = (folder / REVOKED).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError):
        lines = ["?"]
    # An administrator may say in a comment why a key is there.
    keys = tuple(key for line in lines if (key := line.partition("#")[0].strip()))
    if _END not in keys:
        raise ConfigError(
            f"{REVOKED}, the record of revoked keys, is cut off: no line `{_END}` is in it.",
            remedy="Restore it from a backup; if no key is missing from it, add the line "
            f"`{_END}` as its last.",
        )
    if keys.index(_END) != len(keys) - 1:
        raise ConfigError(
            f"{REVOKED} goes on after its line `{_END}`.",
            remedy=f"Move the line `{_END}` to the end: what comes after it would be lost unseen.",
        )
    keys = keys[:-1]
    for number, key in enumerate(keys, start=1):
        if not re.fullmatch(PUBLIC, key):
            raise ConfigError(
                f"key {number} in {REVOKED} is no public key of 64 hex digits.",
                remedy="Correct the line, or restore the file from a backup.",
            )
    return keys
