"""Lower bounds on epsilon: never above the truth more often than they say, and far above 0."""

import math

import numpy as np
import pytest
from scipy import stats

from septum.accounting import Charge, epsilon
from septum.errors import ConfigError
from septum.privacy import Mechanism
from septum_bench.attacks.canaries import INFORMED, Canaries, CanaryView, score
from septum_bench.audit.empirical_epsilon import (
    Errors,
    Guesses,
    approximate,
    epsilon_of_mu,
    gaussian_epsilon,
    guess,
    held_out_errors,
    impossible,
    one_run,
    p_value,
    separation_p_value,
    steinke_epsilon,
    tail,
    trade_off,
)
from septum_bench.threat import ThreatModel

DELTA = 1e-4
CHARGE = Charge(noise_multiplier=1.0, sampling_rate=0.5, steps=4)


def canaries(rng, *, ratio=1.0, charge=CHARGE, count=1000):
    """Return scores and coins of canaries in a mechanism with ``ratio`` of the stated noise."""
    present = rng.random(count) < 0.5
    shape = (charge.steps, count)
    drawn = (rng.random(shape) < charge.sampling_rate) & present
    mechanism = Mechanism(
        noise_multiplier=charge.noise_multiplier,
        max_grad_norm=1.0,
        sampling_rate=charge.sampling_rate,
        steps=charge.steps,
        expected_patients=1.0,
        delta=DELTA,
    )
    along = drawn + ratio * charge.noise_multiplier * rng.standard_normal(shape)
    return score(CanaryView(threat=INFORMED, along=along, mechanism=mechanism)), present


def test_a_correct_mechanism_is_not_refuted_more_often_than_the_level_says():
    rng, curve = np.random.default_rng(0), trade_off(CHARGE)
    claimed = epsilon([CHARGE], delta=DELTA)
    values, bounds = [], []
    for _ in range(25):
        scores, present = canaries(rng, count=300)
        errors = held_out_errors(scores, present, rng=rng)
        outcomes = guess(scores, present)
        values += [p_value(outcomes, curve), separation_p_value(errors, curve)]
        bounds.append(steinke_epsilon(outcomes, delta=DELTA))
    # Of 50 at 5 %, more than 8 has a chance below 1e-3.
    assert sum(value <= 0.05 for value in values) <= 8
    assert max(bounds) < claimed


@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_too_little_noise_is_refuted(ratio):
    rng, curve = np.random.default_rng(1), trade_off(CHARGE)
    scores, present = canaries(rng, ratio=ratio, count=2000)
    errors = held_out_errors(scores, present, rng=rng)
    assert separation_p_value(errors, curve) < 1e-3
    assert gaussian_epsilon(errors, delta=DELTA) > epsilon([CHARGE], delta=DELTA)


def test_the_whole_curve_refutes_what_epsilon_and_delta_alone_cannot():
    rng = np.random.default_rng(2)
    charge = Charge(noise_multiplier=1.0, sampling_rate=1.0, steps=1)
    scores, present = canaries(rng, ratio=0.5, charge=charge, count=2000)
    outcomes = guess(scores, present)
    claimed = epsilon([charge], delta=DELTA)
    assert p_value(outcomes, trade_off(charge)) < 0.05
    assert steinke_epsilon(outcomes, delta=DELTA) < claimed


def test_coins_of_canaries_that_took_no_part_refute_nothing():
    rng = np.random.default_rng(3)
    scores, _ = canaries(rng)
    coins = rng.random(len(scores)) < 0.5
    errors = held_out_errors(scores, coins, rng=rng)
    assert steinke_epsilon(guess(scores, coins), delta=DELTA) < 0.3
    assert gaussian_epsilon(errors, delta=DELTA) < 0.3
    assert separation_p_value(errors, trade_off(CHARGE)) == 1.0


