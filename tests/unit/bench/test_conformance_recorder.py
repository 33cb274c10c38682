"""What a recorder sees of a real client is what the client did, and the client does not notice."""

import numpy as np
import pytest

from septum.errors import ConfigError
from septum.models import network_of, to_vector
from septum_bench.conformance import honest, record_round
from septum_bench.conformance import recorder as recorder_module
from septum_bench.seeded import SeededRandomness
from septum_client.train import train


class Silent(SeededRandomness):
    """Real draws, and noise of nothing: what is left over is then the ruler's own error."""

    def normal(self, count, out=None):
        return np.zeros(count)


def recorded(
    tiny, tmp_path, randomness, *, client=honest, images=(1, 2, 3, 2, 1, 2, 2, 1, 2, 2), **parts
):
    study = tiny.study(**parts)
    cohort = tiny.cohort(tmp_path / "cohort", study, images=images)
    model = to_vector(network_of(study))
    mechanism = study.mechanism("north")
    made = record_round(
        study,
        mechanism=mechanism,
        cohort=cohort,
        model=model,
        randomness=randomness,
        client=client,
        rng=np.random.default_rng(0),
    )
    return study, cohort, model, mechanism, made


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"privacy": {"max_grad_norm": 0.05}},
        {"privacy": {"clipping": "automatic"}},
        {"training": {"momentum": 0.5}},
        {"training": {"optimizer": "adam", "learning_rate": 1e-3}},
        {"training": {"views": 3, "augmentation": "radiograph"}},
        {"training": {"proximal_mu": 0.5}, "strategy": {"name": "fedprox"}},
        {"training": {"images_per_patient": 1}},
    ],
    ids=["flat", "clipped", "automatic", "momentum", "adam", "views", "fedprox", "one image"],
)
def test_without_noise_nothing_is_left_over(tiny, tmp_path, parts):
    *_, (recording, _, _) = recorded(tiny, tmp_path, Silent(1), **parts)
    assert sum(len(step.drawn) for step in recording.steps) > 4
    for step in recording.steps:
        # In standard deviations of the noise that should be there.
        assert np.abs(step.residual).max() < 2e-4


def test_with_noise_exactly_the_noise_is_left_over(tiny, tmp_path):
    class Kept(SeededRandomness):
        noise = ()

        def normal(self, count, out=None):
            self.noise = (*self.noise, super().normal(count))  # not in ``out``: that is used again
            return self.noise[-1]

    randomness = Kept(2)
    *_, (recording, _, _) = recorded(tiny, tmp_path, randomness)
    left = np.concatenate([step.residual for step in recording.steps])
    assert np.allclose(left, np.concatenate(randomness.noise), atol=1e-4)


def test_a_recorded_client_makes_the_update_that_it_makes_unwatched(tiny, tmp_path):
    study, cohort, model, mechanism, (_, _, update) = recorded(tiny, tmp_path, SeededRandomness(3))
    plain = train(
        study, mechanism=mechanism, cohort=cohort, model=model, randomness=SeededRandomness(3)
    )
    assert np.array_equal(update.vector, plain.vector)
    assert update.drawn == plain.drawn


def test_who_was_drawn_is_noted_by_place_among_the_train_patients(tiny, tmp_path):
    *_, (recording, null, update) = recorded(tiny, tmp_path, SeededRandomness(4))
    assert recording.patients == null.patients == 8
    assert tuple(len(step.drawn) for step in recording.steps) == update.drawn
    for step in recording.steps:
        assert len(set(step.drawn.tolist())) == len(step.drawn)
        assert set(step.drawn.tolist()) <= set(range(8))
        assert len(step.norms) == len(step.drawn)


def test_the_null_recording_depends_on_nothing_that_the_client_did(tiny, tmp_path):
    *_, (_, null, _) = recorded(tiny, tmp_path / "a", Silent(1))
    *_, (_, same, _) = recorded(tiny, tmp_path / "b", SeededRandomness(1))
    for one, other in zip(null.steps, same.steps, strict=True):
        assert np.array_equal(one.residual, other.residual)
        assert np.array_equal(one.drawn, other.drawn)


def test_a_recording_that_would_not_fit_is_refused_before_training(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_MOST_NUMBERS", 10)
    with pytest.raises(ConfigError, match="more than the 10 numbers"):
        recorded(tiny, tmp_path, SeededRandomness(0))
