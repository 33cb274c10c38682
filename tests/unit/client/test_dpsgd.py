from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from septum import tasks
from septum.errors import Code, Refusal
from septum.models import build, load_vector, parameter_count, to_vector
from septum.privacy import Mechanism
from septum_bench.seeded import SeededRandomness, SeededSource
from septum_client.dpsgd import PatientTrainer, draw_images, draw_patients
from septum_client.train import train

CLIP = 0.7
EXPECTED = 6.0


class NoNoise:
    """Counts what is asked and adds nothing: shows the un-noised sum."""

    seeded = True

    def __init__(self):
        self.asked = 0

    def uniform(self, count):
        return np.zeros(count)

    def normal(self, count, out=None):
        self.asked += count
        return np.zeros(count)


def mechanism(**changes):
    fields = {
        "noise_multiplier": 1.0,
        "max_grad_norm": CLIP,
        "sampling_rate": 0.5,
        "steps": 1,
        "expected_patients": EXPECTED,
        "delta": 1e-4,
    }
    return Mechanism(**(fields | changes))


def data(patients, images, *, labels=2, side=16, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.random((patients * images, 1, side, side)).astype(np.float16)
    targets = rng.integers(0, 2, (patients * images, labels)).astype(np.float32)
    drawn = [np.arange(p * images, (p + 1) * images) for p in range(patients)]
    return pixels, targets, drawn


def network(name="small_cnn", *, labels=2, scale=1.0):
    model = build(name, channels=1, outputs=labels, seed=1)
    load_vector(model, (to_vector(model) * np.float32(scale)).astype(np.float32))
    return model


def noiseless_sum(pixels, targets, drawn, *, name="small_cnn", scale=1.0, clip=CLIP, physical=None):
    """Return the sum of clipped patient gradients that the trainer makes."""
    model = network(name, labels=targets.shape[1], scale=scale)
    before = to_vector(model).astype(np.float64)
    trainer = PatientTrainer(
        model,
        mechanism=mechanism(max_grad_norm=clip),
        optimizer=partial(torch.optim.SGD, lr=EXPECTED),  # cancels the divisor
        images_per_patient=max([1, *map(len, drawn)]),
        proximal_mu=0.0,
        randomness=NoNoise(),
        device=torch.device("cpu"),
        physical=physical,
    )
    trainer.step(pixels, targets, drawn)
    trainer.detach()
    return before - to_vector(model).astype(np.float64)


def reference_sum(pixels, targets, drawn, *, name="small_cnn", clip=CLIP):
    """Do the same, one patient at a time, with plain autograd in float64."""
    model = network(name, labels=targets.shape[1]).double()
    total = np.zeros(parameter_count(model))
    for rows in drawn:
        model.zero_grad()
        inputs = tasks.normalise(torch.from_numpy(pixels[rows])).double()
        losses = nn.functional.binary_cross_entropy_with_logits(
            model(inputs), torch.from_numpy(targets[rows]).double(), reduction="none"
        )
        losses.mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy()
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


def close(one, other, tolerance=2e-4):
    return np.linalg.norm(one - other) <= tolerance * max(CLIP, np.linalg.norm(other))


@pytest.mark.parametrize("clip", [0.05, 1e3], ids=["clipped", "within the clip"])
@pytest.mark.parametrize("labels", [1, 3])
def test_the_sum_equals_one_patient_at_a_time_with_plain_autograd(labels, clip):
    pixels, targets, drawn = data(5, 3, labels=labels)
    drawn[2] = drawn[2][:1]
    made, expected = (
        make(pixels, targets, drawn, clip=clip) for make in (noiseless_sum, reference_sum)
    )
    assert np.linalg.norm(made - expected) <= 2e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_the_large_networks_agree_with_plain_autograd_too(name):
    pixels, targets, drawn = data(2, 1 if name == "densenet121" else 2, side=32)
    assert close(
        noiseless_sum(pixels, targets, drawn, name=name),
        reference_sum(pixels, targets, drawn, name=name),
        tolerance=2e-3,
    )


def test_physical_batches_never_change_the_sum():
    pixels, targets, drawn = data(7, 2)
    whole = noiseless_sum(pixels, targets, drawn)
    for physical in (1, 3, 14):
        assert close(noiseless_sum(pixels, targets, drawn, physical=physical), whole)


@pytest.mark.parametrize("physical", [3, 128])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_removing_one_patient_moves_the_sum_by_at_most_the_clip(physical, scale):
    pixels, targets, drawn = data(5, 2)
    pixels[drawn[1]] = 60_000  # the largest greys that float16 holds

    def made(patients):
        return noiseless_sum(pixels, targets, patients, scale=scale, physical=physical)

    whole = made(drawn)
    for gone in range(5):
        rest = made(drawn[:gone] + drawn[gone + 1 :])
        assert np.linalg.norm(whole - rest) <= CLIP * (1 + 1e-4)


@settings(max_examples=20, deadline=None)
@given(
    images=st.integers(1, 6),
    scale=st.sampled_from([0.1, 1.0, 100.0, 1e4]),
    high=st.sampled_from([0.0, 1.0, 60_000.0]),
    seed=st.integers(0, 99),
)
def test_a_patient_weighs_at_most_the_clip_with_any_number_of_images(images, scale, high, seed):
    pixels, targets, drawn = data(1, images, seed=seed)
    pixels *= np.float16(high)
    assert np.linalg.norm(noiseless_sum(pixels, targets, drawn, scale=scale)) <= CLIP * (1 + 1e-4)


def test_doubling_a_patients_images_changes_nothing():
    pixels, targets, drawn = data(3, 2)
    doubled = [np.concatenate([rows, rows]) for rows in drawn]
    alone = noiseless_sum(pixels, targets, drawn[:1])
    assert 0 < np.linalg.norm(alone) <= CLIP * (1 + 1e-4)
    assert close(noiseless_sum(pixels, targets, doubled[:1]), alone, 1e-5)
    assert close(
        noiseless_sum(pixels, targets, [doubled[0], *drawn[1:]]),
        noiseless_sum(pixels, targets, drawn),
        1e-5,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("physical", [2, 128])
def test_a_patient_with_an_image_that_is_not_finite_adds_nothing(value, physical):
    pixels, targets, drawn = data(4, 2)
    rest = noiseless_sum(pixels, targets, drawn[:1] + drawn[2:], physical=physical)
    pixels[drawn[1][0], 0, 3, 3] = value
    assert close(noiseless_sum(pixels, targets, drawn, physical=physical), rest, 1e-5)
    assert not noiseless_sum(pixels, targets, [drawn[1]], physical=physical).any()


@pytest.mark.parametrize("scale", [1e12, 1e18, 1e25, 1e36])
def test_gradients_that_overflow_are_clipped_or_dropped_never_infinite(scale):
    pixels, targets, drawn = data(3, 2)
    total = noiseless_sum_in_place(pixels, targets, drawn, scale)
    assert np.isfinite(total).all()
    assert np.linalg.norm(total) <= 3 * CLIP * (1 + 1e-4)


def noiseless_sum_in_place(pixels, targets, drawn, scale):
    # Weights this large swallow a step, so the sum is read before it is applied.
    model = network(scale=scale)
    seen = []
    trainer = PatientTrainer(
        model,
        mechanism=mechanism(),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        images_per_patient=max([1, *map(len, drawn)]),
        proximal_mu=0.0,
        randomness=NoNoise(),
        device=torch.device("cpu"),
    )
    trainer._optimizer.attach_step_hook(
        lambda o: seen.append(torch.cat([p.grad.reshape(-1) for p in o.params]).double().numpy())
    )
    trainer.step(pixels, targets, drawn)
    return seen[0] * EXPECTED


@pytest.mark.parametrize("patients", [0, 1, 5])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_noise_has_the_mechanisms_standard_deviation_drawn_patients_or_not(patients, noise):
    pixels, targets, drawn = data(5, 2)
    updates = []
    for randomness in (SeededRandomness(4), NoNoise()):
        model = network()
        before = to_vector(model).astype(np.float64)
        PatientTrainer(
            model,
            mechanism=mechanism(noise_multiplier=noise),
            optimizer=partial(torch.optim.SGD, lr=3.0),
            images_per_patient=2,
            proximal_mu=0.0,
            randomness=randomness,
            device=torch.device("cpu"),
        ).step(pixels, targets, drawn[:patients])
        updates.append(to_vector(model).astype(np.float64) - before)
    added = updates[0] - updates[1]
    std = 3.0 * noise * CLIP / EXPECTED
    low, high = stats.chi2.ppf([0.0005, 0.9995], len(added)) * std**2
    assert low <= (added**2).sum() <= high
    assert abs(added.mean()) < 4 * std / np.sqrt(len(added))


def test_the_proximal_pull_is_added_after_clip_and_noise():
    pixels, targets, drawn = data(3, 2)
    paths = {}
    for mu in (0.0, 0.4):
        model = network()
        start = to_vector(model).astype(np.float64)
        trainer = PatientTrainer(
            model,
            mechanism=mechanism(),
            optimizer=partial(torch.optim.SGD, lr=0.5),
            images_per_patient=2,
            proximal_mu=mu,
            randomness=NoNoise(),
            device=torch.device("cpu"),
        )
        trainer.step(pixels, targets, drawn)
        paths[mu] = [to_vector(model) - start]
        trainer.step(pixels, targets, [])  # no patient: the pull alone
        paths[mu].append(to_vector(model) - start)
    assert np.allclose(paths[0.0][0], paths[0.4][0])
    assert np.allclose(paths[0.0][0], paths[0.0][1])
    assert np.allclose(paths[0.4][1], paths[0.4][0] * (1 - 0.5 * 0.4), atol=1e-6)


def test_every_step_of_a_round_draws_noise_even_when_no_patient_is_drawn(tiny, tmp_path):
    study = tiny.study(privacy={"sampling_rate": 1e-9, "steps_per_round": 4})
    cohort = tiny.cohort(tmp_path / "c", study)
    model = tiny.instruction(study).model

    class Counting(SeededRandomness):
        asked = 0

        def normal(self, count, out=None):
            Counting.asked += count
            return super().normal(count, out)

    update = train(
        study,
        mechanism=study.mechanism("north"),
        cohort=cohort,
        model=model,
        randomness=Counting(1),
    )
    assert update.drawn == (0, 0, 0, 0)
    assert Counting.asked == 4 * len(model)
    step = 0.5 * 1.0 / study.mechanism("north").expected_patients
    low, high = stats.chi2.ppf([0.0005, 0.9995], len(model)) * 4 * step**2
    assert low <= (update.vector.astype(np.float64) ** 2).sum() <= high


def test_noise_differs_between_rounds_and_between_sites(tiny, tmp_path):
    study = tiny.study(privacy={"sampling_rate": 1e-9})
    cohort = tiny.cohort(tmp_path / "c", study)
    source, model = SeededSource(0), tiny.instruction(study).model
    updates = [
        train(
            study,
            mechanism=study.mechanism("north"),
            cohort=cohort,
            model=model,
            randomness=source(site, study.digest, number),
        ).vector
        for site, number in (("north", 1), ("north", 2), ("south", 1))
    ]
    for one in range(3):
        for other in range(one):
            assert abs(np.corrcoef(updates[one], updates[other])[0, 1]) < 4 / np.sqrt(len(model))


def test_an_update_prints_none_of_its_numbers(tiny, tmp_path):
    study = tiny.study()
    update = train(
        study,
        mechanism=study.mechanism("north"),
        cohort=tiny.cohort(tmp_path / "c", study),
        model=tiny.instruction(study).model,
        randomness=SeededRandomness(0),
    )
    assert repr(update) == "Update()"


def test_patients_of_the_test_split_are_never_read(tiny, tmp_path):
    study = tiny.study(privacy={"sampling_rate": 1.0})
    model = tiny.instruction(study).model
    pixels = np.random.default_rng(0).random((24, 1, 16, 16))
    vectors = []
    for name in ("a", "b"):
        vectors.append(
            train(
                study,
                mechanism=study.mechanism("north"),
                cohort=tiny.cohort(tmp_path / name, study, pixels=pixels),
                model=model,
                randomness=SeededRandomness(0),
            ).vector.tobytes()
        )
        pixels[-4:] = 0  # the two held-out patients
    assert vectors[0] == vectors[1]


def test_sampling_is_poisson():
    patients, draws, rate = np.arange(400), 500, 0.1
    randomness = SeededRandomness(2)
    drawn = np.zeros((draws, len(patients)), dtype=bool)
    for row in drawn:
        row[
            draw_patients(patients, mechanism=mechanism(sampling_rate=rate), randomness=randomness)
        ] = 1
    counts = drawn.sum(axis=1)
    # Binomial, not of fixed size: mean, spread and distribution.
    assert abs(counts.mean() - 40) < 4 * np.sqrt(36 / draws)
    low, high = stats.chi2.ppf([0.0005, 0.9995], draws - 1) * 36 / (draws - 1)
    assert low < counts.var(ddof=1) < high
    # Independent: every patient at the same rate, pairs uncorrelated.
    each = drawn.sum(axis=0)
    assert stats.chisquare(each).pvalue > 0.001
    pairs = np.corrcoef(drawn.T)[np.triu_indices(len(patients), 1)]
    assert abs(pairs.mean()) < 4 / np.sqrt(draws * len(pairs))


def test_at_rate_one_everybody_is_drawn():
    everybody = np.arange(50)
    drawn = draw_patients(
        everybody, mechanism=mechanism(sampling_rate=1.0), randomness=SeededRandomness(0)
    )
    assert np.array_equal(drawn, everybody)


@given(start=st.integers(0, 5), count=st.integers(1, 20), most=st.integers(1, 20))
def test_a_patients_images_are_drawn_without_repetition(start, count, most):
    drawn = draw_images(slice(start, start + count), most=most, randomness=SeededRandomness(count))
    assert len(drawn) == min(count, most)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(start, start + count))
    assert list(drawn) == sorted(drawn)


def test_images_of_a_patient_are_drawn_evenly():
    randomness = SeededRandomness(1)
    drawn = np.concatenate(
        [draw_images(slice(0, 5), most=2, randomness=randomness) for _ in range(2000)]
    )
    assert stats.chisquare(np.bincount(drawn, minlength=5)).pvalue > 0.001


def test_every_forward_pass_has_one_shape_whoever_was_drawn():
    """Other shapes run other kernels, whose last bits a hostile coordinator can blow up."""
    shapes = set()
    pixels, targets, drawn = data(9, 2)
    for count in (1, 2, 5, 9):
        model = network()

        trainer = PatientTrainer(
            model,
            mechanism=mechanism(),
            optimizer=partial(torch.optim.SGD, lr=1.0),
            images_per_patient=2,
            proximal_mu=0.0,
            randomness=NoNoise(),
            device=torch.device("cpu"),
        )
        trainer.step(pixels, targets, [])  # what is tried on made-up images comes first
        model.register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape)))
        trainer.step(pixels, targets, drawn[:count])
    assert len(shapes) == 1


