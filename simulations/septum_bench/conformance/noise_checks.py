"""Is the noise as loud as stated, on every weight at every step, normal, and fresh?"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from scipy import fft, stats

from septum_bench.conformance import exact
from septum_bench.conformance.check import Aspect, Check
from septum_bench.conformance.recording import Doubles, Floats, Recording

_MISSED: Final = float(stats.norm.ppf(0.95))
"""Standard deviations beyond the threshold at which 19 of 20 faults are seen."""

_FLAGGED: Final = float(stats.norm.isf(5e-5))
"""Standard deviations of a flag: a level of 1e-3 over some ten two-sided checks."""

_SEEN: Final = _MISSED + _FLAGGED

_LARGEST: Final = 1 << 18
"""Numbers that the test of the normal shape looks at."""


def noise_checks(recordings: Sequence[Recording]) -> tuple[Check, ...]:
    """Return the checks of the noise.

    Args:
      recordings: At least one, of equal networks; each step counts as one draw.
    """
    steps = _residuals(recordings)
    layers = recordings[0].layers
    squares = np.stack([np.square(step, dtype=np.float64) for step in steps])
    return (
        _spread(squares),
        _of_steps(squares),
        _of_layers(squares, layers),
        _of_weights(squares),
        _shape(steps),
        _between_weights(steps),
        *_between_steps(steps),
    )


def _residuals(recordings: Sequence[Recording]) -> list[Floats]:
    return [step.residual for recording in recordings for step in recording.steps]


def _spread(squares: Doubles) -> Check:
    total, count = float(squares.sum()), squares.size
    return Check(
        name="spread of all noise",
        aspect=Aspect.NOISE,
        value=math.sqrt(total / count),
        expected=1.0,
        unit="of the stated standard deviation",
        p_value=exact.variance(total, freedom=count),
        power=f"noise {_share(count):.2g} % off",
    )


def _of_steps(squares: Doubles) -> Check:
    steps, size = squares.shape
    return _worst(
        squares.sum(axis=1),
        np.full(steps, size),
        name="spread of each step",
        power=f"one step whose noise is {_share(size):.2g} % off",
    )


def _of_layers(squares: Doubles, layers: Sequence[tuple[str, int]]) -> Check:
    sizes = np.array([size for _, size in layers])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    totals = np.add.reduceat(squares.sum(axis=0), starts)
    return _worst(
        totals,
        sizes * len(squares),
        name="spread on each layer",
        power=f"the smallest layer ({sizes.min()} weights) with noise "
        f"{_share(int(sizes.min()) * len(squares)):.2g} % off",
    )


def _of_weights(squares: Doubles) -> Check:
    steps, size = squares.shape
    law = stats.chi2(steps)
    lowest = float(law.ppf(1e-4 / size))
    return _worst(
        squares.sum(axis=0),
        np.full(size, steps),
        name="spread on each weight",
        power=f"one weight with {math.sqrt(lowest / float(law.ppf(0.95))):.2g} of its noise",
    )


def _worst(totals: Doubles, freedoms: Doubles, *, name: str, power: str) -> Check:
    law = stats.chi2(freedoms)
    tails = np.minimum(law.cdf(totals), law.sf(totals))
    worst = int(tails.argmin())
    return Check(
        name=name,
        aspect=Aspect.NOISE,
        value=math.sqrt(float(totals[worst]) / float(freedoms[worst])),
        expected=1.0,
        unit="of the stated standard deviation, where it is furthest off",
        p_value=min(1.0, 2.0 * float(tails[worst]) * len(totals)),
        power=power,
    )


def _shape(steps: Sequence[Floats]) -> Check:
    each = max(1, _LARGEST // len(steps))
    pooled = np.concatenate([step[:: max(1, -(-len(step) // each))] for step in steps])
    result = stats.kstest(pooled, "norm")
    reach = 2.2 / math.sqrt(len(pooled))
    return Check(
        name="normal shape",
        aspect=Aspect.NOISE,
        value=float(result.statistic),
        expected=0.87 / math.sqrt(len(pooled)),
        unit="greatest distance of distribution functions (Kolmogorov 1933)",
        p_value=float(result.pvalue),
        power=f"a distribution function {reach:.2g} away from the normal one",
    )


def _between_weights(steps: Sequence[Floats]) -> Check:
    """Look for noise that repeats within a step: its autocorrelation at every shift."""
    size = len(steps[0])
    power = np.zeros(size // 2 + 1)
    energy = 0.0
    for step in steps:
        transformed = fft.rfft(step.astype(np.float64))
        power += transformed.real**2 + transformed.imag**2
        energy += float(np.square(step, dtype=np.float64).sum())
    shifted = fft.irfft(power, size)[1 : size // 2 + 1]
    # At most half of the shifts are independent of each other; Bonferroni needs no more.
    scores = shifted / math.sqrt(len(steps) * size)
    worst = float(scores[np.abs(scores).argmax()]) if len(scores) else 0.0
    return Check(
        name="noise that repeats within a step",
        aspect=Aspect.FRESHNESS,
        value=worst * math.sqrt(len(steps) * size) / max(energy, 1e-300),
        expected=0.0,
        unit="correlation at the worst shift",
        p_value=min(1.0, exact.normal(worst) * max(1, len(scores))),
        power=f"correlation of {(_SEEN + 2.0) / math.sqrt(len(steps) * size):.2g}",
    )


def _between_steps(steps: Sequence[Floats]) -> tuple[Check, ...]:
    size, count = len(steps[0]), len(steps)
    if count < 2:
        return ()
    table = np.stack(steps).astype(np.float64)
    norms = np.sqrt(np.square(table).sum(axis=1))
    cosines = (table @ table.T) / np.maximum(np.outer(norms, norms), 1e-300)
    pairs = cosines[np.triu_indices(count, 1)]
    worst = float(pairs[np.abs(pairs).argmax()])
    lagged = [float(table[t] @ table[u]) for t, u in pairwise(range(count))]
    lag = sum(lagged) / math.sqrt((count - 1) * size)
    return (
        Check(
            name="any two steps",
            aspect=Aspect.FRESHNESS,
            value=worst,
            expected=0.0,
            unit="correlation of the noise of two steps, the largest",
            p_value=min(1.0, float(exact.correlation(worst, size=size)) * len(pairs)),
            power=f"two steps whose noise correlates at {(_SEEN + 1.5) / math.sqrt(size):.2g}",
        ),
        Check(
            name="each step and the next",
            aspect=Aspect.FRESHNESS,
            value=lag / math.sqrt((count - 1) * size),
            expected=0.0,
            unit="lag-1 correlation",
            p_value=exact.normal(lag),
            power=f"lag-1 correlation of {_SEEN / math.sqrt((count - 1) * size):.2g}",
        ),
    )


def _share(freedom: int) -> float:
    """Return by how many per cent a standard deviation over ``freedom`` numbers must be off."""
    return 100.0 * _SEEN / math.sqrt(2.0 * freedom)
