"""No optimizer of a study can move further in a round than the gate allows."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from septum.privacy import Mechanism
from septum.step_bounds import adam_reach, momentum_path, update_norm_bound
from septum.training import Training
from septum_client.optimizers import optimizer_of

WIDTH = 3


def moved(training, gradients):
    """Return the path's end after torch's own optimizer followed ``gradients``."""
    weight = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_of(training)([weight])
    for gradient in gradients:
        weight.grad = torch.from_numpy(np.array(gradient))
        optimizer.step()
    return weight.detach().numpy()


def mechanism(steps):
    return Mechanism(
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        sampling_rate=0.5,
        steps=steps,
        expected_patients=10.0,
        delta=1e-5,
    )


gradients = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.just(WIDTH)),
    elements=st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1e-6, -1e6])),
)


@settings(max_examples=200, deadline=None)
@given(path=gradients)
def test_adam_never_passes_its_bound_whatever_the_gradients(path):
    training = Training(optimizer="adam", learning_rate=0.1)
    bound = update_norm_bound(mechanism(len(path)), training, parameters=WIDTH)
    assert np.linalg.norm(moved(training, path)) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("step", [1, 2, 10, 100])
def test_a_coordinate_can_reach_adams_bound_so_no_smaller_one_is_true(step):
    first, second = 0.9, 0.999
    # Cauchy and Schwarz hold with equality for gradients in proportion to the ratio of weights.
    path = np.array([[(first / second) ** (step - j)] for j in range(1, step + 1)])
    training = Training(optimizer="adam", learning_rate=1.0)
    last = moved(training, path) - (moved(training, path[:-1]) if step > 1 else 0)
    assert abs(last[0]) == pytest.approx(adam_reach(step), rel=1e-4)


@settings(max_examples=200, deadline=None)
@given(path=gradients, momentum=st.floats(0, 0.99))
def test_momentum_goes_no_further_than_its_path(path, momentum):
    training = Training(momentum=momentum, learning_rate=0.3)
    longest = max(np.linalg.norm(path, axis=1))
    far = 0.3 * longest * momentum_path(momentum, steps=len(path))
    assert np.linalg.norm(moved(training, path)) <= far * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_gradients_of_one_direction_reach_the_bound_of_momentum(momentum):
    path = np.tile([[1.0, 0.0, 0.0]], (5, 1))
    end = moved(Training(momentum=momentum, learning_rate=1.0), path)
    assert end[0] == pytest.approx(-momentum_path(momentum, steps=5))


def test_plain_sgd_keeps_the_mechanisms_own_bound():
    plain = mechanism(5).update_norm_bound(parameters=50, learning_rate=0.5)
    assert update_norm_bound(
        mechanism(5), Training(learning_rate=0.5), parameters=50
    ) == pytest.approx(plain)


@pytest.mark.parametrize("changes", [{"momentum": 0.9}, {"optimizer": "adam"}])
def test_honest_rounds_pass_and_the_bound_is_no_blank_cheque(changes):
    training = Training(learning_rate=0.5, **changes)
    one = SimpleNamespace(steps=10)
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(one.steps, 100)) * 0.1
    bound = update_norm_bound(mechanism(one.steps), training, parameters=100)
    length = np.linalg.norm(moved(training, honest))
    assert length < bound < math.inf
    assert bound < 200 * length
