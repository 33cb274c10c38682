"""Which segment is which class: the hospital's own ``segments.csv``, so that nothing is guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, Quarantine
from septum_client.reject import Rejected
from septum_client.table_text import SEGMENTS, records

Mask = NDArray[np.uint8]

CLASS, VALUE, LABEL, SCHEME, CODE = "class", "value", "label", "scheme", "code"
_MOST_VALUE: Final = 2**16 - 1
_SEPARATOR: Final = "\t"


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Class of each known segment: 0 is background, 1 and up in the order of the study's labels.

    Args:
      values: By the value of a mask's pixels, in NIfTI files and pictures.
      labels: By Segment Label (0062,0005).
      codes: By scheme and value of the Segmented Property Type (0062,000F).
    """

    values: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict, repr=False)
    codes: Mapping[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, content: bytes, classes: Sequence[str]) -> Self:
        """Return what a ``segments.csv`` says.

        Args:
          content: A column ``class`` and, of each row, at least one of ``value``
            (1 to 65535), ``label``, or ``scheme`` and ``code``. A class that is
            empty, or none of ``classes``, is background.
          classes: The study's labels.

        Raises:
          DataError: It cannot be parsed, a row says nothing or the contrary of
            another, or no row names one of ``classes``. Rows go by number.
        """
        header, body = records(content, what=SEGMENTS)
        if CLASS not in header or len(set(header)) != len(header):
            raise DataError(
                f"{SEGMENTS} has no column {CLASS}, or two columns of one name.",
                remedy="Make row 1 the column names: class, and value, label, or scheme and code.",
            )
        known = {name: index for index, name in enumerate(classes, start=1)}
        maps: dict[str, dict[Any, int]] = {VALUE: {}, LABEL: {}, CODE: {}}
        named: set[str] = set()
        for number, cells in body:
            if len(cells) != len(header):
                raise _fault(number, f"has {len(cells)} cells and the header {len(header)}")
            said = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            name = said[CLASS]
            named.add(name)
            keys = _keys(said, number)
            if not keys:
                raise _fault(number, "names no segment")
            for kind, key in keys:
                if maps[kind].setdefault(key, known.get(name, 0)) != known.get(name, 0):
                    raise _fault(number, "gives a segment of an earlier row another class")
        missing = [name for name in classes if name not in named]
        if missing:
            raise DataError(
                f"{SEGMENTS} names no segment of {', '.join(missing)}.",
                remedy="Add a row for each class of the study.",
            )
        return cls(values=maps[VALUE], labels=maps[LABEL], codes=maps[CODE])

    def told(self) -> dict[str, Any]:
        """Return it as JSON can carry it; :meth:`of` reads that."""
        values = {str(value): index for value, index in self.values.items()}
        return {"values": values, "labels": dict(self.labels), "codes": dict(self.codes)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return what :meth:`told` told."""
        values = {int(value): index for value, index in told["values"].items()}
        return cls(values=values, labels=told["labels"], codes=told["codes"])

    def of_segment(self, label: str, types: Sequence[tuple[str, str]]) -> int:
        """Return the class of a DICOM segment.

        Args:
          label: Its Segment Label.
          types: Scheme and value of its Segmented Property Type.

        Raises:
          Rejected: UNKNOWN_SEGMENT where no row fits, or two of different classes.
        """
        keys = [_SEPARATOR.join(pair) for pair in types]
        found = {self.codes[key] for key in keys if key in self.codes}
        if label in self.labels:
            found.add(self.labels[label])
        if len(found) != 1:
            raise Rejected(Quarantine.UNKNOWN_SEGMENT)
        return found.pop()

    def of_pixels(self, stored: NDArray[Any]) -> Mask:
        """Return the class of each pixel of a mask whose values are the segments.

        Raises:
          Rejected: UNKNOWN_SEGMENT for a value that is not 0 and in no row.
        """
        present = np.unique(stored)
        wanted = [0 if value == 0 else self.values.get(value, -1) for value in present.tolist()]
        if min(wanted, default=0) < 0:
            raise Rejected(Quarantine.UNKNOWN_SEGMENT)
        classes = np.array(wanted, dtype=np.uint8)
        return classes[np.searchsorted(present, stored)]


def named_in(content: bytes) -> tuple[str, ...]:
    """Return the classes of a ``segments.csv`` in their order; DataError as :meth:`Segments.parse`.

    For simulations, whose study is made from what the hospitals have.
    """
    header, body = records(content, what=SEGMENTS)
    at = header.index(CLASS) if CLASS in header else None
    if at is None:
        raise DataError(f"{SEGMENTS} has no column {CLASS}.", remedy="Name the columns in row 1.")
    cells = [cells[at].strip() for _, cells in body if at < len(cells)]
    return tuple(dict.fromkeys(cell for cell in cells if cell))


def name(patient: str, uid: str) -> str:
    """Return the name by which an image, or a frame of reference, is looked up: per patient."""
    return f"{patient}/{uid}"


def _keys(said: Mapping[str, str], number: int) -> list[tuple[str, int | str]]:
    keys: list[tuple[str, int | str]] = []
    value, scheme, code = (said.get(column, "") for column in (VALUE, SCHEME, CODE))
    if value:
        whole = int(value) if value.isdecimal() and len(value) <= len(str(_MOST_VALUE)) else 0
        if not 1 <= whole <= _MOST_VALUE:
            raise _fault(number, f"has a value that is not 1 to {_MOST_VALUE}")
        keys.append((VALUE, whole))
    if said.get(LABEL):
        keys.append((LABEL, said[LABEL]))
    if bool(scheme) != bool(code):
        raise _fault(number, "has a code without its scheme, or a scheme without a code")
    if code:
        keys.append((CODE, _SEPARATOR.join((scheme, code))))
    return keys


def _fault(number: int, what: str) -> DataError:
    return DataError(
        f"Row {number} of {SEGMENTS} {what}.", remedy="Correct that row, then ingest again."
    )
