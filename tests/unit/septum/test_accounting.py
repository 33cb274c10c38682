import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from septum.accounting import Charge, epsilon, noise_for, rounds_within
from septum.errors import ConfigError

HISTORIES = [
    pytest.param([(1.0, 0.1, 30)], 1e-4, id="one mechanism"),
    pytest.param([(0.8, 0.05, 200)], 1e-5, id="many steps"),
    pytest.param([(1.2, 0.2, 12), (2.0, 0.1, 40), (1.2, 0.2, 12)], 1e-4, id="mixed studies"),
    pytest.param([(1.5, 1.0, 3)], 1e-4, id="no sampling"),
]


def charge(noise, rate, steps):
    return Charge(noise_multiplier=noise, sampling_rate=rate, steps=steps)


def event(history):
    """Build the composition anew: nothing of septum.accounting takes part."""
    composed = dp_accounting.DpEventBuilder()
    for noise, rate, steps in history:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        composed.compose(step, steps)
    return composed.build()


@pytest.mark.parametrize(("history", "delta"), HISTORIES)
def test_epsilon_equals_dp_accounting_at_its_own_resolution(history, delta):
    reference = PLDAccountant().compose(event(history)).get_epsilon(delta)
    assert epsilon([charge(*part) for part in history], delta=delta) == pytest.approx(
        reference, abs=1e-3
    )


@pytest.mark.parametrize(("history", "delta"), HISTORIES)
def test_the_renyi_accountant_is_an_upper_bound(history, delta):
    bound = RdpAccountant().compose(event(history)).get_epsilon(delta)
    assert epsilon([charge(*part) for part in history], delta=delta) <= bound


@pytest.mark.parametrize(("history", "delta"), HISTORIES[:3])
def test_epsilon_agrees_with_opacus_prv_accountant(history, delta):
    accountant = PRVAccountant()
    accountant.history = list(history)
    other = accountant.get_epsilon(delta, eps_error=0.005)
    assert epsilon([charge(*part) for part in history], delta=delta) == pytest.approx(
        other, rel=0.02
    )


def test_a_new_accountant_per_round_would_under_count():
    one = charge(1.0, 0.1, 10)
    alone = epsilon([one], delta=1e-4)
    assert epsilon([one] * 5, delta=1e-4) > 1.5 * alone
    assert epsilon([one] * 5, delta=1e-4) == epsilon([charge(1.0, 0.1, 50)], delta=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.permutations([(1.0, 0.1, 5), (1.0, 0.1, 7), (2.0, 0.2, 3), (1.5, 0.1, 1)]))
def test_the_order_of_charges_never_changes_epsilon(history):
    parts = [charge(*part) for part in history]
    assert epsilon(parts, delta=1e-4) == epsilon(sorted(parts), delta=1e-4)


@settings(max_examples=15, deadline=None)
@given(steps=st.integers(1, 60), more=st.integers(1, 20))
def test_more_steps_never_cost_less(steps, more):
    before = epsilon([charge(1.1, 0.2, steps)], delta=1e-4)
    assert epsilon([charge(1.1, 0.2, steps + more)], delta=1e-4) >= before > 0


def test_a_charge_of_no_steps_costs_nothing():
    assert epsilon([charge(1.0, 0.1, 0)], delta=1e-4) == 0.0


@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_noise_for_is_the_smallest_in_thousandths_that_keeps_the_target(target):
    noise = noise_for(target=target, delta=1e-4, sampling_rate=0.1, steps=40)
    assert epsilon([charge(noise, 0.1, 40)], delta=1e-4) <= target
    assert noise == round(noise, 3)
    assert epsilon([charge(noise - 0.001, 0.1, 40)], delta=1e-4) > target


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_a_target_that_is_no_positive_number_is_named(target):
    with pytest.raises(ConfigError, match=f"epsilon is {target}"):
        noise_for(target=target, delta=1e-4, sampling_rate=0.1, steps=40)


def test_an_unreachable_target_says_so():
    with pytest.raises(ConfigError, match="cannot be reached"):
        noise_for(target=1e-6, delta=1e-9, sampling_rate=1.0, steps=5000)


@pytest.mark.parametrize("delta", [0, 1, -0.1, math.nan])
def test_a_delta_outside_its_limits_is_named(delta):
    with pytest.raises(ConfigError, match="delta is"):
        epsilon([charge(1.0, 0.1, 1)], delta=delta)


def test_rounds_within_is_the_last_number_of_rounds_that_fits():
    one, spent = charge(1.0, 0.2, 4), [charge(1.0, 0.2, 6)]
    fits = rounds_within(one, limit=4.0, delta=1e-4, spent=spent, most=100)
    assert epsilon([*spent, *[one] * fits], delta=1e-4) <= 4.0
    assert epsilon([*spent, *[one] * (fits + 1)], delta=1e-4) > 4.0
    assert rounds_within(one, limit=0.01, delta=1e-4, spent=spent, most=100) == 0
