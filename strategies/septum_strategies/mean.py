"""Weighted mean: FedAvg, and the server's half of FedProx."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from septum_strategies.base import Contribution, Settings, State, Vector

_STRETCH: Final = 1 << 19
"""Numbers whose sums are held at a time: the model's would be slow to get and to go through."""

_TOGETHER: Final = 8
"""Contributions of which a stretch is held at a time."""

_WORKERS: Final = min(4, os.cpu_count() or 1)
"""Stretches that are summed at a time: everybody waits for the mean."""

_PART: Final = 1 << 15
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
    for part in contributions:
        if part.shape != model.shape:
            raise ValueError(f"update {part.shape} and model {model.shape} differ in shape")
    # Sorted, so that floating-point sums do not depend on who answered first.
    parts = sorted(contributions, key=lambda c: c.site)
    patients = sum(part.patients for part in parts)
    moved = np.empty(model.shape, dtype=np.float32)
    starts = range(0, len(model), _STRETCH)
    workers = max(1, min(_WORKERS, len(starts)))

    def move(worker: int) -> None:
        held = np.empty(min(_STRETCH, len(model)), dtype=np.float64)
        for start in starts[worker::workers]:
            stop = min(start + _STRETCH, len(model))
            total = held[: stop - start]
            total[:] = 0
            for first in range(0, len(parts), _TOGETHER):
                few = parts[first : first + _TOGETHER]
                _add(total, [(part.stretch(start, stop), part.patients) for part in few])
            total /= patients
            total += model[start:stop]
            moved[start:stop] = total

    # Each number is computed by one of them alone, in the same order of contributions.
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(move, range(workers)))
    return moved


def _add(total: npt.NDArray[np.float64], stretches: Sequence[tuple[Vector, int]]) -> None:
    held = np.empty(min(_PART, len(total)), dtype=np.float64)
    for start in range(0, len(total), _PART):
        sums = total[start : start + _PART]
        weighed = held[: len(sums)]
        for stretch, patients in stretches:
            # Made float64 first: numpy is slow at multiplying and converting in one.
            weighed[:] = stretch[start : start + _PART]
            weighed *= patients
            sums += weighed


def plain_mean(
    model: Vector, contributions: Sequence[Contribution], *, state: State, settings: Settings
) -> tuple[Vector, State]:
    """Return :func:`weighted_mean` and an empty state: nothing lasts over rounds."""
    del state, settings
    return weighted_mean(model, contributions), {}
