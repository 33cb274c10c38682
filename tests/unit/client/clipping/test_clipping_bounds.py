"""What one patient can move: at most the clip, for every layer, loss and hostile number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from septum.models import build
from septum.models.standardised import StandardisedConv2d
from septum_client.clipping import PatientGradSampleModule, Patients, book, outer

CLIP = 0.3
LAYERS = {
    "conv1d": (nn.Conv1d(2, 3, 3), (2, 8)),
    "conv2d": (nn.Conv2d(2, 8, 3, padding=1), (2, 8, 8)),
    "grouped": (nn.Conv2d(4, 4, 3, groups=2), (4, 5, 5)),
    "conv3d": (nn.Conv3d(1, 2, 2), (1, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 4, 4)),
    "standardised": (StandardisedConv2d(4, 4, 3, groups=2), (4, 5, 5)),
    "linear": (nn.Linear(5, 3), (5,)),
    "positions": (nn.Linear(5, 3), (7, 5)),
    "norm": (nn.GroupNorm(2, 4), (4, 3, 3)),
    "layer norm": (nn.LayerNorm(5), (7, 5)),
    "slope": (nn.PReLU(3), (3, 4)),
    "small_cnn": (build("small_cnn", channels=1, outputs=2, seed=0), (1, 16, 16)),
}
WAYS = ["cheapest", "keep", "gram", "drop"]


def clipped(norms):
    return (CLIP / (norms + 1e-6)).clamp(max=1.0)


def automatic(norms):
    return CLIP / (norms + 0.01)


def total(model, patients, loss, rule=clipped):
    """Return the flat clipped sum, float64."""
    wrapped = PatientGradSampleModule(model)
    sums = wrapped.sums(patients, loss, rule)
    wrapped.remove_hooks()
    flat = [sums.get(p, torch.zeros_like(p)).reshape(-1) for p in model.parameters()]
    return torch.cat(flat).double()


def of(counts, batch=None, most=None):
    return Patients.of(counts, batch=batch or sum(counts), most=most or max(counts))


@pytest.mark.parametrize("rule", [clipped, automatic], ids=["flat", "automatic"])
@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=15, deadline=None)
@given(
    scale=st.sampled_from([1e-30, 1e-8, 1.0, 1e4, 1e12, 1e25]),
    size=st.sampled_from([1e-20, 1.0, 1e6, 1e18]),
    images=st.integers(1, 4),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 99),
)
def test_a_patients_part_of_the_sum_is_no_longer_than_the_clip(
    name, rule, scale, size, images, way, seed
):
    model, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(seed)
    pixels = size * torch.randn((images, *shape), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        if way != "cheapest":
            patch.setattr(outer, "way", lambda *_, **__: way)
        made = total(model, of([images]), lambda: scale * model(pixels).sin().sum(), rule)
    assert made.isfinite().all()
    assert made.norm() <= CLIP * (1 + 1e-4)


@pytest.mark.parametrize("way", ["gram", "drop", "keep"])
def test_positions_that_cancel_cannot_hide_a_gradient_from_the_clip(monkeypatch, way):
    """The norm from inner products drowns in rounding where positions nearly cancel."""
    monkeypatch.setattr(outer, "way", lambda *_, **__: way)

    def longest():
        made = []
        for seed in range(40):
            generator = torch.Generator().manual_seed(seed)
            model = nn.Linear(64, 48, bias=False)
            row = 1e4 * torch.randn(64, generator=generator)
            upward = torch.randn(48, generator=generator)
            off = 3e-5 * torch.randn(48, generator=generator)
            pixels = row.expand(1, 2, 64)

            def loss(model=model, pixels=pixels, upward=upward, off=off):
                seen = model(pixels)
                return (seen[:, 0] @ upward - seen[:, 1] @ (upward + off)).sum()

            made.append(float(total(model, of([1]), loss).norm()))
        return max(made)

    assert longest() <= CLIP * (1 + 1e-3)
    if way == "gram":
        monkeypatch.setattr(book, "_ROUNDING", 0)  # the positive control
        assert longest() > 2 * CLIP


LOSSES = {
    "one logit": ((1,), functional.binary_cross_entropy_with_logits),
    "three labels": ((3,), functional.binary_cross_entropy_with_logits),
    "as many labels as images": ((8,), functional.binary_cross_entropy_with_logits),
    "a voxel each": ((2, 5, 4), functional.binary_cross_entropy_with_logits),
    "squares": ((3,), functional.mse_loss),
}


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_one_patient_moves_the_sum_by_at_most_the_clip_whatever_the_losss_shape(name, images):
    """Opacus 1.6.0's ghost mode lets one move it by 451 where the bound is 1 (logits [B, 1])."""
    shape, loss = LOSSES[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, int(np.prod(shape))), nn.Unflatten(1, shape))
    pixels = 30 * torch.randn(8, 8)
    targets = torch.randint(0, 2, (8, *shape)).float()

    def made(rows):
        def losses():
            each = loss(model(pixels[rows]), targets[rows], reduction="none")
            return each.flatten(1).mean(1).sum() / images

        return total(model, of([images] * (len(rows) // images)), losses)

    everybody = torch.arange(8)
    whole = made(everybody)
    assert whole.norm() > CLIP
    for gone in range(8 // images):
        moved = whole - made(everybody[everybody // images != gone])
        assert moved.norm() <= CLIP * (1 + 1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [np.nan, -np.inf, 3e38])
def test_a_row_that_is_not_finite_adds_nothing_and_spoils_nothing(
    monkeypatch, name, images, way, value
):
    if way != "cheapest":
        monkeypatch.setattr(outer, "way", lambda *_, **__: way)
    model, shape = LAYERS[name]
    pixels = torch.randn((4 * images, *shape), generator=torch.Generator().manual_seed(1))
    blank = pixels.clone()

    def made(rows, counts):
        patients = of(counts, batch=4 * images, most=images)
        share = patients.spread_out(torch.ones(len(counts)))

        def loss():
            return (model(rows).flatten(1).sum(1) * share).sum()

        return total(model, patients, loss)

    others = torch.cat([pixels[:images], pixels[2 * images : 3 * images]])
    expected = made(torch.cat([others, blank[: 2 * images]]), [images] * 2)
    pixels[images].flatten()[0] = value
    pixels[3 * images :].flatten(1)[:, 1] = value  # a filler
    got = made(pixels, [images] * 3)
    assert got.isfinite().all()
    alone = (got - expected).norm()
    assert alone <= (CLIP if value == 3e38 else 1e-5 * CLIP) * (1 + 1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_doubling_the_images_of_a_patient_changes_nothing(monkeypatch, way):
    if way != "cheapest":
        monkeypatch.setattr(outer, "way", lambda *_, **__: way)
    model = build("small_cnn", channels=1, outputs=2, seed=0)
    pixels = torch.rand(3, 1, 16, 16)

    def made(rows, counts):
        patients = of(counts, most=4)
        share = patients.spread_out(1 / torch.tensor(counts))

        def loss():
            return (model(pixels[rows]).sum(1) * share).sum()

        return total(model, patients, loss)

    once = made([0, 1, 2], [2, 1])
    assert torch.allclose(made([0, 1, 0, 1, 2], [4, 1]), once, atol=1e-6)
    assert torch.allclose(made([0, 1, 2, 2, 2], [2, 3]), once, atol=1e-6)


def test_an_in_place_operation_after_a_layer_does_no_harm():
    """Opacus' hooks break on MONAI's DynUNet for them."""
    models = [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), act, nn.Conv2d(2, 1, 3))
        for act in (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1, inplace=True))
    ]
    models[1].load_state_dict(models[0].state_dict())
    pixels = torch.rand(2, 1, 8, 8)
    one, other = (total(m, of([1, 1]), lambda m=m: m(pixels).square().sum()) for m in models)
    assert torch.equal(one, other)
    assert one.norm() > 0


def test_a_patient_with_more_images_than_said_is_not_taken():
    with pytest.raises(ValueError, match="at most 2"):
        Patients.of([3], batch=4, most=2)
    with pytest.raises(ValueError, match="batch of 4"):
        Patients.of([2, 2, 1], batch=4, most=2)
