"""Steps to epsilon, epsilon to noise: pure numbers, one accountant.

The figure of record is the privacy-loss distribution of the
Poisson-subsampled Gaussian mechanism under add-or-remove of one patient
(Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022,
arXiv:2207.04380), as computed by Google's ``dp-accounting`` with pessimistic
rounding: the true epsilon is at most the one given here.
"""

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dp_accounting
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
)

from septum.errors import ConfigError

ACCOUNTANT: Final = "PLD"

# Pessimistic rounding of privacy losses to this grid: five times faster than
# the library's default, and epsilon grows by less than 1e-4 over 500 steps.
_GRID: Final = 1e-3

_COMPOSING: Final = threading.Lock()


@dataclass(frozen=True, kw_only=True, order=True)
class Charge:
    """A number of steps of one Poisson-subsampled Gaussian mechanism."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


def epsilon(charges: Iterable[Charge], *, delta: float) -> float:
    """Return the epsilon of all ``charges`` composed, at ``delta``.

    Guarantees:
      - Order and grouping of charges never change the result.
      - More steps never cost less.

    >>> one = Charge(noise_multiplier=1.0, sampling_rate=0.1, steps=10)
    >>> epsilon([one, one], delta=1e-4) > epsilon([one], delta=1e-4) > 0
    True
    >>> epsilon([], delta=1e-4)
    0.0
    """
    _check_delta(delta)
    totals: dict[tuple[float, float], int] = {}
    for charge in charges:
        key = (charge.noise_multiplier, charge.sampling_rate)
        totals[key] = totals.get(key, 0) + charge.steps
    composed = tuple(
        Charge(noise_multiplier=noise, sampling_rate=rate, steps=steps)
        for (noise, rate), steps in sorted(totals.items())
        if steps
    )
    # Simulated hospitals ask for the same sum at the same time: one works, the others wait.
    with _COMPOSING:
        return _compose(composed, delta)


@lru_cache(maxsize=4096)
def _compose(charges: tuple[Charge, ...], delta: float) -> float:
    if not charges:
        return 0.0
    composed, *others = (
        _step(charge.noise_multiplier, charge.sampling_rate).self_compose(charge.steps)
        for charge in charges
    )
    for other in others:
        composed = composed.compose(other)
    return float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _step(noise_multiplier: float, sampling_rate: float) -> PrivacyLossDistribution:
    """Return one step's distribution: slow to build, quick to compose with itself."""
    return from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=_GRID,
        sampling_prob=sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def noise_for(*, target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the smallest noise multiplier whose ``steps`` steps cost at most ``target``.

    Rounded up to three decimals, so that the study file shows what is used.

    Raises:
      ConfigError: ``target`` is not above 0, or no noise multiplier below 1000 is enough.
    """
    _check_delta(delta)
    if not (math.isfinite(target) and target > 0):
        raise ConfigError(
            f"epsilon is {target} and must be a finite number above 0.",
            remedy="Choose an epsilon between 0.1 and 10.",
        )

    def cost(noise: float) -> float:
        return epsilon(
            [Charge(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)],
            delta=delta,
        )

    low, high = 300, 1_000_000  # thousandths: below 0.3 the accountant's grid grows without need
    if cost(high / 1000) > target:
        raise ConfigError(
            f"epsilon {target} cannot be reached with {steps} steps at sampling rate "
            f"{sampling_rate}: even a noise multiplier of 1000 costs more.",
            remedy="Take fewer rounds or a larger epsilon.",
        )
    while low < high:
        middle = (low + high) // 2 if high < 4 * low else math.isqrt(low * high)
        if cost(middle / 1000) <= target:
            high = middle
        else:
            low = middle + 1
    return high / 1000


def rounds_within(
    charge: Charge, *, limit: float, delta: float, spent: Sequence[Charge] = (), most: int
) -> int:
    """Return how many rounds of ``charge`` fit under ``limit`` after ``spent``, up to ``most``.

    >>> rounds_within(Charge(noise_multiplier=1.0, sampling_rate=0.1, steps=10),
    ...               limit=3.0, delta=1e-4, most=5)
    2
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon([*spent, *[charge] * middle], delta=delta) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(
            f"delta is {delta} and must lie between 0 and 1.",
            remedy="Choose a delta well below 1 / patients, for example 1e-4.",
        )
