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
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Floats = npt.NDArray[np.float64]

_CHUNK: Final = 1 << 17  # numbers at a time: what they pass through stays in the cache
_RARE: Final = 1 << 10  # words below this lack bits for a full float64
_GRID_BITS: Final = 36


class Randomness(Protocol):
    """A source of uniform and Gaussian numbers."""

    @property
    def seeded(self) -> bool:
        """Whether the numbers can be reproduced, and so protect nobody."""

    def uniform(self, count: int) -> Floats:
        """Return ``count`` independent numbers from [0, 1)."""

    def normal(self, count: int) -> Floats:
        """Return ``count`` independent standard normal numbers."""


Source = Callable[[str, str, int], Randomness]
"""Gives the randomness of one (site name, study digest, round)."""


class SystemRandomness:
    """Cryptographically secure numbers: AES-256 in counter mode under a fresh system key.

    Guarantees:
      - Key and counter come from ``os.urandom`` and exist in this object alone.
      - A normal number is a Box-Muller draw whose radius comes from a uniform
        number of full float64 precision down to 2**-127: no tail is cut off that
        a study could notice. Like any float64 it has gaps; :func:`noised` closes
        them, so add noise with that and not by hand.
    """

    seeded: Final = False

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()
        # Made once: fresh memory costs the system a fault a page, as much as the arithmetic.
        self._blank, self._keystream = bytes(8 * _CHUNK), bytearray(8 * _CHUNK + 15)
        self._halves = torch.empty((2, _CHUNK // 2), dtype=torch.float64)

    def uniform(self, count: int) -> Floats:
        """Return ``count`` numbers from [0, 1), each a multiple of 2**-53."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def normal(self, count: int) -> Floats:
        """Return ``count`` standard normal numbers."""
        drawn = torch.empty(count + count % 2, dtype=torch.float64)
        for start in range(0, len(drawn), _CHUNK):
            chunk = drawn[start : start + _CHUNK]
            self._stream.update_into(memoryview(self._blank)[: 8 * len(chunk)], self._keystream)
            words = torch.frombuffer(self._keystream, dtype=torch.int64, count=len(chunk))
            self._box_muller(*words.chunk(2), *chunk.chunk(2))
        return drawn[:count].numpy()

    def _box_muller(
        self,
        for_radius: torch.Tensor,
        for_angle: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
    ) -> None:
        """Turn two int64 words each into two normals (Box and Muller 1958), in place."""
        for_radius.bitwise_and_(2**63 - 1)
        uniform, angle = self._halves[:, : len(for_radius)]
        uniform.copy_(for_radius).add_(0.5)
        if int(for_radius.min()) < _RARE:
            rare = for_radius < _RARE
            finer = torch.from_numpy(self.uniform(int(rare.sum())))
            uniform[rare] = for_radius[rare] + finer.add_(2.0**-64)
        radius = uniform.mul_(2.0**-63).log_().mul_(-2)
        np.sqrt(radius.numpy(), out=radius.numpy())  # torch's takes twice as long
        angle.copy_(for_angle).mul_(math.pi * 2.0**-63)
        torch.cos(angle, out=cosines).mul_(radius)
        torch.sin(angle, out=sines).mul_(radius)


def system_source(site: str, study: str, round: int) -> Randomness:
    """Return fresh system randomness; nothing of it depends on the arguments."""
    del site, study, round
    return SystemRandomness()


def noised(total: torch.Tensor, *, std: float, randomness: Randomness) -> torch.Tensor:
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

    Returns:
      A tensor of the same shape, dtype and device.

    Guarantees:
      - Rounding the sum raises its L2 sensitivity by at most ``grid(std)`` times the
        square root of the number of coordinates: for 200 million of them, by
        2.1e-7 of ``std``.
      - Beside input and result, memory is a few MiB.
    """
    step = grid(std)
    flat = total.detach().reshape(-1)
    result = torch.empty_like(flat)
    exact, scaled = torch.empty((2, min(_CHUNK, len(flat))), dtype=torch.float64)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        if len(part) < len(exact):
            exact, scaled = exact[: len(part)], scaled[: len(part)]
        noise = torch.from_numpy(randomness.normal(len(part)))
        torch.mul(noise, std / step, out=scaled).round_()
        # The grid is a power of two: dividing by it is multiplying, exactly.
        exact.copy_(part).mul_(1 / step).round_().add_(scaled).mul_(step)
        result[start : start + _CHUNK] = exact
    return result.view(total.shape)


def grid(std: float) -> float:
    """Return the power of two, 2**-37 to 2**-36 of ``std``, that sum and noise are rounded to."""
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - _GRID_BITS)
