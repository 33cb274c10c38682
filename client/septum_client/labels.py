"""Reading the labels table: which CSV, and what it may say.

Messages name rows as a spreadsheet numbers them (the header is row 1) and
columns by name; they never show a cell, because a cell may be an identifier.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import DataError
from septum_client import sources
from septum_client.demographics import age_band_index, sex_index
from septum_client.label_table import LabelTable, file_key, one_row_each, rows_text

__all__ = ["LabelTable", "columns", "find", "parse", "read", "rows_text", "text_of"]

PATIENT, INSTANCE, FILE, META = "patient_id", "sop_instance_uid", "file", "meta_"
SEX, AGE = "sex", "age"
MAX_BYTES: Final = 256 * 2**20
_BINARY: Final = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
_KINDS: Final = {PATIENT: "patient", INSTANCE: "image", FILE: "file"}
_COLUMN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)


def find(source: Path) -> Path:
    """Return ``labels.csv`` at the top of ``source``, else the only CSV there.

    Raises:
      DataError: No CSV, or several and none called ``labels.csv``.
    """
    tables = [p for p in source.iterdir() if p.suffix.lower() == ".csv" and p.is_file()]
    return source / _the_one([path.name for path in tables])


def text_of(source: Path) -> bytes:
    """Return the bytes of the table of a source, be it a folder or an archive.

    Raises:
      DataError: As :func:`find` says, or the table cannot be read.
    """
    if source.is_dir():
        return _bytes(find(source))
    tables = dict(sources.tables(source))
    return tables[_the_one(list(tables))]


def read(path: Path, labels: Sequence[str]) -> LabelTable:
    """Read a labels CSV; see :func:`parse`.

    Raises:
      DataError: The file cannot be read, or as :func:`parse` says.
    """
    return parse(_bytes(path), labels)


def parse(content: bytes, labels: Sequence[str]) -> LabelTable:
    """Return the table in the bytes of a labels CSV.

    Args:
      content: UTF-8, comma-separated, one header row.
      labels: Columns to carry, each cell 0 or 1. ``meta_*`` columns are
        carried as numbers; every other column is ignored.

    A row belongs to the image of its ``sop_instance_uid``, else to its
    ``file`` (a path below the source, an archive counting as a folder), else
    to all images of its ``patient_id``. A row with a file names the patient
    too, because NIfTI files and pictures name none and the patient is the
    unit of privacy; it may say ``sex`` (F, M, O) and ``age`` (in years, or
    as DICOM writes it).

    Raises:
      DataError: It cannot be parsed; a column is missing or doubled; a cell is
        not what its column promises; two rows have one key.
    """
    header, body = _records(content)
    place = _columns(header, labels)
    strata = [name for name in header if name.startswith(META)]
    values = np.empty((len(body), len(labels)), dtype=np.float32)
    meta = np.full((len(strata), len(body)), np.nan, dtype=np.float32)
    patients: list[str] = []
    sexes = [0] * len(body)
    age_bands = [0] * len(body)
    rows: dict[str, dict[str, int]] = {PATIENT: {}, INSTANCE: {}, FILE: {}}
    for row, (number, cells) in enumerate(body):
        if len(cells) != len(header):
            raise DataError(
                f"Row {number} of the labels CSV has {len(cells)} cells and the header "
                f"{len(header)}.",
                remedy="Give every row one cell per column.",
            )
        said = {name: cells[at].strip() for name, at in place.items()}
        column, key = _key(said, number)
        if key in rows[column]:
            raise one_row_each(body[rows[column][key]][0], number, _KINDS[column])
        rows[column][key] = row
        patients.append(said.get(PATIENT, ""))
        if column == FILE:
            # A label may be called sex or age: then it is that, and no characteristic.
            sexes[row], age_bands[row] = (
                _listed(said, name, number, index) if name not in labels else 0
                for name, index in ((SEX, _sex), (AGE, _age_band))
            )
        values[row] = [_binary(said[name], number, name) for name in labels]
        meta[:, row] = [_stratum(said[name], number, name) for name in strata]
    return LabelTable(
        values=values,
        meta={name.removeprefix(META): meta[i] for i, name in enumerate(strata)},
        numbers=np.array([number for number, _ in body], dtype=np.int64),
        patients=tuple(patients),
        by_patient=rows[PATIENT],
        by_instance=rows[INSTANCE],
        by_file=rows[FILE],
        sexes=tuple(sexes),
        age_bands=tuple(age_bands),
    )


def columns(source: Path) -> tuple[str, ...]:
    """Return the columns of a source's CSV that can be labels: neither key nor ``meta_*``.

    Beside a ``file`` column, ``sex`` and ``age`` are no labels either.

    Raises:
      DataError: No table, or one that cannot be read; see :func:`find` and :func:`parse`.
    """
    header, _ = _records(text_of(source))
    _columns(header, ())
    taken = {PATIENT, INSTANCE, FILE} | ({SEX, AGE} if FILE in header else set())
    return tuple(
        name
        for name in header
        if name not in taken and not name.startswith(META) and _COLUMN.fullmatch(name)
    )


def _the_one(names: Sequence[str]) -> str:
    named = [name for name in names if name == "labels.csv"]
    if len(named or names) != 1:
        count = f"{len(names)} CSV files" if names else "no labels CSV"
        raise DataError(
            f"The source folder holds {count} at its top; exactly one is needed.",
            remedy="Put one labels.csv there, with patient_id or sop_instance_uid and the labels.",
        )
    return (named or names)[0]


def _bytes(path: Path) -> bytes:
    fault, remedy = "The labels CSV cannot be read.", "Give this account read permission."
    # Raised outside the block, because the original error quotes the file's name.
    with suppress(OSError):
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes()
        fault = f"The labels CSV is larger than {MAX_BYTES // 2**20} MiB."
        remedy = "Leave out the columns that are no labels."
    raise DataError(fault, remedy=remedy)


def _records(content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    records: list[list[str]] | None = None
    # Raised outside the block, because the original errors quote cells.
    with suppress(ValueError, csv.Error):
        text = content.decode("utf-8-sig")
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if records is None:
        raise DataError(
            "The labels CSV is not UTF-8 text in comma-separated form.",
            remedy="Save the labels as a UTF-8, comma-separated CSV.",
        )
    header = [name.strip() for name in records[0]] if records else []
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    return header, body


def _columns(header: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    place = {name: index for index, name in enumerate(header)}
    if not {PATIENT, INSTANCE} & set(place):
        # Nothing is listed here: without a header row, the first row is a patient's.
        raise DataError(
            f"The labels CSV has no column {PATIENT} and no column {INSTANCE}.",
            remedy="Make row 1 the column names, one of these two among them.",
        )
    if len(place) != len(header):
        raise DataError(
            "The labels CSV has two columns of the same name.", remedy="Rename one of them."
        )
    listed = ", ".join(name for name in header if _COLUMN.fullmatch(name)) or "none"
    missing = [name for name in labels if name not in place]
    if missing:
        raise DataError(
            f"The labels CSV has no column {', '.join(missing)}; its columns are {listed}.",
            remedy="Add the column, or name an existing one in the labels of the cohort.",
        )
    for index, name in enumerate(header, start=1):
        if name.startswith(META) and not _COLUMN.fullmatch(name.removeprefix(META)):
            raise DataError(
                f"Column {index} of the labels CSV has a meta_ name that cannot be used.",
                remedy="Use a letter, then at most 63 letters, digits, _ or -.",
            )
    return place


def _binary(cell: str, number: int, column: str) -> float:
    value = _BINARY.get(cell.strip())
    if value is None:
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is neither 0 nor 1.",
            remedy="Write 0 or 1, or delete the row if the label is unknown.",
        )
    return value


def _stratum(cell: str, number: int, column: str) -> float:
    try:
        value = float(cell) if cell.strip() else math.nan
        usable = not abs(value) > float(np.finfo(np.float32).max)
    except ValueError:
        usable = False
    if not usable:
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is not a number.",
            remedy="Write a number or leave the cell empty.",
        )
    return value


def _key(said: Mapping[str, str], number: int) -> tuple[str, str]:
    """Return the column that says what a row belongs to, and the key in it."""
    instance, patient = said.get(INSTANCE, ""), said.get(PATIENT, "")
    file = file_key(said.get(FILE, ""))
    if file and not instance and not patient:
        raise DataError(
            f"Row {number} of the labels CSV names a file and no patient.",
            remedy="Fill patient_id: files of this kind do not tell whose they are.",
        )
    if not instance and not patient:
        raise DataError(
            f"Row {number} of the labels CSV names neither a patient nor an image.",
            remedy="Fill patient_id or sop_instance_uid, or delete the row.",
        )
    if instance:
        return INSTANCE, instance
    return (FILE, file) if file else (PATIENT, patient)


def _sex(cell: str) -> int | None:
    return sex_index(cell) if cell in {"", "F", "M", "O"} else None


def _age_band(cell: str) -> int | None:
    if not cell:
        return 0
    return age_band_index(f"{cell:0>3}Y" if cell.isdecimal() else cell) or None


def _listed(
    said: Mapping[str, str], column: str, number: int, index: Callable[[str], int | None]
) -> int:
    found = index(said.get(column, ""))
    if found is None:
        allowed = {SEX: "F, M or O", AGE: "an age of 0 to 130 years"}[column]
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is not {allowed}.",
            remedy=f"Write {allowed}, or leave the cell empty.",
        )
    return found
