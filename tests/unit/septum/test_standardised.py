"""Filters of mean 0 and norm 1, of a weight that stays raw."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from septum.errors import ConfigError
from septum.models import MODELS, build, network_of, to_vector, unfit
from septum.models.standardised import STANDARDISED, standardise
from septum.study import Data, Model, Study

IMAGES = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(3))
KINDS = tuple(STANDARDISED.values())


def network(name, **more):
    return build(name, channels=1, outputs=2, seed=1, size=(32, 32), **more)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 2, 3, 3), (4, 2, 2, 3, 2)])
def test_each_filter_has_mean_0_and_norm_1_whatever_the_weights_scale_and_mean(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    filters, factor = standardise(10 * weight)
    assert torch.allclose(filters.flatten(1).mean(1), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(4).double(), atol=1e-6)
    assert torch.allclose(standardise(30 * weight - 7)[0], filters, atol=1e-6)
    centred = 10 * (weight - weight.flatten(1).mean(1).view(4, *[1] * (len(shape) - 1)))
    assert torch.allclose(factor, 1 / centred.flatten(1).norm(dim=1), rtol=1e-5)


def test_the_jacobian_is_the_stated_one_and_no_longer_than_the_factor():
    generator = torch.Generator().manual_seed(0)
    weight = 0.01 * torch.randn((1, 2, 3, 3), generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda w: standardise(w)[0], weight)
    filters, factor = standardise(weight)
    off_mean = torch.eye(18, dtype=torch.float64) - 1 / 18
    stated = factor * (off_mean - torch.outer(filters.flatten(), filters.flatten()))
    assert torch.allclose(jacobian.view(18, 18), stated, atol=1e-9)
    assert torch.linalg.matrix_norm(jacobian.view(18, 18), 2) <= factor * (1 + 1e-12)


@given(
    size=st.sampled_from([0.0, 1e-45, 1e-30, 1.0, 1e10, 1e19, 1e30, 3.4e38]),
    spread=st.sampled_from([0.0, 1e-7, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_filters_are_finite_and_no_longer_than_1_for_any_finite_weight(size, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randn((5, 4, 3, 3), generator=generator).clamp(-1, 1)
    filters, factor = standardise(size * (1 - spread + spread * signs))
    assert filters.isfinite().all()
    assert filters.flatten(1).norm(dim=1).max() <= 1 + 1e-5
    assert 0 <= factor.min() <= factor.max() <= 100 * (1 + 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_takes_the_switch_exactly_if_it_has_convolutions_and_group_normalisation(name):
    plain = network(name)
    layers = dict(plain.named_modules())
    inside = [
        key for key, one in layers.items() if type(one) in STANDARDISED and key != MODELS[name].head
    ]
    norms = [one for one in layers.values() if isinstance(one, nn.GroupNorm)]
    assert MODELS[name].normalised == bool(inside and norms)
    model = Model(name=name, weight_standardisation=True)
    task = "segmentation" if MODELS[name].tasks == {"segmentation"} else "multilabel"
    reason = unfit(model, Data(labels=("sick",), task=task))
    if not MODELS[name].normalised:
        assert "convolutions that a normalisation follows" in reason
        with pytest.raises(ConfigError, match="a normalisation follows"):
            network(name, weight_standardisation=True)
        return
    assert reason == ""
    switched = dict(network(name, weight_standardisation=True).named_modules())
    chosen = {key for key, one in switched.items() if isinstance(one, KINDS)}
    left = set(inside) - chosen
    assert chosen <= set(inside)
    assert len(chosen) >= len(norms) / 2
    assert all(
        key.endswith(("_se_reduce", "_se_expand")) or layers[key].weight[0].numel() < 3
        for key in left
    )


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "unet"])
def test_the_vector_and_the_names_are_the_raw_weights_and_the_function_is_another(name):
    plain, switched = network(name), network(name, weight_standardisation=True)
    assert to_vector(plain).tobytes() == to_vector(switched).tobytes()
    assert list(plain.state_dict()) == list(switched.state_dict())
    assert not torch.allclose(plain(IMAGES), switched(IMAGES))
    expected = switched(IMAGES)
    with torch.no_grad():
        for layer in switched.modules():
            if isinstance(layer, KINDS):
                layer.weight.mul_(50).add_(0.5)
    assert torch.allclose(switched(IMAGES), expected, atol=1e-2)
    assert to_vector(switched).tobytes() != to_vector(plain).tobytes()


def test_a_study_with_the_switch_has_another_digest_and_the_switched_network(tiny):
    fields = tiny.study().model_dump(mode="json")
    plain = Study.model_validate(fields)
    fields["model"]["weight_standardisation"] = True
    study = Study.model_validate(fields)
    assert study.digest != plain.digest
    assert any(isinstance(layer, KINDS) for layer in network_of(study).modules())
    assert not any(isinstance(layer, KINDS) for layer in network_of(plain).modules())