def test_weights_chosen_to_amplify_rounding_do_not_tie_one_patient_to_another():
    """A hostile head puts two positions of one patient's image in a tie, to the last bit."""
    pixels, targets, drawn = data(2, 1, labels=1, side=64)
    targets[:] = 0
    inputs = tasks.normalise(torch.from_numpy(pixels))
    ends = torch.randn(2, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def hostile(at):
        model = network(labels=1)
        with torch.no_grad():
            head = 3e7 * ((1 - at) * ends[0] + at * ends[1]).float()
            model.head.weight.copy_(head.view_as(model.head.weight))
            model.head.bias.zero_()
        return model

    def winner(at):
        model = hostile(at)
        with torch.no_grad():
            return int(model.head(model.features(inputs[:1])).flatten(2)[0, 0].argmax())

    low, high = 0.0, 1.0
    first = winner(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if winner(middle) == first else (low, middle)

    def made(at, patients):
        seen = []
        trainer = PatientTrainer(
            hostile(at),
            mechanism=mechanism(),
            optimizer=partial(torch.optim.SGD, lr=1.0),
            images_per_patient=1,
            proximal_mu=0.0,
            randomness=NoNoise(),
            device=torch.device("cpu"),
        )
        trainer._optimizer.attach_step_hook(
            lambda o: seen.append(torch.cat([p.grad.reshape(-1) for p in o.params]).double())
        )
        trainer.step(pixels, targets, patients)
        return seen[0].numpy() * EXPECTED

    for nudge in np.linspace(-2e-6, 2e-6, 21):
        moved = made(low + nudge, drawn) - made(low + nudge, drawn[:1])
        assert np.linalg.norm(moved) <= CLIP * (1 + 1e-4)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False, track_running_stats=False)]
)
def test_a_layer_that_ties_patients_together_is_never_trained(layer):
    with pytest.raises(Refusal) as refused:
        PatientTrainer(
            nn.Sequential(nn.Conv2d(1, 4, 3), layer),
            mechanism=mechanism(),
            optimizer=partial(torch.optim.SGD, lr=1.0),
            images_per_patient=2,
            proximal_mu=0.0,
            randomness=NoNoise(),
            device=torch.device("cpu"),
        )
    assert refused.value.code is Code.UNKNOWN_LAYER
