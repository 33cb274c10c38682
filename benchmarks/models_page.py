"""Write docs/models.md: what the registry holds, and what becomes of each MONAI network.

    python benchmarks/models_page.py

Every line is tried when this runs: a network counts as fit if Opacus'
validator and Septum's own check pass, and if the gradient of each image, taken
in a batch by Opacus' hooks, is the one that the image has alone.
"""

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks import nets
from monai.utils.module import OptionalImportError
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from septum.errors import Refusal
from septum.models import MODELS, build, check_private, parameter_count
from septum.models.conversion import convert

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"

_SIDE = 32
_KNOWN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
_FLAT = {"spatial_dims": 2, "in_channels": 1}

ATTEMPTS: dict[str, Callable[[], nn.Module]] = {
    "ResNet (18)": lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=2),
    "ResNet (50)": lambda: nets.resnet50(spatial_dims=2, n_input_channels=1, num_classes=2),
    "DenseNet121": lambda: nets.DenseNet121(**_FLAT, out_channels=2),
    "EfficientNet (B0)": lambda: nets.EfficientNetBN(
        "efficientnet-b0", **_FLAT, num_classes=2, pretrained=False
    ),
    "SEResNet50": lambda: nets.SEResNet50(**_FLAT, num_classes=2, pretrained=False),
    "ViT": lambda: nets.ViT(
        in_channels=1,
        img_size=(32, 32),
        patch_size=(8, 8),
        hidden_size=24,
        mlp_dim=48,
        num_layers=2,
        num_heads=2,
        classification=True,
        spatial_dims=2,
    ),
    "UNet": lambda: nets.UNet(
        **_FLAT, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2
    ),
    "BasicUNet": lambda: nets.BasicUNet(**_FLAT, out_channels=2, features=(8, 8, 16, 16, 32, 8)),
    "AttentionUnet": lambda: nets.AttentionUnet(
        **_FLAT, out_channels=2, channels=(8, 16, 32), strides=(2, 2)
    ),
    "VNet": lambda: nets.VNet(**_FLAT, out_channels=2),
    "SegResNet": lambda: nets.SegResNet(**_FLAT, out_channels=2, init_filters=8),
    "HighResNet": lambda: nets.HighResNet(**_FLAT, out_channels=2),
    "DynUNet": lambda: nets.DynUNet(
        **_FLAT,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
    ),
    "UNETR": lambda: nets.UNETR(
        in_channels=1,
        out_channels=2,
        img_size=(32, 32),
        feature_size=8,
        hidden_size=24,
        mlp_dim=48,
        num_heads=2,
        spatial_dims=2,
    ),
    "SwinUNETR": lambda: nets.SwinUNETR(
        in_channels=1,
        out_channels=2,
        feature_size=12,
        spatial_dims=2,
        norm_name=("group", {"num_groups": 4}),
    ),
}
"""MONAI's networks with MONAI's defaults, small where a size must be given."""

_HEAD = """\
# Models

Which networks a study may name, and what became of MONAI's on the way.
`benchmarks/models_page.py` writes this page by trying each network; a test
fails when the page is stale. No option of an architecture comes from a study:
a name, a seed and, at most, the digest of public weights.

A network is fit for per-patient privacy when a patient's gradient depends on
that patient alone and every trained parameter sits in a layer whose
per-patient norm can be computed. So: no batch normalisation (it mixes
patients), no dropout and no stochastic depth (they draw from torch's global
generator), no operation in place and no parameter outside a layer.

## The registry

`septum model list` shows it too. Parameters are for one output; sides are in
pixels, and those of a volume hold for its depth as well.
"""

_CHANGED = """
## What conversion does

The registry builds MONAI's own class and replaces, layer by layer:

| MONAI | Septum | function |
|---|---|---|
| BatchNorm | GroupNorm (8 groups, or the greatest common divisor), same weight and bias | another |
| Dropout, stochastic depth | nothing | the same as in evaluation |
| in-place activations and sums | the same, not in place | the same |
| transposed convolution | a convolution, its pixels rearranged or spread by zeros | the same |
| memory-efficient swish | `torch.nn.SiLU` | the same |
| Swin windows folded into the batch | windows in an axis of their own | the same |
| one layer under two names | one layer under one name | the same |
| Swin's relative position bias | constant at its public initial value | trains less |

InstanceNorm stays where it keeps no running statistics: it looks at one image.
The registry builds its own networks with GroupNorm instead, because
InstanceNorm has no value for a single pixel.

**Weight standardisation** (`model.weight_standardisation`, off by default; Qiao
et al. 2019, arXiv:1903.10520; De et al. 2022, arXiv:2204.13650) gives each
filter of a convolution mean 0 and norm 1 before it is used. Every network but
`oriented_linear` and `vit` takes it; both are refused, because no GroupNorm
follows a convolution there. Left as they are: the last layer, EfficientNet's
gates, and filters of fewer than three weights. The parameter stays the raw
weight, which is what is [clipped](clipping.md), noised, sent and exported: a
file of weights does not say with which setting they were trained, the study
does. What it does to accuracy is measured in [utility.md](utility.md).

## MONAI's networks, tried

"As it is" is MONAI's class as MONAI builds it, in training. "After conversion"
is the same network after the table above. "By Opacus' rule for" names
trained layers that no fast rule of Septum covers, but a slower one of Opacus;
such a network is not registered.

Two things that these trials caught in Opacus 1.6: its rule for convolutions
reads the input as if it lay in rows, so with channels-last activations the
gradient of an image is wrong and its clip no longer holds; and a layer that is
registered under two names (DynUNet) is hooked twice. The registry avoids both.

| MONAI network | as it is | after conversion |
|---|---|---|
"""

