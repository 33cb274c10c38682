"""What a strategy is: a pure function of releases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contribution:
    """One site's admitted update, float32 (params,), and its declared number of patients."""

    site: str
    update: Vector
    patients: int


class Strategy(Protocol):
    """Combines the contributions of a round into the next global model.

    Guarantees:
      - The order of contributions never changes the result.
      - No state, no I/O, no randomness.
    """

    def __call__(self, model: Vector, contributions: Sequence[Contribution]) -> Vector:
        """Return the next model, float32 (params,), from at least one contribution."""
