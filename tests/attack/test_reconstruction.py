"""Reconstruction: exact where nothing protects, and refused by a client that does."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import ConfigError, Refusal
from septum.models import build, load_vector, to_vector
from septum.tasks import Classification
from septum_bench.attacks.batch_inversion import BatchView, invert_batch, mean_gradient, weights_of
from septum_bench.attacks.fedavg import LocalTraining, UpdateView, invert_update, local_update
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.imprint import ImprintView, craft, recover
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.similarity import psnr
from septum_bench.metrics import exact_binomial
from septum_bench.phantoms.public import public_images
from septum_bench.threat import Grant, ThreatModel

SIDE, CLASSES = 32, 4
LOSS = Classification(CLASSES).loss
ALL = ThreatModel(
    name="all", attacker="a test", protected=False, holds={grant: grant.value for grant in Grant}
)
CONFIG = MatchingConfig(evaluations=120, box_weight=1.0, tv_weight=1e-3, spread=0.1)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, CLASSES),
        )


def films(count, seed):
    return public_images(count, SIDE, seed)


def gradient_of(model, images, labels):
    layers = mean_gradient(
        model,
        weights_of(model, torch.device("cpu")),
        torch.from_numpy(images),
        torch.from_numpy(labels),
        loss=LOSS,
    )
    return torch.cat([layer.detach().flatten() for layer in layers]).numpy()


def look(observed, labels):
    return BatchView(
        threat=ALL, network=network(), loss=LOSS, side=SIDE, observed=observed, labels=labels
    )


def gain(source, truth, *, count, config=CONFIG):
    """Decibels above the mean public image of each of ``truth``, attacking ``source``."""
    labels = np.eye(CLASSES, dtype=np.float32)[np.arange(count)]
    made = invert_batch(look(gradient_of(network(), source, labels), labels), config=config).images
    blind = np.broadcast_to(films(40, 9)[:, 0].mean(0), truth[:, 0].shape)
    return psnr(assigned(made, truth[:, 0]), truth[:, 0]) - psnr(blind, truth[:, 0])


def test_one_image_comes_back_from_a_plain_gradient_and_others_gradients_give_nothing():
    truth = films(1, 5)
    assert gain(truth, truth, count=1).min() > 6
    assert gain(films(1, 6), truth, count=1).max() < 1


def test_a_whole_batch_comes_back_from_one_mean_gradient():
    truth = films(3, 5)
    assert gain(truth, truth, count=3).min() > 2
    assert gain(films(3, 6), truth, count=3).mean() < 1


def test_smooth_rectifiers_are_what_makes_the_attack_strong():
    truth = films(1, 5)
    sharp = dataclasses.replace(CONFIG, sharpness=(1e4, 1e4))
    assert gain(truth, truth, count=1).min() > gain(truth, truth, count=1, config=sharp).min() + 3


def test_an_update_of_several_local_steps_gives_its_images_back():
    truth, model = films(2, 5), network()
    labels = np.eye(CLASSES, dtype=np.float32)[:2]
    training = LocalTraining(learning_rate=0.05, batch=1, epochs=2)
    parts = local_update(
        model,
        weights_of(model, torch.device("cpu")),
        torch.from_numpy(truth),
        torch.from_numpy(labels),
        loss=LOSS,
        training=training,
    )
    view = UpdateView(
        threat=ALL,
        network=model,
        loss=LOSS,
        side=SIDE,
        observed=torch.cat([part.detach().flatten() for part in parts]).numpy(),
        labels=labels,
        training=training,
    )
    made = assigned(invert_update(view, config=CONFIG).images, truth[:, 0])
    blind = np.broadcast_to(films(40, 9)[:, 0].mean(0), truth[:, 0].shape)
    assert (psnr(made, truth[:, 0]) - psnr(blind, truth[:, 0])).min() > 2


def test_an_imprint_is_exact_on_an_unprotected_client_and_refused_by_a_protected_one():
    truth, registered = films(16, 5), build("small_cnn", channels=1, outputs=CLASSES, seed=0)
    crafted = craft(films(200, 9), outputs=CLASSES, bins=128, measurements=2, seed=0)
    labels = np.eye(CLASSES, dtype=np.float32)[np.arange(16) % CLASSES]

    # A client that trains whatever it is sent.
    observed = gradient_of(crafted, truth, labels)
    view = ImprintView(threat=ALL, network=crafted, observed=observed, side=SIDE)
    exact = psnr(assigned(recover(view), truth[:, 0]), truth[:, 0]) > 40
    assert exact_binomial(int(exact.sum()), 16)[0] > 0.6
    stranger = films(16, 6)[:, 0]
    assert not (psnr(assigned(recover(view), stranger), stranger) > 25).any()

    # Septum's client, which builds from its own registry: by name, and by weights.
    with pytest.raises(ConfigError, match="not registered"):
        build("imprint", channels=1, outputs=CLASSES, seed=0)
    with pytest.raises(Refusal, match="this network takes"):
        load_vector(registered, to_vector(crafted))
