"""What one cell of the labels table may say. A message names row and column, never the cell."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_client.demographics import age_band_index, sex_index

if TYPE_CHECKING:
    from septum.study import Task

CLASS: Final = "class"
"""The column that says each row's class."""
SEX, AGE = "sex", "age"

_BINARY: Final = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
_MOST: Final = float(np.finfo(np.float32).max)


def columns_of(task: "Task", labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that say a row's target."""
    if task == "segmentation":
        return ()
    return (CLASS,) if task == "classification" else tuple(labels)


def target(
    said: Mapping[str, str], number: int, *, task: "Task", labels: Sequence[str]
) -> NDArray[np.float32]:
    """Return a row's label values.

    Args:
      said: Cells by column.
      number: The row's, as a spreadsheet shows it.
      task: What the cells mean.
      labels: Labels, or classes.

    Returns:
      float32 ``(labels,)``; no values for a segmentation.

    Raises:
      DataError: A cell is not what its column promises.
    """
    if task == "segmentation":
        return np.empty(0, dtype=np.float32)
    if task == "classification":
        return _one_of(said[CLASS], number, labels)
    read = _number if task == "regression" else _binary
    return np.array([read(said[name], number, name) for name in labels], dtype=np.float32)


def stratum(cell: str, number: int, column: str) -> float:
    """Return a number; NaN for an empty cell; DataError for anything else."""
    try:
        value = float(cell) if cell.strip() else math.nan
        usable = not abs(value) > _MOST
    except ValueError:
        usable = False
    if not usable:
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is not a number.",
            remedy="Write a number or leave the cell empty.",
        )
    return value


def characteristics(
    said: Mapping[str, str], number: int, *, labels: Sequence[str]
) -> tuple[int, int]:
    """Return the indices of a row's sex and age band; DataError for what is neither.

    A label may be called sex or age: then it is that, and no characteristic.
    """
    sex = 0 if SEX in labels else _listed(said, SEX, number, _sex)
    return sex, 0 if AGE in labels else _listed(said, AGE, number, _age_band)


def _one_of(cell: str, number: int, classes: Sequence[str]) -> NDArray[np.float32]:
    indices = {name: index for index, name in enumerate(classes)}
    # No class is called by digits, so an index is never mistaken for a name.
    indices |= {str(index): index for index in range(len(classes))}
    index = indices.get(cell)
    if index is None:
        raise DataError(
            f"Row {number}, column {CLASS} of the labels CSV is none of the study's classes: "
            f"{', '.join(classes)}.",
            remedy=f"Write one of these names, or its index from 0 to {len(classes) - 1}.",
        )
    values = np.zeros(len(classes), dtype=np.float32)
    values[index] = 1
    return values


def _number(cell: str, number: int, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MOST:
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is not a number.",
            remedy="Write a number, or delete the row if the value is unknown.",
        )
    return value


def _binary(cell: str, number: int, column: str) -> float:
    value = _BINARY.get(cell.strip())
    if value is None:
        raise DataError(
            f"Row {number}, column {column} of the labels CSV is neither 0 nor 1.",
            remedy="Write 0 or 1, or delete the row if the label is unknown.",
        )
    return value


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
