"""P-values that are exact: against enumeration of everything that can happen."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from septum_bench.conformance import exact


def two_sided(values, weights, observed):
    below = sum(w for v, w in zip(values, weights, strict=True) if v <= observed)
    above = sum(w for v, w in zip(values, weights, strict=True) if v >= observed)
    return min(1.0, 2 * min(below, above))


@settings(deadline=None)
@given(
    trials=st.integers(1, 4),
    rate=st.floats(0.05, 0.95),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_the_law_of_a_dispersion_is_that_of_all_outcomes_enumerated(trials, rate, counts):
    counts = np.minimum(counts, trials)
    centre = round(trials * rate)
    outcomes = list(itertools.product(range(trials + 1), repeat=len(counts)))
    values = [sum((k - centre) ** 2 for k in each) for each in outcomes]
    law = stats.binom(trials, rate).pmf(np.arange(trials + 1))
    weights = [np.prod(law[list(each)]) for each in outcomes]
    observed = int(((counts - centre) ** 2).sum())
    assert exact.dispersion(counts, trials=trials, rate=rate) == pytest.approx(
        two_sided(values, weights, observed), abs=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 4), patients=st.integers(1, 3), rate=st.floats(0.05, 0.95), data=st.data()
)
def test_the_law_of_repeats_is_that_of_all_coins_enumerated(steps, patients, rate, data):
    observed = data.draw(st.integers(0, patients * (steps - 1)))
    values, weights = [], []
    for coins in itertools.product((0, 1), repeat=steps * patients):
        table = np.reshape(coins, (patients, steps))
        values.append(int((table[:, 1:] * table[:, :-1]).sum()))
        weights.append(rate ** sum(coins) * (1 - rate) ** (len(coins) - sum(coins)))
    assert exact.repeats(observed, patients=patients, steps=steps, rate=rate) == pytest.approx(
        two_sided(values, weights, observed), abs=1e-9
    )


def test_a_lattice_too_large_to_convolve_has_nearly_the_same_tail(monkeypatch):
    counts = np.full(400, 5)
    exactly = exact.dispersion(counts + np.resize([-1, 0, 2, -2], 400), trials=25, rate=0.2)
    monkeypatch.setattr(exact, "_LATTICE", 10)
    nearly = exact.dispersion(counts + np.resize([-1, 0, 2, -2], 400), trials=25, rate=0.2)
    assert 0 < exactly < 1e-3
    assert np.log(nearly) == pytest.approx(np.log(exactly), rel=0.2)


def test_correlations_of_independent_noise_have_uniform_p_values():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 2000, 12))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert stats.kstest(exact.correlation(cosines, size=12), "uniform").pvalue > 0.01
    assert exact.correlation(0.999, size=12) < 1e-10


def test_a_tail_is_never_reported_as_nothing():
    assert 0 < exact.dispersion(np.full(50, 10), trials=50, rate=0.2) < 1e-6
