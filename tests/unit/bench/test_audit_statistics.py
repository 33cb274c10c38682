"""Figures of an audit: exact where they can be, over patients where they cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from septum.errors import DataError
from septum_bench.audit import statistics
from septum_bench.audit.finding import LEVEL


@given(st.integers(1, 200), st.data())
def test_a_share_lies_in_its_exact_interval(trials, data):
    hits = data.draw(st.integers(0, trials))
    found = statistics.share("release", hits, trials)
    assert found.low <= found.value == hits / trials <= found.high


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = statistics.mean("null", rng.normal(2.0, 1.0, 40), rng)
        covered += found.low <= 2.0 <= found.high
    assert binom.sf(covered - 1, 200, 0.95) > 1e-3
    assert binom.cdf(covered, 200, 0.95) > 1e-3


def test_a_mean_names_its_worst_patient_and_a_patient_who_exists():
    values = np.arange(40.0)
    found = statistics.mean("release", values, np.random.default_rng(0))
    assert found.worst == 39
    assert found.percentile95 in values
    assert (values >= found.percentile95).mean() >= 0.05


def test_one_patient_has_a_mean_and_no_interval_and_none_has_neither():
    found = statistics.mean("release", [3.0], np.random.default_rng(0))
    assert (found.value, found.low, found.high) == (3.0, None, None)
    with pytest.raises(DataError):
        statistics.mean("release", [], np.random.default_rng(0))


@pytest.mark.parametrize("patients", [8, 40])
def test_the_paired_test_is_wrong_about_nothing_at_most_as_often_as_its_level(patients):
    rng = np.random.default_rng(1)
    wrong = sum(
        statistics.paired_above(rng.normal(size=patients), rng) <= LEVEL for _ in range(300)
    )
    assert binom.sf(wrong - 1, 300, LEVEL) > 1e-3


@pytest.mark.parametrize("patients", [8, 40])
def test_the_paired_test_finds_a_gain_and_its_p_is_never_zero(patients):
    rng = np.random.default_rng(2)
    p = statistics.paired_above(rng.normal(2.0, 1.0, patients), rng)
    assert 0 < p < LEVEL


@given(st.integers(2, 60), st.floats(0.004, 0.3))
def test_the_smallest_share_is_found_with_the_power_it_states(trials, chance):
    least = statistics.smallest_share(trials, chance)
    if least is None:
        assert statistics.above_chance(trials, trials, chance) >= LEVEL
        return
    hits = np.arange(trials + 1)
    needed = next(k for k in hits if binom.sf(k - 1, trials, chance) < LEVEL)
    assert binom.sf(needed - 1, trials, least) == pytest.approx(statistics.POWER, abs=1e-6)


def test_a_test_without_power_says_that_it_can_find_nothing():
    assert "no leak at all" in statistics.power_of_shares(1, 0.5)
    assert "finds, in 80% of runs" in statistics.power_of_shares(30, 0.01)


def test_the_rank_curve_of_random_guesses_follows_chance_within_its_band():
    ranks = np.random.default_rng(0).integers(1, 101, 400)
    curve = statistics.rank_curve("null", ranks, gallery=100)
    inside = [
        low - 1e-9 <= chance <= high + 1e-9
        for low, chance, high in zip(curve.low, curve.chance, curve.high, strict=True)
    ]
    assert np.mean(inside) > 0.8
    assert curve.y[-1] == 1.0
    assert list(curve.y) == sorted(curve.y)
