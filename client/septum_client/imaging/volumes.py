"""Slices to a volume: ordered by where they lie in the patient, refused where they leave a gap.

Neither Instance Number nor file names are asked: both are wrong often enough.
All coordinates are LPS in mm (:mod:`septum_client.imaging.geometry`).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client import pixels
from septum_client.imaging.geometry import Plane, Vector, dot
from septum_client.reject import Rejected

# Positions written with two decimals are off by 0.0087 mm each and 0.0174 mm in a difference.
TOLERANCE_MM: Final = 0.02
TOLERANCE_RATIO: Final = 0.01
# 0.6 degrees: more than rounding gives and less than anybody turns a scan by.
_TOLERANCE_COSINE: Final = 0.01


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Slice:
    """One frame with its place.

    Args:
      values: float32 ``(rows, columns)``.
      plane: Where it lies.
      hidden: Padding, bool of the same shape, or ``None``.
    """

    values: NDArray[np.float32] = field(repr=False)
    plane: Plane
    hidden: NDArray[np.bool_] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Volume:
    """Evenly spaced values in the patient.

    Args:
      values: float32 ``(depth, rows, columns)``.
      spacing_mm: Between slices, rows and columns.
      affine: float64 ``(4, 4)``, from index ``(depth, row, column, 1)`` to LPS mm.
      hidden: Padding, bool of the same shape, or ``None``.
    """

    values: NDArray[np.float32] = field(repr=False)
    spacing_mm: Vector
    affine: NDArray[np.float64] = field(repr=False)
    hidden: NDArray[np.bool_] | None = field(default=None, repr=False)


def split_by_orientation(slices: Sequence[Slice]) -> tuple[list[int], list[int]]:
    """Return the places in ``slices`` of the largest parallel group, and of the rest: localisers.

    A group shares orientation, matrix and spacing. Where two groups are the
    largest, as in a scout of three planes, nothing tells which one is meant,
    and all are the rest.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    kinds: list[Plane] = []
    for place in sorted(range(len(slices)), key=lambda at: _orientation(slices[at].plane)):
        own = slices[place].plane
        kind = next((i for i, other in enumerate(kinds) if _parallel(own, other)), len(kinds))
        if kind == len(kinds):
            kinds.append(own)
        groups[kind, slices[place].values.shape, own.spacing_mm].append(place)
    most = max(map(len, groups.values()), default=0)
    largest = [places for places in groups.values() if len(places) == most]
    kept = sorted(largest[0]) if len(largest) == 1 else []
    return kept, sorted(set(range(len(slices))) - set(kept))


def stack(slices: Sequence[Slice]) -> Volume:
    """Return the slices as a volume whose depth grows along the normal of their planes.

    Args:
      slices: At least one, in any order. Equal ones at one place count once.

    Guarantees:
      - The order of ``slices`` never changes the result.
      - Slices are as far apart as each other within 1 % of the distance or
        0.02 mm, whichever is more, and lie above each other within 1 % of
        their distance or 0.02 mm.

    Raises:
      Rejected: UNEVEN_SPACING: a slice is missing, two differ at one place, or
        the gantry was tilted, so that slices are shifted against each other.
        BAD_GEOMETRY: not parallel, of different matrix or spacing
        (:func:`split_by_orientation` first), or one slice without thickness.
    """
    ordered = sorted(slices, key=lambda one: (_orientation(one.plane), one.plane.position_mm))
    if not ordered:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    first = ordered[0]
    for one in ordered:
        alike = one.values.shape == first.values.shape
        if not alike or not _parallel(one.plane, first.plane) or _finer(one, first):
            raise Rejected(Quarantine.BAD_GEOMETRY)
    normal = first.plane.normal
    ordered.sort(key=lambda one: dot(one.plane.position_mm, normal))
    ordered = _without_copies(ordered)
    gap = _even_gap(ordered, normal)
    return Volume(
        values=np.stack([one.values for one in ordered]).astype(np.float32, copy=False),
        spacing_mm=(gap, *first.plane.spacing_mm),
        affine=_affine(ordered[0].plane, first.plane, gap),
        hidden=_hidden(ordered),
    )


def canonical(volume: Volume) -> Volume:
    """Return the volume with depth towards the head, rows to the back, columns to the left.

    Only axes are swapped and turned round: no value is interpolated, so an
    oblique volume keeps its angle to the patient's axes.
    """
    values, affine = reoriented(volume.values, volume.affine)
    hidden = None if volume.hidden is None else reoriented(volume.hidden, volume.affine)[0]
    return Volume(values=values, spacing_mm=spacing_of(affine), affine=affine, hidden=hidden)


