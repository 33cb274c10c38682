"""The ledger's hash chain: append, verify, export. No files, no clock, no state.

Each entry's hash covers the one before it, so a changed, removed, inserted or
reordered entry breaks every hash after it (Haber and Stornetta 1991). Cutting
off the end is caught by comparing the head with the one that the other side
recorded with the last release.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from septum.errors import LedgerError

ROOT: Final = "0" * 64
"""The hash that the first entry follows."""

Value = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a ledger.

    ``body`` is canonical JSON; ``digest`` is SHA-256 over sequence number,
    ``previous`` and ``body``, as 64 hex digits.
    """

    sequence: int
    previous: str
    body: str
    digest: str

    @property
    def fields(self) -> dict[str, Value]:
        """The body, parsed."""
        parsed: dict[str, Value] = json.loads(self.body)
        return parsed


def append(head: Entry | None, fields: Mapping[str, Value]) -> Entry:
    """Return the entry that follows ``head`` (``None`` for the first) and says ``fields``.

    >>> first = append(None, {"kind": "genesis"})
    >>> verify([first, append(first, {"kind": "debit"})]).sequence
    1
    """
    sequence = 0 if head is None else head.sequence + 1
    previous = ROOT if head is None else head.digest
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Entry(
        sequence=sequence, previous=previous, body=body, digest=_digest(sequence, previous, body)
    )


def verify(entries: Iterable[Entry], *, head: str | None = None) -> Entry:
    """Return the last entry of an unbroken chain.

    Args:
      entries: All entries, first to last.
      head: The digest that the chain must pass through, if another party
        recorded one: a chain cut short before it is refused.

    Raises:
      LedgerError: Empty, altered, reordered, or cut short; names the entry.
    """
    last: Entry | None = None
    passed = head is None
    for entry in entries:
        expected = 0 if last is None else last.sequence + 1
        previous = ROOT if last is None else last.digest
        if (
            entry.sequence != expected
            or entry.previous != previous
            or entry.digest != _digest(entry.sequence, entry.previous, entry.body)
        ):
            raise LedgerError(
                f"the ledger is broken at entry {expected}.",
                remedy="Restore it from a backup and compare its head with the coordinator's.",
            )
        passed = passed or entry.digest == head
        last = entry
    if last is None:
        raise LedgerError("the ledger is empty.", remedy="Restore it from a backup.")
    if not passed:
        raise LedgerError(
            f"the ledger ends at entry {last.sequence}, before the head recorded elsewhere.",
            remedy="Restore the longer copy; do not train on this one.",
        )
    return last


def export(entries: Iterable[Entry]) -> str:
    """Return the chain as JSON lines, for :func:`parse` and any auditor."""
    return "".join(
        json.dumps(
            {"sequence": e.sequence, "previous": e.previous, "body": e.body, "digest": e.digest},
            sort_keys=True,
        )
        + "\n"
        for e in entries
    )


def parse(text: str) -> list[Entry]:
    """Read what :func:`export` wrote; the chain is not verified here.

    Raises:
      LedgerError: A line that is not an entry; names it.
    """
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            fields = json.loads(line)
            entry = Entry(**fields)
            well_typed = isinstance(entry.sequence, int) and all(
                isinstance(part, str) for part in (entry.previous, entry.body, entry.digest)
            )
        except (ValueError, TypeError):
            well_typed = False
        if not well_typed:
            raise LedgerError(
                f"line {number} of the ledger is not an entry.", remedy="Export it again."
            )
        entries.append(entry)
    return entries


def _digest(sequence: int, previous: str, body: str) -> str:
    text = f"{sequence}\n{previous}\n{body}"
    # A tampered export can hold half a surrogate pair, which strict UTF-8 cannot hash.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
