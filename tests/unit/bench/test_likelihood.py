"""The likelihood attack: exact, optimal, and blind to everything its threat does not grant."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multivariate_normal

from septum.errors import ConfigError, DataError
from septum.models import build
from septum.privacy import Mechanism
from septum_bench.attacks.candidate_gradients import clip_factors, in_span, patient_gradients
from septum_bench.attacks.inversion import gradients
from septum_bench.attacks.likelihood import (
    LineUpView,
    StepNoise,
    best_success,
    log_likelihoods,
    matched_filter,
)
from septum_bench.audit.identification import INFORMED
from septum_bench.threat import Grant, ThreatModel
from septum_client.clipping import PatientOptimizer
from septum_client.randomness import system_source

RNG = np.random.default_rng(0)


def mechanism(**changes):
    fields = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "sampling_rate": 1.0, "steps": 1}
    return Mechanism(**(fields | {"expected_patients": 1, "delta": 1e-5} | changes))


def look(observed, candidates, **noise):
    noise = StepNoise(**({"std": 1.0} | noise))
    return LineUpView(threat=INFORMED, observed=observed, candidates=candidates, noise=noise)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.3, 1), (1.0, 4), (0.3, 4)])
def test_a_score_is_the_log_of_a_ratio_of_densities(rate, steps):
    made, seen = RNG.normal(size=(1, 3, 5)), RNG.normal(size=(2, 1, 5))
    scores = log_likelihoods(look(seen, made, std=0.7, rate=rate, steps=steps))
    for trial in range(2):
        for who in range(3):
            parts = [
                binom.pmf(j, steps, rate)
                * multivariate_normal.pdf(seen[trial, 0], j * made[0, who], steps * 0.7**2)
                for j in range(steps + 1)
            ]
            nobody = multivariate_normal.pdf(seen[trial, 0], np.zeros(5), steps * 0.7**2)
            assert scores[trial, who] == pytest.approx(np.log(sum(parts) / nobody))


def test_observations_add_up_and_each_has_its_own_candidates():
    made, seen = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(4, 2, 5))
    both = log_likelihoods(look(seen, made, rate=0.4))
    each = [log_likelihoods(look(seen[:, [i]], made[[i]], rate=0.4)) for i in range(2)]
    assert np.allclose(both, sum(each))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_candidates_never_changes_a_score(order):
    rng = np.random.default_rng(1)
    made, seen = rng.normal(size=(1, 5, 4)), rng.normal(size=(3, 1, 4))
    for attack in (log_likelihoods, matched_filter):
        plain = attack(look(seen, made, rate=0.5))
        assert np.allclose(attack(look(seen, made[:, order], rate=0.5)), plain[:, order])


def test_the_span_keeps_every_inner_product():
    made = RNG.normal(size=(6, 40))
    assert np.allclose(in_span(made) @ in_span(made).T, made @ made.T)


def test_the_best_success_is_chance_where_nothing_is_known_and_certain_where_all_is():
    assert best_success(np.zeros((2, 8))) == pytest.approx(1 / 8)
    assert best_success(np.array([[0.0, 100.0]])) == pytest.approx(1.0)


def test_a_view_that_its_threat_does_not_grant_or_that_has_no_noise_is_refused():
    made, seen = np.ones((1, 2, 3)), np.ones((1, 1, 3))
    poor = ThreatModel(name="p", attacker="a", protected=True, holds={Grant.OBSERVED: "o"})
    with pytest.raises(ConfigError, match="candidates"):
        LineUpView(threat=poor, observed=seen, candidates=made, noise=StepNoise(std=1.0))
    with pytest.raises(ConfigError, match="standard deviation 0"):
        look(seen, made, std=0.0)
    with pytest.raises(ConfigError, match="one basis"):
        look(seen, made[..., :2])


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_candidates_are_clipped_by_the_rule_of_the_real_client(clipping):
    used = mechanism(max_grad_norm=0.7, clipping=clipping)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    client = PatientOptimizer(plain, mechanism=used, randomness=system_source("a", "b", 1))
    norms = np.array([1e-9, 0.3, 0.7, 5.0], np.float32)
    theirs = client.coefficients(torch.from_numpy(norms)).numpy()
    assert np.allclose(clip_factors(norms, used), theirs, rtol=1e-6)


def test_a_patients_images_are_averaged_before_the_clip():
    network = build("small_cnn", channels=1, outputs=1, seed=0)
    images = RNG.random((3, 1, 16, 16)).astype(np.float32)
    labels = np.array([[0], [1], [1]], np.float32)
    each = gradients(network, torch.from_numpy(images), torch.from_numpy(labels)).numpy()
    found = patient_gradients(network, images, labels, [0, 0, 1])
    assert np.allclose(found[0], each[:2].mean(axis=0), atol=1e-6)
    assert np.allclose(found[1], each[2], atol=1e-6)
    tight = patient_gradients(
        network, images, labels, [0, 0, 1], mechanism=mechanism(max_grad_norm=1e-3)
    )
    assert np.allclose(np.linalg.norm(tight, axis=1), 1e-3, rtol=1e-2)
    with pytest.raises(DataError, match="3 images"):
        patient_gradients(network, images, labels, [0, 1])