def test_without_delta_steinkes_bound_is_a_binomial_tail():
    made = Guesses(canaries=100, made=50, correct=40)
    right = math.exp(1.0) / (1 + math.exp(1.0))
    assert one_run(made, epsilon=1.0, delta=0.0) == pytest.approx(stats.binom(50, right).sf(39))
    assert one_run(made, epsilon=1.0, delta=0.01) > one_run(made, epsilon=1.0, delta=0.0)


def test_the_trade_off_curve_of_a_gaussian_is_its_closed_form():
    curve = trade_off(Charge(noise_multiplier=2.0, sampling_rate=1.0, steps=4))  # mu = 1
    for chance in (0.05, 0.3, 0.5, 0.9, 0.99):
        closed = stats.norm.cdf(stats.norm.ppf(chance) - 1.0)
        assert curve.inverse(chance) == pytest.approx(closed, rel=0.02)
        # Pessimistic rounding of the accountant: never a promise that is stronger.
        assert curve.inverse(chance) <= closed * (1 + 1e-6)


def test_an_epsilon_delta_curve_is_its_two_lines():
    curve = approximate(1.0, 0.01)
    for chance in (0.05, 0.5, 0.9, 0.99):
        expected = max(0.0, (chance - 0.01) / math.e, 1 - 0.01 - math.e * (1 - chance))
        assert curve.inverse(chance) == pytest.approx(expected, abs=1e-9)
    assert approximate(0.0, 0.0).inverse(0.3) == pytest.approx(0.3)


def test_perfect_privacy_allows_only_luck():
    fair = approximate(0.0, 0.0)
    assert tail(Guesses(canaries=20, made=20, correct=10), fair) == 1.0
    luck = tail(Guesses(canaries=20, made=20, correct=20), fair)
    assert stats.binom(20, 0.5).sf(19) <= luck < 1e-3


def test_more_right_guesses_are_never_less_surprising():
    curve = approximate(0.5, 1e-5)
    tails = [tail(Guesses(canaries=60, made=40, correct=k), curve) for k in range(20, 41)]
    assert tails == sorted(tails, reverse=True)
    assert impossible(Guesses(canaries=60, made=40, correct=40), curve, level=0.05)


def test_gaussian_epsilon_inverts_its_delta():
    for mu in (0.2, 1.0, 3.0):
        made = epsilon_of_mu(mu, delta=DELTA)
        near, far = (stats.norm.cdf(-made / mu + sign * mu / 2) for sign in (1, -1))
        assert near - math.exp(made) * far == pytest.approx(DELTA, rel=1e-4)
    assert epsilon_of_mu(0.0, delta=DELTA) == 0.0


def test_no_hit_is_no_evidence():
    nothing = Errors(hits=0, inside=50, falses=50, outside=50)
    assert gaussian_epsilon(nothing, delta=DELTA) == 0.0
    assert separation_p_value(nothing, trade_off(CHARGE)) == 1.0


def test_canaries_are_orthogonal_and_of_unit_length():
    made = Canaries.draw(30, parameters=100, rng=np.random.default_rng(0))
    each = np.stack([made.sum(np.eye(30)[i], parameters=100) for i in range(30)])
    assert np.allclose(each @ each.T, np.eye(30), atol=1e-6)
    assert np.allclose(made.along(each[3]), np.eye(30)[3], atol=1e-6)
    with pytest.raises(ConfigError, match="101 canaries do not fit 100 weights"):
        Canaries.draw(101, parameters=100, rng=np.random.default_rng(0))


def test_the_attack_is_given_only_what_its_threat_model_grants():
    blind = ThreatModel(name="blind", attacker="nobody", protected=True, holds={})
    mechanism = Mechanism(
        noise_multiplier=1,
        max_grad_norm=1,
        sampling_rate=1,
        steps=1,
        expected_patients=1,
        delta=0.01,
    )
    with pytest.raises(ConfigError, match="blind does not grant"):
        CanaryView(threat=blind, along=np.zeros((1, 1)), mechanism=mechanism)
