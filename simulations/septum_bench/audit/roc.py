"""How well scores tell two groups of patients apart, with what the patients cannot resolve said.

Pure. Patients are the sampling unit: one score each, resampled whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from septum.errors import DataError
from septum_bench.audit.finding import LEVEL, Curve
from septum_bench.audit.statistics import POWER
from septum_bench.metrics import exact_binomial
from septum_bench.record import Interval

Doubles = npt.NDArray[np.float64]

FALSE_POSITIVES: Final = 10
"""So many false positives a threshold must rest on; fewer, and its rate is not resolvable."""

_RESAMPLES: Final = 1000
_POINTS: Final = 41
_LEVELS: Final = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stratum:
    """Scores of patients who may be compared with each other: of one hospital, or one round.

    Attributes:
      inside: Of patients who took part, float64 ``(inside,)``.
      outside: Of patients who did not, float64 ``(outside,)``.
    """

    inside: Doubles
    outside: Doubles

    def __post_init__(self) -> None:
        if not len(self.inside) or not len(self.outside):
            raise DataError(
                f"{len(self.inside)} patients inside and {len(self.outside)} outside: "
                "each group needs at least one.",
                remedy="Leave this hospital or round out.",
            )

    @property
    def pairs(self) -> int:
        """Comparisons of one inside with one outside."""
        return len(self.inside) * len(self.outside)

    @property
    def wins(self) -> float:
        """Pairs in which the one inside scores higher; a tie is half a win (Mann-Whitney U)."""
        ranks = rankdata(np.concatenate([self.inside, self.outside]))
        count = len(self.inside)
        return float(ranks[:count].sum() - count * (count + 1) / 2)

    @property
    def variance(self) -> float:
        """Variance of :attr:`wins` if membership is random, ties corrected for."""
        total = len(self.inside) + len(self.outside)
        _, ties = np.unique(np.concatenate([self.inside, self.outside]), return_counts=True)
        tied = float((ties**3 - ties).sum()) / (total * (total - 1))
        return self.pairs / 12 * (total + 1 - tied)


def area(strata: Sequence[Stratum]) -> float:
    """Return the area under the ROC curve, over all comparable pairs; 0.5 is chance."""
    return sum(s.wins for s in strata) / sum(s.pairs for s in strata)


def p_above_chance(strata: Sequence[Stratum]) -> float:
    """Return the one-sided p-value of the stratified rank test (van Elteren 1960, equal weights).

    Valid where each stratum's members are a random subset of its patients and
    memberships of different strata are independent of each other.
    """
    variance = sum(s.variance for s in strata)
    if variance <= 0:
        return 1.0
    surplus = sum(s.wins - s.pairs / 2 for s in strata)
    return float(norm.sf(surplus / np.sqrt(variance)))


def area_interval(strata: Sequence[Stratum], *, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of :func:`area`, patients resampled in each group."""
    drawn = [
        area(
            [Stratum(inside=_again(s.inside, rng), outside=_again(s.outside, rng)) for s in strata]
        )
        for _ in range(_RESAMPLES // 4)
    ]
    low, high = np.quantile(drawn, _LEVELS)
    return float(low), float(high)


def smallest_area(strata: Sequence[Stratum]) -> float:
    """Return the least area that the rank test finds with 80 % power, by its normal form."""
    pairs = sum(s.pairs for s in strata)
    deviation = np.sqrt(sum(s.variance for s in strata)) / pairs
    return float(min(1.0, 0.5 + (norm.isf(LEVEL) + norm.ppf(POWER)) * deviation))


def rate_at(inside: Doubles, outside: Doubles, *, false_positive_rate: float) -> Interval:
    """Return the true-positive rate at a false-positive rate, with its exact 95 % interval.

    The threshold is the highest that lets at most that share of the outside
    pass; the interval is of the rate at this threshold.

    Guarantees:
      - Too few outsiders for :data:`FALSE_POSITIVES` false positives give
        "not resolvable" and no number.
    """
    needed = round(FALSE_POSITIVES / false_positive_rate)
    if len(outside) < needed:
        return Interval(
            value=None,
            reason=f"not resolvable: {false_positive_rate:.1%} FPR needs {needed:,} "
            f"non-members, here are {len(outside):,}",
        )
    allowed = int(false_positive_rate * len(outside))
    threshold = np.sort(outside)[::-1][allowed]
    hits = int((inside > threshold).sum())
    low, high = exact_binomial(hits, len(inside))
    return Interval(value=hits / len(inside), low=low, high=high)


def roc_curve(name: str, inside: Doubles, outside: Doubles, *, rng: np.random.Generator) -> Curve:
    """Return the ROC curve of pooled scores with its 95 % bootstrap band."""
    rates = np.linspace(0.0, 1.0, _POINTS)
    band = [_at(_again(inside, rng), _again(outside, rng), rates) for _ in range(_RESAMPLES // 5)]
    low, high = np.quantile(band, _LEVELS, axis=0)
    x, y, below, above = (
        tuple(float(value) for value in each)
        for each in (rates, _at(inside, outside, rates), low, high)
    )
    return Curve(
        name=name,
        x=x,
        y=y,
        low=below,
        high=above,
        chance=x,
        figure="ROC",
        x_label="false-positive rate",
        y_label="true-positive rate",
    )


def _at(inside: Doubles, outside: Doubles, rates: Doubles) -> Doubles:
    # Each rate's threshold lets at most that share of the outside pass.
    ordered = np.append(np.sort(outside)[::-1], -np.inf)
    threshold = ordered[np.floor(rates * len(outside) + 1e-9).astype(np.int64)]
    above = np.sort(inside)
    return np.asarray(1 - np.searchsorted(above, threshold, side="right") / len(inside))


def _again(values: Doubles, rng: np.random.Generator) -> Doubles:
    return np.asarray(values[rng.integers(len(values), size=len(values))])
