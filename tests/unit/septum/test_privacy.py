import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

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
            }
            | changes
        )
    )


@given(noise=positive, clip=positive, floor=positive, ceiling=positive)
def test_tightening_never_lowers_noise_nor_raises_the_clip(noise, clip, floor, ceiling):
    before = mechanism(noise_multiplier=noise, max_grad_norm=clip)
    after = before.tightened(noise_floor=floor, clip_ceiling=ceiling)
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
