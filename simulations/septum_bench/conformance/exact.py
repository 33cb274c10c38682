"""Exact p-values of how patients are drawn, and of variances: no approximation in the tails.

All are two-sided by doubling the smaller tail, and hold for any number of
patients and steps, so that a false alarm is as rare as its level says.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import fft, stats

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_LATTICE: Final = 1 << 22
"""Points above which a sum's exact distribution gives way to its chi-squared limit."""

_NEGLIGIBLE: Final = 1e-13
"""Rounding of the Fourier transform: a tail below this is reported as this."""


def doubled(below: float, above: float) -> float:
    """Return the two-sided p-value of the tails ``P(X <= x)`` and ``P(X >= x)``."""
    return float(min(1.0, 2.0 * max(0.0, min(below, above))))


def variance(sum_of_squares: float, *, freedom: float) -> float:
    """Return the p-value of a sum of ``freedom`` squared standard normal numbers."""
    law = stats.chi2(freedom)
    return doubled(float(law.cdf(sum_of_squares)), float(law.sf(sum_of_squares)))


def normal(value: float) -> float:
    """Return the two-sided p-value of a standard normal number."""
    return float(min(1.0, 2.0 * stats.norm.sf(abs(value))))


def correlation(value: Doubles | float, *, size: int) -> Doubles:
    """Return p-values of correlations of independent normal vectors of ``size`` numbers.

    About zero, not about their means: ``(r + 1) / 2`` has the beta distribution
    with both parameters ``(size - 1) / 2``.
    """
    share = (1.0 - np.abs(np.asarray(value, dtype=np.float64))) / 2.0
    half = (size - 1) / 2
    return np.minimum(1.0, 2.0 * np.asarray(stats.beta(half, half).cdf(share)))


def binomial(successes: int, *, trials: int, rate: float) -> float:
    """Return the two-sided p-value of a binomial count."""
    law = stats.binom(trials, rate)
    return doubled(float(law.cdf(successes)), float(law.sf(successes - 1)))


def dispersion(counts: Counts, *, trials: int, rate: float) -> float:
    """Return the p-value of how far independent Binomial(trials, rate) counts spread.

    The statistic is the sum of squared distances from the whole number nearest
    to the mean; its distribution is that of one count, convolved exactly.
    """
    centre = round(trials * rate)
    values = np.arange(trials + 1)
    law = stats.binom(trials, rate).pmf(values)
    observed = int(np.square(counts - centre).sum())
    return lattice((values - centre) ** 2, law, times=len(counts), observed=observed)


def repeats(observed: int, *, patients: int, steps: int, rate: float) -> float:
    """Return the p-value of how many (patient, step) pairs are drawn again in the next step.

    A patient's own number of such pairs in ``steps`` coins follows from a walk
    over the coins; patients are independent.
    """
    law = np.zeros((2, max(steps, 1)))  # by whether the last coin fell, and pairs so far
    law[0, 0], law[1, 0] = 1.0 - rate, rate
    for _ in range(steps - 1):
        again = np.concatenate([[0.0], law[1, :-1]])
        law = np.stack([(law[0] + law[1]) * (1.0 - rate), (law[0] + again) * rate])
    each = law.sum(axis=0)
    return lattice(np.arange(len(each)), each, times=patients, observed=observed)


def lattice(values: Counts, law: Doubles, *, times: int, observed: int) -> float:
    """Return the p-value of a sum of ``times`` independent whole numbers from 0.

    Args:
      values: What one number can be.
      law: Probability of each.
      times: Numbers that are added.
      observed: Their sum.
    """
    size = int(values.max()) * times + 1
    if size > _LATTICE:
        mean = float(values @ law)
        spread = float((values - mean) ** 2 @ law)
        # Matched in mean and variance: a shape that a sum of squares nearly has.
        freedom = 2.0 * mean**2 * times / spread
        return variance(observed * freedom / (mean * times), freedom=freedom)
    one = np.zeros(int(values.max()) + 1)
    np.add.at(one, values, law)
    length = int(fft.next_fast_len(size, real=True))
    total = fft.irfft(fft.rfft(one, length) ** times, length)[:size].clip(min=0.0)
    place = min(max(observed, 0), size - 1)
    below, above = float(total[: place + 1].sum()), float(total[place:].sum())
    return doubled(max(below, _NEGLIGIBLE), max(above, _NEGLIGIBLE))
