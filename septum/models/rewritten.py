"""MONAI's blocks with the same weights and the same function, one image at a time.

Each class stands in for its parent by ``module.__class__ = ...`` and changes
only what a per-patient rule cannot follow: sums written in place, windows of
several images folded into one batch, and parameters outside any layer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

import torch
from monai.networks.blocks.activation import MemoryEfficientSwish, Swish
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer, ResidualSELayer, SEBlock
from monai.networks.layers.drop_path import DropPath
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.efficientnet import MBConvBlock
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from monai.networks.nets.senet import SEBottleneck, SEResNetBottleneck, SEResNeXtBottleneck
from monai.networks.nets.swin_unetr import (
    BasicLayer,
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    compute_mask,
    get_window_size,
)
from torch import nn
from torch.nn import functional


class _Residual(ResNetBlock):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.act(self.bn1(self.conv1(x)))
        return cast(torch.Tensor, self.act(self.bn2(self.conv2(out)) + shortcut))


class _Bottleneck(ResNetBottleneck):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))
        return cast(torch.Tensor, self.act(self.bn3(self.conv3(out)) + shortcut))


class _SegResidual(ResBlock):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.act(self.norm1(x)))
        return cast(torch.Tensor, self.conv2(self.act(self.norm2(out))) + x)


class _UnetResidual(UnetResBlock):  # type: ignore[misc]
    def forward(self, inp: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(self.lrelu(self.norm1(self.conv1(inp)))))
        shortcut = self.norm3(self.conv3(inp)) if self.downsample else inp
        return cast(torch.Tensor, self.lrelu(out + shortcut))


class _ChannelGate(ChannelSELayer):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.fc(self.avg_pool(x).flatten(1))
        out = x * gate.view(*gate.shape, *[1] * (x.ndim - 2))
        return cast(torch.Tensor, out + x if self.add_residual else out)


class _ResidualGate(_ChannelGate, ResidualSELayer):  # type: ignore[misc]
    pass


class _GatedResidual(SEBlock):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.se_layer(self.conv3(self.conv2(self.conv1(x))))
        return cast(torch.Tensor, self.act(out + self.project(x)))


class Windows(WindowAttention):  # type: ignore[misc]
    """Attention within windows whose images stay apart, with a constant position bias.

    MONAI folds the windows of all images into the batch, where no layer can
    tell whose they are, and keeps the position bias as a parameter outside any
    layer. Here the linear layers see ``(images, windows, places, width)``, and
    the bias keeps its public initial values.
    """

    images: int

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return attended windows ``(images * windows, places, width)``, in the same order."""
        folded, places, width = x.shape
        windows, each = folded // self.images, width // self.num_heads
        parts = self.qkv(x.view(self.images, windows, places, width))
        parts = parts.view(self.images, windows, places, 3, self.num_heads, each)
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5)
        index = self.relative_position_index[:places, :places].reshape(-1)
        bias = self.relative_position_bias_table[index].view(places, places, -1).permute(2, 0, 1)
        weight = query * self.scale @ key.transpose(-2, -1) + bias
        if mask is not None:
            weight = weight + mask[:, None].to(weight.dtype)
        mixed = (self.softmax(weight) @ value).transpose(2, 3).flatten(3)
        return cast(torch.Tensor, self.proj(mixed).view(folded, places, width))


class _SwinBlock(SwinTransformerBlock):  # type: ignore[misc]
    def forward_part1(self, x: torch.Tensor, mask_matrix: torch.Tensor | None) -> torch.Tensor:
        self.attn.images = x.shape[0]
        return cast(torch.Tensor, super().forward_part1(x, mask_matrix))


class _SwinLayer(BasicLayer):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = x.shape[2:]
        window, shift = get_window_size(sides, self.window_size, self.shift_size)
        padded = [-(-side // step) * step for side, step in zip(sides, window, strict=True)]
        mask = compute_mask(padded, window, shift, x.device)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, mask)
        if self.downsample is not None:
            x = self.downsample(x)
        return _in_rows(x.movedim(-1, 1))


class _SwinEncoder(SwinTransformer):  # type: ignore[misc]
    def proj_out(self, x: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        if not normalize:
            return x
        normal = functional.layer_norm(x.movedim(1, -1), [x.shape[1]])
        return _in_rows(normal.movedim(-1, 1))


def _in_rows(x: torch.Tensor) -> torch.Tensor:
    # Opacus 1.6 reads a convolution's input as if it lay in rows, whatever its strides say, and
    # a tensor with sides of one pixel counts as lying either way: contiguous() would leave it.
    return x.clone(memory_format=torch.contiguous_format)


REWRITTEN: Final[Mapping[type[nn.Module], type[nn.Module]]] = MappingProxyType(
    {
        ResNetBlock: _Residual,
        ResNetBottleneck: _Bottleneck,
        ResBlock: _SegResidual,
        UnetResBlock: _UnetResidual,
        ChannelSELayer: _ChannelGate,
        ResidualSELayer: _ResidualGate,
        SEBlock: _GatedResidual,
        SEBottleneck: _GatedResidual,
        SEResNetBottleneck: _GatedResidual,
        SEResNeXtBottleneck: _GatedResidual,
        WindowAttention: Windows,
        SwinTransformerBlock: _SwinBlock,
        BasicLayer: _SwinLayer,
        SwinTransformer: _SwinEncoder,
    }
)
"""MONAI's class to the class that stands in for it; matched exactly, never by inheritance."""


def rewrite(module: nn.Module) -> None:
    """Let one MONAI block act as its stand-in, if it has one; its weights stay."""
    if isinstance(module, MBConvBlock):
        module.drop_connect_rate = 0.0
    if isinstance(module, DynUNet) and not module.deep_supervision:
        # Second names of the layers below ``skip_layers``: Opacus would hook each layer twice.
        for name in ("input_block", "downsamples", "bottleneck", "upsamples", "heads"):
            module._modules.pop(name, None)
    stand_in = REWRITTEN.get(type(module))
    if stand_in is None:
        return
    module.__class__ = stand_in
    if isinstance(module, Windows):
        table = module.relative_position_bias_table.detach()
        del module.relative_position_bias_table
        module.register_buffer("relative_position_bias_table", table)


def plainer(layer: nn.Module) -> nn.Module | None:
    """Return torch's own layer that computes the same without a draw or a trick, if there is one.

    Stochastic depth goes: no round draws from torch's global generator.
    """
    if isinstance(layer, DropPath):
        return nn.Identity()
    if isinstance(layer, MemoryEfficientSwish) or (isinstance(layer, Swish) and layer.alpha == 1):
        return nn.SiLU()
    return None
