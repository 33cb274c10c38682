"""Where noise and sampling come from, and how noise is added.

A hospital draws from the operating system's generator through AES-CTR. The
bench may hand in a seeded source; every ledger entry and report made with one
says so, because a known seed undoes the guarantee.
"""

import math
import os
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from septum_client.ziggurat import LONGEST, Floats, Words, Ziggurat, as_uniform

_CHUNK: Final = 1 << 17  # numbers that noise is added to at a time
_GRID_BITS: Final = 26  # finer shows the sampler's own lattice, coarser moves the sum too far


class Randomness(Protocol):
    """A source of uniform and Gaussian numbers."""

    @property
    def seeded(self) -> bool:
        """Whether the numbers can be reproduced, and so protect nobody."""

    def uniform(self, count: int) -> Floats:
        """Return ``count`` independent numbers from [0, 1)."""

    def normal(self, count: int, out: Floats | None = None) -> Floats:
        """Return ``count`` independent standard normal numbers, in ``out`` where it is given."""


Source = Callable[[str, str, int], Randomness]
"""Gives the randomness of one (site name, study digest, round)."""


class SystemRandomness:
    """Cryptographically secure numbers: AES-256 in counter mode under a fresh system key.

    Guarantees:
      - Key and counter come from ``os.urandom`` and exist in this object alone.
      - A normal number is a draw by rejection (:class:`~septum_client.ziggurat.Ziggurat`).
        Like any float64 it has gaps; :func:`noised` closes them, so add noise with that
        and not by hand.
    """

    seeded: Final = False

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()
        self._ziggurat = Ziggurat(self._draw)
        # Made once: fresh memory costs the system a fault a page, as much as the arithmetic.
        self._blank, self._keystream = bytes(8 * LONGEST), bytearray(8 * LONGEST + 15)

    def uniform(self, count: int) -> Floats:
        """Return ``count`` numbers from [0, 1), each a multiple of 2**-53."""
        drawn = np.empty(count)
        for start in range(0, count, LONGEST):
            chunk = drawn[start : start + LONGEST]
            chunk[:] = as_uniform(self._draw(len(chunk)))
        return drawn

    def normal(self, count: int, out: Floats | None = None) -> Floats:
        """Return ``count`` standard normal numbers, in ``out`` where it is given."""
        drawn = np.empty(count) if out is None else out
        self._ziggurat.fill(drawn)
        return drawn

    def _draw(self, count: int) -> Words:
        """Return ``count`` words of the stream, at most ``LONGEST``, until the next call."""
        self._stream.update_into(memoryview(self._blank)[: 8 * count], self._keystream)
        return np.frombuffer(self._keystream, dtype=np.int64, count=count)


def system_source(site: str, study: str, round: int) -> Randomness:
    """Return fresh system randomness; nothing of it depends on the arguments."""
    del site, study, round
    return SystemRandomness()


def noised(
    total: torch.Tensor,
    *,
    std: float,
    randomness: Randomness,
    scratch: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``total`` plus Gaussian noise of standard deviation ``std`` on every coordinate.

    Sum and noise are each rounded to multiples of :func:`grid`, a public
    constant, and added exactly. Adding multiples commutes with rounding to them,
    so the result is the continuous mechanism's, rounded: post-processing. It
    shows neither the gaps of the noise (Mironov 2012) nor the precision of what
    it was added to (Haney et al. 2022, arXiv:2207.13793), against which summing
    several draws (Holohan and Braghin 2021, arXiv:2107.10138; Opacus' secure
    mode) does not help.

    Args:
      total: Clipped sum, floating point, any shape and device.
      std: Standard deviation, in the units of ``total``.
      randomness: Where the noise comes from.
      scratch: Memory of :func:`scratch_for` to work in; made anew without.
      out: Where the result goes; may be ``total``. Shaped, typed and placed like it, and
        contiguous.

    Returns:
      A tensor of the same shape, dtype and device.

    Guarantees:
      - Rounding the sum raises its L2 sensitivity by at most ``grid(std)`` times the
        square root of the number of coordinates: for 10 million of them, by
        4.7e-5 of ``std``.
      - The noise's own lattice, float64's or 2**-53 of ``std``, whichever is coarser, has
        2**24 places and more in each step of the grid up to four ``std``: which step a
        number falls in has its probability to 2**-24, so that who knows the lattice
        sees, in 10 million coordinates, about what a shift by 1e-4 of ``std`` would show.
      - Beside input and result, memory is a few MiB.
    """
    step = grid(std)
    result = torch.empty_like(total, memory_format=torch.contiguous_format) if out is None else out
    source, sink = total.detach().reshape(-1), result.view(-1)
    exact, drawn = scratch_for(len(source)) if scratch is None else scratch
    for start in range(0, len(source), _CHUNK):
        part = source[start : start + _CHUNK]
        exact, drawn = exact[: len(part)], drawn[: len(part)]
        noise = torch.from_numpy(randomness.normal(len(part), drawn.numpy()))
        torch.mul(noise, std / step, out=drawn).round_()
        # The grid is a power of two: dividing by it is multiplying, exactly.
        exact.copy_(part).mul_(1 / step).round_().add_(drawn).mul_(step)
        sink[start : start + _CHUNK] = exact
    return result


def scratch_for(count: int = _CHUNK) -> torch.Tensor:
    """Return memory that :func:`noised` can work in again and again, for ``count`` numbers."""
    return torch.empty((2, min(_CHUNK, count)), dtype=torch.float64)


def grid(std: float) -> float:
    """Return the power of two, 2**-27 to 2**-26 of ``std``, that sum and noise are rounded to."""
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - _GRID_BITS)
