"""The clip of a standardised convolution is of its raw weight's gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from septum.errors import Refusal
from septum.models.standardised import StandardisedConv2d
from septum_client.clipping import PatientGradSampleModule, Patients, outer, standardised, verify
from septum_client.clipping.book import Book

CLIP = 0.3
WAYS = ["cheapest", "keep", "drop"]


def force(patch, way):
    if way != "cheapest":
        patch.setattr(outer, "way", lambda *_, **__: way)


def clipped(norms):
    return (CLIP / (norms + 1e-6)).clamp(max=1.0)


def total(model, images, scale):
    wrapped = PatientGradSampleModule(model)
    patients = Patients.of([1] * len(images), batch=len(images), most=1)
    sums = wrapped.sums(patients, lambda: scale * model(images).sin().sum(), clipped)
    wrapped.remove_hooks()
    return torch.cat([sums[p].flatten() for p in model.parameters()]).double()


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_the_filter_in_place_of_the_raw_weights_is_refused(monkeypatch, way):
    monkeypatch.setattr("septum_client.clipping.exactness._PASSED", set())
    force(monkeypatch, way)
    verify(StandardisedConv2d(2, 4, 3), (2, 6, 6), most=1)
    monkeypatch.setattr("septum_client.clipping.exactness._PASSED", set())
    monkeypatch.setattr(
        standardised.StandardisedOuter, "pulled", lambda _, gradients, **__: gradients
    )
    with pytest.raises(Refusal, match="patients cannot be told apart"):
        verify(StandardisedConv2d(2, 4, 3), (2, 6, 6), most=1)


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e12, 1e25, 3e38]),
    spread=st.sampled_from([0.0, 1e-7, 1.0]),
    pixels=st.sampled_from([0.0, 1e-6, 1.0, 1e10]),
    scale=st.sampled_from([1e-8, 1.0, 1e12]),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 99),
)
def test_constant_and_overflowing_filters_stay_finite_and_inside_the_clip(
    size, spread, pixels, scale, way, seed
):
    generator = torch.Generator().manual_seed(seed)
    model = StandardisedConv2d(2, 8, 3, padding=1)
    signs = torch.randn(model.weight.shape, generator=generator).clamp(-1, 1)
    with torch.no_grad():
        model.weight.copy_(size * (1 - spread + spread * signs))
    images = pixels * torch.randn((1, 2, 6, 6), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        force(patch, way)
        made = total(model, images, scale)
    assert made.isfinite().all()
    assert made.norm() <= CLIP * (1 + 1e-4)


def test_a_filter_of_equal_weights_still_learns():
    model = StandardisedConv2d(2, 8, 3)
    nn.init.constant_(model.weight, 0.25)
    assert total(model, torch.rand(3, 2, 6, 6), 1.0)[: model.weight.numel()].norm() > 0.01


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_the_energy_that_rounds_a_norm_up_is_no_less_than_the_squared_norm(monkeypatch, spread):
    """Else a small filter, whose Jacobian is long, would hide rounding from the clip."""
    monkeypatch.setattr(outer, "way", lambda *_, **__: "drop")
    seen = []
    real = Book.postpone

    def postpone(book, parameter, norm, **given):
        seen.append(norm)
        real(book, parameter, norm, **given)

    monkeypatch.setattr(Book, "postpone", postpone)
    torch.manual_seed(0)
    model = StandardisedConv2d(1, 2, 4)
    nn.init.normal_(model.weight, std=spread)
    total(model, torch.rand(5, 1, 4, 4), 1.0)
    (norm,) = seen
    energy = norm.left * norm.right
    assert (norm.squared <= energy).all()
    assert (norm.squared >= 1e-3 * energy).all()
