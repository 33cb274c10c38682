"""Per-patient sums beside plain autograd, one patient at a time, in float64."""

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from septum.errors import Code, Refusal
from septum.models import MODELS, build
from septum.models.standardised import (
    StandardisedConv1d,
    StandardisedConv2d,
    StandardisedConv3d,
)
from septum_client.clipping import (
    PatientGradSampleModule,
    Patients,
    convolution,
    fallback,
    outer,
    verify,
)
from septum_client.clipping import module as wrapping

CONVOLUTIONS = {
    "1d": (nn.Conv1d(3, 4, 3, padding=1), (3, 9)),
    "1d dilated, strided": (nn.Conv1d(3, 4, 3, stride=2, dilation=2), (3, 11)),
    "2d": (nn.Conv2d(3, 4, 3, padding=1), (3, 7, 6)),
    "2d without bias": (nn.Conv2d(3, 4, 3, bias=False), (3, 7, 6)),
    "2d of one pixel": (nn.Conv2d(8, 4, 1), (8, 5, 6)),
    "2d of one pixel, strided": (nn.Conv2d(8, 4, 1, stride=2), (8, 5, 6)),
    "2d of one pixel, padded": (nn.Conv2d(8, 4, 1, padding=1), (8, 5, 6)),
    "2d strided": (nn.Conv2d(3, 4, 3, stride=(2, 3), padding=(1, 2)), (3, 9, 8)),
    "2d dilated": (nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=2), (3, 8, 8)),
    "2d grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "2d depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "2d of many positions": (nn.Conv2d(8, 16, 3, padding=1), (8, 12, 12)),
    "2d of many positions, grouped": (nn.Conv2d(16, 16, 3, groups=2, stride=2), (16, 20, 20)),
    "2d same": (nn.Conv2d(3, 4, 3, padding="same", dilation=2), (3, 6, 6)),
    "2d same, uneven": (nn.Conv2d(3, 4, 4, padding="same"), (3, 6, 6)),
    "2d valid": (nn.Conv2d(3, 4, 3, padding="valid"), (3, 6, 6)),
    "2d reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "2d replicated": (nn.Conv2d(3, 4, 3, padding=(1, 0), padding_mode="replicate"), (3, 6, 6)),
    "2d circular": (nn.Conv2d(3, 4, 3, padding=1, stride=2, padding_mode="circular"), (3, 6, 6)),
    "3d": (nn.Conv3d(2, 3, 3, padding=1), (2, 5, 4, 6)),
    "3d strided, grouped": (nn.Conv3d(2, 4, (1, 3, 2), stride=2, groups=2), (2, 5, 5, 6)),
    "transposed 1d": (nn.ConvTranspose1d(3, 2, 3, stride=2), (3, 5)),
    "transposed 2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 5, 4),
    ),
    "transposed 2d, dilated": (nn.ConvTranspose2d(4, 3, 3, dilation=2), (4, 5, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 3, 3, 2)),
    "standardised 1d": (StandardisedConv1d(3, 4, 3, padding=1), (3, 9)),
    "standardised 2d": (StandardisedConv2d(3, 4, 3, stride=(2, 3), padding=(1, 2)), (3, 9, 8)),
    "standardised 2d without bias": (StandardisedConv2d(3, 4, 3, bias=False), (3, 7, 6)),
    "standardised 2d of one pixel": (StandardisedConv2d(8, 4, 1), (8, 5, 6)),
    "standardised 2d grouped": (StandardisedConv2d(4, 6, 3, groups=2, dilation=2), (4, 8, 8)),
    "standardised 2d depthwise": (StandardisedConv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "standardised 2d reflected": (
        StandardisedConv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        (3, 6, 6),
    ),
    "standardised 2d of many positions": (StandardisedConv2d(8, 16, 3, padding=1), (8, 12, 12)),
    "standardised 2d of many positions, grouped": (
        StandardisedConv2d(16, 16, 3, groups=2, stride=2),
        (16, 20, 20),
    ),
    "standardised 3d": (StandardisedConv3d(2, 3, 3, padding=1), (2, 5, 4, 6)),
    "standardised 3d, grouped": (StandardisedConv3d(2, 4, (1, 3, 2), groups=2), (2, 5, 5, 6)),
}


class Words(nn.Module):
    """An embedding of what the image rounds to."""

    def __init__(self, **options):
        super().__init__()
        self.table = nn.Embedding(5, 3, **options)

    def forward(self, x):
        return self.table(x.flatten(1).abs().mul(2).long().clamp(max=4)).sum(1)


class Twice(nn.Module):
    """A layer used three times, of which one use leads nowhere."""

    def __init__(self):
        super().__init__()
        self.layer, self.linear = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x):
        self.layer(x)
        x = torch.tanh(self.layer(torch.tanh(self.layer(x)))).mean(3)[..., :4]
        return self.linear(torch.tanh(self.linear(x)))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.tanh(self.one(x)))


