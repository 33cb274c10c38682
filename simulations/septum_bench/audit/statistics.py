"""Figures that an audit may report: patients are the unit, and every figure has its interval."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, binomtest

from septum.errors import DataError
from septum_bench.audit.finding import LEVEL, Curve, Measured
from septum_bench.metrics import exact_binomial

Role = Literal["control", "null", "release"]
Doubles = npt.NDArray[np.float64]

POWER: Final = 0.80
"""Share of runs in which "the smallest leak that this run would have caught" is caught."""

_RESAMPLES: Final = 2000
_MOST_POINTS: Final = 200


def share(role: Role, hits: int, trials: int) -> Measured:
    """Return a share of patients with its exact 95 % interval (Clopper and Pearson 1934)."""
    low, high = exact_binomial(hits, trials)
    return Measured(role=role, value=hits / trials, low=low, high=high, trials=trials)


def mean(role: Role, values: Sequence[float] | Doubles, rng: np.random.Generator) -> Measured:
    """Return the mean over patients, its bootstrap interval, the worst and the 95th percentile.

    Args:
      role: What was attacked.
      values: One per patient; larger is worse for the patient.
      rng: Of the resampling.

    Guarantees:
      - Patients are resampled, never pixels, rounds or seeds within one.
      - With fewer than two patients there is no interval.
    """
    each = np.asarray(values, dtype=np.float64)
    if not len(each):
        raise DataError("a mean of no patients was asked for.", remedy="Attack at least one.")
    low, high = _resampled(each, rng) if len(each) > 1 else (None, None)
    return Measured(
        role=role,
        value=float(each.mean()),
        low=low,
        high=high,
        trials=len(each),
        worst=float(each.max()),
        percentile95=float(np.quantile(each, 0.95, method="higher")),
    )


def _resampled(each: Doubles, rng: np.random.Generator) -> tuple[float, float]:
    drawn = each[rng.integers(len(each), size=(_RESAMPLES, len(each)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def above_chance(hits: int, trials: int, chance: float) -> float:
    """Return the exact one-sided p-value of ``hits`` successes at ``chance`` each.

    >>> round(above_chance(3, 6, 1 / 150), 6)
    6e-06
    """
    return float(binomtest(hits, trials, chance, alternative="greater").pvalue)


def paired_above(differences: Doubles, rng: np.random.Generator) -> float:
    """Return the one-sided p-value that the mean paired difference is not above zero.

    Signs are flipped patient by patient (Fisher 1935): every way of flipping
    up to 12 patients, else 2,000 ways drawn at random with the observed one
    among them, so that the p-value is never zero.
    """
    each = np.asarray(differences, dtype=np.float64)
    if len(each) <= 12:
        signs = 1 - 2 * ((np.arange(2 ** len(each))[:, None] >> np.arange(len(each))) & 1)
        tolerance = 1e-12 * float(np.abs(each).sum())
        return float(((signs @ each) >= each.sum() - tolerance).mean())
    signs = 1 - 2 * rng.integers(2, size=(_RESAMPLES, len(each)))
    return float((((signs @ each) >= each.sum()).sum() + 1) / (_RESAMPLES + 1))


def smallest_share(trials: int, chance: float, *, level: float = LEVEL) -> float | None:
    """Return the lowest share of patients that :func:`above_chance` finds with 80 % power.

    None if even naming every patient would not pass the test.

    >>> round(smallest_share(6, 1 / 150), 3)
    0.235
    """
    hits = np.arange(trials + 1)
    enough = hits[binom.sf(hits - 1, trials, chance) < level]
    if not len(enough):
        return None
    # P(at least k hits) at rate r is the beta(k, n - k + 1) distribution function at r.
    fewest = int(enough[0])
    return float(beta.ppf(POWER, fewest, trials - fewest + 1))


def power_of_shares(trials: int, chance: float, *, level: float = LEVEL) -> str:
    """Return the power sentence of a count of named patients."""
    smallest = smallest_share(trials, chance, level=level)
    if smallest is None:
        return f"With {trials} patients this test can find no leak at all."
    return (
        f"With {trials} patients this test finds, in {POWER:.0%} of runs, a release that names "
        f"{smallest:.0%} of them."
    )


def rank_curve(name: str, ranks: Sequence[int], *, gallery: int) -> Curve:
    """Return the share of patients named within the first k guesses, with exact 95 % bands.

    Args:
      name: Of the line.
      ranks: Rank of the true patient in each trial, from 1.
      gallery: Patients in the line-up.
    """
    places = np.unique(np.geomspace(1, gallery, min(gallery, _MOST_POINTS)).round().astype(int))
    hits = [int((np.asarray(ranks) <= k).sum()) for k in places]
    bounds = [exact_binomial(count, len(ranks)) for count in hits]
    return Curve(
        name=name,
        x=_floats(places),
        y=tuple(count / len(ranks) for count in hits),
        low=tuple(low for low, _ in bounds),
        high=tuple(high for _, high in bounds),
        chance=tuple(float(k) / gallery for k in places),
        figure="Rank",
        x_label=f"guesses allowed, of {gallery} patients",
        y_label="share of patients named",
        log_x=True,
    )


def _floats(values: npt.NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
