"""What a strategy is: a pure function of releases, and of what it made of earlier ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

State = Mapping[str, Vector]
"""What a strategy carries from round to round: named vectors of the model's shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contribution:
    """One site's admitted update, float32 (params,), and its declared number of patients.

    A strategy asks for stretches of the update, so that one that lies on a disk
    need never be in memory as a whole.
    """

    site: str
    update: Vector
    patients: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The update's."""
        return self.update.shape

    def stretch(self, start: int, stop: int) -> Vector:
        """Return the update's numbers from ``start`` to ``stop``, not to be written to."""
        return self.update[start:stop]


class Settings(Protocol):
    """What a study says of its strategy; :class:`septum.training.Aggregation` is one."""

    @property
    def name(self) -> str:
        """Which strategy."""

    @property
    def learning_rate(self) -> float:
        """Length of the server's step."""

    @property
    def momentum(self) -> float:
        """Share of the last step that is kept."""

    @property
    def ema(self) -> float:
        """Share of the old average that is kept; 0 for no average."""


class Strategy(Protocol):
    """Combines the contributions of a round into the next global model.

    Guarantees:
      - The order of contributions never changes the result.
      - No I/O, no randomness, and no state but what is handed in and out.
    """

    def __call__(
        self,
        model: Vector,
        contributions: Sequence[Contribution],
        *,
        state: State,
        settings: Settings,
    ) -> tuple[Vector, State]:
        """Return the next model, float32 (params,), and the next state."""
