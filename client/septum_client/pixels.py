"""Stored pixel values to training values: pure, deterministic, the same on every machine.

The order is the standard's: modality rescale, photometric inversion, padding,
then normalisation and resizing, which are ours.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Stored = NDArray[np.integer[Any]]
PERCENTILES: Final = (0.5, 99.5)


class UnusableValuesError(ValueError):
    """Pixels without contrast, or not finite: nothing to learn from. Carries no value."""


def to_training(
    stored: Stored,
    *,
    size: int,
    slope: float = 1.0,
    intercept: float = 0.0,
    inverted: bool = False,
    padding: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Return one image as a square of values in [0, 1], brightest tissue 1.

    Args:
      stored: Stored values as decoded, integers of shape ``(rows, columns)``.
      size: Side of the square that comes back, in pixels.
      slope: Rescale Slope (DICOM PS3.3 C.11.1, Modality LUT); may be negative.
      intercept: Rescale Intercept, of the same clause.
      inverted: True for MONOCHROME1, whose lowest value is displayed white
        (DICOM PS3.3 C.7.6.3.1.2).
      padding: First and last stored value, inclusive, that mean "no image
        here" (Pixel Padding Value and Range Limit, DICOM PS3.3 C.7.5.1.1.2);
        compared before the rescale, as the clause says.

    Returns:
      ``(size, size)``. Percentiles 0.5 and 99.5 of the unpadded pixels map to
      0 and 1, values beyond them are clipped. The image is centred on a
      square of zeros (aspect kept) and resized by exact area average, so
      nothing aliases. Padding is 0.

    Guarantees:
      - A positive slope and any intercept never change the result (up to
        rounding); MONOCHROME1 gives one minus the MONOCHROME2 image, where
        nothing is padded.

    Raises:
      UnusableValuesError: Values not finite, all equal, or all padding.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if inverted:
            values = -values
        hidden = None
        if padding is not None:
            hidden = (stored >= min(padding)) & (stored <= max(padding))
    return from_values(values, hidden, size)


def from_values(
    values: NDArray[np.float32], hidden: NDArray[np.bool_] | None, size: int
) -> NDArray[np.float32]:
    """Return the same square as :func:`to_training` does, from values already real.

    Args:
      values: Values of shape ``(rows, columns)``, higher is brighter: rescaled,
        and negated for MONOCHROME1.
      hidden: True for padding, of the same shape; None for none.
      size: Side of the square that comes back, in pixels.

    Raises:
      UnusableValuesError: As :func:`unit_range`.
    """
    return on_square(unit_range(values, hidden), size)


def unit_range(
    values: NDArray[np.float32], hidden: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return values of any shape with percentiles 0.5 and 99.5 at 0 and 1, clipped; padding 0.

    Args:
      values: A slice or a volume; the percentiles are those of the whole.
      hidden: True for padding, of the same shape; None for none.

    Raises:
      UnusableValuesError: Values not finite, all equal, or all padding.
    """
    seen = values if hidden is None else values[~hidden]
    if seen.size == 0:
        raise UnusableValuesError("every pixel is padding")
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.percentile(seen, PERCENTILES)
        if not low < high:
            # A small bright structure in an empty field lies wholly outside the percentiles.
            low, high = seen.min(), seen.max()
        if not low < high or not np.isfinite(high - low):
            raise UnusableValuesError("the image has no contrast or is not finite")
        unit: NDArray[np.float32] = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    if hidden is not None:
        unit[hidden] = 0
    if not np.isfinite(unit).all():
        raise UnusableValuesError("the image is not finite")
    return unit


def on_square(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return one image, centred on a square of zeros, as ``(size, size)`` by exact area average.

    Args:
      values: Values in [0, 1] of shape ``(rows, columns)``.
      size: Side of the square that comes back, in pixels.
    """
    side = max(values.shape)
    if values.shape == (size, size):
        return values
    across = _area_average(values.T, side, size)
    return np.clip(_area_average(across.T, side, size), 0, 1).astype(np.float32)


def _area_average(values: NDArray[Any], side: int, size: int) -> NDArray[np.float64]:
    """Return ``(size, m)`` from ``(n, m)``: mean over ``side / size`` rows, zeros beyond n.

    A running sum read at fractional rows is the exact integral of the pixels
    and, unlike a matrix product, is the same however many threads BLAS uses.
    """
    rows = values.shape[0]
    running = np.zeros((rows + 1, values.shape[1]))
    np.cumsum(values, axis=0, dtype=np.float64, out=running[1:])
    edges = np.arange(size + 1) * (side / size) - (side - rows) // 2
    edges = np.clip(edges, 0, rows)
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    part = (edges - whole)[:, None]
    integral = running[whole] * (1 - part) + running[whole + 1] * part
    averages: NDArray[np.float64] = np.diff(integral, axis=0) * (size / side)
    return averages
