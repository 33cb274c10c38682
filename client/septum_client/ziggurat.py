"""Standard normal numbers from random words, by rejection and so without approximation.

The ziggurat of Marsaglia and Tsang (2000) over 256 strips of equal area, strip and
place in it taken from different bits (Doornik 2005): 99 numbers of 100 cost two
look-ups and a comparison, which is what makes secure noise cheap enough to be the
only kind there is.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.int64]
Draw = Callable[[int], Words]
LONGEST: Final = 1 << 15  # numbers at a time: what they pass through stays in the cache
_TOGETHER: Final = 1 << 17  # settled at once, because a handful costs as many calls
_STRIPS: Final = 256
_START: Final = 3.6541528853610088  # where the tail begins, for 256 strips
_PLACE_BITS: Final = 55  # of a signed word without the 8 bits that name the strip


def _edges() -> Floats:
    """Return where each strip ends: the lowest one's width as a rectangle, then outermost first."""
    height = math.exp(-0.5 * _START**2)
    area = _START * height + math.sqrt(math.pi / 2) * math.erfc(_START / math.sqrt(2))
    edges = [area / height, _START]
    while len(edges) < _STRIPS:
        height += area / edges[-1]
        edges.append(math.sqrt(-2 * math.log(height)))
    return np.array([*edges, 0.0])


_EDGES: Final = _edges()
_HEIGHTS: Final = np.exp(-0.5 * _EDGES * _EDGES)  # of the density, up to its constant
_SCALES: Final = np.ldexp(_EDGES[:-1], -_PLACE_BITS)
_INNER: Final = _EDGES[1:].copy()  # nearer than this, a place is under the curve for sure


class Ziggurat:
    """Turns words into normal numbers, in buffers that are made once.

    Args:
      draw: Gives that many independent uniform 64-bit words, at most ``LONGEST``, in
        memory that may be written to until the next call.

    Guarantees:
      - A number's distribution is the normal one, on a lattice: within a strip of
        width w the numbers are multiples of w * 2**-55, at most 2**-53, rounded to float64.
      - The tail is drawn from uniform numbers down to 2**-128, so that none is cut off
        that could be noticed.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._strips = np.empty(LONGEST, dtype=np.int64)
        self._looked_up, self._sizes = np.empty((2, LONGEST))
        self._outside = np.empty(LONGEST, dtype=np.bool_)

    def fill(self, out: Floats) -> None:
        """Fill ``out`` with independent standard normal numbers."""
        for start in range(0, len(out), _TOGETHER):
            self._fill(out[start : start + _TOGETHER])

    def _fill(self, out: Floats) -> None:
        tried = [self._try(out[at : at + LONGEST]) for at in range(0, len(out), LONGEST)]
        places = np.concatenate([one + at * LONGEST for at, (one, _) in enumerate(tried)])
        if len(places):
            strips = np.concatenate([of for _, of in tried])
            out[places] = self._settled(out[places], strips)

    def _try(self, out: Floats) -> tuple[Words, Words]:
        """Fill ``out``; return the places of numbers outside their strip's core, and the strips."""
        size = len(out)
        words, strips, looked_up = self._draw(size), self._strips[:size], self._looked_up[:size]
        np.bitwise_and(words, _STRIPS - 1, out=strips)
        np.right_shift(words, 8, out=words)  # arithmetic: the sign stays
        np.take(_SCALES, strips, out=looked_up, mode="clip")  # the mode that needs no buffer
        np.multiply(words, looked_up, out=out)
        np.take(_INNER, strips, out=looked_up, mode="clip")
        sizes = np.abs(out, out=self._sizes[:size])
        outside = np.flatnonzero(np.greater_equal(sizes, looked_up, out=self._outside[:size]))
        return outside, strips[outside]

    def _settled(self, numbers: Floats, strips: Words) -> Floats:
        """Return the numbers that were outside their core: kept, from the tail, or anew."""
        below, above = _HEIGHTS[strips], _HEIGHTS[strips + 1]
        heights = below + (above - below) * as_uniform(self._draw(len(numbers)))
        again = np.flatnonzero(heights >= np.exp(-0.5 * numbers * numbers))
        lowest = np.flatnonzero(strips == 0)
        if len(again):
            anew = np.empty(len(again))
            self.fill(anew)
            numbers[again] = anew
        if len(lowest):
            numbers[lowest] = self._tail(self._draw(len(lowest)) < 0)
        return numbers

    def _tail(self, negative: npt.NDArray[np.bool_]) -> Floats:
        """Return numbers from beyond the last strip (Marsaglia 1964), of these signs."""
        beyond = np.empty(len(negative))
        waiting = np.arange(len(negative))
        while len(waiting):
            past, test = -np.log(_fine(self._draw(4 * len(waiting))).reshape(2, -1))
            past /= _START
            beyond[waiting] = _START + past
            waiting = waiting[2 * test < past * past]
        return np.where(negative, -beyond, beyond)


def as_uniform(words: Words) -> Floats:
    """Return numbers from [0, 1), multiples of 2**-53."""
    return np.asarray((words.view(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _fine(words: Words) -> Floats:
    """Return half as many numbers from (0, 1], of full float64 precision down to 2**-128."""
    high, low = words.view(np.uint64).astype(np.float64).reshape(2, -1)
    return np.asarray((high + (low + 1) * 2.0**-64) * 2.0**-64)
