"""Reproducible randomness for simulations. It protects nobody, and says so."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from septum_client.randomness import Randomness
from septum_client.ziggurat import Floats


class SeededRandomness:
    """Numbers that anybody who knows the seed can draw again."""

    seeded: Final = True

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, count: int) -> Floats:
        """Return ``count`` numbers from [0, 1)."""
        return self._generator.random(count)

    def normal(self, count: int, out: Floats | None = None) -> Floats:
        """Return ``count`` standard normal numbers, in ``out`` where it is given."""
        return self._generator.standard_normal(count, out=out)


@dataclass(frozen=True)
class SeededSource:
    """Randomness of every (site, study, round), all derived from one seed.

    Guarantees:
      - Independent streams for different sites, studies and rounds, equal on every engine
        whatever the order in which hospitals train.
    """

    seed: int

    def __call__(self, site: str, study: str, round: int) -> Randomness:
        """Return the stream of one site's round."""
        text = f"{self.seed}\n{site}\n{study}\n{round}".encode()
        return SeededRandomness(int.from_bytes(hashlib.sha256(text).digest()))
