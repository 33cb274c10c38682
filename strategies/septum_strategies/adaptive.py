"""Momentum and Adam at the server, and a moving average: what lasts over rounds.

All three are functions of releases that already left the hospitals, so they
cost no epsilon: post-processing. Their state holds nothing that the
coordinator did not have.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from septum_strategies.base import Contribution, Settings, State, Vector
from septum_strategies.mean import weighted_mean

AVERAGE: Final = "average"
"""Name of the moving average in a strategy's state."""

SECOND_MOMENTUM: Final = 0.99
ADAPTIVITY: Final = 1e-3
WARM_UP_ROUNDS: Final = 9


def server_momentum(
    model: Vector, contributions: Sequence[Contribution], *, state: State, settings: Settings
) -> tuple[Vector, State]:
    """Return the model moved by an exponential sum of mean updates (FedAvgM).

    Hsu et al. 2019, arXiv:1909.06335. With one step per round at each
    hospital this is heavy-ball SGD over all hospitals' patients. One lying
    hospital moves the model in this round and, through the momentum, in later
    ones: in all by ``1 / (1 - momentum)`` times its weight times the norm bound.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> half = SimpleNamespace(name="fedavgm", learning_rate=1.0, momentum=0.5, ema=0.0)
    >>> one = [Contribution(site="a", update=np.ones(1, np.float32), patients=10)]
    >>> model, state = server_momentum(np.zeros(1, np.float32), one, state={}, settings=half)
    >>> float(server_momentum(model, one, state=state, settings=half)[0][0])
    2.5
    """
    mean = weighted_mean(np.zeros_like(model), contributions).astype(np.float64)
    speed = settings.momentum * _carried("momentum", state, model) + mean
    moved = model + settings.learning_rate * speed
    return _single(moved), {"momentum": _single(speed)}


def server_adam(
    model: Vector, contributions: Sequence[Contribution], *, state: State, settings: Settings
) -> tuple[Vector, State]:
    """Return the model moved by Adam, with the mean update for a gradient (FedAdam).

    Reddi et al. 2021, arXiv:2003.00295, algorithm 2, with their adaptivity
    0.001 and a second momentum of 0.99. One lying hospital can move every weight
    by about ten learning rates a round, however little the hospital weighs.
    """
    mean = weighted_mean(np.zeros_like(model), contributions).astype(np.float64)
    first = settings.momentum * _carried("momentum", state, model)
    first = first + (1 - settings.momentum) * mean
    second = SECOND_MOMENTUM * _carried("square", state, model)
    second = second + (1 - SECOND_MOMENTUM) * np.square(mean)
    moved = model + settings.learning_rate * first / (np.sqrt(second) + ADAPTIVITY)
    return _single(moved), {"momentum": _single(first), "square": _single(second)}


def averaged(model: Vector, *, state: State, ema: float, round: int) -> Vector:
    """Return the moving average with ``model`` taken in: float32 (params,).

    The share of the past grows from 0.1 in round 1 to ``ema``, so that the
    average forgets the untrained start (De et al. 2022, arXiv:2204.13650,
    average in the same way).
    """
    kept = min(ema, round / (round + WARM_UP_ROUNDS))
    before = state.get(AVERAGE, model).astype(np.float64)
    return _single(kept * before + (1 - kept) * model)


def _carried(name: str, state: State, model: Vector) -> npt.NDArray[np.float64]:
    return state.get(name, np.zeros_like(model)).astype(np.float64)


def _single(values: npt.NDArray[np.float64]) -> Vector:
    return np.asarray(values, dtype=np.float32)
