"""Clip, noise and divisor come from one value; what others got wrong is caught here."""

from functools import partial

import numpy as np
import pytest
import torch
from monai.networks.nets.resnet import resnet18
from scipy import stats
from torch import nn
from torch.nn import functional

from septum.errors import Refusal
from septum.models import to_vector
from septum.privacy import Mechanism
from septum_bench.seeded import SeededRandomness
from septum_client.clipping import PatientOptimizer
from septum_client.dpsgd import PatientTrainer

CLIP, EXPECTED = 0.7, 6.0


class NoNoise:
    seeded = True

    def uniform(self, count):
        return np.zeros(count)

    def normal(self, count, out=None):
        return np.zeros(count)


def mechanism(**changes):
    fields = {
        "noise_multiplier": 1.0,
        "max_grad_norm": CLIP,
        "sampling_rate": 0.5,
        "steps": 1,
        "expected_patients": EXPECTED,
        "delta": 1e-5,
    }
    return Mechanism(**(fields | changes))


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2)
    )


def data(images, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.random((images, 1, 8, 8)).astype(np.float16)
    return pixels, rng.integers(0, 2, (images, 2)).astype(np.float32)


def trainer(model, *, optimizer=None, randomness=None, images_per_patient=2, **changes):
    given = {"views": 1, "proximal_mu": 0.0} | {
        key: changes.pop(key) for key in ("views", "loss", "physical") if key in changes
    }
    return PatientTrainer(
        model,
        mechanism=mechanism(**changes),
        optimizer=optimizer or partial(torch.optim.SGD, lr=EXPECTED),
        images_per_patient=images_per_patient,
        randomness=randomness or NoNoise(),
        device=torch.device("cpu"),
        **given,
    )


def moved(pixels, targets, drawn, *, augment=None, **given):
    """Return the negative clipped sum of one step."""
    model = small()
    before = to_vector(model)
    trainer(model, **given).step(pixels, targets, drawn, augment)
    return (to_vector(model) - before).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 0.0),
        ("max_grad_norm", 10.0),
        ("expected_batch_size", 1),
        ("loss_reduction", "sum"),
        ("secure_mode", False),
        ("_randomness", NoNoise()),
        ("_automatic", True),
        ("_sealed", False),
    ],
)
def test_nothing_of_the_mechanism_can_be_set_apart_from_it(name, value):
    model = small()
    optimizer = PatientOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), mechanism=mechanism(), randomness=NoNoise()
    )
    before = getattr(optimizer, name)
    with pytest.raises(AttributeError, match=name):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) is before


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.Adam, lr=0.1),
        partial(torch.optim.AdamW, lr=0.1),
        partial(torch.optim.RMSprop, lr=0.1),
    ],
)
def test_any_optimizer_sees_the_noisy_mean_and_nothing_else(make):
    pixels, targets = data(6)
    steps = [[np.array([0, 1]), np.array([4])], [], [np.array([2, 3])]]
    model, seen = small(), []
    runs = trainer(model, optimizer=make, randomness=SeededRandomness(1))
    runs._optimizer.attach_step_hook(lambda o: seen.append([p.grad.clone() for p in o.params]))
    for drawn in steps:
        runs.step(pixels, targets, drawn)
    again = small()
    plain = make(list(again.parameters()))
    for gradients in seen:
        for parameter, gradient in zip(again.parameters(), gradients, strict=True):
            parameter.grad = gradient
        plain.step()
    assert len(seen) == 3
    assert np.array_equal(to_vector(model), to_vector(again))


def test_automatic_clipping_scales_every_patient_to_nearly_the_clip():
    pixels, targets = data(4)
    flat = moved(pixels, targets, [np.array([0, 1])], max_grad_norm=100.0)
    norm = np.linalg.norm(flat)  # of the patient's own gradient
    for clip in (0.01, 50.0):
        made = moved(pixels, targets, [np.array([0, 1])], max_grad_norm=clip, clipping="automatic")
        assert np.allclose(made, flat * clip / (norm + 0.01), rtol=1e-3, atol=1e-6 * clip)
        assert np.linalg.norm(made) <= clip


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_views_of_a_patients_images_weigh_as_one_patient(clipping):
    pixels, targets = data(4)
    drawn = [np.array([0, 1]), np.array([3])]
    once = moved(pixels, targets, drawn, clipping=clipping)
    asked = []

    def unchanged(images, wanted, chance):
        asked.append(len(images))
        assert 0 <= images.min() <= images.max() <= 1
        return images, wanted

    views = moved(pixels, targets, drawn, clipping=clipping, views=3, augment=unchanged)
    assert np.allclose(views, once, atol=1e-5)
    assert len(set(asked)) == 1


