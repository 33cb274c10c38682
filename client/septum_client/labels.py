"""The labels table: which CSV, what it may say, and which row belongs to an image.

Messages name rows as a spreadsheet numbers them (the header is row 1) and
columns by name; they never show a cell, because a cell may be an identifier.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError

PATIENT, INSTANCE, META = "patient_id", "sop_instance_uid", "meta_"
MAX_BYTES: Final = 256 * 2**20
_BINARY: Final = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
_COLUMN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTable:
    """The rows of the CSV, found by image first and by patient second.

    Args:
      values: Labels, float32 of shape ``(rows, labels)``, 0 or 1.
      meta: Evaluation-only strata, each float32 of shape ``(rows,)``, NaN where empty.
      numbers: Row numbers as a spreadsheet shows them, int64 of shape ``(rows,)``.
      patients: Patient ID of each row; empty where the row names an image only.
      by_patient: Row of each patient whose row names no image.
      by_instance: Row of each SOP Instance UID.
    """

    values: NDArray[np.float32]
    meta: Mapping[str, NDArray[np.float32]]
    numbers: NDArray[np.int64]
    patients: tuple[str, ...] = field(repr=False)
    by_patient: Mapping[str, int] = field(repr=False)
    by_instance: Mapping[str, int] = field(repr=False)

    def row_of(self, patient_id: str, sop_instance_uid: str) -> int | None:
        """Return the row that labels an image; ``None`` where there is none.

        Raises:
          DataError: The image's row names another patient.
        """
        row = self.by_instance.get(sop_instance_uid)
        if row is None:
            return self.by_patient.get(patient_id)
        if patient_id and self.patients[row] not in {"", patient_id}:
            raise DataError(
                f"Row {self.numbers[row]} of the labels CSV names another patient than its image.",
                remedy="Correct patient_id or sop_instance_uid in that row.",
            )
        return row

    def require_known(
        self, patients: Iterable[str], instances: Iterable[str], *, unidentified: int
    ) -> None:
        """Pass when every row belongs to an image of the folder.

        Args:
          patients: Patient IDs of all files, refused ones included.
          instances: SOP Instance UIDs of all files, refused ones included.
          unidentified: How many broken files may hide the owner of a row.

        Raises:
          DataError: More rows than that name an unknown patient or image.
        """
        known_patients, known_instances = set(patients), set(instances)
        unknown = [row for key, row in self.by_patient.items() if key not in known_patients]
        unknown += [row for key, row in self.by_instance.items() if key not in known_instances]
        if len(unknown) > unidentified:
            raise DataError(
                f"{len(unknown)} label row(s) name a patient or image that is not in the folder: "
                f"{rows_text(self.numbers[sorted(unknown)].tolist())} of the labels CSV.",
                remedy="Add the missing DICOM files, correct the identifiers, or delete the rows.",
            )


def find(source: Path) -> Path:
    """Return ``labels.csv`` at the top of ``source``, else the only CSV there.

    Raises:
      DataError: No CSV, or several and none called ``labels.csv``.
    """
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() == ".csv" and p.is_file())
    named = [path for path in tables if path.name == "labels.csv"]
    if len(named or tables) != 1:
        count = f"{len(tables)} CSV files" if tables else "no labels CSV"
        raise DataError(
            f"The source folder holds {count} at its top; exactly one is needed.",
            remedy="Put one labels.csv there, with patient_id or sop_instance_uid and the labels.",
        )
    return (named or tables)[0]


def read(path: Path, labels: Sequence[str]) -> LabelTable:
    """Read a labels CSV.

    Args:
      path: UTF-8, comma-separated, one header row; see :func:`find`.
      labels: Columns to carry, each cell 0 or 1. ``meta_*`` columns are
        carried as numbers; every other column is ignored.

    Raises:
      DataError: The file cannot be read or parsed; a column is missing or
        doubled; a cell is not what its column promises; two rows have one key.
    """
    header, body = _records(path)
    place = _columns(header, labels)
    strata = [name for name in header if name.startswith(META)]
    width = len(header)
    values = np.empty((len(body), len(labels)), dtype=np.float32)
    meta = np.full((len(strata), len(body)), np.nan, dtype=np.float32)
    patients: list[str] = []
    by_patient: dict[str, int] = {}
    by_instance: dict[str, int] = {}
    for row, (number, cells) in enumerate(body):
        if len(cells) != width:
            raise DataError(
                f"Row {number} of the labels CSV has {len(cells)} cells and the header {width}.",
                remedy="Give every row one cell per column.",
            )
        patient = cells[place[PATIENT]].strip() if PATIENT in place else ""
        instance = cells[place[INSTANCE]].strip() if INSTANCE in place else ""
        if not patient and not instance:
            raise DataError(
                f"Row {number} of the labels CSV names neither a patient nor an image.",
                remedy="Fill patient_id or sop_instance_uid, or delete the row.",
            )
        keys, key = (by_instance, instance) if instance else (by_patient, patient)
        if key in keys:
            kind = "image" if instance else "patient"
            raise DataError(
                f"Rows {body[keys[key]][0]} and {number} of the labels CSV label the same {kind}.",
                remedy=f"Keep one row per {kind}.",
            )
        keys[key] = row
        patients.append(patient)
        values[row] = [_binary(cells[place[name]], number, name) for name in labels]
        meta[:, row] = [_stratum(cells[place[name]], number, name) for name in strata]
    return LabelTable(
        values=values,
        meta={name.removeprefix(META): meta[i] for i, name in enumerate(strata)},
        numbers=np.array([number for number, _ in body], dtype=np.int64),
        patients=tuple(patients),
        by_patient=by_patient,
        by_instance=by_instance,
    )


def rows_text(numbers: Sequence[int], shown: int = 5) -> str:
    """Return the first row numbers as words.

    >>> rows_text([2]), rows_text([2, 3, 9], shown=2)
    ('row 2', 'rows 2, 3 and 1 more')
    """
    first = ", ".join(str(number) for number in numbers[:shown])
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"


def _records(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    fault, remedy = "", "Save the labels as a UTF-8, comma-separated CSV."
    records: list[list[str]] = []
    try:
        if path.stat().st_size > MAX_BYTES:
            fault = f"The labels CSV is larger than {MAX_BYTES // 2**20} MiB."
        else:
            text = path.read_text(encoding="utf-8-sig")
            records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError:
        fault, remedy = "The labels CSV cannot be read.", "Give this account read permission."
    except (ValueError, csv.Error):
        fault = "The labels CSV is not UTF-8 text in comma-separated form."
    # Raised outside the handlers: the original errors quote file names and cells.
    if fault:
        raise DataError(fault, remedy=remedy)
    header = [name.strip() for name in records[0]] if records else []
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    return header, body


def _columns(header: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    place = {name: index for index, name in enumerate(header)}
    if PATIENT not in place and INSTANCE not in place:
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


def columns(source: Path) -> tuple[str, ...]:
    """Return the columns of a source's CSV that can be labels: neither key nor ``meta_*``.

    Raises:
      DataError: No table, or one that cannot be read; see :func:`find` and :func:`read`.
    """
    header, _ = _records(find(source))
    _columns(header, ())
    return tuple(
        name
        for name in header
        if name not in {PATIENT, INSTANCE} and not name.startswith(META) and _COLUMN.fullmatch(name)
    )
