"""The site's ledger on disk: debit before training, exactly once, in a hash chain.

What a debit may cost is :mod:`septum_client.spending`'s rule; this module keeps it
true on a disk. SQLite with full synchronisation: when :meth:`Ledger.debit` returns, the charge
is on the disk, so a crash at any later point never under-counts. A round that
was charged and not released is lost, not repeated: trained again it would
draw different noise on the same charge.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from septum import ledger
from septum.accounting import Charge
from septum.errors import Code, LedgerError, Refusal
from septum.ledger import Entry, Value
from septum_client import spending
from septum_client.spending import Limits

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
  sequence INTEGER PRIMARY KEY,
  previous TEXT NOT NULL,
  body     TEXT NOT NULL,
  digest   TEXT NOT NULL,
  once     TEXT NOT NULL UNIQUE
);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries
  BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries
  BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
"""


class Ledger:
    """A site's budget ledger.

    Guarantees:
      - Entries are only ever appended, each durable before the call returns.
      - One debit and one release per (study, round), whatever crashes, retries
        or processes there are.
      - Nothing is appended to a chain that does not verify.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def debit(
        self,
        *,
        study: str,
        round: int,
        instruction: str,
        charge: Charge,
        limits: Limits,
        at: datetime,
        note: Mapping[str, Value],
    ) -> Entry | None:
        """Charge one round before it is trained.

        Args:
          study: Digest of the study.
          round: Round number, from 1.
          instruction: Digest of the instruction that the round answers.
          charge: What the round runs; see :func:`septum_client.spending.next_charge` for
            what it is charged.
          limits: The site's limits.
          at: Time, with its zone: for the record, and for the limit of a year.
          note: More fields of the record.

        Returns:
          ``None`` if the round was charged now and may train; the release entry
          if the same instruction was answered before, to be sent again.

        Raises:
          BudgetExceeded: The round would pass a limit; nothing was charged.
          Refusal: With :attr:`Code.ROUND_ALREADY_CHARGED`, if the round was charged
            and not released, or released for another instruction.
          LedgerError: The chain does not verify.
        """
        with self._transaction() as database:
            entries = _read(database)
            ledger.verify(entries)
            said = [entry.fields for entry in entries]
            for entry, fields in zip(entries, said, strict=True):
                if (fields["kind"], fields.get("study"), fields.get("round")) == (
                    "release",
                    study,
                    round,
                ) and fields["instruction"] == instruction:
                    return entry
            if any(
                f["kind"] == "debit" and f["study"] == study and f["round"] == round for f in said
            ):
                raise Refusal(
                    Code.ROUND_ALREADY_CHARGED,
                    f"round {round} was charged before and cannot be trained again.",
                    remedy="Let the study go on with the next round.",
                )
            charged = spending.next_charge(said, study=study, charge=charge, limits=limits, now=at)
            _append(
                database,
                entries[-1],
                {
                    "kind": "debit",
                    "study": study,
                    "round": round,
                    "instruction": instruction,
                    "noise_multiplier": charged.noise_multiplier,
                    "sampling_rate": charged.sampling_rate,
                    "steps": charged.steps,
                    "at": at.isoformat(timespec="seconds"),
                    **note,
                },
            )
        return None

    def record_release(self, fields: Mapping[str, Value]) -> Entry:
        """Append the release of a debited round and return its entry.

        Raises:
          LedgerError: The round was never debited, or was released before.
        """
        with self._transaction() as database:
            entries = _read(database)
            ledger.verify(entries)
            key = (fields["study"], fields["round"])
            kinds = {
                e.fields["kind"]
                for e in entries
                if (e.fields.get("study"), e.fields.get("round")) == key
            }
            if kinds != {"debit"}:
                raise LedgerError(
                    f"round {fields['round']} cannot be released: it was not debited, or it "
                    "was released before.",
                    remedy="Only a round that was debited once is released, once.",
                )
            return _append(database, entries[-1], {"kind": "release", **fields})

    def entries(self) -> list[Entry]:
        """Return all entries, first to last."""
        with self._connection() as database:
            return _read(database)

    def verify(self, *, head: str | None = None) -> Entry:
        """Return the head of the verified chain; see :func:`septum.ledger.verify`."""
        return ledger.verify(self.entries(), head=head)

    def charges(self, study: str | None = None) -> list[Charge]:
        """Return what was charged, for one study or for all."""
        return spending.charges(self.said(), study=study)

    def said(self) -> list[dict[str, Value]]:
        """Return the fields of all entries, first to last."""
        return [entry.fields for entry in self.entries()]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self._path.exists():
                _begin(self._path)
            database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = EXTRA")
                tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'")
                if not tables.fetchone():
                    # What a failed copy or restore leaves behind is not a fresh budget.
                    raise LedgerError(
                        "the ledger's file holds no ledger.",
                        remedy="Restore it from a backup; what was spent is in it.",
                    )
                yield database
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"the ledger cannot be used ({error}).",
                remedy="Check disk space and permissions, or restore it from a backup.",
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


def _begin(path: Path) -> None:
    """Make a ledger that holds its first entry, whole or not at all, whoever else tries."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        # Made private before SQLite can make it readable to others.
        draft.touch(mode=0o600)
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            # The nonce keeps every later digest from being guessed from its contents.
            _append(database, None, {"kind": "genesis", "nonce": secrets.token_hex(32)})
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _read(database: sqlite3.Connection) -> list[Entry]:
    rows = database.execute(
        "SELECT sequence, previous, body, digest FROM entries ORDER BY sequence"
    )
    return [
        Entry(sequence=row[0], previous=row[1], body=row[2], digest=row[3])
        for row in rows.fetchall()
    ]


def _append(database: sqlite3.Connection, head: Entry | None, fields: Mapping[str, Value]) -> Entry:
    entry = ledger.append(head, fields)
    once = json.dumps([fields["kind"], fields.get("study"), fields.get("round")])
    database.execute(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
        (entry.sequence, entry.previous, entry.body, entry.digest, once),
    )
    return entry