def test_views_are_averaged_before_the_clip():
    pixels, targets = data(2)
    flipped = np.flip(pixels, axis=3).copy()
    both = np.concatenate([pixels, flipped])
    expected = moved(both, np.concatenate([targets, targets]), [np.array([0, 2])])

    def mirror_every_second(images, wanted, chance):
        images = images.clone()
        images[1::2] = images[1::2].flip(3)
        return images, wanted

    made = moved(
        pixels,
        targets,
        [np.array([0])],
        views=2,
        images_per_patient=1,
        augment=mirror_every_second,
    )
    assert np.allclose(made, expected, atol=1e-5)


def test_every_coordinate_of_every_step_has_noise_of_the_stated_deviation():
    pixels, targets = data(2)
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), []
    runs = trainer(model, randomness=SeededRandomness(3), noise_multiplier=1.7)
    runs._optimizer.attach_step_hook(
        lambda o: seen.append(torch.cat([p.grad.reshape(-1) for p in o.params]).numpy().copy())
    )
    for _ in range(400):
        runs.step(pixels, targets, [])
    noise = np.stack(seen).astype(np.float64) * EXPECTED / (1.7 * CLIP)
    assert noise.shape == (400, 130)
    alpha = 0.001 / 130
    low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], 400)
    squares = (noise**2).sum(axis=0)
    assert low < squares.min() <= squares.max() < high
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.001
    between = np.corrcoef(noise)[np.triu_indices(400, 1)]
    assert abs(between.mean()) < 4 / np.sqrt(130 * len(between))


def test_a_loss_that_is_reduced_over_the_batch_is_refused():
    pixels, targets = data(2)
    runs = trainer(small(), loss=functional.binary_cross_entropy_with_logits)
    with pytest.raises(ValueError, match="loss has shape"):
        runs.step(pixels, targets, [np.array([0])])


def test_a_class_weighted_mean_would_tie_patients_and_a_loss_of_each_image_does_not():
    """With Opacus' hooks, one record's gradient norm is 10.88 beside class 0, 1.40 beside 1."""
    pixels, _ = data(4)
    weight = torch.tensor([1.0, 10.0])

    def each(outputs, targets):
        classes = targets[:, 0].long()
        return functional.cross_entropy(outputs, classes, weight=weight, reduction="none")

    own = []
    for mates in (0.0, 1.0):
        targets = np.full((4, 2), mates, dtype=np.float32)
        targets[0] = 0
        drawn = [np.array([n]) for n in range(4)]
        whole, rest = (
            moved(pixels, targets, chosen, loss=each, max_grad_norm=1e3)
            for chosen in (drawn, drawn[1:])
        )
        own.append(whole - rest)
    assert np.allclose(own[0], own[1], atol=1e-5)


def test_divisor_and_clip_do_not_depend_on_how_many_patients_a_hospital_has():
    """Opacus takes rate and divisor from the data set, so neighbours differ in both."""
    pixels, targets = data(4)
    larger, more = (np.concatenate([part, part]) for part in (pixels, targets))
    drawn = [np.array([0, 1]), np.array([2])]
    assert np.array_equal(moved(pixels, targets, drawn), moved(larger, more, drawn))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).requires_grad_(False)),
        lambda: resnet18(
            spatial_dims=2,
            n_input_channels=1,
            num_classes=2,
            norm=("group", {"num_groups": 8}),  # reaches only the stem: 19 BatchNorm stay
        ),
    ],
    ids=["without weights", "frozen", "MONAI's norm argument"],
)
def test_batch_statistics_never_train(make):
    with pytest.raises(Refusal):
        trainer(make())