class Standard(nn.Module):
    """A standardised convolution used at two sizes, between normalisations."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = StandardisedConv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)

    def forward(self, x):
        x = torch.tanh(self.norm(self.layer(x)))
        return self.norm(self.layer(x[..., ::2]))


class Lent(nn.Module):
    """A token and a position code, held by the module itself, as in MONAI's ViT."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.code = nn.Parameter(torch.zeros(1, 5, 6))
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x + self.code], 1)
        return self.layer(torch.tanh(x))


class Windows(nn.Module):
    """A layer that sees each image as four rows."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        seen = self.norm(self.layer(x.reshape(-1, 2, 4)))
        return seen.reshape(len(x), -1)


class Scale(nn.Module):
    """A weight of its own, which no rule knows."""

    def __init__(self, size):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return torch.sin(self.gain * x)


LAYERS = CONVOLUTIONS | {
    "linear": (nn.Linear(6, 4), (6,)),
    "linear, one output": (nn.Linear(6, 1, bias=False), (6,)),
    "linear on positions": (nn.Linear(6, 4), (5, 6)),
    "linear on two kinds of positions": (nn.Linear(6, 4), (3, 5, 6)),
    "group norm": (nn.Sequential(nn.Conv2d(2, 8, 1), nn.GroupNorm(4, 8)), (2, 5, 4)),
    "group norm 3d": (nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh()), (4, 3, 4, 2)),
    "layer norm": (nn.Sequential(nn.LayerNorm(6), nn.Tanh()), (5, 6)),
    "layer norm without bias": (nn.Sequential(nn.LayerNorm(6, bias=False), nn.Tanh()), (6,)),
    "layer norm of two": (nn.Sequential(nn.LayerNorm((5, 6)), nn.Tanh()), (3, 5, 6)),
    "instance norm 1d": (nn.Sequential(nn.InstanceNorm1d(4, affine=True), nn.Tanh()), (4, 7)),
    "instance norm 2d": (nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.Tanh()), (4, 5, 3)),
    "instance norm 3d": (nn.Sequential(nn.InstanceNorm3d(2, affine=True), nn.Tanh()), (2, 3, 3, 3)),
    "embedding": (Words(), (1, 3, 3)),
    "embedding with padding": (Words(padding_idx=0), (1, 3, 3)),
    "slope": (nn.PReLU(), (4, 5)),
    "slope of each channel": (nn.PReLU(4), (4, 3, 3)),
    "used twice": (Twice(), (2, 5, 5)),
    "shared": (Tied(), (6,)),
    "standardised, used twice": (Standard(), (4, 6, 6)),
    "held": (Lent(), (5, 6)),
    "windows": (Windows(), (8, 4)),
    "left to Opacus": (nn.Sequential(nn.Linear(6, 6), Scale(6), nn.Linear(6, 2)), (6,)),
    "left to Opacus, registered": (nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 2)), (4, 6)),
}


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    monkeypatch.setattr("septum_client.clipping.exactness._PASSED", set())


def force(monkeypatch, way):
    """Take one way to every norm, whatever is cheapest."""
    if way != "cheapest":
        monkeypatch.setattr(outer, "way", lambda *_, **__: way)
    if way != "direct":
        monkeypatch.setattr(convolution, "_FEWEST_DIRECT", 100 if way == "cheapest" else 1 << 30)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("most", [1, 3], ids=["one image a patient", "several"])
@pytest.mark.parametrize("way", ["cheapest", "keep", "gram", "drop"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_layers_sum_is_the_one_of_plain_autograd_patient_by_patient(
    monkeypatch, name, way, most
):
    force(monkeypatch, way)
    layer, shape = LAYERS[name]
    verify(layer, shape, most=most)


QUICK = {"small_cnn", "resnet18", "densenet121", "vit", "unet", "segresnet", "dynunet"}


def networks():
    """Return every registered network in every dimension it comes in, at its least size."""
    made = []
    for name, network in MODELS.items():
        for dims in network.dims:
            least = max(network.least, network.multiple, 32 if dims == 2 else 8)
            side = least + -least % network.multiple
            large = (
                name not in QUICK or (dims == 3 and side > 16) or (dims, name) == (3, "resnet18")
            )
            marks = [pytest.mark.slow] if large else []
            made.append(pytest.param(name, (side,) * dims, id=f"{name}{dims}d", marks=marks))
    return made


@pytest.mark.parametrize(("name", "size"), networks())
def test_each_networks_sum_is_the_one_of_plain_autograd_patient_by_patient(name, size):
    model = build(name, channels=1, outputs=2, seed=0, dims=len(size), size=size)
    for most in (1, 2):
        verify(model, (1, *size), most=most)


STANDARDISED = ["small_cnn", "resnet18", "unet", "segresnet", "dynunet"]


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("name", STANDARDISED)
def test_each_networks_sum_is_exact_with_standardised_weights(name, most):
    model = build(name, channels=1, outputs=2, seed=0, size=(32, 32), weight_standardisation=True)
    verify(model, (1, 32, 32), most=most)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_convolution_is_exact(data):
    draw = data.draw
    dimensions, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 3)] * dimensions)
    kernel, stride, dilation = draw(several), draw(several), draw(several)
    padding = tuple(size - 1 for size in draw(several))
    before, after = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kinds = {
        1: (nn.Conv1d, nn.ConvTranspose1d),
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }
    kind = kinds[dimensions][draw(st.booleans())]
    layer = kind(before, after, kernel, stride, padding, dilation=dilation, groups=groups)
    size = tuple(draw(st.integers(1, 3)) + 6 for _ in range(dimensions))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("septum_client.clipping.exactness._PASSED", set())
        force(patch, draw(st.sampled_from(["keep", "gram", "drop"])))
        verify(layer, (before, *size), most=draw(st.integers(1, 2)))


class Astray(nn.Module):
    """Uses its layer's weight behind the layer's back, as nn.MultiheadAttention does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) @ self.layer.weight


