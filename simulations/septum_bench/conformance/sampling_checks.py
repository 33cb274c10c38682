"""Is every patient drawn by a coin of their own, anew at each step, with the stated rate?"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from scipy import stats

from septum_bench.conformance import exact
from septum_bench.conformance.check import Aspect, Check, least
from septum_bench.conformance.recording import Recording

_SEEN: Final = float(stats.norm.isf(5e-5) + stats.norm.ppf(0.95))


def sampling_checks(recordings: Sequence[Recording]) -> tuple[Check, ...]:
    """Return the checks of Poisson sampling; recordings are hospitals, independent of each other.

    A shuffled epoch has batches of one size, draws everybody equally often and
    nobody twice in a row: each shows by itself.
    """
    return (_rate(recordings), _sizes(recordings), _persons(recordings), _again(recordings))


def _rate(recordings: Sequence[Recording]) -> Check:
    p_values, drawn, expected, spread = [], 0, 0.0, 0.0
    for recording in recordings:
        trials, rate = recording.patients * len(recording.steps), _rate_of(recording)
        count = sum(len(step.drawn) for step in recording.steps)
        p_values.append(exact.binomial(count, trials=trials, rate=rate))
        drawn, expected = drawn + count, expected + trials * rate
        spread += trials * rate * (1 - rate)
    return Check(
        name="sampling rate",
        aspect=Aspect.SAMPLING,
        value=drawn / expected,
        expected=1.0,
        unit="of the stated rate",
        p_value=least(p_values),
        power=f"a rate {100 * _SEEN * math.sqrt(spread) / expected:.2g} % off",
    )


def _sizes(recordings: Sequence[Recording]) -> Check:
    p_values, ratios = [], []
    for recording in recordings:
        rate = _rate_of(recording)
        sizes = np.array([len(step.drawn) for step in recording.steps])
        p_values.append(exact.dispersion(sizes, trials=recording.patients, rate=rate))
        spread = recording.patients * rate * (1 - rate)
        ratios.append(float(np.square(sizes - recording.patients * rate).mean()) / (spread or 1.0))
    steps = sum(len(recording.steps) for recording in recordings)
    return Check(
        name="number of patients at each step",
        aspect=Aspect.SAMPLING,
        value=float(np.mean(ratios)),
        expected=1.0,
        unit="variance of the number drawn, of the binomial one",
        p_value=least(p_values),
        power=f"batches of one size, over {steps} steps",
    )


def _persons(recordings: Sequence[Recording]) -> Check:
    p_values, ratios = [], []
    for recording in recordings:
        rate, steps = _rate_of(recording), len(recording.steps)
        counts = np.zeros(recording.patients, dtype=np.int64)
        for step in recording.steps:
            np.add.at(counts, step.drawn, 1)
        p_values.append(exact.dispersion(counts, trials=steps, rate=rate))
        spread = steps * rate * (1 - rate)
        ratios.append(float(np.square(counts - steps * rate).mean()) / (spread or 1.0))
    return Check(
        name="how often each patient is drawn",
        aspect=Aspect.SAMPLING,
        value=float(np.mean(ratios)),
        expected=1.0,
        unit="variance of a patient's draws, of the binomial one",
        p_value=least(p_values),
        power="patients drawn equally often, or some of them always",
    )


def _again(recordings: Sequence[Recording]) -> Check:
    p_values, seen, expected = [], 0, 0.0
    for recording in recordings:
        rate, steps = _rate_of(recording), len(recording.steps)
        count = sum(
            len(np.intersect1d(one.drawn, other.drawn)) for one, other in pairwise(recording.steps)
        )
        p_values.append(
            exact.repeats(count, patients=recording.patients, steps=steps, rate=rate)
            if steps > 1
            else None
        )
        seen, expected = seen + count, expected + (steps - 1) * recording.patients * rate**2
    return Check(
        name="who is drawn twice in a row",
        aspect=Aspect.SAMPLING,
        value=seen / expected if expected else 1.0,
        expected=1.0,
        unit="of the number that coins would draw again",
        p_value=least(p_values),
        power=f"repeats {100 * _SEEN / math.sqrt(max(expected, 1e-9)):.2g} % too many or too few",
    )


def _rate_of(recording: Recording) -> float:
    return recording.mechanism.sampling_rate
