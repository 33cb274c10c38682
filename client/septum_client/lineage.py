"""Who was in which round, so that a withdrawal can say what a patient was used for.

The patients of a round are one file of pseudonyms, named by its SHA-256, in
``<site>/rounds/``; the round's debit in the ledger names the file. It is on
the disk before the charge, so every charged round has one, and neither can be
changed without the other. A file that no debit names is of no round.

Who was drawn in a step is not recorded anywhere: that secret is what the
sampling of the mechanism rests on.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from septum.accounting import Charge
from septum_client.site import Site, write_durably

FOLDER: Final = "rounds"
NOTE: Final = "patients"
"""The field of a debit that names the file."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round that was charged.

    ``certain`` is False where the file of its patients is gone or altered:
    then anybody may have been in it.
    """

    study: str
    number: int
    charge: Charge
    delta: float
    released: bool
    certain: bool


def keep(site: Site, pseudonyms: Iterable[str]) -> str:
    """Put the patients of a round on the disk and return the digest that names them.

    Raises:
      DataError: The disk is full or the folder cannot be written.
    """
    content = _content(pseudonyms)
    digest = hashlib.sha256(content).hexdigest()
    folder = site.folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    if _read(folder / digest) != content:
        write_durably(folder / digest, content)
    return digest


def rounds_of(site: Site, pseudonym: str) -> list[Round]:
    """Return the charged rounds that this patient was, or may have been, in; oldest first.

    Raises:
      LedgerError: The ledger is missing or does not verify.
    """
    ledger = site.ledger
    ledger.verify()
    said = [entry.fields for entry in ledger.entries()]
    released = {(f["study"], f["round"]) for f in said if f["kind"] == "release"}
    members: dict[str, frozenset[str] | None] = {}
    found = []
    for fields in said:
        if fields["kind"] != "debit":
            continue
        name = str(fields.get(NOTE))
        if name not in members:
            members[name] = _members(site.folder / FOLDER, name)
        patients = members[name]
        if patients is None or pseudonym in patients:
            found.append(
                Round(
                    study=str(fields["study"]),
                    number=int(fields["round"] or 0),
                    charge=Charge(
                        noise_multiplier=float(fields["noise_multiplier"] or 0),
                        sampling_rate=float(fields["sampling_rate"] or 0),
                        steps=int(fields["steps"] or 0),
                    ),
                    delta=float(fields["delta"] or 0),
                    released=(fields["study"], fields["round"]) in released,
                    certain=patients is not None,
                )
            )
    return found


def _content(pseudonyms: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in sorted(pseudonyms)).encode("ascii")


def _members(folder: Path, digest: str) -> frozenset[str] | None:
    content = _read(folder / digest) if _DIGEST.fullmatch(digest) else None
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        return None
    return frozenset(content.decode("ascii").splitlines())


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
