"""Normalisations within one image: scale and shift."""

from math import prod
from typing import Any

import torch

from septum_client.clipping.book import Book
from septum_client.clipping.rules import Rule, Saved, enter_bias, trains


class ChannelNorm(Rule):
    """GroupNorm, and InstanceNorm without running statistics: scale and shift of each channel."""

    def _groups(self, module: Any, channels: int) -> int:
        return int(getattr(module, "num_groups", channels))

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Normalise."""
        rows, channels = source.shape[:2]
        source = source.contiguous()
        made, mean, scale = torch.native_group_norm(
            source,
            module.weight,
            module.bias,
            rows,
            channels,
            prod(source.shape[2:]),
            self._groups(module, channels),
            module.eps,
        )
        return made, (mean, scale)

    def backward(
        self,
        module: Any,
        source: torch.Tensor,
        saved: Saved,
        gradient: torch.Tensor,
        *,
        wanted: bool,
        book: Book,
    ) -> torch.Tensor | None:
        """Enter scale and shift: rows taken for groups of one row, torch makes both for each."""
        mean, scale = saved
        rows, channels = source.shape[:2]
        to_source, weight, bias = torch.ops.aten.native_group_norm_backward(
            gradient.reshape(1, rows * channels, -1),
            source.reshape(1, rows * channels, -1),
            mean.view(1, -1),
            scale.view(1, -1),
            module.weight.expand(rows, -1).reshape(-1),
            1,
            rows * channels,
            prod(source.shape[2:]),
            rows * self._groups(module, channels),
            [wanted, trains(module.weight), trains(module.bias)],
        )
        if trains(module.weight):
            enter_bias(book, module.weight, weight.view(rows, channels))
        if trains(module.bias):
            enter_bias(book, module.bias, bias.view(rows, channels))
        return to_source.view_as(source) if wanted else None


class LayerNorm(Rule):
    """LayerNorm over any number of last dimensions."""

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Normalise."""
        made, mean, scale = torch.native_layer_norm(
            source, module.normalized_shape, module.weight, module.bias, module.eps
        )
        return made, (mean, scale)

    def backward(
        self,
        module: Any,
        source: torch.Tensor,
        saved: Saved,
        gradient: torch.Tensor,
        *,
        wanted: bool,
        book: Book,
    ) -> torch.Tensor | None:
        """Enter scale and shift."""
        mean, scale = saved
        if source.dim() == len(module.normalized_shape):
            raise ValueError("a LayerNorm over the batch ties patients together")
        rows = len(gradient)
        if trains(module.bias):
            enter_bias(book, module.bias, gradient.reshape(rows, -1, module.bias.numel()).sum(1))
        if trains(module.weight):
            # One pass over the batch each: a call for each row costs more than its arithmetic.
            made = (source - mean).mul_(scale).mul_(gradient)
            enter_bias(book, module.weight, made.view(rows, -1, module.weight.numel()).sum(1))
        if not wanted:
            return None
        to_source: torch.Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient.contiguous(),
            source,
            module.normalized_shape,
            mean,
            scale,
            module.weight,
            module.bias,
            [True, False, False],
        )[0]
        return to_source
