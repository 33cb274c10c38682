"""Where noise and sampling come from.

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
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Floats = npt.NDArray[np.float64]


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
      - A normal number is half the sum of four Box-Muller draws in float64, so
        the gaps of floating-point numbers do not reveal what was added to it
        (Holohan and Braghin 2021, arXiv:2107.10138).
    """

    seeded: Final = False

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()

    def uniform(self, count: int) -> Floats:
        """Return ``count`` numbers from [0, 1), each a multiple of 2**-53."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def normal(self, count: int) -> Floats:
        """Return ``count`` standard normal numbers."""
        total = np.zeros(count)
        for _ in range(4):
            total += self._box_muller(count)
        return np.asarray(total / 2)

    def _box_muller(self, count: int) -> Floats:
        half = (count + 1) // 2
        radius = np.sqrt(-2 * np.log1p(-self.uniform(half)))  # 1 - u is never 0
        angle = 2 * math.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def system_source(site: str, study: str, round: int) -> Randomness:
    """Return fresh system randomness; nothing of it depends on the arguments."""
    del site, study, round
    return SystemRandomness()
