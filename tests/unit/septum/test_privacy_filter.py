import math

import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.accounting import Charge, epsilon
from septum.privacy_filter import Filter, cap_for

caps = st.floats(0.3, 20.0)
deltas = st.floats(1e-9, 1e-2)
charges = st.lists(
    st.builds(
        Charge,
        noise_multiplier=st.sampled_from([0.7, 1.0, 2.5, 8.0]),
        sampling_rate=st.sampled_from([0.02, 0.3, 1.0]),
        steps=st.integers(1, 60),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(cap=caps, delta=deltas, run=charges)
def test_whatever_was_admitted_is_within_the_cap_by_the_accountant_of_record(cap, delta, run):
    # Necessary, not sufficient: these mechanisms are fixed, where both accountants must agree.
    rule = Filter(epsilon=cap, delta=delta)
    if rule.admits(run):
        assert epsilon(run, delta=delta) <= cap + 1e-3


@given(cap=caps, delta=deltas)
def test_the_limit_is_exactly_what_the_conversion_turns_into_the_cap(cap, delta):
    rule = Filter(epsilon=cap, delta=delta)
    if rule.limit > 1e-3:
        back, _ = compute_epsilon([rule.order], [rule.limit], delta)
        assert back == pytest.approx(cap, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(cap=caps, delta=deltas, run=charges, data=st.data())
def test_order_and_grouping_of_what_ran_never_change_the_answer(cap, delta, run, data):
    rule = Filter(epsilon=cap, delta=delta)
    assert rule.admits(run) == rule.admits(data.draw(st.permutations(run)))
    assert rule.spent(run) == pytest.approx(sum(rule.spent([one]) for one in run))


@settings(max_examples=30, deadline=None)
@given(cap=caps, delta=deltas, first=charges, second=charges)
def test_the_order_is_fixed_before_anything_runs(cap, delta, first, second):
    # The best order for the spending at hand would depend on what was released.
    rule = Filter(epsilon=cap, delta=delta)
    before = (rule.order, rule.limit)
    rule.admits(first)
    rule.admits([*first, *second])
    assert (rule.order, rule.limit) == before


@settings(max_examples=30, deadline=None)
@given(cap=caps, delta=deltas, run=charges, more=charges)
def test_what_was_refused_stays_refused_whatever_is_run_besides(cap, delta, run, more):
    rule = Filter(epsilon=cap, delta=delta)
    if not rule.admits(run):
        assert not rule.admits([*run, *more])


def _releases(rule, *, direction, rng):
    """Run one adaptive analyst on one of two neighbours; return the loss of what it saw.

    The patient's clipped gradient is 1 in one data set and absent in the other; the
    analyst takes less noise after a high answer and more after a low one.
    """
    present, spent, loss, noise = direction > 0, 0.0, 0.0, 4.0
    cost = {
        each: rule.spent([Charge(noise_multiplier=each, sampling_rate=1.0, steps=1)])
        for each in (1.5, 4.0)
    }
    while (spent := spent + cost[noise]) <= rule.limit:
        answer = float(present) + noise * rng.standard_normal()
        loss += direction * (answer - 0.5) / noise**2
        noise = 1.5 if answer > 2 else 4.0
    return loss


@pytest.mark.parametrize("direction", [1, -1], ids=["patient added", "patient removed"])
def test_an_analyst_who_chooses_the_noise_by_what_it_saw_stays_within_the_promise(direction):
    rule = Filter(epsilon=1.0, delta=0.01)
    rng = np.random.default_rng(0)
    losses = np.array([_releases(rule, direction=direction, rng=rng) for _ in range(3000)])
    delta = np.maximum(0, -np.expm1(rule.epsilon - losses)).mean()  # hockey-stick divergence
    assert delta <= rule.delta
    assert losses.std() > 0.2  # it did learn something


def test_no_order_below_two_and_no_cap_too_small_for_any_round():
    rule = Filter(epsilon=1e-6, delta=1e-12)
    one = Charge(noise_multiplier=1.0, sampling_rate=0.1, steps=1)
    assert rule.order >= 2
    assert not rule.admits([one])
    assert rule.share([one]) > 1
    assert rule.share([]) == 0


def test_rounds_within_is_the_last_number_of_rounds_that_fits():
    rule = Filter(epsilon=4.0, delta=1e-4)
    one, spent = (Charge(noise_multiplier=1.0, sampling_rate=0.1, steps=s) for s in (4, 9))
    fits = rule.rounds_within(one, spent=[spent], most=1000)
    assert rule.admits([spent, *[one] * fits])
    assert not rule.admits([spent, *[one] * (fits + 1)])
    assert rule.rounds_within(one, spent=[spent], most=1) == 1


@settings(max_examples=20, deadline=None)
@given(run=charges.filter(bool))
def test_a_cap_that_is_found_admits_and_a_hundredth_less_does_not(run):
    cap = cap_for(run, delta=1e-5)
    assert Filter(epsilon=cap, delta=1e-5).admits(run)
    if cap > 0.02:
        assert not Filter(epsilon=cap - 0.011, delta=1e-5).admits(run)


def test_the_price_of_the_filter_is_what_the_module_says():
    one = [Charge(noise_multiplier=2.597, sampling_rate=0.1, steps=400)]
    assert epsilon(one, delta=1e-4) == pytest.approx(3.0, abs=0.01)
    assert cap_for(one, delta=1e-4) == pytest.approx(3.35, abs=0.05)
    best = RdpAccountant().compose(one[0].event()).get_epsilon(1e-4)
    assert cap_for(one, delta=1e-4) == pytest.approx(best, rel=0.05)
    assert math.isinf(
        cap_for([Charge(noise_multiplier=0.1, sampling_rate=1.0, steps=999)], delta=1e-5)
    )