class Attending(nn.Module):
    """torch's own attention, which uses its projection's weight behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Mixing(nn.Module):
    """Ties the images of a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Reordered(nn.Module):
    """Lays rows of different images side by side."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        seen = self.layer(x.transpose(0, 1).reshape(-1, 4))
        return seen.view(x.shape[1], len(x), 4).transpose(0, 1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Astray(), (4,)),
        (Mixing(), (4,)),
        (Reordered(), (2, 4)),
        (Attending(), (3, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4,)),
        (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (4, 3, 3)),
        (nn.LSTM(4, 4), (3, 4)),
    ],
    ids=["astray", "mixing", "reordered", "attention", "batch norm", "running", "lstm"],
)
def test_a_network_whose_patients_cannot_be_told_apart_is_refused(layer, shape):
    with pytest.raises(Refusal) as refused:
        verify(layer, shape, most=1)
    assert refused.value.code is Code.UNKNOWN_LAYER


def test_what_is_left_to_opacus_is_said_aloud_once_for_each_class(monkeypatch, caplog):
    monkeypatch.setattr(fallback, "_told", set())
    with caplog.at_level(logging.WARNING):
        verify(nn.Sequential(Scale(4), nn.Linear(4, 4), Scale(4)), (4,), most=1)
        verify(nn.Sequential(nn.Linear(4, 4)), (4,), most=1)
    assert [record.message.count("Scale") for record in caplog.records] == [1]


def test_a_frozen_weight_gets_no_gradient_and_costs_none():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(18, 2))
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    verify(model, (1, 5, 5), most=2)
    wrapped = PatientGradSampleModule(model)
    sums = wrapped.sums(
        Patients.of([1, 1], batch=2, most=1),
        lambda: model(torch.ones(2, 1, 5, 5)).sum(),
        torch.ones_like,
    )
    assert set(sums) == {p for p in model.parameters() if p.requires_grad}


def test_taking_the_hooks_off_gives_the_network_back():
    model = build("small_cnn", channels=1, outputs=2, seed=0)
    forwards = [layer.forward for layer in model.modules()]
    wrapped = PatientGradSampleModule(model)
    wrapped.remove_hooks()
    assert [layer.forward for layer in model.modules()] == forwards
    copied = copy.deepcopy(model)
    copied(torch.zeros(1, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in copied.parameters())


def test_outside_a_step_the_network_trains_and_predicts_as_ever():
    model = nn.Sequential(nn.Linear(3, 2))
    PatientGradSampleModule(model)
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model[0].weight.grad, torch.ones(2, 3))


def test_kernels_are_chosen_by_public_shapes_never_by_who_was_drawn(monkeypatch):
    chosen = []
    real = outer.way

    def way(shape, **given):
        chosen[-1].append((shape, *given.items()))
        return real(shape, **given)

    monkeypatch.setattr(outer, "way", way)
    model = build("small_cnn", channels=1, outputs=2, seed=0)
    wrapped = wrapping.PatientGradSampleModule(model)
    for counts in ([1], [2, 2, 2], [1, 2, 1]):
        chosen.append([])
        wrapped.sums(
            Patients.of(counts, batch=6, most=2),
            lambda: model(torch.rand(6, 1, 16, 16)).sum(),
            torch.ones_like,
        )
    assert chosen[0]
    assert chosen[0] == chosen[1] == chosen[2]
