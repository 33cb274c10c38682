"""Where a frame lies in the patient and how far its pixels are apart: read, never guessed.

Absent geometry is ``None``; geometry that is there and means nothing refuses
the file. Coordinates are the patient's, in mm, x to the left, y to the back,
z to the head (LPS; DICOM PS3.3 C.7.6.2.1.1).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset

from septum.errors import Quarantine
from septum_client.reject import Rejected

Vector = tuple[float, float, float]

# Cosines are written with 4 decimals or more; 1e-3 is 0.06 degrees.
_TOLERANCE: Final = 1e-3
_LONGEST_MM: Final = 1e5
# Functional group and attribute (DICOM PS3.3 C.7.6.16.2), by attribute.
_GROUPS: Final = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spacing:
    """Distance between rows and between columns, in mm.

    Args:
      mm: As DICOM orders them: between rows first (PS3.3 10.7.1.3).
      calibrated: False where it was measured at the detector, so that
        structures in the patient are smaller than it says.
    """

    mm: tuple[float, float]
    calibrated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """One frame's place in the patient.

    Args:
      position_mm: Centre of the first pixel.
      row_cosines: Unit vector along a row: the way the column index grows.
      column_cosines: Unit vector along a column: the way the row index grows.
      spacing_mm: Between rows and between columns.
      thickness_mm: Slice Thickness; ``None`` where absent. Not the distance
        between slices.
      calibrated: As in :class:`Spacing`.
    """

    position_mm: Vector
    row_cosines: Vector
    column_cosines: Vector
    spacing_mm: tuple[float, float]
    thickness_mm: float | None = None
    calibrated: bool = True

    @property
    def normal(self) -> Vector:
        """Unit vector out of the plane: row times column cosines, right-handed."""
        return cross(self.row_cosines, self.column_cosines)


def plane(ds: Dataset, frame: int) -> Plane | None:
    """Return where a frame lies; ``None`` without position or orientation, as in radiographs.

    Args:
      ds: Classic or enhanced; the frame's functional group is asked first,
        then the shared one, then the top level.
      frame: Index from 0.

    Raises:
      Rejected: BAD_GEOMETRY: cosines that are not orthogonal and of length 1,
        numbers that are not finite, a spacing that is missing or not
        positive, or fewer functional groups than frames.
    """
    position = _numbers(ds, frame, "ImagePositionPatient", 3)
    orientation = _numbers(ds, frame, "ImageOrientationPatient", 6)
    if position is None or orientation is None:
        return None
    row, column = _vector(orientation[:3]), _vector(orientation[3:])
    apart = spacing(ds, frame)
    off = (abs(dot(row, row) - 1), abs(dot(column, column) - 1), abs(dot(row, column)))
    if max(off) > 2 * _TOLERANCE or apart is None:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    thickness = _numbers(ds, frame, "SliceThickness", 1)
    return Plane(
        position_mm=_vector(position),
        row_cosines=row,
        column_cosines=column,
        spacing_mm=apart.mm,
        # Zero is what some equipment writes for "not known".
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        calibrated=apart.calibrated,
    )


def spacing(ds: Dataset, frame: int) -> Spacing | None:
    """Return how far a frame's pixels are apart; ``None`` where nothing says so.

    Pixel Spacing, else Imager Pixel Spacing or Nominal Scanned Pixel Spacing,
    which are measured at the detector or the film (DICOM PS3.3 10.7.1.3). A
    Pixel Spacing equal to Imager Pixel Spacing is not corrected for
    magnification either, as that clause says.

    Raises:
      Rejected: BAD_GEOMETRY: not two positive numbers.
    """
    measured = _numbers(ds, frame, "PixelSpacing", 2)
    detector = _numbers(ds, frame, "ImagerPixelSpacing", 2)
    found = measured or detector or _numbers(ds, frame, "NominalScannedPixelSpacing", 2)
    if found is None:
        return None
    if min(found) <= 0:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    return Spacing(
        mm=(found[0], found[1]), calibrated=measured is not None and measured != detector
    )


def dot(a: Vector, b: Vector) -> float:
    """Return the scalar product.

    >>> dot((1, 2, 3), (0, 1, 1))
    5
    """
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """Return the vector product.

    >>> cross((1, 0, 0), (0, 1, 0))
    (0, 0, 1)
    """
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _vector(numbers: list[float]) -> Vector:
    return numbers[0], numbers[1], numbers[2]


def _numbers(ds: Dataset, frame: int, keyword: str, count: int) -> list[float] | None:
    """Return an attribute's numbers, or ``None`` where it is absent or empty.

    Raises:
      Rejected: BAD_GEOMETRY: other than ``count`` numbers, or out of reason.
    """
    try:
        value = next((v for v in _values(ds, frame, keyword) if v is not None), None)
        if value is None:
            return None
        found = [float(number) for number in ([value] if count == 1 else value)]
    except Exception:  # noqa: BLE001 - pydicom converts on access, and its errors quote the value
        raise Rejected(Quarantine.BAD_GEOMETRY) from None
    if len(found) != count or not all(math.isfinite(n) and abs(n) < _LONGEST_MM for n in found):
        raise Rejected(Quarantine.BAD_GEOMETRY)
    return found


def _values(ds: Dataset, frame: int, keyword: str) -> Iterator[Any]:
    group = _GROUPS.get(keyword)
    if group is not None:
        frames = ds.get("PerFrameFunctionalGroupsSequence") or []
        if frames:
            # An index beyond the groups is an error, not a frame like the shared one.
            yield _first(frames[frame], group, keyword)
        yield from (
            _first(item, group, keyword)
            for item in (ds.get("SharedFunctionalGroupsSequence") or [])[:1]
        )
    value = ds.get(keyword)
    # Empty multi-valued elements read as an empty list or string.
    yield None if value is None or value in ("", []) else value


def _first(item: Dataset, group: str, keyword: str) -> Any:
    inner = item.get(group) or []
    value = inner[0].get(keyword) if len(inner) else None
    return None if value is None or value in ("", []) else value
