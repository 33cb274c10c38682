"""Is each patient's gradient held to the clip, as a whole, and is the sum divided by a constant?

The residual of a step is independent of the patients if clip and divisor are as
stated. Each fault leaves something known in it, which a matched filter finds.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from septum_bench.conformance import exact
from septum_bench.conformance.check import Aspect, Check
from septum_bench.conformance.recording import Recording, Step

_SEEN: Final = float(stats.norm.isf(5e-5) + stats.norm.ppf(0.95))

_FAINT: Final = 1e-6
"""Squared norm, in standard deviations of the noise, below which a filter matches nothing."""


def clip_checks(recordings: Sequence[Recording]) -> tuple[Check, ...]:
    """Return the checks of clip, sum and divisor."""
    steps = [step for recording in recordings for step in recording.steps]
    return (
        _matched(
            [step.products.total for step in steps],
            name="the sum of the patients",
            aspect=Aspect.DIVISOR,
            unit="share of the clipped sum that is missing (below 0) or too much",
            fault="a divisor {:.2g} % off",
            percent=True,
        ),
        _divisor(recordings),
        _matched(
            [step.products.over for step in steps],
            name="what is over the clip, all patients",
            aspect=Aspect.CLIP,
            unit="share of what is over the clip that was let through",
            fault="{:.2g} % of what is over the clip let through for everybody",
            percent=True,
        ),
        _worst_patient(recordings),
        _matched(
            [step.products.layered for step in steps],
            name="each layer clipped by itself",
            aspect=Aspect.CLIP,
            unit="share of the difference to a clip of each layer",
            fault="{:.2g} % of the difference to a clip of each layer",
            percent=True,
        ),
        _span(steps),
    )


def _matched(
    products: Sequence[tuple[float, ...]],
    *,
    name: str,
    aspect: Aspect,
    unit: str,
    fault: str,
    percent: bool,
) -> Check:
    along, energy = (sum(each[i] for each in products) for i in (0, 1))
    able = energy > _FAINT
    score = along / math.sqrt(energy) if able else 0.0
    reach = _SEEN / math.sqrt(energy) if able else math.inf
    return Check(
        name=name,
        aspect=aspect,
        value=along / energy if able else 0.0,
        expected=0.0,
        unit=unit,
        p_value=exact.normal(score) if able else None,
        power=fault.format(100 * reach if percent else reach)
        if able
        else "nothing: no gradient of these steps would have shown it",
    )


def _worst_patient(recordings: Sequence[Recording]) -> Check:
    """Look at each patient's part over the clip, summed over the steps they were drawn in."""
    scores, loudest = [], 0.0
    for recording in recordings:
        sums = np.zeros((recording.patients, 2))
        for step in recording.steps:
            np.add.at(sums, step.products.patients, step.products.excess)
        seen = sums[sums[:, 1] > _FAINT]
        scores.extend((seen[:, 0] / np.sqrt(seen[:, 1])).tolist())
        loudest = max(loudest, float(seen[:, 1].max(initial=0.0)))
    worst = max(scores, key=abs, default=0.0)
    reach = (_SEEN + 1.0) / math.sqrt(loudest) if loudest else math.inf
    return Check(
        name="what is over the clip, any one patient",
        aspect=Aspect.CLIP,
        value=worst,
        expected=0.0,
        unit="standard deviations, of the patient whom it fits worst",
        p_value=min(1.0, exact.normal(worst) * len(scores)) if scores else None,
        power=f"{100 * reach:.2g} % of what one patient has over the clip let through"
        if scores
        else "nothing: no patient drawn was over the clip",
    )


def _span(steps: Sequence[Step]) -> Check:
    """Look for anything at all of the patients' gradients, in whatever proportion."""
    energy = sum(step.products.span[0] for step in steps)
    freedom = sum(step.products.span[1] for step in steps)
    able = freedom > 0
    return Check(
        name="anything along the patients' gradients",
        aspect=Aspect.CLIP,
        value=energy / freedom if able else 0.0,
        expected=1.0,
        unit="mean square of the residual along patients' gradients",
        p_value=exact.variance(energy, freedom=freedom) if able else None,
        power=f"mean square of {1 + _SEEN * math.sqrt(2 / freedom):.3g}"
        if able
        else "nothing: nobody was drawn",
    )


def _divisor(recordings: Sequence[Recording]) -> Check:
    """Look whether the noise grows or shrinks with the number of patients drawn."""
    along = energy = size = 0.0
    for recording in recordings:
        sizes = np.array([len(step.products.patients) for step in recording.steps], dtype=float)
        apart = (sizes - sizes.mean()) / recording.mechanism.expected_patients
        squares = np.array(
            [np.square(step.residual, dtype=np.float64).mean() for step in recording.steps]
        )
        size = len(recording.steps[0].residual)
        # The cube root of a chi-squared mean is nearly normal (Wilson and Hilferty 1931).
        roots = (np.cbrt(squares) - (1 - 2 / (9 * size))) / math.sqrt(2 / (9 * size))
        along += float(apart @ roots)
        energy += float(apart @ apart)
    able = energy > _FAINT
    slope = along / energy * math.sqrt(2 / (9 * size)) * 1.5 if able else 0.0
    return Check(
        name="noise against the number drawn",
        aspect=Aspect.DIVISOR,
        value=slope,
        expected=0.0,
        unit="relative change of the noise for twice the patients",
        p_value=exact.normal(along / math.sqrt(energy)) if able else None,
        power=f"a divisor that follows the number drawn by "
        f"{100 * _SEEN * 1.5 * math.sqrt(2 / (9 * size) / energy):.2g} %"
        if able
        else "nothing: every step drew the same number",
    )
