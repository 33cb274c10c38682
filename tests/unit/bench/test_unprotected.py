"""Training by the recipe without privacy: what the mechanism does, less its clip and noise."""

import numpy as np
import pytest

from septum.models import network_of, to_vector
from septum_bench import unprotected
from septum_bench.seeded import SeededRandomness, SeededSource
from septum_client.train import train


@pytest.fixture
def cohort(tiny, tmp_path):
    return tiny.cohort(tmp_path / "cohort", tiny.study(), images=(1, 2, 3, 2, 1, 2, 2, 1))


@pytest.mark.parametrize(
    "training",
    # Not Adam: it blows the least noise of a silent weight up to a full step.
    [{}, {"momentum": 0.5}],
    ids=["sgd", "momentum"],
)
def test_a_round_is_the_mechanisms_at_no_noise_and_no_clip(tiny, cohort, training):
    study = tiny.study(training=training)
    free = study.mechanism("north").model_copy(
        update={"noise_multiplier": 1e-12, "max_grad_norm": 1e4}
    )
    model = to_vector(network_of(study))
    private = train(
        study, mechanism=free, cohort=cohort, model=model, randomness=SeededRandomness(5)
    )
    plain = unprotected.local_round(
        study, mechanism=free, cohort=cohort, model=model, randomness=SeededRandomness(5)
    )
    # Each sampling draw comes before any noise, so that the same patients are in both.
    assert np.allclose(plain, private.vector, atol=1e-4)
    assert np.abs(plain).max() > 1e-3


def test_the_strategy_and_its_average_are_the_studys(tiny, cohort):
    cohorts = dict.fromkeys(tiny.names, cohort)

    def ended(**strategy):
        study = tiny.study(strategy={"minimum_sites": 2, **strategy})
        return unprotected.same_recipe(study, cohorts, source=SeededSource(1), workers=1)

    plain = ended()
    assert not np.array_equal(plain, ended(name="fedavgm", momentum=0.9))
    assert not np.array_equal(plain, ended(ema=0.9))