_TAIL = """
## A part of a network

`model.train = "head"` freezes all but the last layer; `model.lora_rank` adds
low-rank updates (Hu et al. 2022, arXiv:2106.09685) beside the frozen linear
layers of `vit`, `seresnet50` and `swin_unetr`. What is frozen comes from the
registry's seed or from a file whose SHA-256 the study names in
`model.weights`; it is in no vector that leaves a hospital. Each update is two
plain linear layers, so every per-patient rule for these holds for it.

## Weights in and out

`septum model import BUNDLE` reads the weights of a MONAI bundle, and nothing
else: configurations with `$` expressions are never evaluated. It keeps them as
one safetensors file under its digest, for a study to name. A `model.pt` is
a pickle and is not read: where you trust one, load it with torch's
`weights_only=True` and write it with `safetensors.torch.save_file`. Weights of a
network with BatchNorm are taken over without its running statistics.

`septum model export STUDY CHECKPOINT --out BUNDLE` writes the global model as a
MONAI bundle: a function of what was already released, so it costs no privacy.
"""


def page() -> str:
    """Return the whole page."""
    rows = [_HEAD]
    rows.append("| `model.name` | from | `data.task` | 2D | 3D | sides | last layer |")
    rows.append("|---|---|---|---|---|---|---|")
    for name, network in MODELS.items():
        counts = [
            f"{_parameters(name, dims):,}" if dims in network.dims else "no" for dims in (2, 3)
        ]
        tasks = ", ".join(sorted(network.tasks))
        least = max(network.least, network.multiple)
        sides = f"at least {least}" if least > 1 else "any"
        sides += f", multiples of {network.multiple}" if network.multiple > 1 else ""
        rows.append(
            f"| `{name}` | {network.source} | {tasks} | {counts[0]} | {counts[1]} "
            f"| {sides} | `{network.head}` |"
        )
    rows.append(_CHANGED.rstrip("\n"))
    for title, make in ATTEMPTS.items():
        rows.append(f"| {title} | {tried(make)} | {tried(make, converted=True)} |")
    rows.append(_TAIL.rstrip("\n"))
    return "\n".join(rows) + "\n"


def tried(make: Callable[[], nn.Module], *, converted: bool = False) -> str:
    """Return ``yes``, or why this network is not fit."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus and torch remark on hooks
        torch.default_generator.manual_seed(0)
        try:
            model = make().double().train()
            model = convert(model) if converted else model
        except OptionalImportError:
            return "no: needs einops, which Septum does not install"
        reason = _forbidden(model) or _inexact(model)
    if reason:
        return f"no: {reason}"
    strange = {type(m).__name__ for m in model.modules() if _trains(m)} - {
        known.__name__ for known in _KNOWN
    }
    return f"by Opacus' rule for {', '.join(sorted(strange))}" if strange else "yes"


def _parameters(name: str, dims: int) -> int:
    side = max(32, MODELS[name].least)
    model = build(name, channels=1, outputs=1, seed=0, dims=dims, size=(side,) * dims)
    return parameter_count(model)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _forbidden(model: nn.Module) -> str:
    batch = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if batch:
        return f"{batch} BatchNorm layers mix patients"
    findings = ModuleValidator.validate(model, strict=False)
    if findings:
        return f"Opacus refuses a layer ({type(findings[0]).__name__})"
    try:
        check_private(model)
    except Refusal as refusal:
        return refusal.message.split(") ", 1)[-1].rstrip(".")
    outside = Counter(
        type(m).__name__ for m in model.modules() if _trains(m) and next(m.children(), None)
    )
    if outside:
        return f"parameters outside any layer, in {', '.join(sorted(outside))}"
    return ""


def _inexact(model: nn.Module) -> str:
    """Return where the gradients of a batch are not those of its images alone, or nothing."""
    images = torch.rand((2, 1, _SIDE, _SIDE), dtype=torch.float64)
    alone = copy.deepcopy(model)
    try:
        hooked = GradSampleModule(model, loss_reduction="sum", strict=False)
        torch.autograd.backward(_loss(hooked(images)).sum())
    except OptionalImportError:
        return "needs einops, which Septum does not install"
    except RuntimeError as error:
        if "inplace" in str(error) or "in-place" in str(error):
            return "a sum is written in place, which Opacus' hooks cannot follow"
        return f"Opacus' hooks fail ({type(error).__name__})"
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        return f"Opacus' hooks fail ({type(error).__name__})"
    parameters = list(alone.parameters())
    for index in range(len(images)):
        loss = _loss(alone(images[index : index + 1])).sum()
        expected = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            sample = getattr(parameter, "grad_sample", None)
            if gradient is None or sample is None:
                return "a parameter that no image moves"
            if len(sample) != len(images):
                return "windows of all images are folded into one batch"
            if not torch.allclose(sample[index], gradient, rtol=1e-6, atol=1e-9):
                return "an image's gradient in a batch is not its own"
    return ""


def _loss(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits.flatten(1).square().mean(dim=1)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
