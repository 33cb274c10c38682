"""Rectangles of pixels: which part of an image is kept and which is blanked."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


class Box(NamedTuple):
    """A rectangle in pixels, half-open: rows ``top`` to ``bottom``, columns ``left`` to ``right``.

    >>> Box(0, 0, 2, 3).area
    6
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """The number of pixels inside; 0 where the sides cross."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    def meet(self, other: "Box") -> "Box":
        """Return what both cover; its area is 0 when they do not touch."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def moved(self, down: int, right: int) -> "Box":
        """Return the box as many pixels further down and to the right."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)


NOTHING: Final = Box(0, 0, 0, 0)


def without(boxes: Iterable[Box], holes: Iterable[Box]) -> tuple[Box, ...]:
    """Return boxes that cover what ``boxes`` cover and none of what ``holes`` cover.

    >>> without([Box(0, 0, 4, 4)], [Box(0, 0, 1, 4)])
    (Box(top=1, left=0, bottom=4, right=4),)
    """
    left = [box for box in boxes if box.area]
    for hole in holes:
        left = [part for box in left for part in _split(box, hole)]
    return tuple(left)


def mask(boxes: Iterable[Box], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return True where a box covers the image, ``(rows, columns)``."""
    covered = np.zeros((rows, columns), dtype=np.bool_)
    for box in boxes:
        covered[max(0, box.top) : max(0, box.bottom), max(0, box.left) : max(0, box.right)] = True
    return covered


def hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around all of them; :data:`NOTHING` for none."""
    every = [box for box in boxes if box.area]
    if not every:
        return NOTHING
    tops, lefts, bottoms, rights = zip(*every, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


def crop(values: NDArray[T], keep: tuple[Box, ...], *, fill: Any) -> NDArray[T]:
    """Return the part of ``values`` around ``keep``, with ``fill`` wherever no box covers.

    Args:
      values: ``(rows, columns)`` or ``(rows, columns, samples)``.
      keep: What may stay; empty means that there is nothing to crop to, and
        the values come back whole.
      fill: The value of a blanked pixel.

    Guarantees:
      - No pixel outside every box of ``keep`` survives.
      - ``values`` itself is not changed.
    """
    if not keep:
        return values.copy()
    rows, columns = values.shape[:2]
    out = values.copy()
    out[~mask(keep, rows, columns)] = fill
    around = hull(keep).meet(Box(0, 0, rows, columns))
    return out[around.top : around.bottom, around.left : around.right]


def _split(box: Box, hole: Box) -> list[Box]:
    cut = box.meet(hole)
    if not cut.area:
        return [box]
    parts = [
        Box(box.top, box.left, cut.top, box.right),
        Box(cut.bottom, box.left, box.bottom, box.right),
        Box(cut.top, box.left, cut.bottom, cut.left),
        Box(cut.top, cut.right, cut.bottom, box.right),
    ]
    return [part for part in parts if part.area]
