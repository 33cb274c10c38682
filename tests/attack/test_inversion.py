"""The attack itself: strong without protection, at chance with it, and blind to the truth."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from septum.errors import ConfigError
from septum.models import build
from septum.privacy import Mechanism
from septum_bench.attacks.inversion import InversionConfig, gradients, invert
from septum_bench.attacks.similarity import blind_guesses, psnr, ranks
from septum_bench.audit.subject import Subject
from septum_bench.metrics import exact_binomial
from septum_bench.phantoms.public import public_images
from septum_bench.threat import (
    RELEASED,
    UNPROTECTED,
    AttackerView,
    Grant,
    KnownNoise,
    ThreatModel,
    as_gradient,
)
from septum_client.cohort import Cohort

SIZE, CROWD, TARGETS = 32, 60, 8
CONFIG = InversionConfig(iterations=120)
NETWORK = build("small_cnn", channels=1, outputs=1, seed=0)
LABELS = (np.arange(TARGETS) % 2).astype(np.float32)[:, None]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def films():
    return public_images(CROWD, SIZE, 11), public_images(60, SIZE, 12)


def exact_gradients():
    images = torch.from_numpy(films()[0][:TARGETS])
    return gradients(NETWORK, images, torch.from_numpy(LABELS)).numpy()


def look(observed, *, threat=UNPROTECTED, noise=None, labels=LABELS):
    return AttackerView(
        threat=threat,
        network=NETWORK,
        observed=observed,
        labels=labels,
        public_images=films()[1],
        noise=noise,
    )


def first_places(images):
    gallery, public = films()
    names = [f"p{i}" for i in range(CROWD)]
    placed = ranks(
        images,
        patients=names[:TARGETS],
        gallery=gallery[:, 0],
        gallery_patients=names,
        public_mean=blind_guesses(public[:, 0])[0],
    )
    return int((placed == 1).sum())


def test_the_unprotected_gradient_names_its_patient_far_above_chance_and_blind_guesses():
    images = invert(look(exact_gradients()), config=CONFIG)
    truth, guess = films()[0][:TARGETS, 0], blind_guesses(films()[1][:, 0])[0]
    low, _ = exact_binomial(first_places(images), TARGETS)
    assert low > 0.5 > 1 / CROWD
    gain = psnr(images, truth) - psnr(np.broadcast_to(guess, truth.shape), truth)
    assert gain.min() > 1
    assert gain.mean() > 3
    assert images.dtype == np.float32
    assert images.shape == (TARGETS, SIZE, SIZE)
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_clipped_and_noised_gradient_of_sigma_one_is_at_chance():
    mechanism = Mechanism(
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        sampling_rate=1.0,
        steps=1,
        expected_patients=1,
        delta=1e-4,
    )
    exact = exact_gradients()
    clipped = exact / np.maximum(1, np.linalg.norm(exact, axis=1, keepdims=True))
    noisy = clipped + np.random.default_rng(0).normal(size=exact.shape) * mechanism.noise_std
    view = look(noisy.astype(np.float32), threat=RELEASED, noise=KnownNoise.of_release(mechanism))
    low, _ = exact_binomial(first_places(invert(view, config=CONFIG)), TARGETS)
    assert low <= 1 / CROWD


def test_knowing_the_noise_makes_the_attack_stronger():
    exact = exact_gradients()
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    noisy = (unit + 0.02 * np.random.default_rng(0).normal(size=unit.shape)).astype(np.float32)
    knowing = look(noisy, threat=RELEASED, noise=KnownNoise(std=0.02, signal_norm=1.0))
    truth = films()[0][:TARGETS, 0]
    informed = psnr(invert(knowing, config=CONFIG), truth).mean()
    assert informed > psnr(invert(look(noisy), config=CONFIG), truth).mean() + 2


def test_equal_seeds_give_equal_images_and_targets_do_not_touch_each_other():
    short = InversionConfig(iterations=10, restarts=2)
    exact = exact_gradients()
    assert np.array_equal(
        invert(look(exact), config=short), invert(look(exact.copy()), config=short)
    )
    alone = invert(look(exact[:1], labels=LABELS[:1]), config=InversionConfig(iterations=10))
    together = invert(look(exact), config=InversionConfig(iterations=10))
    assert np.allclose(alone[0], together[0], atol=1e-3)


def test_progress_counts_every_step_of_every_restart():
    steps: list[tuple[int, int]] = []
    config = InversionConfig(iterations=5, restarts=3)
    invert(look(exact_gradients()), config=config, progress=lambda *at: steps.append(at))
    assert steps == [(i, 15) for i in range(1, 16)]


def test_more_restarts_never_leave_an_image_that_fits_the_observation_worse():
    exact = torch.from_numpy(exact_gradients())

    def misfit(restarts):
        images = invert(
            look(exact.numpy()), config=InversionConfig(iterations=15, restarts=restarts)
        )
        made = gradients(NETWORK, torch.from_numpy(images)[:, None], torch.from_numpy(LABELS))
        return 1 - torch.cosine_similarity(made, exact)

    # The slack is what total variation and the prior weigh in the attacker's objective.
    assert (misfit(3) <= misfit(1) + 5e-3).all()


def test_gradients_equal_those_of_ordinary_backpropagation():
    image = torch.from_numpy(films()[0][:1])
    label = torch.from_numpy(LABELS[:1])
    logits = NETWORK((image - 0.5) / 0.25)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
    slopes = torch.autograd.grad(loss, list(NETWORK.parameters()))
    ours = gradients(NETWORK, image, label)[0]
    assert torch.allclose(ours, torch.cat([s.flatten() for s in slopes]), atol=1e-6)


def test_one_step_of_plain_sgd_gives_its_gradient_back():
    gradient = np.array([1.0, -2.0], np.float32)
    assert as_gradient(-0.5 * gradient, learning_rate=0.5, steps=1) == pytest.approx(gradient)


def test_the_view_has_no_room_for_the_truth():
    held = {field.name for field in dataclasses.fields(AttackerView)}
    assert held == {"threat", "network", "observed", "labels", "public_images", "noise"}
    annotations = " ".join(str(kind) for kind in invert.__annotations__.values())
    assert Subject.__name__ not in annotations
    assert Cohort.__name__ not in annotations


def test_what_the_threat_does_not_grant_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        look(exact_gradients(), noise=KnownNoise(std=1.0, signal_norm=1.0))
    poor = ThreatModel(name="poor", attacker="a stranger", protected=True,
                       holds={Grant.OBSERVED: "the release"})  # fmt: skip
    with pytest.raises(ConfigError, match="labels"):
        look(exact_gradients(), threat=poor)
