import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from septum.errors import DataError
from septum_bench.metrics import (
    PatientScores,
    exact_binomial,
    patient_level,
    pooled,
    score,
    subgroups,
)


def draw(n=300, *, seed=0, shift=1.5, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(int)
    labels[:4] = [0, 1, 0, 1]
    logits = rng.normal(size=n) + shift * labels - 0.5
    return (logits if decimals is None else np.round(logits, decimals)), labels


def measure(logits, labels, **kwargs):
    return score(logits, labels, rng=np.random.default_rng(1), **kwargs)


@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([None, 0, 1]))
def test_auc_sensitivity_and_brier_equal_sklearn_also_with_ties(seed, decimals):
    logits, labels = draw(60, seed=seed, decimals=decimals)
    found = measure(logits, labels, resamples=20)
    false_alarms, hits, _ = roc_curve(labels, logits, drop_intermediate=False)
    assert found.auc.value == pytest.approx(roc_auc_score(labels, logits))
    assert found.sensitivity.value == pytest.approx(hits[false_alarms <= 0.1 + 1e-9].max())
    assert found.brier.value == pytest.approx(brier_score_loss(labels, expit(logits)))


def test_the_auc_interval_covers_the_truth_about_as_often_as_it_says():
    truth, hits = norm.cdf(1.5 / np.sqrt(2)), 0
    for seed in range(200):
        interval = measure(*draw(150, seed=seed), resamples=300).auc
        hits += interval.low <= truth <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_calibration_interval_covers_a_model_that_is_off_by_a_constant():
    rng = np.random.default_rng(0)
    many = rng.normal(size=200_000) * 1.5
    truth, hits = np.abs(expit(many) - expit(many - 1.0)).mean(), 0
    for _ in range(100):
        logits = rng.normal(size=300) * 1.5
        labels = rng.random(300) < expit(logits - 1.0)
        interval = measure(logits, labels, resamples=300).calibration_error
        hits += interval.low <= truth <= interval.high
    assert hits / 100 >= 0.87


def test_a_calibrated_model_is_not_called_miscalibrated():
    rng, quiet = np.random.default_rng(0), 0
    for _ in range(100):
        logits = rng.normal(size=200)
        interval = measure(logits, rng.random(200) < expit(logits), resamples=200).calibration_error
        assert interval.low <= interval.value
        quiet += interval.low == 0
    assert quiet >= 85


def test_equal_seeds_give_equal_records():
    assert measure(*draw()) == measure(*draw())


def test_a_thousand_resamples_of_three_hundred_patients_take_a_moment():
    best = np.inf
    for _ in range(5):
        started = time.process_time()
        measure(*draw(300))
        best = min(best, time.process_time() - started)
    assert best < 0.2


def test_reliability_bins_hold_every_patient_once_and_weigh_to_the_calibration_error():
    logits, labels = draw()
    found = measure(logits, labels)
    assert sum(row.patients for row in found.reliability) == len(labels) == found.patients
    gap = sum(abs(row.observed - row.predicted) * row.patients for row in found.reliability)
    assert found.calibration_error.value == pytest.approx(gap / len(labels))


@pytest.mark.parametrize(
    ("logits", "labels", "word"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], "one class"),
        ([0.1, 0.2, 0.3], [0, 0, 0], "one class"),
        ([0.1, 0.2, 0.3], [0, 0, 1], "1 positive"),
        ([0.1], [1], "fewer than"),
        ([], [], "fewer than"),
        ([0.1, np.nan, 0.3, 0.2], [0, 1, 0, 1], "not finite"),
        ([0.1, np.inf, 0.3, 0.2], [0, 1, 0, 1], "not finite"),
    ],
)
def test_what_the_patients_cannot_resolve_is_none_with_a_reason(logits, labels, word):
    found = measure(logits, labels)
    for interval in (found.auc, found.sensitivity):
        assert interval.value is interval.low is interval.high is None
        assert word in interval.reason
    usable = word in ("one class", "1 positive")
    assert (found.brier.value is not None) == usable
    assert (found.calibration_error.value is not None) == usable


def test_a_perfect_score_on_few_patients_is_not_certainty():
    found = measure([-2, -1, -1.5, 1, 2, 1.5], [0, 0, 0, 1, 1, 1])
    assert found.auc.value == found.auc.high == 1
    assert found.auc.low == pytest.approx(exact_binomial(3, 3)[0])
    assert found.sensitivity.low == pytest.approx(exact_binomial(3, 3)[0])


def test_a_constant_score_ranks_like_a_coin():
    found = measure(np.zeros(40), [0, 1] * 20)
    assert found.auc.value == 0.5
    assert found.sensitivity.value == 0


def test_a_patients_score_is_the_mean_logit_and_its_label_the_highest():
    found = patient_level([1.0, 3.0, -1.0], [0, 1, 0], ["b", "b", "a"])
    assert found.patients == ("a", "b")
    assert found.scores.tolist() == [-1.0, 2.0]
    assert found.labels.tolist() == [0, 1]


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError):
        patient_level([1.0, 2.0], [0], ["a", "b"])
    with pytest.raises(DataError):
        measure([1.0, 2.0, 3.0], [0, 1])


def some_patients(n=80):
    logits, labels = draw(n)
    names = tuple(f"p{i:03}" for i in range(n))
    return PatientScores(patients=names, scores=logits, labels=labels)


def test_pooling_keeps_equal_identifiers_of_two_sites_apart():
    site = some_patients()
    both = pooled({"north": site, "south": site})
    assert len(set(both.patients)) == 160
    assert pooled({}).patients == ()


def test_subgroups_split_the_patients_by_level():
    site = some_patients()
    sex = ["F" if i % 2 else "M" for i in range(80)]
    rows = subgroups(site, {"sex": sex}, rng=np.random.default_rng(0), resamples=50)
    assert [(row.group, row.level, row.metrics.patients) for row in rows] == [
        ("sex", "F", 40),
        ("sex", "M", 40),
    ]


def test_lesion_sizes_meet_every_negative_patient():
    site = some_patients()
    size = [("small" if i % 2 else "large") if y else None for i, y in enumerate(site.labels)]
    rows = subgroups(
        site,
        {"lesion size": size},
        rng=np.random.default_rng(0),
        against_all_negatives=("lesion size",),
        resamples=50,
    )
    negatives = int((site.labels == 0).sum())
    assert [row.level for row in rows] == ["large", "small"]
    assert all(r.metrics.patients - r.metrics.positives == negatives for r in rows)
    assert sum(r.metrics.positives for r in rows) == site.labels.sum()
