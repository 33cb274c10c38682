"""How far a round can move the weights, whatever the patients: a bound for every optimizer.

What is longer was not made by the study's mechanism, so the gate keeps it and
the coordinator does not admit it.
"""

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from septum.models import Vector
    from septum.privacy import Mechanism
    from septum.training import Training

ADAM_BETAS: Final = (0.9, 0.999)
ADAM_EPSILON: Final = 1e-8

_PART: Final = 1 << 16  # numbers whose squares are held at once, in a processor's cache


def update_norm_bound(mechanism: "Mechanism", training: "Training", *, parameters: int) -> float:
    """Return an L2 norm that an honest round does not pass.

    ``sgd``: the mechanism's own bound. With momentum ``m``, step ``t`` moves by
    ``lr * sum(m**(t - j) * g_j)`` and every ``g_j`` is held to the same bound, so
    that the sum of ``1, 1 + m, 1 + m + m**2, ...`` takes the place of the number
    of steps.

    ``adam``: by Cauchy and Schwarz, no coordinate of step ``t`` moves by more
    than ``lr`` times :func:`adam_reach`, whatever its gradients are.
    """
    if training.optimizer == "adam":
        reach = sum(adam_reach(step) for step in range(1, mechanism.steps + 1))
        return training.learning_rate * math.sqrt(parameters) * reach
    plain = mechanism.update_norm_bound(parameters=parameters, learning_rate=training.learning_rate)
    return plain * momentum_path(training.momentum, steps=mechanism.steps) / mechanism.steps


def momentum_path(momentum: float, *, steps: int) -> float:
    """Return how far ``steps`` steps of heavy-ball momentum go, in gradients of one length.

    >>> momentum_path(0.0, steps=3), momentum_path(0.5, steps=3)
    (3.0, 4.25)
    """
    total = speed = 0.0
    for _ in range(steps):
        speed = momentum * speed + 1.0
        total += speed
    return total


def adam_reach(step: int) -> float:
    """Return the most that a coordinate moves in Adam's step ``step``, in learning rates.

    With ``m = (1 - b1) * sum(b1**(t - j) * g_j)`` and
    ``v = (1 - b2) * sum(b2**(t - j) * g_j**2)``, Cauchy and Schwarz give
    ``m**2 <= (1 - b1)**2 / (1 - b2) * sum((b1**2 / b2)**i, i < t) * v``; the
    corrections for the start multiply ``m`` by ``1 / (1 - b1**t)`` and the root of
    ``v`` by ``1 / sqrt(1 - b2**t)``.

    >>> adam_reach(1)
    1.0
    """
    first, second = ADAM_BETAS
    ratio = first**2 / second
    series = (1 - ratio**step) / (1 - ratio)
    most = (1 - first) * math.sqrt(series / (1 - second))
    return round(most * math.sqrt(1 - second**step) / (1 - first**step), 9)


def update_norm(update: "Vector") -> float:
    """Return the L2 norm of an update, float32 (params,), summed in float64.

    By parts, since a copy of a large update would be large and slow; and not by
    ``np.linalg.norm``, for which BLAS would wake a thread per core. What is not
    finite in the update makes the norm not finite.
    """
    held = np.empty(min(_PART, len(update)), dtype=np.float64)
    total = 0.0
    for start in range(0, len(update), _PART):
        part = update[start : start + _PART]
        total += float(np.square(part, out=held[: len(part)], dtype=np.float64).sum())
    return math.sqrt(total)
