"""A patient's place in a batch, which tells who else was drawn, never shows in a gradient."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from septum.models import build
from septum.privacy import Mechanism
from septum_client.augment import Radiograph
from septum_client.clipping import PatientGradSampleModule, Patients, places
from septum_client.clipping.exactness import made_up
from septum_client.dpsgd import PatientTrainer
from septum_client.randomness import SystemRandomness
from septum_client.train import loss_of

CLIP = 0.5


class NoNoise:
    seeded = True

    def uniform(self, count):
        return np.full(count, 0.3)

    def normal(self, count, out=None):
        return np.zeros(count)


def squared(outputs, targets):
    return (outputs - targets).square().flatten(1).sum(1)


def trainer(model, *, most=1, views=1, randomness=None, physical=32):
    return PatientTrainer(
        model,
        mechanism=Mechanism(
            noise_multiplier=1.0,
            max_grad_norm=CLIP,
            sampling_rate=0.5,
            steps=1,
            expected_patients=32.0,
            delta=1e-5,
        ),
        optimizer=partial(torch.optim.SGD, lr=32.0),
        images_per_patient=most,
        views=views,
        loss=squared,
        randomness=randomness or SystemRandomness(),
        device=torch.device("cpu"),
        physical=physical,
    )


def clipped_sum(model, pixels, targets, drawn):
    made, seen = trainer(model, randomness=NoNoise()), []
    made._optimizer.attach_step_hook(
        lambda o: seen.append(torch.cat([32.0 * p.grad.flatten() for p in o.params]))
    )
    made.step(pixels, targets, drawn)
    return seen[0].double().numpy()


class Counting(nn.Module):
    """A network of which every second row differs in the last bit."""

    def __init__(self):
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(64, 1)

    def forward(self, images):
        made = self.head(self.flat(images))
        return made * (1 + 2**-23 * (torch.arange(len(made)) % 2).view(-1, 1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "side", "views", "more"),
    [
        ("small_cnn", 28, 1, {}),
        ("small_cnn", 28, 2, {}),
        ("small_cnn", 28, 1, {"weight_standardisation": True}),
        ("oriented_linear", 28, 2, {}),
        ("unet", 32, 1, {}),
    ],
)
def test_patients_share_a_batch_in_the_usual_networks(name, side, views, more, threads):
    augment = Radiograph(geometry=True, tone=True, mirror=True) if views > 1 else None
    size = (side, side)
    shape = size if name == "unet" else (2,)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        network = build(name, channels=1, outputs=2, seed=0, size=size, **more)
        made = trainer(network, views=views)
        images = np.zeros((1, 1, *size), np.float16)
        targets = np.zeros((1, *shape), np.uint8 if name == "unet" else np.float32)
        made._loss = lambda outputs, _: outputs.square().flatten(1).sum(1)
        assert made._prepare(images, targets, augment) == 32
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("inputs", [1225, 37, 100])
@pytest.mark.parametrize("outputs", [2, 3, 7])
def test_a_linear_layer_computes_equal_rows_to_equal_bits(inputs, outputs):
    layer = nn.Linear(inputs, outputs)
    row = torch.randn(1, inputs, generator=torch.Generator().manual_seed(0))
    seen = []

    def total():
        seen.append(layer(row.repeat(32, 1)))
        return seen[0].sum()

    wrapped = PatientGradSampleModule(layer)
    wrapped.sums(Patients.of([1] * 32, batch=32, most=1), total, torch.ones_like)
    assert (seen[0] == seen[0][:1]).all()


def test_a_last_bit_under_cancelling_weights_does_not_become_anothers_gradient():
    """Weights orthogonal to the others' features leave their rounding, which saturates the loss."""
    others, rng = 12, np.random.default_rng(0)
    pixels = rng.random((others + 1, 1, 28, 28)).astype(np.float16)
    targets = np.full((others + 1, 2), 0.5, np.float32)
    model = build("oriented_linear", channels=1, outputs=2, seed=0, size=(28, 28))
    normal = (torch.from_numpy(pixels).float() - 0.5) / 0.25
    features = model.features(normal)[1:].double()
    weights = torch.randn(2, features.shape[1], generator=torch.Generator().manual_seed(1)).double()
    weights -= weights @ torch.linalg.pinv(features) @ features

    def hostile():
        made = build("oriented_linear", channels=1, outputs=2, seed=0, size=(28, 28))
        with torch.no_grad():
            made.head.weight.copy_(weights * 3e7)
            made.head.bias.fill_(0.5)
        return made

    drawn = [np.array([i]) for i in range(others + 1)]
    everybody, rest, own = (
        clipped_sum(hostile(), pixels, targets, who) for who in (drawn, drawn[1:], drawn[:1])
    )
    assert np.linalg.norm(everybody - rest - own) < CLIP * 1e-3
    assert np.linalg.norm(rest) > CLIP
    assert np.linalg.norm(everybody - rest) <= CLIP * 1.001


def test_where_places_show_each_patient_has_a_batch_of_its_own_and_the_log_says_so(caplog):
    rng = np.random.default_rng(0)
    pixels = rng.random((5, 1, 8, 8)).astype(np.float16)
    targets = np.zeros((5, 1), np.float32)
    drawn = [np.array([i]) for i in range(5)]

    def network():
        torch.manual_seed(0)
        return Counting()

    before = torch.get_num_threads()
    with caplog.at_level(logging.WARNING, "septum_client.dpsgd"):
        both = clipped_sum(network(), pixels, targets, drawn[3:])
    assert "a batch of its own" in caplog.text
    assert torch.get_num_threads() == before
    apart = sum(clipped_sum(network(), pixels, targets, [one]) for one in drawn[3:])
    assert np.allclose(both, apart, atol=1e-6)
    swapped = clipped_sum(network(), pixels, targets, drawn[3:][::-1])
    assert np.allclose(both, swapped, atol=1e-6)


def test_a_study_is_asked_once_and_not_at_every_round(monkeypatch, tiny):
    asked, found = [], dict(places._FOUND)
    monkeypatch.setattr(places, "_FOUND", found)
    monkeypatch.setattr(places, "made_up", lambda tried: asked.append(1) or made_up(tried))
    study = tiny.study(training={"label_smoothing": 0.07})
    for _ in range(3):
        made = trainer(build("small_cnn", channels=1, outputs=1, seed=0))
        made._loss = loss_of(study)
        made._prepare(np.zeros((1, 1, 16, 16), np.float16), np.zeros((1, 1), np.float32), None)
    assert len(asked) == 1
