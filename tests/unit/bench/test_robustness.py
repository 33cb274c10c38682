"""The reconstruction-robustness bound: above every attack, tight where tightness is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from septum.accounting import Charge
from septum.errors import ConfigError
from septum_bench.audit.robustness import Robustness, blow_up, gaussian_bound


def charge(sigma, rate, steps):
    return Charge(noise_multiplier=sigma, sampling_rate=rate, steps=steps)


@pytest.mark.parametrize(("sigma", "gamma"), [(0.5, 0.255), (1.0, 0.0485)])
def test_full_batch_bounds_are_those_of_the_published_formula(sigma, gamma):
    assert gaussian_bound(1 / 256, noise_multiplier=sigma, steps=1) == pytest.approx(
        gamma, abs=5e-4
    )


@pytest.mark.parametrize("kappa", [1 / 256, 0.1, 0.5, 0.9])
def test_the_subsampled_bound_meets_the_closed_form_as_the_rate_goes_to_one(kappa):
    close = blow_up(kappa, charge(1.0, 0.999999, 3))
    assert close == pytest.approx(gaussian_bound(kappa, noise_multiplier=1.0, steps=3), rel=1e-4)


def test_one_subsampled_step_is_bounded_exactly():
    # Neyman and Pearson: the best event of chance kappa under noise alone is a tail.
    kappa, rate, sigma = 1 / 64, 0.3, 0.8
    tail = norm.isf(kappa) * sigma
    exact = (1 - rate) * kappa + rate * norm.sf((tail - 1) / sigma)
    found = blow_up(kappa, charge(sigma, rate, 1))
    assert exact <= found <= exact * 1.001


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1 / 1000, 1 / 64, 0.3]), st.sampled_from([0.6, 1.0, 3.0]))
def test_the_bound_falls_with_noise_and_grows_with_steps_and_never_undercuts_chance(kappa, sigma):
    few, many = blow_up(kappa, charge(sigma, 0.1, 5)), blow_up(kappa, charge(sigma, 0.1, 50))
    quiet = blow_up(kappa, charge(2 * sigma, 0.1, 50))
    assert kappa <= few <= many <= 1
    assert quiet <= many


def test_a_gallery_has_its_own_prior():
    found = Robustness.of_gallery(64, charge(1.0, 1.0, 1))
    assert found.kappa == 1 / 64
    assert found.gamma == gaussian_bound(1 / 64, noise_multiplier=1.0, steps=1)


@pytest.mark.parametrize("kappa", [0.0, 1.0, np.nan])
def test_a_line_up_of_one_has_no_bound(kappa):
    with pytest.raises(ConfigError, match="blind guess"):
        blow_up(kappa, charge(1.0, 0.1, 1))
