import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import Code, ConfigError, Refusal
from septum.models import (
    MODELS,
    build,
    check_private,
    load_vector,
    parameter_count,
    to_vector,
)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_a_function_of_its_seed_and_leaves_torch_as_it_was(name):
    torch.manual_seed(7)
    expected = torch.random.get_rng_state()
    one, same, other = (
        to_vector(build(name, channels=1, outputs=2, seed=seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert one.tobytes() == same.tobytes()
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_the_vector_is_the_whole_trainable_state(name):
    model = build(name, channels=1, outputs=2, seed=0)
    vector = np.random.default_rng(0).normal(size=parameter_count(model)).astype(np.float32)
    load_vector(model, vector)
    assert to_vector(model).tobytes() == vector.tobytes()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_judged_alone(name):
    model = build(name, channels=1, outputs=2, seed=0).train()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
    ids=["batch norm", "batch norm without memory", "sync batch norm", "instance norm, tracking"],
)
def test_a_layer_that_ties_patients_together_is_refused(layer):
    with pytest.raises(Refusal) as refused:
        check_private(nn.Sequential(nn.Conv2d(1, 4, 3), layer))
    assert refused.value.code is Code.UNKNOWN_LAYER


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[:-1],
        lambda v: np.append(v, np.float32(0)),
        lambda v: v.astype(np.float64),
        lambda v: v[None],
        lambda v: np.where(np.arange(len(v)) == 5, np.float32(np.nan), v),
        lambda v: np.where(np.arange(len(v)) == 5, np.float32(np.inf), v),
    ],
    ids=["short", "long", "float64", "two axes", "NaN", "inf"],
)
def test_a_vector_that_does_not_fit_is_refused_and_nothing_is_written(change):
    model = build("small_cnn", channels=1, outputs=1, seed=0)
    before = to_vector(model)
    with pytest.raises(Refusal) as refused:
        load_vector(model, change(before.copy()))
    assert refused.value.code is Code.MODEL_MISMATCH
    assert to_vector(model).tobytes() == before.tobytes()


def test_an_unregistered_network_is_refused_by_name():
    with pytest.raises(ConfigError, match="imprint"):
        build("imprint", channels=1, outputs=1, seed=0)
