"""Reading the labels table: which CSV, and what it may say.

Messages name rows as a spreadsheet numbers them (the header is row 1) and
columns by name; they never show a cell, because a cell may be an identifier.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_client import label_cells
from septum_client.label_cells import AGE, CLASS, SEX, columns_of
from septum_client.label_table import LabelTable, file_key, one_row_each, rows_text
from septum_client.table_text import (
    find,
    has_labels,
    read_bytes,
    records,
    segments_of,
    text_of,
)

if TYPE_CHECKING:
    from septum.study import Task

__all__ = [
    "LabelTable",
    "classes",
    "columns",
    "find",
    "has_labels",
    "parse",
    "read",
    "rows_text",
    "segments_of",
    "text_of",
]

PATIENT, INSTANCE, FILE, META = "patient_id", "sop_instance_uid", "file", "meta_"
MASK: Final = "mask"
_KINDS: Final = {PATIENT: "patient", INSTANCE: "image", FILE: "file"}
_COLUMN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)


def read(path: Path, labels: Sequence[str]) -> LabelTable:
    """Read a labels CSV; see :func:`parse`.

    Raises:
      DataError: The file cannot be read, or as :func:`parse` says.
    """
    return parse(read_bytes(path), labels)


def parse(
    content: bytes,
    labels: Sequence[str],
    *,
    task: "Task" = "multilabel",
    ranges: Sequence[tuple[float, float]] = (),
) -> LabelTable:
    """Return the table in the bytes of a labels CSV.

    Args:
      content: UTF-8, comma-separated, one header row. ``meta_*`` columns are
        carried as numbers; a column that is named nowhere here is ignored.
      labels: Columns to carry: each cell 0 or 1, or a number in a regression.
        The classes of a classification, whose column is ``class``, each cell a
        name or an index from 0. No columns for a segmentation.
      task: Which of these it is.
      ranges: For a regression: a row outside of them labels nothing
        (:attr:`LabelTable.out_of_range`).

    A row belongs to the image of its ``sop_instance_uid``, else to its
    ``file`` (a path below the source, an archive counting as a folder), else
    to all images of its ``patient_id``. A row with a file names the patient
    too, because NIfTI files and pictures name none and the patient is the
    unit of privacy; it may say ``sex`` (F, M, O) and ``age`` (in years, or
    as DICOM writes it), and name the file of its ``mask``.

    Raises:
      DataError: It cannot be parsed; a column is missing or doubled; a cell is
        not what its column promises; two rows have one key.
    """
    header, body = records(content)
    place = _columns(header, columns_of(task, labels))
    strata = [name for name in header if name.startswith(META)]
    width = 0 if task == "segmentation" else len(labels)
    values = np.empty((len(body), width), dtype=np.float32)
    meta = np.full((len(strata), len(body)), np.nan, dtype=np.float32)
    patients: list[str] = []
    sexes = [0] * len(body)
    age_bands = [0] * len(body)
    masks = [""] * len(body)
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
            sexes[row], age_bands[row] = label_cells.characteristics(
                said, number, labels=columns_of(task, labels)
            )
            masks[row] = file_key(said.get(MASK, ""))
        values[row] = label_cells.target(said, number, task=task, labels=labels)
        meta[:, row] = [label_cells.stratum(said[name], number, name) for name in strata]
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
        masks=tuple(masks),
        out_of_range=_outside(values, ranges),
    )


def columns(source: Path) -> tuple[str, ...]:
    """Return the columns of a source's CSV that can be labels: neither key nor ``meta_*``.

    Beside a ``file`` column, ``sex`` and ``age`` are no labels either.

    Raises:
      DataError: No table, or one that cannot be read; see :func:`find` and :func:`parse`.
    """
    header, _ = records(text_of(source))
    _columns(header, ())
    taken = {PATIENT, INSTANCE, FILE} | ({SEX, AGE, MASK} if FILE in header else set())
    return tuple(
        name
        for name in header
        if name not in taken and not name.startswith(META) and _COLUMN.fullmatch(name)
    )


def classes(source: Path) -> frozenset[str]:
    """Return the class names in the ``class`` column of a source's CSV; indices are none.

    Raises:
      DataError: As :func:`columns`, or there is no such column.
    """
    header, body = records(text_of(source))
    at = _columns(header, (CLASS,))[CLASS]
    cells = {cells[at].strip() for _, cells in body if at < len(cells)}
    return frozenset(cell for cell in cells if _COLUMN.fullmatch(cell))


def _outside(values: NDArray[np.float32], ranges: Sequence[tuple[float, float]]) -> frozenset[int]:
    if not ranges:
        return frozenset()
    low, high = np.array(ranges, dtype=np.float32).T
    return frozenset(np.flatnonzero(((values < low) | (values > high)).any(axis=1)).tolist())


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
