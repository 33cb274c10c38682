"""Steps to epsilon, epsilon to noise: pure numbers, one accountant.

The figure of record is the privacy-loss distribution of the
Poisson-subsampled Gaussian mechanism under add-or-remove of one patient
(Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022,
arXiv:2207.04380), as computed by Google's ``dp-accounting`` with pessimistic
rounding: the true epsilon is at most the one given here. It holds for steps
whose noise, rate and number were fixed before the first of them, whatever
weights somebody who saw the earlier releases chose for the later ones (Zhu,
Dong and Wang 2022, arXiv:2106.08567). Where mechanisms are themselves chosen
by what was released, :mod:`septum.privacy_filter` decides.

Two other accountants check this one. :func:`renyi_epsilon` is never below it,
by 5 to 35 % for the studies that tests try; Opacus' PRV accountant, in the
tests, agrees within 2 %.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Final, cast

from septum.errors import ConfigError

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

__all__ = [
    "ACCOUNTANT",
    "Charge",
    "epsilon",
    "noise_for",
    "renyi",
    "renyi_epsilon",
    "rounds_within",
]

ACCOUNTANT: Final = "PLD"

# Pessimistic rounding of privacy losses to this grid: five times faster than
# the library's default, and epsilon grows by less than 1e-4 over 500 steps.
_GRID: Final = 1e-3

# Whole orders alone: quick, finite sums; the fractional ones gain a percent and need series.
_ORDERS: Final = (*range(2, 64), 80, 96, 128, 192, 256, 512)

# Noise multipliers to look among, in thousandths: below 0.3 the grid grows without need.
_LEAST, _MOST = 300, 1_000_000

_COMPOSING: Final = threading.Lock()


@dataclass(frozen=True, kw_only=True, order=True)
class Charge:
    """A number of steps of one Poisson-subsampled Gaussian mechanism."""

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def event(self) -> "DpEvent":
        """Return these steps in ``dp-accounting``'s words: what any accountant can check."""
        dp_accounting = _accounting()
        gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        step = dp_accounting.PoissonSampledDpEvent(self.sampling_rate, gaussian)
        made: DpEvent = dp_accounting.SelfComposedDpEvent(step, self.steps)
        return made


def _accounting() -> ModuleType:
    """Return ``dp_accounting``: it imports much of SciPy, for which a coordinator would wait."""
    import dp_accounting.pld  # noqa: PLC0415 - see above
    import dp_accounting.rdp  # noqa: PLC0415 - likewise

    return cast(ModuleType, dp_accounting)


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
    composed = _grouped(charges)
    # Simulated hospitals ask for the same sum at the same time: one works, the others wait.
    with _COMPOSING:
        return _compose(composed, delta)


def renyi(charges: Iterable[Charge], *, order: int) -> float:
    """Return the Rényi divergence of this order that ``charges`` together cost at most.

    It adds up, also where each mechanism was chosen after seeing what the ones before
    it released (Mironov et al. 2019, arXiv:1908.10530, for one step; in both
    directions of add-or-remove).

    >>> one = Charge(noise_multiplier=2.0, sampling_rate=1.0, steps=4)
    >>> renyi([one], order=6)  # 4 * 6 / (2 * 2 ** 2)
    3.0
    """
    return math.fsum(
        charge.steps * _renyi_step(charge.noise_multiplier, charge.sampling_rate, order)
        for charge in _grouped(charges)
    )


def renyi_epsilon(charges: Iterable[Charge], *, delta: float) -> float:
    """Return the epsilon of ``charges`` by the Rényi accountant: a check, never below the record.

    >>> one = Charge(noise_multiplier=1.0, sampling_rate=0.1, steps=10)
    >>> epsilon([one], delta=1e-4) <= renyi_epsilon([one], delta=1e-4)
    True
    """
    _check_delta(delta)
    accountant = _accounting().rdp.RdpAccountant(_ORDERS)
    for charge in _grouped(charges):
        accountant.compose(charge.event())
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=4096)
def _renyi_step(noise_multiplier: float, sampling_rate: float, order: int) -> float:
    accountant = _accounting().rdp.RdpAccountant([order])
    one = Charge(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=1)
    return float(accountant.compose(one.event()).rdp[0])


def _grouped(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    totals: dict[tuple[float, float], int] = {}
    for charge in charges:
        key = (charge.noise_multiplier, charge.sampling_rate)
        totals[key] = totals.get(key, 0) + charge.steps
    return tuple(
        Charge(noise_multiplier=noise, sampling_rate=rate, steps=steps)
        for (noise, rate), steps in sorted(totals.items())
        if steps
    )


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
def _step(noise_multiplier: float, sampling_rate: float) -> "PrivacyLossDistribution":
    """Return one step's distribution: slow to build, quick to compose with itself."""
    dp_accounting = _accounting()
    made: PrivacyLossDistribution = (
        dp_accounting.pld.privacy_loss_distribution.from_gaussian_mechanism(
            noise_multiplier,
            value_discretization_interval=_GRID,
            sampling_prob=sampling_rate,
            neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
    )
    return made


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

    def cost(thousandths: int, accountant: Callable[..., float] = epsilon) -> float:
        one = Charge(noise_multiplier=thousandths / 1000, sampling_rate=sampling_rate, steps=steps)
        return accountant([one], delta=delta)

    def first_within(low: int, high: int, accountant: Callable[..., float]) -> int:
        """Return the least noise in (low, high] that keeps the target, if ``high`` does."""
        while high - low > 1:
            middle = math.isqrt(low * high) if high > 4 * low else (low + high) // 2
            if cost(middle, accountant) <= target:
                high = middle
            else:
                low = middle
        return high

    if cost(_MOST) > target:
        raise ConfigError(
            f"epsilon {target} cannot be reached with {steps} steps at sampling rate "
            f"{sampling_rate}: even a noise multiplier of {_MOST // 1000} costs more.",
            remedy="Take fewer rounds or a larger epsilon.",
        )
    # Rényi is quick and never below the record: what it allows is enough, so look below that.
    high = first_within(_LEAST - 1, _MOST, renyi_epsilon)
    low, step = high, max(1, high // 32)
    while low >= _LEAST and cost(low) <= target:
        low, high, step = low - step, low, 2 * step
    return first_within(max(low, _LEAST - 1), high, epsilon) / 1000


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
