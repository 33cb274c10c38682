"""Masks on the pixels of their image: placed without interpolation, sampled as the image is."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.imaging.geometry import Plane
from septum_client.reject import Rejected

Mask = NDArray[np.uint8]

# A tenth of a pixel at the far corner: above what rounded numbers give, below any real shift.
_TOLERANCE: Final = 0.1


def affine_of(plane: Plane) -> NDArray[np.float64]:
    """Return the affine of a single frame, from index ``(0, row, column, 1)`` to LPS mm."""
    between = plane.thickness_mm or min(plane.spacing_mm)
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(plane.normal, between)
    affine[:3, 1] = np.multiply(plane.column_cosines, plane.spacing_mm[0])
    affine[:3, 2] = np.multiply(plane.row_cosines, plane.spacing_mm[1])
    affine[:3, 3] = plane.position_mm
    return affine


def place(mask: Mask, frame: NDArray[np.float64], onto: Mask, grid: NDArray[np.float64]) -> None:
    """Add a frame's classes to a mask; where two claim a pixel, the later of the labels holds.

    Args:
      mask: Classes of one frame or a volume, ``(depth, rows, columns)``.
      frame: Affine of ``mask``, from its index to LPS mm.
      onto: Changed; three axes.
      grid: Affine of ``onto``.

    Raises:
      Rejected: MASK_GEOMETRY where the pixels of ``mask`` are not pixels of ``onto``.
    """
    there = np.linalg.solve(grid, frame)
    last = np.array(mask.shape) - 1
    corners = np.array(np.meshgrid(*([0, end] for end in last), indexing="ij")).reshape(3, -1)
    found = there[:3, :3] @ corners + there[:3, 3:]
    whole = np.rint(there[:3])
    # An axis of one index says nothing of its own step.
    steps = whole[:, :3] * (last > 0)
    meant = steps @ corners + whole[:, 3:]
    ends = np.array(onto.shape)[:, None] - 1
    straight = (np.abs(steps).sum(axis=0) == (last > 0)).all()
    if not (straight and (np.abs(found - meant) <= _TOLERANCE).all()):
        raise Rejected(Quarantine.MASK_GEOMETRY)
    if (meant < 0).any() or (meant > ends).any():
        raise Rejected(Quarantine.MASK_GEOMETRY)
    at = np.nonzero(mask)
    index = tuple((steps @ np.array(at) + whole[:, 3:]).astype(np.intp))
    np.maximum.at(onto, index, mask[at])


def sampled(mask: Mask, *, size: int, depth: int | None = None) -> Mask:
    """Return a mask on the square on which :mod:`septum_client.pixels` puts its image.

    Args:
      mask: Classes, ``(rows, columns)``, or ``(slices, rows, columns)`` with a depth.
      size: Side of the square, in pixels.
      depth: Slices of the volume that comes back.

    Returns:
      ``(size, size)`` or ``(depth, size, size)``: of each pixel, the class at its
      centre; outside of the image, background.
    """
    rows, columns = mask.shape[-2:]
    side = max(rows, columns)
    down, across = (_centres(length, side, size) for length in (rows, columns))
    inside = np.ix_(np.clip(down, 0, rows - 1), np.clip(across, 0, columns - 1))
    within = ((down >= 0) & (down < rows))[:, None] & ((across >= 0) & (across < columns))
    if depth is None:
        return np.where(within, mask[inside], 0).astype(np.uint8)
    slices = ((np.arange(depth) + 0.5) * (len(mask) / depth)).astype(np.intp)
    return np.stack([np.where(within, mask[n][inside], 0) for n in slices]).astype(np.uint8)


def _centres(length: int, side: int, size: int) -> NDArray[np.intp]:
    """Return, of each pixel of the square, which of ``length`` rows its centre lies in."""
    middle = (np.arange(size) + 0.5) * (side / size) - (side - length) // 2
    centres: NDArray[np.intp] = np.floor(middle).astype(np.intp)
    return centres
