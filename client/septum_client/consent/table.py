"""A CSV register of consent, as a hospital keeps it in a spreadsheet.

::

    patient_id,decision,purposes,studies,valid_from,valid_until,commercial
    P1,permit,HRESCH,,2026-01-31,2030-12-31,no
    P2,permit,BIORCH;CLINTRCH,lung-nodules,2026-02-01,,
    P3,withdrawn,,,2026-03-01,,

``patient_id`` and ``decision`` are required; an empty cell sets no limit, but
an empty ``commercial`` permits no commercial use. ``valid_from`` is the day of
the decision. Every column is understood or the table is refused.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Final, get_args

from septum.errors import DataError
from septum.study import PurposeOfUse
from septum_client.consent.decisions import Record, Rule
from septum_client.pseudonyms import plain

COLUMNS: Final = (
    "patient_id", "decision", "purposes", "studies", "valid_from", "valid_until", "commercial",
)  # fmt: skip

_REQUIRED: Final = COLUMNS[:2]
_PERMITS: Final = {"permit": True, "deny": False, "withdrawn": False}
_COMMERCIAL: Final = {"": None, "yes": True, "no": False}
_PURPOSES: Final = frozenset(get_args(PurposeOfUse))
# date.fromisoformat also reads week dates, which no spreadsheet means.
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_WHAT: Final = "a consent CSV"


def read(content: bytes, *, pseudonym: Callable[[str], str]) -> list[Record]:
    """Read one register.

    Args:
      content: UTF-8, comma-separated, one header row.
      pseudonym: From a Patient ID to its keyed pseudonym.

    Raises:
      DataError: Names the row by its number, never by what it says.
    """
    header, body = _rows(content)
    return [
        _record(number, dict(zip(header, cells, strict=True)), pseudonym) for number, cells in body
    ]


def _record(number: int, row: Mapping[str, str], pseudonym: Callable[[str], str]) -> Record:
    patient, decision = row["patient_id"], row["decision"].lower()
    if not plain(patient):
        raise _fault(number, "patient_id", "empty", "Fill it in or delete the row.")
    if decision not in _PERMITS:
        raise _fault(number, "decision", "none of permit, deny and withdrawn", "Write one of them.")
    permits = _PERMITS[decision]
    purposes, studies = _names(row.get("purposes", "")), _names(row.get("studies", ""))
    if purposes and not purposes <= _PURPOSES:
        known = ", ".join(sorted(_PURPOSES))
        raise _fault(number, "purposes", "not all known codes", f"Use {known}, parted by `;`.")
    commercial = row.get("commercial", "").lower()
    if commercial not in _COMMERCIAL:
        raise _fault(number, "commercial", "neither yes nor no", "Write yes, no or nothing.")
    since = _day(number, "valid_from", row.get("valid_from", ""))
    until = _day(number, "valid_until", row.get("valid_until", ""))
    if until and not permits:
        raise _fault(
            number, "valid_until", "filled in beside a denial, which does not lapse",
            "Empty it; when the patient permits again, add a later dated permission.",
        )  # fmt: skip
    if until and since and until < since:
        raise _fault(number, "valid_until", "before valid_from", "Correct one of them.")
    rule = Rule(
        permits=permits,
        purposes=purposes,
        studies=studies,
        valid_from=since,
        valid_until=until,
        commercial=_COMMERCIAL[commercial],
    )
    return Record(pseudonym=pseudonym(patient), rule=rule, dated=since)


def _rows(content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    records: list[list[str]] = []
    fault = ""
    try:
        text = content.decode("utf-8-sig")
        records = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""), strict=True)
        ]
    except (ValueError, csv.Error):
        fault = f"{_WHAT} is not UTF-8 text in comma-separated form."
    # Raised outside the handler: the original error quotes a cell.
    if fault:
        raise DataError(fault, remedy="Save it as a UTF-8, comma-separated CSV.")
    header = records[0] if records else []
    # Nothing of the header is shown: without one, the first row is a patient's.
    if len(set(header)) != len(header) or not set(_REQUIRED) <= set(header) <= set(COLUMNS):
        raise DataError(
            f"{_WHAT} does not have the columns of a register in row 1.",
            remedy=f"Name each once: {', '.join(_REQUIRED)}, and of the others any of "
            f"{', '.join(COLUMNS[2:])}.",
        )
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    for number, cells in body:
        if len(cells) != len(header):
            raise DataError(
                f"row {number} of {_WHAT} has {len(cells)} cells and the header {len(header)}.",
                remedy="Give every row one cell per column.",
            )
    return header, body


def _names(cell: str) -> frozenset[str] | None:
    return frozenset(name.strip() for name in cell.split(";") if name.strip()) or None


def _day(number: int, column: str, cell: str) -> date | None:
    if not cell:
        return None
    try:
        day = date.fromisoformat(cell) if _DATE.fullmatch(cell) else None
    except ValueError:
        day = None
    if day is None:
        raise _fault(number, column, "not a date", "Write it as 2026-01-31.")
    return day


def _fault(number: int, column: str, what: str, remedy: str) -> DataError:
    return DataError(f"row {number}, column {column} of {_WHAT} is {what}.", remedy=remedy)