def reoriented(
    values: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a view of three axes ordered as :func:`canonical` says, and its affine.

    Args:
      values: Any three axes.
      affine: From their index to LPS mm.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Patient axes z, y, x in the order of the result; the pairing that fits best in sum.
    axes = max(
        permutations(range(3)),
        key=lambda order: sum(abs(cosines[2 - i, axis]) for i, axis in enumerate(order)),
    )
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for i, axis in enumerate(axes):
        backwards = cosines[2 - i, axis] < 0
        turn[axis, i] = -1 if backwards else 1
        turn[axis, 3] = values.shape[axis] - 1 if backwards else 0
    way = tuple(slice(None, None, -1 if turn[axis, i] < 0 else 1) for i, axis in enumerate(axes))
    return values.transpose(axes)[way], affine @ turn


def spacing_of(affine: NDArray[np.float64]) -> Vector:
    """Return how far neighbours are apart along each axis of the index, in mm."""
    apart = np.linalg.norm(affine[:3, :3], axis=0)
    return float(apart[0]), float(apart[1]), float(apart[2])


def to_training(volume: Volume, *, size: int, depth: int) -> NDArray[np.float32]:
    """Return float32 ``(depth, size, size)`` in [0, 1].

    The percentiles of :func:`septum_client.pixels.to_training`, taken over the
    whole volume, map to 0 and 1. Each slice is centred on a square with its
    aspect kept; then the slices are averaged over ``depth`` equal shares of
    the volume's height, exactly.

    Raises:
      UnusableValuesError: Values not finite, all equal, or all padding.
    """
    unit = pixels.unit_range(volume.values, volume.hidden)
    squares = np.stack([pixels.on_square(one, size) for one in unit])
    out = np.empty((depth, size, size), dtype=np.float32)
    for row in range(size):
        out[:, row] = _shares(squares[:, row], depth)
    return np.clip(out, 0, 1, out=out)


def _shares(columns: NDArray[np.float32], depth: int) -> NDArray[np.float64]:
    """Return ``(depth, m)`` from ``(n, m)``: exact means over ``n / depth`` rows, from their sums.

    Row by row of the image, because sums in double precision are large.
    """
    n = len(columns)
    running = np.zeros((n + 1, columns.shape[1]))
    np.cumsum(columns, axis=0, dtype=np.float64, out=running[1:])
    edges = np.arange(depth + 1) * (n / depth)
    whole = np.minimum(edges.astype(np.int64), n - 1)
    part = (edges - whole)[:, None]
    integral = running[whole] * (1 - part) + running[whole + 1] * part
    shares: NDArray[np.float64] = np.diff(integral, axis=0) * (depth / n)
    return shares


def _orientation(plane: Plane) -> tuple[float, ...]:
    return plane.row_cosines + plane.column_cosines


def _parallel(a: Plane, b: Plane) -> bool:
    # Row and column each: a slice turned within its plane does not stack either.
    return math.dist(_orientation(a), _orientation(b)) <= _TOLERANCE_COSINE


def _finer(one: Slice, other: Slice) -> bool:
    return not np.allclose(one.plane.spacing_mm, other.plane.spacing_mm, rtol=1e-3, atol=0)


def _without_copies(ordered: Sequence[Slice]) -> list[Slice]:
    kept = [ordered[0]]
    for one in ordered[1:]:
        if math.dist(one.plane.position_mm, kept[-1].plane.position_mm) > TOLERANCE_MM:
            kept.append(one)
        elif not np.array_equal(one.values, kept[-1].values, equal_nan=True):
            raise Rejected(Quarantine.UNEVEN_SPACING)
    return kept


def _even_gap(ordered: Sequence[Slice], normal: Vector) -> float:
    """Return the distance between slices, after checking that it is one and straight."""
    if len(ordered) == 1:
        thickness = ordered[0].plane.thickness_mm
        if thickness is None:
            raise Rejected(Quarantine.BAD_GEOMETRY)
        return thickness
    heights = [dot(one.plane.position_mm, normal) for one in ordered]
    gap = (heights[-1] - heights[0]) / (len(ordered) - 1)
    within = max(TOLERANCE_MM, TOLERANCE_RATIO * gap)
    uneven = any(abs(b - a - gap) > within for a, b in pairwise(heights))
    start = ordered[0].plane.position_mm
    for one, height in zip(ordered, heights, strict=True):
        along = height - heights[0]
        straight = tuple(s + along * n for s, n in zip(start, normal, strict=True))
        shift = math.dist(one.plane.position_mm, straight)
        uneven = uneven or shift > max(TOLERANCE_MM, TOLERANCE_RATIO * along)
    if uneven or gap <= TOLERANCE_MM:
        raise Rejected(Quarantine.UNEVEN_SPACING)
    return gap


def _affine(lowest: Plane, plane: Plane, gap: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(plane.normal, gap)
    affine[:3, 1] = np.multiply(plane.column_cosines, plane.spacing_mm[0])
    affine[:3, 2] = np.multiply(plane.row_cosines, plane.spacing_mm[1])
    affine[:3, 3] = lowest.position_mm
    return affine


def _hidden(ordered: Sequence[Slice]) -> NDArray[np.bool_] | None:
    if all(one.hidden is None for one in ordered):
        return None
    none = np.zeros(ordered[0].values.shape, dtype=np.bool_)
    return np.stack([none if one.hidden is None else one.hidden for one in ordered])
