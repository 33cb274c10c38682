import numpy as np
import pytest
import torch
from torch import nn

from septum.errors import ConfigError
from septum.models import MODELS, build, load_vector, network_of, parameter_count, to_vector
from septum.models.frozen import LowRank, freeze, merge, set_bias
from septum.models.networks import Shape
from septum.study import Study


def study_of(tiny, model, data=None):
    fields = tiny.study().model_dump(mode="json")
    fields["data"] |= {"image_size": 32} | (data or {})
    fields["model"] |= model
    return Study.model_validate(fields)


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_leaves_the_head_alone_in_the_vector(tiny, name):
    data = {"task": "segmentation"} if MODELS[name].tasks == {"segmentation"} else {}
    whole = network_of(study_of(tiny, {"name": name}, data))
    part = network_of(study_of(tiny, {"name": name, "train": "head"}, data))
    head = part.get_submodule(MODELS[name].head)
    assert parameter_count(part) == sum(p.numel() for p in head.parameters())
    before = {key: value.clone() for key, value in part.state_dict().items()}
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())
    load_vector(part, np.full(parameter_count(part), 0.25, np.float32))
    moved = {key for key, value in part.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"{MODELS[name].head}.{key}" for key, _ in head.named_parameters()}
    assert (to_vector(part) == 0.25).all()


@pytest.mark.parametrize("name", ["vit", "swin_unetr", "seresnet50"])
def test_low_rank_updates_start_as_the_frozen_network_and_are_reproducible(tiny, name):
    data = {"task": "segmentation"} if MODELS[name].tasks == {"segmentation"} else {}
    frozen = network_of(study_of(tiny, {"name": name, "train": "head"}, data))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    study = study_of(tiny, {"name": name, "train": "head", "lora_rank": 4}, data)
    lora, again = network_of(study), network_of(study)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert to_vector(lora).tobytes() == to_vector(again).tobytes()
    assert parameter_count(lora) > parameter_count(frozen)
    images = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    assert torch.equal(lora(images), frozen(images))
    trained = {key for key, value in lora.named_parameters() if value.requires_grad}
    last = MODELS[name].head.rpartition(".")[2]
    assert {key.split(".")[-2] for key in trained} == {"up", "down", last}


def test_merged_low_rank_updates_compute_the_same(tiny):
    study = study_of(tiny, {"name": "vit", "train": "head", "lora_rank": 3})
    model = network_of(study).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    images = torch.rand((2, 1, 32, 32), dtype=torch.float64)
    expected = model(images)
    merge(model)
    assert not [m for m in model.modules() if isinstance(m, LowRank)]
    assert torch.allclose(model(images), expected, atol=1e-10)
    plain = build("vit", channels=1, outputs=1, seed=0, size=(32, 32))
    assert set(model.state_dict()) == set(plain.state_dict())


def test_every_trained_part_gets_a_gradient(tiny):
    study = study_of(tiny, {"name": "vit", "train": "head", "lora_rank": 2})
    model = network_of(study)
    torch.autograd.backward(model(torch.rand((1, 1, 32, 32))).sum())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_bias_that_does_not_fit_is_an_error():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="no bias"):
        set_bias(model, torch.zeros(3), head="0")
    with pytest.raises(ValueError, match="no bias of 3"):
        set_bias(model, torch.zeros(3), head="1")
    freeze(model, head="1")
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]


def test_public_weights_replace_the_seeds_and_a_head_of_another_shape_stays_the_seeds():
    source = build("resnet18", channels=1, outputs=3, seed=5)
    weights = source.state_dict()
    target = build("resnet18", channels=1, outputs=1, seed=0, weights=weights)
    seeded = build("resnet18", channels=1, outputs=1, seed=0)
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert torch.equal(target.fc.weight, seeded.fc.weight)
    same = build("resnet18", channels=1, outputs=3, seed=0, weights=weights)
    assert to_vector(same).tobytes() == to_vector(source).tobytes()


def test_weights_under_monai_s_own_names_are_taken_and_running_statistics_left_out():
    raw = MODELS["resnet18"].make(_shape(1))
    weights = {key: value.clone() for key, value in raw.state_dict().items()}
    weights["bn1.weight"] += 1
    model = build("resnet18", channels=1, outputs=1, seed=9, weights=weights)
    assert torch.equal(model.bn1.weight, weights["bn1.weight"])
    assert torch.equal(model.fc.weight, weights["fc.weight"])
    raw = MODELS["unet"].make(_shape(2))
    model = build("unet", channels=1, outputs=2, seed=9, weights=raw.state_dict())
    images = torch.rand((1, 1, 16, 16))
    assert torch.allclose(model(images), raw(images), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("conv1.weight"),
        lambda w: w.update({"conv1.weight": torch.zeros(1)}),
        lambda w: w.update({"planted.weight": torch.zeros(1)}),
    ],
    ids=["missing", "another shape", "unknown"],
)
def test_weights_of_another_network_are_refused(change):
    weights = dict(build("resnet18", channels=1, outputs=1, seed=5).state_dict())
    change(weights)
    with pytest.raises(ConfigError, match="not those of 'resnet18'"):
        build("resnet18", channels=1, outputs=1, seed=0, weights=weights)


def test_weights_that_the_study_does_not_name_are_refused_and_named_ones_needed(tiny):
    plain = study_of(tiny, {"name": "small_cnn"})
    with pytest.raises(ConfigError, match="were given"):
        network_of(plain, weights={})
    named = study_of(tiny, {"name": "small_cnn", "weights": "a" * 64})
    with pytest.raises(ConfigError, match="not given"):
        network_of(named)


def _shape(outputs):
    return Shape(channels=1, outputs=outputs, size=(64, 64))
