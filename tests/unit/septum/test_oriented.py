"""The public front end: constants, one image at a time, and little moved by contrast."""

import numpy as np
import pytest
import torch

from septum import tasks
from septum.models import build, check_private, to_vector
from septum.models.oriented import FEATURES, OrientedEnergy, gabors


@pytest.fixture(scope="module")
def films():
    return torch.from_numpy(np.random.default_rng(0).random((6, 1, 28, 28)).astype(np.float32))


@pytest.fixture(scope="module")
def front():
    return OrientedEnergy()


def test_only_the_linear_layer_is_trained_and_it_starts_at_zero():
    model = build("oriented_linear", channels=1, outputs=1, seed=0)
    check_private(model)
    assert to_vector(model).tolist() == [0.0] * (FEATURES + 1)


def test_an_images_features_depend_on_that_image_alone(front, films):
    together = front(tasks.normalise(films))
    other = films.clone()
    other[1:] = 0.5
    assert torch.allclose(front(tasks.normalise(other))[0], together[0], atol=1e-6)
    assert not torch.allclose(front(tasks.normalise(other))[1], together[1], atol=1e-2)


def test_contrast_and_brightness_change_no_feature(front, films):
    plain = front(tasks.normalise(films))
    assert torch.allclose(front(tasks.normalise(0.5 * films + 0.2)), plain, atol=2e-3)


def test_features_of_flat_images_are_finite(front):
    assert front(torch.zeros(2, 1, 28, 28)).isfinite().all()


def test_filters_have_no_mean_and_one_norm():
    filters = gabors()
    count = len(filters) // 2
    assert filters[:count].sum(dim=(1, 2, 3)).abs().max() < 1e-5
    energy = filters.square().sum(dim=(1, 2, 3))
    assert torch.allclose(energy[:count] + energy[count:], torch.ones(count), atol=1e-5)


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (1, 64), (3, 40)])
def test_any_side_and_number_of_channels_gives_features_of_norm_about_one(front, channels, side):
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.random((4, channels, side, side)).astype(np.float32))
    found = front(tasks.normalise(image))
    assert found.shape == (4, channels * FEATURES)
    assert 0.3 < found.norm(dim=1).mean() < 3
