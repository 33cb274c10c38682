"""Two groups told apart: exact areas, honest tails, and no figure that patients cannot carry."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from septum.errors import DataError
from septum_bench.audit.roc import (
    Stratum,
    area,
    area_interval,
    p_above_chance,
    rate_at,
    roc_curve,
    smallest_area,
)

RNG = np.random.default_rng(0)


def stratum(shift, inside=30, outside=50):
    return Stratum(inside=RNG.normal(size=inside) + shift, outside=RNG.normal(size=outside))


def test_the_area_is_that_of_the_curve_with_ties_as_halves():
    inside, outside = RNG.integers(0, 5, 40).astype(float), RNG.integers(0, 4, 60).astype(float)
    truth = np.repeat([1, 0], [40, 60])
    reference = roc_auc_score(truth, np.concatenate([inside, outside]))
    assert area([Stratum(inside=inside, outside=outside)]) == pytest.approx(reference)


def test_one_stratum_is_the_rank_sum_test():
    found = Stratum(
        inside=np.round(RNG.normal(size=30), 1), outside=np.round(RNG.normal(size=50), 1)
    )
    reference = mannwhitneyu(
        found.inside,
        found.outside,
        alternative="greater",
        method="asymptotic",
        use_continuity=False,
    ).pvalue
    assert p_above_chance([found]) == pytest.approx(reference)


def test_patients_of_different_strata_are_never_compared():
    high = Stratum(inside=np.full(5, 10.0), outside=np.full(5, 10.0))
    low = Stratum(inside=np.zeros(9), outside=np.zeros(3))
    assert area([high, low]) == 0.5
    assert p_above_chance([high, low]) == 1.0


def test_a_shift_is_found_and_none_is_not():
    assert p_above_chance([stratum(1.0), stratum(1.0)]) < 1e-4
    quiet = [p_above_chance([stratum(0.0)]) for _ in range(200)]
    assert np.mean(np.array(quiet) < 0.05) < 0.11


def test_a_true_area_of_the_smallest_kind_is_found_about_four_times_in_five():
    smallest = smallest_area([stratum(0.0, 60, 60)])
    shift = np.sqrt(2) * norm.ppf(smallest)  # normal scores that far apart have this area
    hits = [p_above_chance([stratum(shift, 60, 60)]) < 0.05 for _ in range(200)]
    assert 0.68 < np.mean(hits) < 0.92


def test_the_interval_holds_the_area():
    strata = [stratum(0.7), stratum(0.2)]
    low, high = area_interval(strata, rng=np.random.default_rng(1))
    assert low < area(strata) < high


def test_a_rate_that_too_few_patients_carry_is_not_resolvable():
    inside, outside = np.ones(10), np.zeros(999)
    found = rate_at(inside, outside, false_positive_rate=0.01)
    assert found.value is None
    assert "1,000 non-members, here are 999" in found.reason
    more = rate_at(inside, np.zeros(1000), false_positive_rate=0.01)
    assert more.value == 1.0


def test_a_rates_threshold_lets_no_more_outsiders_pass_than_allowed():
    outside = np.arange(1000.0)
    assert rate_at(np.array([989.0, 989.5]), outside, false_positive_rate=0.01).value == 0.5
    assert rate_at(np.full(4, 5.0), np.full(1000, 5.0), false_positive_rate=0.01).value == 0.0


def test_the_curve_rises_from_below_to_one_within_its_band():
    curve = roc_curve("release", RNG.normal(size=80) + 1, RNG.normal(size=90), rng=RNG)
    assert list(curve.y) == sorted(curve.y)
    assert curve.x[-1] == curve.y[-1] == 1.0
    assert all(a <= b <= c + 1e-9 for a, b, c in zip(curve.low, curve.y, curve.high, strict=True))


def test_an_empty_group_is_refused():
    with pytest.raises(DataError, match="0 patients inside"):
        Stratum(inside=np.empty(0), outside=np.ones(2))
