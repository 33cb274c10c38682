import copy
import hashlib

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from septum.errors import Code, ConfigError, Refusal
from septum.models import (
    MODELS,
    build,
    check_private,
    load_vector,
    parameter_count,
    to_vector,
    unfit,
)
from septum.study import Data, Model
from septum.tasks import Multilabel, Segmentation

EVERY = [
    pytest.param(name, dims, marks=[pytest.mark.slow] if (name, dims) == ("swin_unetr", 3) else [])
    for name, network in MODELS.items()
    for dims in network.dims
]


def smallest(name, dims):
    network = MODELS[name]
    side = next(s for s in range(16, 65) if s >= network.least and s % network.multiple == 0)
    return build(name, channels=1, outputs=2, seed=1, dims=dims, size=(side,) * dims), side


def images_of(side, dims, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 1) + (side,) * dims, generator=generator, dtype=torch.float64)


def targets_of(name, count, side, dims):
    generator = torch.Generator().manual_seed(2)
    if MODELS[name].tasks == {"segmentation"}:
        return torch.randint(0, 2, (count,) + (side,) * dims, generator=generator)
    return torch.randint(0, 2, (count, 2), generator=generator).double()


def gradient_of_the_first(model, task, images, targets):
    model.zero_grad()
    torch.autograd.backward(task.loss(model(images), targets)[0])
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_a_function_of_its_seed_and_leaves_torch_as_it_was(name):
    torch.manual_seed(7)
    expected = torch.random.get_rng_state()
    one, same, other = (
        to_vector(build(name, channels=1, outputs=2, seed=seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert one.tobytes() == same.tobytes()
    # A convex network starts at zero, whatever the seed.
    assert np.array_equal(one, other) == (name == "oriented_linear")


@pytest.mark.parametrize("name", MODELS)
def test_the_vector_is_the_whole_trainable_state(name):
    model = build(name, channels=1, outputs=2, seed=0)
    vector = np.random.default_rng(0).normal(size=parameter_count(model)).astype(np.float32)
    load_vector(model, vector)
    assert to_vector(model).tobytes() == vector.tobytes()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_the_gradient_of_an_image_is_the_same_whoever_shares_its_batch(name, dims):
    model, side = smallest(name, dims)
    model = model.double().train()
    task = Segmentation(1) if MODELS[name].tasks == {"segmentation"} else Multilabel(2)
    images, targets = images_of(side, dims, 2), targets_of(name, 2, side, dims)
    alone = gradient_of_the_first(model, task, images[:1], targets[:1])
    together = gradient_of_the_first(model, task, images, targets)
    strange = images.clone()
    strange[1] = 40 * (strange[1] - 0.5)
    beside_another = gradient_of_the_first(model, task, strange, targets)
    scale = alone.abs().max()
    assert scale > 0
    assert (together - alone).abs().max() < 1e-10 * max(1, scale)
    assert (beside_another - alone).abs().max() < 1e-10 * max(1, scale)


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_the_outputs_have_the_shape_of_the_task_and_training_moves_no_buffer(name, dims):
    model, side = smallest(name, dims)
    before = {key: value.clone() for key, value in model.named_buffers()}
    images = images_of(side, dims, 2).float()
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = model.train()(images)
        assert torch.equal(outputs, model(images)), "a random number was drawn"
    inside = (side,) * dims if MODELS[name].tasks == {"segmentation"} else ()
    assert outputs.shape == (2, 2, *inside)
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_only_layers_with_a_rule_per_patient_train(name, dims):
    model, _ = smallest(name, dims)
    known = (nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
    holders = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    assert {type(module) for module in holders} <= set(known)
    assert ModuleValidator.validate(model, strict=False) == []
    assert not [m for m in model.modules() if getattr(m, "inplace", False)]


@pytest.mark.parametrize("name", [name for name in MODELS if 2 in MODELS[name].dims])
def test_opacus_finds_the_gradient_that_each_image_has_alone(name):
    model, side = smallest(name, 2)
    model = model.double().train()
    alone = copy.deepcopy(model)
    task = Segmentation(1) if MODELS[name].tasks == {"segmentation"} else Multilabel(2)
    images, targets = images_of(side, 2, 2), targets_of(name, 2, side, 2)
    hooked = GradSampleModule(model, loss_reduction="sum", strict=False)
    torch.autograd.backward(task.loss(hooked(images), targets).sum())
    samples = torch.cat([p.grad_sample.flatten(1) for p in model.parameters()], dim=1)
    for index in range(2):
        one = slice(index, index + 1)
        expected = gradient_of_the_first(alone, task, images[one], targets[one])
        assert (samples[index] - expected).abs().max() < 1e-10 * max(1, expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_the_registry_names_the_last_layer_and_knows_whether_linear_layers_come_before(name):
    model = build(name, channels=1, outputs=3, seed=0)
    head = model.get_submodule(MODELS[name].head)
    assert head.bias.shape == (3,)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    assert bool(linear) == MODELS[name].linear


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "densenet121"])
def test_a_seed_gives_the_weights_that_it_always_gave(name):
    # Studies under way resume from these.
    digest = {
        "small_cnn": "747e8427f21f3523",
        "resnet18": "bd774eaa916d21ba",
        "densenet121": "ff271491e630633c",
    }[name]
    vector = to_vector(build(name, channels=1, outputs=2, seed=3))
    assert hashlib.sha256(vector.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("data", "model", "words"),
    [
        ({"depth": 8}, "efficientnet_b0", "takes no volumes"),
        ({"task": "segmentation"}, "resnet18", "cannot do data.task"),
        ({}, "unet", "cannot do data.task"),
        ({"task": "segmentation", "image_size": 65}, "unet", "image_size is 65"),
        ({"depth": 12}, "vit", "depth is 12"),
        ({"image_size": 16}, "densenet121", "image_size is 16"),
    ],
)
def test_a_network_that_cannot_take_the_data_says_why(data, model, words):
    reason = unfit(Model(name=model), Data(labels=("sick",), **data))
    assert words in reason
    assert unfit(Model(name="small_cnn"), Data(labels=("sick",), depth=16)) == ""


def test_lora_needs_linear_layers():
    lora = Model(name="resnet18", train="head", lora_rank=4)
    assert "linear layers" in unfit(lora, Data(labels=("sick",)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.Dropout(0.1),
    ],
    ids=["batch norm", "batch norm without memory", "sync batch norm", "instance norm", "dropout"],
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
