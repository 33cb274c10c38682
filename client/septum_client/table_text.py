"""Which CSV of a source is which, and its rows: no cell is judged, and none is shown."""

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Final

from septum.errors import DataError
from septum_client import sources

LABELS: Final = "labels.csv"
SEGMENTS: Final = "segments.csv"
MAX_BYTES: Final = 256 * 2**20

Body = list[tuple[int, list[str]]]
"""Rows by the number that a spreadsheet shows."""


def find(source: Path) -> Path:
    """Return ``labels.csv`` at the top of ``source``, else the only CSV there.

    ``segments.csv`` is none of them.

    Raises:
      DataError: No CSV, or several and none called ``labels.csv``.
    """
    return source / _the_one(_names(source))


def text_of(source: Path) -> bytes:
    """Return the bytes of the labels table of a source, be it a folder or an archive.

    Raises:
      DataError: As :func:`find` says, or the table cannot be read.
    """
    if source.is_dir():
        return read_bytes(find(source))
    tables = dict(sources.tables(source))
    return tables[_the_one(list(tables))]


def segments_of(source: Path) -> bytes | None:
    """Return the bytes of ``segments.csv`` at the top of a source; ``None`` without one.

    Raises:
      DataError: It cannot be read.
    """
    if not source.is_dir():
        return dict(sources.tables(source)).get(SEGMENTS)
    return read_bytes(source / SEGMENTS) if SEGMENTS in _names(source) else None


def has_labels(source: Path) -> bool:
    """Return whether there is any CSV at the top that could be the labels."""
    names = _names(source) if source.is_dir() else [name for name, _ in sources.tables(source)]
    return any(name != SEGMENTS for name in names)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a table on disk.

    Raises:
      DataError: It cannot be read, or is larger than :data:`MAX_BYTES`.
    """
    what = "segments.csv" if path.name == SEGMENTS else "The labels CSV"
    fault, remedy = f"{what} cannot be read.", "Give this account read permission."
    # Raised outside the block, because the original error quotes the file's name.
    with suppress(OSError):
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes()
        fault = f"{what} is larger than {MAX_BYTES // 2**20} MiB."
        remedy = "Leave out the columns that are not needed."
    raise DataError(fault, remedy=remedy)


def records(content: bytes, *, what: str = "The labels CSV") -> tuple[list[str], Body]:
    """Return the header's names and the rows that are not empty.

    Args:
      content: UTF-8, comma-separated.
      what: What the error calls it.

    Raises:
      DataError: It cannot be parsed.
    """
    found: list[list[str]] | None = None
    # Raised outside the block, because the original errors quote cells.
    with suppress(ValueError, csv.Error):
        text = content.decode("utf-8-sig")
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if found is None:
        raise DataError(
            f"{what} is not UTF-8 text in comma-separated form.",
            remedy="Save it as a UTF-8, comma-separated CSV.",
        )
    header = [name.strip() for name in found[0]] if found else []
    body = [(number, cells) for number, cells in enumerate(found[1:], start=2) if any(cells)]
    return header, body


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.suffix.lower() == ".csv" and p.is_file()]


def _the_one(found: list[str]) -> str:
    names = [name for name in found if name != SEGMENTS]
    named = [name for name in names if name == LABELS]
    if len(named or names) != 1:
        count = f"{len(names)} CSV files" if names else "no labels CSV"
        raise DataError(
            f"The source folder holds {count} at its top; exactly one is needed.",
            remedy="Put one labels.csv there, with patient_id or sop_instance_uid and the labels.",
        )
    return (named or names)[0]
