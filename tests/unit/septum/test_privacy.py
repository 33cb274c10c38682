import math

import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from septum.accounting import epsilon
from septum.privacy import Mechanism

positive = st.floats(1e-3, 1e3)


def mechanism(**changes):
    return Mechanism(
        **(
            {
                "noise_multiplier": 1.0,
                "max_grad_norm": 1.0,
                "sampling_rate": 0.1,
                "steps": 5,
                "expected_patients": 10.0,
                "delta": 1e-4,
            }
            | changes
        )
    )


@given(noise=positive, clip=positive, floor=positive, ceiling=positive)
def test_tightening_never_lowers_noise_nor_raises_the_clip(noise, clip, floor, ceiling):
    before = mechanism(noise_multiplier=noise, max_grad_norm=clip)
    after = before.tightened(noise_floor=floor, clip_ceiling=ceiling, delta=1e-6)
    assert after.delta == 1e-6
    assert before.tightened(noise_floor=floor, clip_ceiling=ceiling).delta == before.delta
    assert after.noise_multiplier == max(noise, floor)
    assert after.max_grad_norm == min(clip, ceiling)
    assert after.charge().noise_multiplier == after.noise_multiplier
    assert (after.sampling_rate, after.steps) == (before.sampling_rate, before.steps)


def test_sensitivity_cannot_be_set_apart_from_the_clip():
    one = mechanism(max_grad_norm=3.0, noise_multiplier=2.0)
    assert one.noise_std == 6.0
    with pytest.raises(ValidationError):
        one.noise_multiplier = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        mechanism(sensitivity=0.1)


@pytest.mark.parametrize("name", ["noise_multiplier", "max_grad_norm", "expected_patients"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_no_number_of_the_mechanism_may_be_empty_or_endless(name, value):
    with pytest.raises(ValidationError):
        mechanism(**{name: value})


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers(1, 10**6))
def test_the_norm_bound_grows_with_noise_and_clip(noise, clip, parameters):
    def bound(**changes):
        return mechanism(**changes).update_norm_bound(parameters=parameters, learning_rate=0.5)

    base = bound(noise_multiplier=noise, max_grad_norm=clip)
    assert bound(noise_multiplier=2 * noise, max_grad_norm=clip) > base
    assert bound(noise_multiplier=noise, max_grad_norm=2 * clip) == pytest.approx(2 * base)


@settings(max_examples=12, deadline=None)
@given(
    noise=st.floats(1.2, 6.0),
    rate=st.floats(0.01, 1.0),
    steps=st.integers(1, 40),
    rounds=st.integers(1, 4),
)
def test_epsilon_equals_dp_accountings_own_on_the_recorded_event(noise, rate, steps, rounds):
    one = mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)
    # At our grid the two must agree to the last digits; its own finer one is compared elsewhere.
    reference = PLDAccountant(value_discretization_interval=1e-3)
    for _ in range(rounds):
        reference.compose(one.event())
    ours = epsilon([one.charge()] * rounds, delta=1e-4)
    assert ours == pytest.approx(reference.get_epsilon(1e-4), rel=1e-6)


@given(st.integers(1, 64), st.integers(1, 64))
def test_images_and_views_of_a_patient_appear_nowhere_in_the_event(images, views):
    # A patient's views are averaged before the clip, so no number of them moves epsilon.
    assert not {"images_per_patient", "views"} & set(Mechanism.model_fields)
    with pytest.raises(ValidationError):
        mechanism(images_per_patient=images)
    with pytest.raises(ValidationError):
        mechanism(views=views)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_the_kind_of_clipping_costs_the_same(clipping):
    assert mechanism(clipping=clipping).charge() == mechanism().charge()
    assert mechanism(clipping=clipping).event() == mechanism().event()


def test_an_unknown_kind_of_clipping_is_refused():
    with pytest.raises(ValidationError):
        mechanism(clipping="none")


def test_views_and_images_of_a_patient_cost_no_epsilon(tiny):
    views = {"views": 16, "images_per_patient": 4, "augmentation": "geometry"}
    plain = tiny.study(training={"views": 1, "images_per_patient": 1}).mechanism("north")
    many = tiny.study(training=views).mechanism("north")
    assert many == plain
    assert many.event() == plain.event()
