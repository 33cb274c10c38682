"""How large epsilon must be, from one run with canaries: lower bounds that hold with 95 %.

Each canary is in or out by a fair coin; the attack guesses the coins it is surest
of. Three bounds: for any mechanism of the claimed epsilon and delta (Steinke et
al. 2023, arXiv:2305.08846), for the whole trade-off curve of the accountant
(Mahloujifar et al. 2025, arXiv:2410.22235), which is tighter and is the test of
record, and for Gaussian noise, by the separation of scores (Nasr et al. 2023,
arXiv:2302.07956). A bound above the accountant's figure refutes that figure; one
below it proves nothing.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dp_accounting
import numpy as np
import numpy.typing as npt
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from scipy import optimize, stats

from septum.accounting import Charge

Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

SHARES: Final = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the canaries, how many are guessed: fixed beforehand, and paid for by Bonferroni."""

LEVEL: Final = 0.05

_LARGEST: Final = 60.0  # epsilon at which a search ends
_GRID: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How many of ``canaries`` coins were guessed, and how many of these rightly."""

    canaries: int
    made: int
    correct: int


def guess(scores: Doubles, present: Bits) -> tuple[Guesses, ...]:
    """Return the outcome of guessing each of :data:`SHARES` of the coins.

    Args:
      scores: Log-likelihood ratio of each canary having taken part, (canaries,).
      present: The coins, (canaries,).
    """
    surest = np.argsort(-np.abs(scores), kind="stable")
    right = np.cumsum((scores > 0)[surest] == present[surest])
    made = sorted({max(1, round(share * len(scores))) for share in SHARES})
    return tuple(Guesses(canaries=len(scores), made=r, correct=int(right[r - 1])) for r in made)


class TradeOff:
    """A mechanism's trade-off between an attacker's errors, from its epsilon-delta curve.

    ``blow_up(a) = min(e**eps * a + delta(eps))`` bounds the chance that an event of
    chance ``a`` without a patient has with that patient. Here is its inverse, the
    maximum of straight lines, as the pieces of their upper envelope.

    Args:
      epsilons: Ascending, negative ones too.
      deltas: Delta at each, in both directions of add-or-remove.
    """

    def __init__(self, epsilons: Doubles, deltas: Doubles) -> None:
        slopes, starts = np.exp(-epsilons[::-1]), (-deltas * np.exp(-epsilons))[::-1]
        keep: list[int] = []
        breaks: list[float] = []
        for i in range(len(slopes)):
            while keep:
                j = keep[-1]
                at = (starts[j] - starts[i]) / (slopes[i] - slopes[j])
                if breaks and at <= breaks[-1]:
                    keep.pop()
                    breaks.pop()
                    continue
                breaks.append(float(at))
                break
            keep.append(i)
        self._breaks = breaks
        self._slopes = [float(slopes[i]) for i in keep]
        self._starts = [float(starts[i]) for i in keep]

    def inverse(self, chance: float) -> float:
        """Return the least chance without the patient of what has ``chance`` with them."""
        piece = bisect_right(self._breaks, chance)
        return max(0.0, self._slopes[piece] * chance + self._starts[piece])


@lru_cache(maxsize=64)
def trade_off(charge: Charge) -> TradeOff:
    """Return the trade-off curve of a charge's steps, from the privacy-loss distribution."""
    composed = from_gaussian_mechanism(
        charge.noise_multiplier,
        value_discretization_interval=_GRID,
        sampling_prob=charge.sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    ).self_compose(charge.steps)
    positive = np.linspace(0.0, 40.0, 1601)
    epsilons = np.concatenate([-positive[:0:-1], positive])
    deltas = np.asarray(composed.get_delta_for_epsilon(epsilons), dtype=np.float64)
    # What rounding makes negative is nothing; a delta below it is not resolved.
    return TradeOff(epsilons, np.clip(deltas, 1e-15, 1.0))


def approximate(epsilon: float, delta: float) -> TradeOff:
    """Return the trade-off curve of anything that is (epsilon, delta)-private, and no more."""
    epsilons = np.array([-epsilon, epsilon]) if epsilon > 0 else np.zeros(1)
    return TradeOff(epsilons, 1 - (1 - delta) * np.exp(np.minimum(epsilons, 0.0)))


def impossible(guesses: Guesses, curve: TradeOff, *, level: float) -> bool:
    """Return whether so many right guesses have a chance of at most ``level`` under ``curve``.

    Mahloujifar et al. 2025, algorithm 3: if they had a larger chance, the chances
    of all other numbers of right guesses, which the curve ties to it, would
    together pass 1.
    """
    made, share = guesses.made, level / guesses.canaries
    right, wrong = share * guesses.correct, share * (made - guesses.correct)
    for count in range(guesses.correct - 1, -1, -1):
        more = curve.inverse(right)
        if more <= wrong:
            break  # and so for every smaller number
        right += count / (made - count) * (more - wrong)
        wrong = more
        if right + wrong > made / guesses.canaries:
            return True
    return right + wrong > made / guesses.canaries


