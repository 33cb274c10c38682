"""Stored values to real ones, in the order of the standard (DICOM PS3.4 N.2, PS3.3 C.11)."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.imaging import lookup
from septum_client.imaging.layout import number, text
from septum_client.imaging.parse import judged
from septum_client.reject import Rejected

_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, full range
_GROUPS: Final = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Values:
    """One frame in real units.

    Args:
      values: float32 of shape ``(rows, columns)``; higher is brighter.
      hidden: True where there is no image (padding), of the same shape.
    """

    values: NDArray[np.float32] = field(repr=False)
    hidden: NDArray[np.bool_] = field(repr=False)


def frame_values(ds: Any, index: int, stored: NDArray[Any]) -> Values:
    """Return one frame's values: modality transform, then polarity; padding apart.

    Args:
      ds: The data set; its sequences already read.
      index: The frame, from 0, for the functional groups of enhanced images.
      stored: The frame from ``stored_frames``.

    Returns:
      For grey images, the modality table's or the rescaled values (the
      frame's own functional group before the shared one before the top
      level; DICOM PS3.3 C.7.6.16.2.9), negated for MONOCHROME1, whose lowest
      value is displayed white. Presentation LUT Shape is not applied: in an
      image, INVERSE only repeats what MONOCHROME1 says (PS3.3 C.8.11.3.1.2);
      inverting twice would undo it. For colour, luma, without any transform.
      Padding is compared with stored values (PS3.3 C.7.5.1.1.2).

    Raises:
      Rejected: BAD_VALUES for a slope of 0 or a scale that is not finite;
        CANNOT_DECODE for a broken table.
    """
    with judged(Quarantine.CANNOT_DECODE):
        return _values(ds, index, stored)


def _values(ds: Any, index: int, stored: NDArray[Any]) -> Values:
    if stored.ndim == 3:
        hidden = np.zeros(stored.shape[:2], np.bool_)
        # A sum and not a matrix product: the same on every machine.
        values = (stored.astype(np.float32) * _LUMA).sum(axis=-1, dtype=np.float32)
        return Values(values=values, hidden=hidden)
    signed = number(ds, "PixelRepresentation", 0) == 1
    values = _modality(_transform(ds, index), stored, signed=signed)
    if text(ds, "PhotometricInterpretation") == "MONOCHROME1":
        values = -values
    return Values(values=values, hidden=_hidden(ds, stored, signed=signed))


def _transform(ds: Any, index: int) -> Any:
    """Return what holds the frame's Rescale Slope and Intercept, or its modality table."""
    for sequence, place in zip(_GROUPS, (index, 0), strict=True):
        groups = ds.get(sequence)
        if not groups or place >= len(groups):
            continue
        transforms = groups[place].get("PixelValueTransformationSequence")
        if transforms:
            return transforms[0]
    return ds


def _modality(source: Any, stored: NDArray[Any], *, signed: bool) -> NDArray[np.float32]:
    tables = source.get("ModalityLUTSequence")
    if tables:
        return lookup.modality(tables[0], stored, signed=signed)
    slope, intercept = number(source, "RescaleSlope", 1), number(source, "RescaleIntercept", 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise Rejected(Quarantine.BAD_VALUES)
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _hidden(ds: Any, stored: NDArray[Any], *, signed: bool) -> NDArray[np.bool_]:
    first = number(ds, "PixelPaddingValue", math.nan)
    last = number(ds, "PixelPaddingRangeLimit", first)
    if not (math.isfinite(first) and math.isfinite(last)):
        return np.zeros(stored.shape, np.bool_)
    # Written as US beside signed pixels, -2000 arrives as 63536; and the reverse.
    sign = 1 << (int(number(ds, "BitsStored", 16)) - 1)
    if signed:
        limits = [int(v) - 2**16 if v >= sign else int(v) for v in (first, last)]
    else:
        limits = [int(v) + 2**16 if v < 0 else int(v) for v in (first, last)]
    hidden: NDArray[np.bool_] = (stored >= min(limits)) & (stored <= max(limits))
    return hidden
