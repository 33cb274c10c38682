"""Ways in which audits of federated learning mislead, each shown on data and shown to be closed."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import ConfigError
from septum.models import build
from septum.study import parse
from septum_bench.attacks.inversion import gradients
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.similarity import blind_guesses, psnr, ranks
from septum_bench.audit.finding import ThreatRecord
from septum_bench.metrics import exact_binomial
from septum_bench.phantoms.public import public_images
from septum_bench.threat import RELEASED, UNPROTECTED, Grant

SIZE, CROWD = 32, 80


@cache
def films():
    return public_images(CROWD, SIZE, 21)[:, 0], public_images(60, SIZE, 22)[:, 0]


def first_places(made):
    crowd, public = films()
    names = [f"p{i}" for i in range(CROWD)]
    return ranks(
        made,
        patients=names[: len(made)],
        gallery=crowd,
        gallery_patients=names,
        public_mean=blind_guesses(public)[0],
    )


def test_a_picture_far_below_the_blind_guess_can_still_name_its_patient():
    # Similarity is not leakage: a low PSNR alone must never calm anybody.
    crowd, public = films()
    rng = np.random.default_rng(0)
    noisy = np.clip(crowd[:40] + rng.normal(0, 0.5, (40, SIZE, SIZE)), 0, 1).astype(np.float32)
    guess = np.broadcast_to(blind_guesses(public)[0], noisy.shape)
    assert psnr(noisy, crowd[:40]).mean() < psnr(guess, crowd[:40]).mean() - 5
    low, _ = exact_binomial(int((first_places(noisy) == 1).sum()), 40)
    assert low > 10 / CROWD


def test_a_picture_above_an_easy_baseline_can_name_nobody():
    # What every chest looks like is no leak: a good PSNR alone must never alarm anybody.
    crowd, public = films()
    guess = np.broadcast_to(blind_guesses(public)[0], (40, SIZE, SIZE)).astype(np.float32)
    grey = np.full_like(guess, crowd.mean())
    assert psnr(guess, crowd[:40]).mean() > psnr(grey, crowd[:40]).mean() + 3
    low, _ = exact_binomial(int((first_places(guess) == 1).sum()), 40)
    assert low <= 1 / CROWD


def test_matching_by_the_truth_flatters_images_of_other_patients_so_a_null_run_is_needed():
    crowd, _ = films()
    truth, others = crowd[:30], crowd[30:60]
    gain = psnr(assigned(others, truth), truth).mean() - psnr(others, truth).mean()
    assert gain > 0.5


def test_one_figure_for_a_batch_is_never_computed():
    # A sum over four images of 20 dB once made 80 dB of them.
    crowd, _ = films()
    made = np.clip(crowd[:4] + 0.1, 0, 1).astype(np.float32)
    each = psnr(made, crowd[:4])
    assert each.shape == (4,)
    alone = [psnr(made[i : i + 1], crowd[i : i + 1])[0] for i in range(4)]
    assert each == pytest.approx(alone)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_no_network_has_a_mode_of_normalisation_to_mistake(name):
    network = build(name, channels=1, outputs=1, seed=0)
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    assert not any(isinstance(layer, norms) for layer in network.modules())
    images = torch.from_numpy(films()[0][:2, None])
    labels = torch.tensor([[0.0], [1.0]])
    trained = gradients(network.train(), images, labels)
    assert torch.allclose(trained, gradients(network.eval(), images, labels), atol=1e-6)


def test_a_given_label_is_a_grant_that_is_printed():
    for threat in (RELEASED, UNPROTECTED):
        assert "label" in threat.holds[Grant.LABELS]
        assert threat.holds[Grant.LABELS] in ThreatRecord.of(threat).grants


def test_the_easy_case_says_that_it_is_unprotected_and_never_passes_for_the_release():
    assert not UNPROTECTED.protected
    assert RELEASED.protected
    assert Grant.NOISE in RELEASED.holds
    assert "unprotected" in UNPROTECTED.name


@pytest.mark.parametrize(
    "privacy",
    ["noise_multiplier = 0.0", "noise_multiplier = 1.0\nmax_grad_norm = 0.0"],
    ids=["no noise", "no clip"],
)
def test_a_study_without_clip_or_noise_has_no_epsilon_because_it_cannot_be_written(privacy):
    text = f"""
name = "fixed"
purpose = "Noise that is not tied to a clip."
rounds = 1
[data]
labels = ["nodule"]
[privacy]
{privacy}
sampling_rate = 0.1
steps_per_round = 1
delta = 1e-4
[strategy]
minimum_sites = 1
[[sites]]
name = "north"
patients = 50
"""
    with pytest.raises(ConfigError, match=r"noise_multiplier|max_grad_norm"):
        parse(text)