def tail(guesses: Guesses, curve: TradeOff) -> float:
    """Return an upper bound of the chance of so many right guesses: a p-value."""
    low, high = -40.0, 0.0  # of the logarithm
    if not impossible(guesses, curve, level=1.0):
        return 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if impossible(guesses, curve, level=math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)


def p_value(outcomes: Sequence[Guesses], curve: TradeOff) -> float:
    """Return the p-value of the hypothesis that ``curve`` holds, over all numbers of guesses."""
    return min(1.0, len(outcomes) * min(tail(each, curve) for each in outcomes))


def one_run(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Return Steinke's bound on the chance of so many right guesses, at most 1."""
    made, correct = guesses.made, guesses.correct
    law = stats.binom(made, 1.0 / (1.0 + math.exp(-epsilon)))
    at_least = float(law.sf(correct - 1))
    if delta == 0 or correct == 0:
        return min(1.0, at_least)
    steps = np.arange(1, correct + 1)
    between = law.sf(correct - steps - 1) - at_least
    return min(1.0, at_least + 2 * guesses.canaries * delta * float((between / steps).max()))


def largest(refuted: Callable[[float], bool], *, most: float = _LARGEST) -> float:
    """Return the largest epsilon that is refuted, from a test that weakens as epsilon grows."""
    if not refuted(1e-6):
        return 0.0
    low, high = 1e-6, 1.0
    while high < most and refuted(high):
        low, high = high, 2 * high
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def steinke_epsilon(outcomes: Sequence[Guesses], *, delta: float, level: float = LEVEL) -> float:
    """Return the one-run lower bound on epsilon at ``delta``, over all numbers of guesses."""
    each = level / len(outcomes)

    def bound(guesses: Guesses) -> float:
        return largest(lambda e: one_run(guesses, epsilon=e, delta=delta) <= each)

    return max(bound(guesses) for guesses in outcomes)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """An attacker's hits and false alarms, with a threshold that was chosen on other canaries.

    Attributes:
      hits: Canaries above the threshold of the ``inside`` that took part.
      falses: Those of the ``outside`` that did not.
    """

    hits: int
    inside: int
    falses: int
    outside: int

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the least rate of hits and the greatest of false alarms, each at half ``level``.

        Clopper and Pearson 1934; canaries on orthogonal directions are independent.
        """
        low, high = 0.0, 1.0
        if self.hits:
            low = float(stats.beta.ppf(level / 2, self.hits, self.inside - self.hits + 1))
        if self.falses < self.outside:
            kept = self.outside - self.falses
            high = float(stats.beta.isf(level / 2, self.falses + 1, kept))
        return low, high


def held_out_errors(scores: Doubles, present: Bits, *, rng: np.random.Generator) -> Errors:
    """Return the errors on one half of the canaries, at a threshold chosen on the other half."""
    order = rng.permutation(len(scores))
    chosen, tested = order[: len(order) // 2], order[len(order) // 2 :]

    def errors(rows: npt.NDArray[np.int64], threshold: float) -> Errors:
        above, inside = scores[rows] > threshold, present[rows]
        return Errors(
            hits=int((above & inside).sum()),
            inside=int(inside.sum()),
            falses=int((above & ~inside).sum()),
            outside=int((~inside).sum()),
        )

    grid = [float(each) for each in np.quantile(scores[chosen], np.linspace(0.02, 0.98, 49))]
    best = max(grid, key=lambda threshold: _separation(errors(chosen, threshold), LEVEL))
    return errors(tested, best)


def separation_p_value(errors: Errors, curve: TradeOff) -> float:
    """Return the p-value of the hypothesis that ``curve`` holds, from independent canaries.

    The level at which the least rate of hits still passes what the curve allows at
    the greatest rate of false alarms.
    """

    def refuted(level: float) -> bool:
        hits, falses = errors.bounds(level)
        return curve.inverse(hits) > falses

    if not refuted(1.0):
        return 1.0
    low, high = -60.0, 0.0  # of the logarithm
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(math.exp(middle)) else (middle, high)
    return math.exp(high)


def gaussian_epsilon(errors: Errors, *, delta: float, level: float = LEVEL) -> float:
    """Return the epsilon of the least Gaussian mechanism that makes so few errors (Nasr 2023).

    Exact where steps are not subsampled, an approximation where they are: the test
    against the accountant's own curve is :func:`separation_p_value`.
    """
    return epsilon_of_mu(max(0.0, _separation(errors, level)), delta=delta)


def _separation(errors: Errors, level: float) -> float:
    low, high = errors.bounds(level)
    if not errors.inside or not errors.outside or low <= 0 or high >= 1:
        return 0.0
    return float(stats.norm.ppf(low) - stats.norm.ppf(high))


def epsilon_of_mu(mu: float, *, delta: float) -> float:
    """Return epsilon of ``mu``-Gaussian differential privacy (Dong et al. 2022).

    >>> round(epsilon_of_mu(1.0, delta=1e-5), 2)
    4.38
    """

    def excess(epsilon: float) -> float:
        near = stats.norm.cdf(-epsilon / mu + mu / 2)
        far = stats.norm.logcdf(-epsilon / mu - mu / 2) + epsilon
        return float(near - math.exp(far) - delta)

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, mu * mu / 2 + mu * 10.0))
