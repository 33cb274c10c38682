"""MONAI networks made fit for per-patient privacy, and the check that refuses the rest."""

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Final, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from septum.errors import Code, Refusal
from septum.models.oriented import OrientedEnergy
from septum.models.small import BandPass
from septum.models.transformer import Positions

_GROUPS: Final = 8
_CONVOLUTIONS: Final[dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
_SPREADS: Final = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}

CONSTANT: Final = (BandPass, OrientedEnergy, Positions)
"""Our layers whose buffers are public constants, which no training changes."""


class SubPixel(nn.Module):
    """A transposed convolution without overlap: a 1x1 convolution, rearranged (Shi et al. 2016)."""

    def __init__(self, source: _ConvTransposeNd) -> None:
        super().__init__()
        self._steps = tuple(source.stride)
        dims = len(self._steps)
        convolution = _CONVOLUTIONS[dims]
        outputs = source.out_channels * math.prod(self._steps)
        self.conv = convolution(source.in_channels, outputs, kernel_size=1, bias=False)
        self.conv.to(source.weight)
        weight = source.weight.detach().movedim(0, -1).reshape(outputs, source.in_channels)
        _write(self.conv.weight, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, outputs, sides * steps)`` for ``(batch, channels, sides)``."""
        steps, sides = self._steps, x.shape[2:]
        out = self.conv(x).view(len(x), -1, *steps, *sides)
        dims = len(steps)
        order = [axis for at in range(dims) for axis in (2 + dims + at, 2 + at)]
        return torch.as_tensor(out.permute(0, 1, *order)).reshape(
            len(x), -1, *[side * step for side, step in zip(sides, steps, strict=True)]
        )


class ZeroInserted(nn.Module):
    """A transposed convolution with overlap: zeros between the pixels, then a convolution."""

    def __init__(self, source: _ConvTransposeNd) -> None:
        super().__init__()
        self._steps = tuple(source.stride)
        dims = len(self._steps)
        paddings = cast(tuple[int, ...], source.padding)
        sides = list(zip(source.kernel_size, paddings, source.output_padding, strict=True))
        # A border below zero cuts off: functional.pad takes it as it is.
        self._border = [
            width
            for kernel, padding, more in reversed(sides)
            for width in (kernel - 1 - padding, kernel - 1 - padding + more)
        ]
        self.conv = _CONVOLUTIONS[dims](
            source.in_channels,
            source.out_channels,
            kernel_size=tuple(source.kernel_size),
            bias=source.bias is not None,
        ).to(source.weight)
        _write(
            self.conv.weight, source.weight.detach().transpose(0, 1).flip(tuple(range(2, 2 + dims)))
        )
        if source.bias is not None and self.conv.bias is not None:
            _write(self.conv.bias, source.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the transposed convolution would."""
        dims, channels = x.ndim - 2, x.shape[1]
        one = x.new_ones((channels, 1, *[1] * dims))
        spread = _SPREADS[dims](x, one, stride=self._steps, groups=channels)
        result: torch.Tensor = self.conv(functional.pad(spread, self._border))
        return result


def convert(model: nn.Module) -> nn.Module:
    """Return ``model`` with each layer that ties images, or hides them, replaced.

    BatchNorm becomes GroupNorm with the same weight and bias; dropout and
    stochastic depth go, because they draw from torch's global generator;
    in-place operations, folded windows and transposed convolutions become
    plain layers that compute the same.

    Guarantees:
      - No random number is drawn but for layers that are overwritten, inside
        the caller's generator.
      - A layer used in several places is replaced by one layer.
    """
    made: dict[nn.Module, nn.Module] = {}
    theirs = _monai()
    for parent in list(model.modules()):
        if theirs is not None:
            theirs.rewrite(parent)
        if hasattr(parent, "inplace"):
            setattr(parent, "inplace", False)  # noqa: B010 - typed as a submodule otherwise
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in made:
                made[child] = _converted(child)
            parent._modules[name] = made[child]
    return model


def check_private(model: nn.Module) -> None:
    """Refuse a network in which one patient's gradient could depend on another patient.

    That is: any batch normalisation, and any buffer but public constants.
    Opacus' own validator lets a frozen or affine-free BatchNorm pass. Dropout
    is refused too: its draws come from torch's global generator, which is
    neither secure nor the patient's own.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_LAYER`, naming the layer.
    """
    theirs = _monai()
    constant = CONSTANT if theirs is None else (*CONSTANT, theirs.Windows)
    for name, module in model.named_modules():
        mixes = isinstance(module, _BatchNorm)
        keeps = next(module.buffers(recurse=False), None) is not None
        if mixes or (keeps and not isinstance(module, constant)):
            raise Refusal(
                Code.UNKNOWN_LAYER,
                f"layer {name or 'at the top'} ({type(module).__name__}) can keep statistics "
                "across patients.",
                remedy="Use GroupNorm or LayerNorm.",
            )
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise Refusal(
                Code.UNKNOWN_LAYER,
                f"layer {name or 'at the top'} drops values at random with probability {module.p}.",
                remedy="Set it to 0: the noise of the mechanism regularises.",
            )


def _monai() -> ModuleType | None:
    """Return what is done to MONAI's layers, or ``None`` where nothing can hold one.

    Importing MONAI takes a process longer than a round of a small network does.
    """
    if "monai" not in sys.modules:
        return None
    from septum.models import rewritten  # noqa: PLC0415 - imports more of MONAI

    return rewritten


def _converted(layer: nn.Module) -> nn.Module:
    if isinstance(layer, _BatchNorm):
        norm = nn.GroupNorm(math.gcd(_GROUPS, layer.num_features), layer.num_features)
        if layer.affine:
            norm.to(layer.weight)
            _write(norm.weight, layer.weight.detach())
            _write(norm.bias, layer.bias.detach())
        return norm
    if isinstance(layer, _DropoutNd):
        return nn.Identity()
    theirs = _monai()
    plainer: nn.Module | None = theirs.plainer(layer) if theirs is not None else None
    if plainer is not None:
        return plainer
    plain = isinstance(layer, _ConvTransposeNd) and set(layer.dilation) == {1} == {layer.groups}
    if isinstance(layer, _ConvTransposeNd) and plain:
        apart = layer.kernel_size == layer.stride and not any(layer.output_padding)
        if apart and layer.bias is None and not any(int(p) for p in layer.padding):
            return SubPixel(layer)
        return ZeroInserted(layer)
    return layer


def _write(parameter: torch.Tensor, values: torch.Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values.reshape(parameter.shape))
