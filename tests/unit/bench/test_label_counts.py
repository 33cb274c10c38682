"""Counting labels off a sum: exact where nothing hides them, the blind guess where noise does."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import ConfigError
from septum.tasks import Classification
from septum_bench.attacks.candidate_gradients import patient_gradients
from septum_bench.attacks.head_input import FingerprintView, alike
from septum_bench.attacks.label_counts import CountsView, estimate_counts
from septum_bench.phantoms.public import public_images
from septum_bench.threat import Grant, ThreatModel

SIDE, CLASSES = 16, 3
ALL = ThreatModel(
    name="all", attacker="a test", protected=False, holds={grant: grant.value for grant in Grant}
)
LOSS = Classification(CLASSES).loss


def network(bias=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, CLASSES, bias=bias),
        )


def gradients(classes, seed=5):
    labels = np.eye(CLASSES, dtype=np.float32)[list(classes)]
    images = public_images(len(classes), SIDE, seed)
    return patient_gradients(network(), images, labels, np.arange(len(classes)), loss=LOSS)


def look(classes, *, size=None, noise_std=0.0, noise=0.0):
    return CountsView(
        threat=ALL,
        network=network(),
        loss=LOSS,
        exclusive=True,
        observed=gradients(classes).sum(axis=0) + np.float32(noise),
        drawn=float(len(classes)),
        rate=0.2,
        size=size,
        noise_std=noise_std,
        shares=np.full(CLASSES, 1 / CLASSES),
        public_images=public_images(24, SIDE, 9),
    )


def test_without_noise_and_with_a_known_size_counts_are_those_of_the_batch():
    classes = [0] * 9 + [1] * 2 + [2]
    assert estimate_counts(look(classes, size=12)) == pytest.approx([9, 2, 1], abs=0.5)


def test_where_the_size_is_luck_the_estimate_still_beats_the_blind_guess():
    truth = np.array([9, 2, 1])
    classes = np.repeat(np.arange(CLASSES), truth)
    error = np.abs(estimate_counts(look(classes)) - truth).sum()
    assert error < np.abs(len(classes) / CLASSES - truth).sum()


def test_the_louder_the_noise_the_nearer_to_the_blind_guess():
    classes = [0] * 9 + [1] * 2 + [2]
    spread = [
        np.ptp(estimate_counts(look(classes, noise_std=std))) for std in (0.0, 3.0, 30.0, 1e6)
    ]
    assert spread == sorted(spread, reverse=True)
    drowned = estimate_counts(look(classes, noise_std=1e6, noise=1e6))
    assert drowned == pytest.approx([4, 4, 4], abs=0.01)


def test_a_network_without_a_bias_on_its_head_has_no_counts_to_read():
    with pytest.raises(ConfigError, match="not on a bias"):
        dataclasses.replace(look([0, 1, 2]), network=network(bias=False))


def test_a_plain_gradient_is_most_alike_to_the_image_that_made_it():
    candidates = gradients([0, 1, 2, 0, 1, 2])
    found = alike(
        FingerprintView(
            threat=ALL, network=network(), observed=candidates[[4, 2]], candidates=candidates
        )
    )
    assert found.argmax(axis=1).tolist() == [4, 2]
    assert found[0, 4] == pytest.approx(1)


def test_a_vector_without_anything_in_it_is_alike_to_nobody():
    candidates = gradients([0, 1, 2, 0])
    view = FingerprintView(
        threat=ALL,
        network=network(),
        observed=np.zeros_like(candidates[:1]),
        candidates=candidates,
    )
    assert np.abs(alike(view)).max() == 0


def test_fingerprints_need_a_linear_layer_at_the_end_and_candidates_of_the_same_network():
    candidates = gradients([0, 1])
    with pytest.raises(ConfigError, match="not on a linear layer"):
        FingerprintView(
            threat=ALL,
            network=nn.Conv2d(1, 2, 3),
            observed=candidates,
            candidates=candidates,
        )
    with pytest.raises(ConfigError, match="columns"):
        FingerprintView(
            threat=ALL, network=network(), observed=candidates[:, :-1], candidates=candidates
        )
