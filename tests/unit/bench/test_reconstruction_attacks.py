"""The closed forms of reconstruction, and the pieces that every inversion is made of."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from septum.errors import ConfigError, DataError
from septum.models import network_of, to_vector
from septum.tasks import Classification, Multilabel
from septum_bench.attacks import gradient_matching
from septum_bench.attacks.batch_inversion import BatchView, invert_batch, mean_gradient, weights_of
from septum_bench.attacks.fedavg import LocalTraining, UpdateView, invert_update, local_update
from septum_bench.attacks.first_layer import bin_contents, layer_input
from septum_bench.attacks.gradient_matching import Matched, MatchingConfig, _registered
from septum_bench.attacks.image_prior import ImagePrior
from septum_bench.attacks.imprint import ImprintView, craft, recover
from septum_bench.attacks.inversion import gradients
from septum_bench.attacks.labels import HeadView, as_labels, count_labels
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.smooth_relu import SmoothRelu
from septum_bench.phantoms.public import public_images
from septum_bench.threat import Grant, ThreatModel

SIDE = 16
ALL = ThreatModel(
    name="all", attacker="a test", protected=False, holds={grant: grant.value for grant in Grant}
)
CPU = torch.device("cpu")
SHORT = MatchingConfig(evaluations=20, stages=2)


def film(count, seed=3):
    wide = public_images(count, 32, seed)
    return wide.reshape(count, 1, SIDE, 2, SIDE, 2).mean((3, 5)).astype(np.float32)


def small(outputs=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, outputs),
    )


def gradient_of(network, images, labels, loss):
    weights = weights_of(network, CPU)
    layers = mean_gradient(
        network, weights, torch.from_numpy(images), torch.from_numpy(labels), loss=loss
    )
    return torch.cat([layer.detach().flatten() for layer in layers]).numpy()


def one_hot(*classes, outputs=3):
    return np.eye(outputs, dtype=np.float32)[list(classes)]


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_one_image_lies_bare_in_the_gradient_of_its_first_linear_layer(neurons, inputs, seed):
    rng = np.random.default_rng(seed)
    image, error = rng.normal(size=inputs), rng.normal(size=neurons) + 0.1
    weight = np.outer(error, image).astype(np.float32)
    found = layer_input(weight, error.astype(np.float32))
    assert np.allclose(found, image, atol=1e-4 * max(1, np.abs(image).max()))


def test_a_layer_that_made_no_error_gives_no_image():
    with pytest.raises(DataError, match="no neuron"):
        layer_input(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match="no linear layer"):
        layer_input(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))


def test_a_bin_with_one_image_gives_that_image():
    images = np.array([[1.0, 2.0], [5.0, 7.0]])
    # Neuron 0 fires on both images, neurons 1 and 2 on the second alone.
    error = np.array([[1.0, 0.5], [0.0, 0.5], [0.0, 0.5]])
    found = bin_contents((error @ images).astype(np.float32), error.sum(1).astype(np.float32))
    assert np.allclose(found, [[1, 2], [5, 7]])


@pytest.mark.parametrize("classes", [(0,), (2,), (0, 0, 0, 0), (0, 1, 2, 2), (1, 1, 2, 0)])
def test_class_counts_are_read_off_the_gradient(classes):
    network, loss = small(), Classification(3).loss
    labels = one_hot(*classes)
    view = HeadView(
        threat=ALL,
        network=network,
        loss=loss,
        task="classification",
        observed=gradient_of(network, film(len(classes)), labels, loss),
        batch=len(classes),
        public_images=film(20, seed=4),
    )
    counts = count_labels(view)
    assert counts.tolist() == labels.sum(0).tolist()
    inferred = as_labels(counts, batch=len(classes), task="classification")
    assert inferred.sum(0).tolist() == labels.sum(0).tolist()


def test_label_counts_of_a_multilabel_batch_are_read_off_the_gradient():
    network, loss = small(), Multilabel(3).loss
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    view = HeadView(
        threat=ALL,
        network=network,
        loss=loss,
        task="multilabel",
        observed=gradient_of(network, film(4), labels, loss),
        batch=4,
        public_images=film(20, seed=4),
    )
    assert count_labels(view).tolist() == [3, 0, 2]
    assert as_labels(count_labels(view), batch=4, task="multilabel").sum(0).tolist() == [3, 0, 2]


def test_a_network_without_a_bias_at_its_end_gives_no_labels():
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3, bias=False))
    view = HeadView(
        threat=ALL,
        network=network,
        loss=Classification(3).loss,
        task="classification",
        observed=np.zeros(SIDE * SIDE * 3, np.float32),
        batch=1,
        public_images=film(4),
    )
    with pytest.raises(ConfigError, match="ends on"):
        count_labels(view)


@given(st.integers(0, 999), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_assignment_undoes_any_order(seed, count):
    rng = np.random.default_rng(seed)
    images = rng.random((count, 4, 4)).astype(np.float32)
    shuffled = rng.permutation(images)
    assert np.array_equal(assigned(shuffled, images), images)


def test_fewer_reconstructions_than_images_are_not_matched():
    with pytest.raises(DataError, match="cannot be matched"):
        assigned(np.zeros((1, 4, 4), np.float32), np.zeros((2, 4, 4), np.float32))


def test_a_sharp_smooth_relu_is_a_relu_and_a_soft_one_has_a_second_derivative():
    values = torch.linspace(-2, 2, 9, requires_grad=True)
    with SmoothRelu(sharpness=200):
        assert torch.allclose(functional.relu(values), values.clamp_min(0), atol=2e-2)
    with SmoothRelu(sharpness=3):
        (slope,) = torch.autograd.grad(nn.ReLU()(values).sum(), values, create_graph=True)
    assert bool((torch.autograd.grad(slope.sum(), values)[0] > 0).all())
    assert torch.equal(torch.relu(values), values.clamp_min(0))


def test_the_natural_prior_gives_pictures_of_medical_contrast():
    prior = ImagePrior.natural(32, device=CPU)
    random = torch.Generator().manual_seed(0)
    rest = torch.randn(50, 32, 32, generator=random)
    images = prior.render(torch.zeros(50, 0), rest)
    assert images.shape == (50, 1, 32, 32)
    assert float(images.std()) == pytest.approx(0.25, abs=0.03)
    # Neighbours are alike, unlike in white noise (1.41): that is all this prior knows.
    step = (images[..., 1:] - images[..., :-1]).square().mean().sqrt()
    assert float(step) < 0.8 * float(images.std())


@pytest.mark.parametrize("learned", [False, True])
def test_coordinates_render_to_the_images_they_were_taken_from(learned):
    taught = ImagePrior.fit(film(30), seed=0, device=CPU)
    prior = taught if learned else ImagePrior.natural(SIDE, device=CPU)
    images = torch.from_numpy(film(3, seed=5))
    assert torch.allclose(prior.render(*prior.coordinates(images)), images, atol=1e-3)


def test_registration_moves_an_image_to_where_it_fits_and_never_to_where_it_does_not():
    images = torch.from_numpy(film(1, seed=5))

    def response(guess):
        return [guess]

    moved = _registered(response, [images], [1.0], images=images.roll((4, -6), dims=(-2, -1)))
    assert torch.equal(moved, images)
    assert torch.equal(_registered(response, [images], [1.0], images=images), images)


def test_public_images_make_an_inversion_stronger():
    plain = batch_view(count=1)
    public = batch_view(count=1, public_images=film(60, seed=7))
    config = MatchingConfig(evaluations=20, stages=2, spread=0.1)
    truth = film(1)[:, 0]
    errors = [
        float(((invert_batch(view, config=config).images - truth) ** 2).mean())
        for view in (public, plain)
    ]
    assert errors[0] < errors[1]


def batch_view(count=2, **changes):
    network, loss = small(), Classification(3).loss
    labels = one_hot(*range(count))
    held = {
        "threat": ALL,
        "network": network,
        "loss": loss,
        "side": SIDE,
        "observed": gradient_of(network, film(count), labels, loss),
        "labels": labels,
    }
    return BatchView(**(held | changes))


def test_equal_seeds_give_equal_reconstructions_within_the_budget():
    steps = []
    one = invert_batch(batch_view(), config=SHORT, progress=lambda *at: steps.append(at))
    other = invert_batch(batch_view(), config=SHORT)
    assert np.array_equal(one.images, other.images)
    assert one.misfit == other.misfit
    assert one.images.dtype == np.float32
    assert 0 <= one.images.min() <= one.images.max() <= 1
    assert max(done for done, _ in steps) <= 20
    assert {total for _, total in steps} == {20}


def test_restarts_are_chosen_by_the_attackers_own_misfit():
    config = MatchingConfig(evaluations=10, stages=1, restarts=3)
    alone = MatchingConfig(evaluations=10, stages=1, restarts=1)
    assert (
        invert_batch(batch_view(), config=config).misfit
        <= invert_batch(batch_view(), config=alone).misfit
    )


def test_a_consensus_is_the_mean_of_its_restarts():
    config = MatchingConfig(evaluations=6, stages=1, restarts=2, consensus=True)
    view, images = batch_view(count=1), []
    together = invert_batch(view, config=config)
    invert_batch(view, config=config, progress=lambda done, total: images.append((done, total)))
    best = invert_batch(view, config=dataclasses.replace(config, consensus=False))
    first = invert_batch(view, config=dataclasses.replace(config, restarts=1))
    assert together.misfit == best.misfit
    other = 2 * together.images - first.images
    assert np.array_equal(best.images, first.images) or np.allclose(best.images, other, atol=1e-5)
    assert images[-1][1] == 12


def test_a_consensus_over_a_batch_first_puts_every_restart_in_one_order(monkeypatch):
    best = np.stack([np.full((16, 16), 0.2), np.full((16, 16), 0.8)]).astype(np.float32)
    found = iter([Matched(images=best, misfit=1.0), Matched(images=best[::-1] - 0.1, misfit=2.0)])
    monkeypatch.setattr(gradient_matching, "_descend", lambda *_, **__: next(found))
    config = MatchingConfig(evaluations=2, stages=1, restarts=2, consensus=True)
    together = invert_batch(batch_view(count=2), config=config)
    assert together.images == pytest.approx(best - 0.05, abs=1e-6)
    assert together.misfit == 1.0


def test_the_attack_leaves_the_clients_batch_norm_as_it_found_it():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)
    ).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = Classification(3).loss
    labels = one_hot(0, 1)
    observed = gradient_of(network, film(2), labels, loss)
    invert_batch(batch_view(network=network, observed=observed, labels=labels), config=SHORT)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize(
    "changes",
    [{"observed": np.zeros(3, np.float32)}, {"labels": np.zeros((0, 3), np.float32)}],
)
def test_a_view_that_does_not_fit_its_network_is_refused(changes):
    with pytest.raises(ConfigError, match="must be"):
        batch_view(**changes)


def test_one_local_step_is_its_gradient_and_two_epochs_move_further():
    network, loss = small(), Classification(3).loss
    images, labels = film(2), one_hot(0, 1)
    weights = weights_of(network, CPU)
    inputs = torch.from_numpy(images), torch.from_numpy(labels)
    once = local_update(
        network, weights, *inputs, loss=loss, training=LocalTraining(learning_rate=0.5, batch=2)
    )
    flat = torch.cat([part.detach().flatten() for part in once]).numpy()
    assert np.allclose(flat, -0.5 * gradient_of(network, images, labels, loss), atol=1e-6)
    twice = local_update(
        network,
        weights,
        *inputs,
        loss=loss,
        training=LocalTraining(learning_rate=0.01, batch=1, epochs=2),
    )
    plain = small()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for place in (0, 1, 0, 1):
        optimizer.zero_grad()
        one = slice(place, place + 1)
        loss(plain((inputs[0][one] - 0.5) / 0.25), inputs[1][one]).mean().backward()
        optimizer.step()
    for part, after, before in zip(twice, plain.parameters(), weights.values(), strict=True):
        assert torch.allclose(part, after - before, atol=1e-6)


def test_an_update_of_one_step_is_inverted_as_its_gradient():
    view = batch_view()
    update = UpdateView(
        threat=ALL,
        network=view.network,
        loss=view.loss,
        side=SIDE,
        observed=(-0.25 * view.observed).astype(np.float32),
        labels=view.labels,
        training=LocalTraining(learning_rate=0.25, batch=2),
    )
    one, other = invert_batch(view, config=SHORT), invert_update(update, config=SHORT)
    assert np.allclose(one.images, other.images, atol=2e-2)


def test_local_settings_that_train_nothing_are_refused():
    with pytest.raises(ConfigError, match="above 0"):
        LocalTraining(learning_rate=0.0, batch=1)


def test_an_imprint_returns_images_exactly_and_most_agreed_first():
    images = film(4, seed=8)
    network = craft(film(40, seed=9), outputs=3, bins=32, measurements=4, seed=0)
    observed = gradient_of(network, images, one_hot(0, 1, 2, 0), Classification(3).loss)
    found = recover(ImprintView(threat=ALL, network=network, observed=observed, side=SIDE))
    nearest = [np.abs(found - image[0]).max(axis=(1, 2)).min() for image in images]
    assert max(nearest) < 1e-3


def test_an_imprint_that_sorts_nothing_is_refused():
    with pytest.raises(ConfigError, match="sort nothing"):
        craft(film(4), outputs=3, bins=1, measurements=1, seed=0)


def test_the_attacks_differentiate_a_network_whose_weights_are_standardised(tiny):
    """Twice: by the raw weight that a study's vector holds, and then by the images."""
    study = tiny.study(model={"name": "small_cnn", "weight_standardisation": True})
    network = network_of(study)
    images = torch.from_numpy(film(2)).requires_grad_()
    labels = torch.ones(2, len(study.data.labels))
    loss = Multilabel(len(study.data.labels)).loss
    each = gradients(network, images, labels, loss=loss)
    weights = weights_of(network, CPU)
    layers = mean_gradient(network, weights, images, labels, loss=loss)
    flat = torch.cat([layer.flatten() for layer in layers])
    assert torch.allclose(each.mean(0), flat, atol=1e-6)
    assert flat.shape == to_vector(network).shape
    for made in (each, flat):
        (again,) = torch.autograd.grad(made.square().sum(), images, retain_graph=True)
        assert again.isfinite().all()
        assert again.abs().max() > 0
