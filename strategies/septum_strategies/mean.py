"""Weighted mean: FedAvg, and the server's half of FedProx."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from septum_strategies.base import Contribution, Settings, State, Vector

_PART: Final = 1 << 16
"""Numbers that are added at a time: in float64 they stay in a processor's cache."""


def weighted_mean(model: Vector, contributions: Sequence[Contribution]) -> Vector:
    """Return the model plus the mean update, weighted by declared patients.

    McMahan et al. 2017, arXiv:1602.05629. The weights are public constants of
    the study, not counts sent with the update. A tampered update moves the
    model without bound: this strategy trusts its sites.

    Args:
      model: Global model, float32 (params,).
      contributions: At least one, each of the model's shape.

    Guarantees:
      - The order of ``contributions`` never changes the result.
      - With one contribution the result is the model plus that update.

    Raises:
      ValueError: No contribution, or one of another shape.

    >>> import numpy as np
    >>> ones = np.ones(2, dtype=np.float32)
    >>> weighted_mean(0 * ones, [
    ...     Contribution(site="a", update=ones, patients=100),
    ...     Contribution(site="b", update=5 * ones, patients=300),
    ... ]).tolist()
    [4.0, 4.0]
    """
    if not contributions:
        raise ValueError("a mean needs at least one contribution")
    total = np.zeros(model.shape, dtype=np.float64)
    held = np.empty(_PART, dtype=np.float64)
    # Sorted, so that floating-point sums do not depend on who answered first.
    for part in sorted(contributions, key=lambda c: c.site):
        update = part.update  # which may be read from a disk each time it is asked for
        if update.shape != model.shape:
            raise ValueError(f"update {update.shape} and model {model.shape} differ in shape")
        for start in range(0, len(total), _PART):
            sums = total[start : start + _PART]
            weighed = held[: len(sums)]
            stretch = update[start : start + _PART]
            np.multiply(stretch, part.patients, out=weighed, dtype=np.float64)
            sums += weighed
    total /= sum(part.patients for part in contributions)
    total += model
    return total.astype(np.float32)


def plain_mean(
    model: Vector, contributions: Sequence[Contribution], *, state: State, settings: Settings
) -> tuple[Vector, State]:
    """Return :func:`weighted_mean` and an empty state: nothing lasts over rounds."""
    del state, settings
    return weighted_mean(model, contributions), {}
