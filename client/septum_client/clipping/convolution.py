"""Convolutions of any dimension, transposed ones too, as sums of outer products."""

from dataclasses import dataclass
from math import prod
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from septum_client.clipping.book import Book
from septum_client.clipping.outer import Outer, Shape, enter, scratch
from septum_client.clipping.rules import Rule, Saved, enter_bias, trains

_WIDEST_DIRECT: Final = 4096  # inputs times outputs up to which a convolution of groups is faster
_FEWEST_DIRECT: Final = 64  # positions from which it is


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What of a convolution is not its weight; padding is explicit zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def backward(
        self,
        gradient: torch.Tensor,
        source: torch.Tensor,
        weight: torch.Tensor,
        *,
        to_source: bool,
    ) -> torch.Tensor:
        """Return the gradient of the input, or of the weight, as torch computes it."""
        made = torch.ops.aten.convolution_backward(
            gradient,
            source,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding or (0,) * len(self.stride),
            self.groups,
            [to_source, not to_source, False],
        )
        one: torch.Tensor = made[0] if to_source else made[1]
        return one


class ConvolutionOuter(Outer):
    """One use of a convolution's weight.

    Args:
      weight: The weight, ``(outputs, inputs / groups, *kernel)``; of a transposed
        convolution ``(inputs, outputs / groups, *kernel)``.
      geometry: Of the layer.
      source: The layer's input ``(rows, channels, *size)``.
      gradient: At the layer's output.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        geometry: Geometry,
        *,
        source: torch.Tensor,
        gradient: torch.Tensor,
    ) -> None:
        self._weight, self._geometry = weight.detach(), geometry
        self._source, self._gradient = source, gradient
        # The weight of a transposed convolution is an ordinary one's from its output to its input.
        wide, narrow = (gradient, source) if geometry.transposed else (source, gradient)
        self._wide, self._narrow = wide, narrow
        self._kernel = tuple(weight.shape[2:])
        self._places = tuple(narrow.shape[2:])
        self.rows, self.like = narrow.shape[0], gradient
        self.shape = Shape(
            groups=geometry.groups,
            positions=prod(self._places),
            inputs=prod(self._kernel) * weight.shape[1],
            outputs=weight.shape[0] // geometry.groups,
        )
        self._pointwise = (
            prod(self._kernel) == 1
            and not any(geometry.padding)
            and wide.shape == (*wide.shape[:2], *self._places)
        )

    def left(self, rows: slice) -> torch.Tensor:
        """Return each position's window, kernel before channels."""
        groups, wide = self._geometry.groups, self._wide[rows]
        count, channels = wide.shape[:2]
        if self._pointwise:
            return wide.reshape(count * groups, channels // groups, -1).mT
        geometry, size = self._geometry, wide.shape[2:]
        padded = [length + 2 * pad for length, pad in zip(size, geometry.padding, strict=True)]
        last = scratch("padded", (count, *padded, channels), wide)
        inner = last
        for axis, (length, pad) in enumerate(zip(size, geometry.padding, strict=True), start=1):
            inner = inner.narrow(axis, pad, length)
        if any(geometry.padding):
            last.zero_()
        inner.copy_(wide.movedim(1, -1))
        steps = last.stride()[1:-1]
        each = channels // groups
        windows = last.as_strided(
            (count, groups, *self._places, *self._kernel, each),
            (
                last.stride(0),
                each,
                *(step * by for step, by in zip(steps, geometry.stride, strict=True)),
                *(step * by for step, by in zip(steps, geometry.dilation, strict=True)),
                1,
            ),
        )
        columns = scratch("columns", tuple(windows.shape), wide)
        columns.copy_(windows)
        return columns.view(count * groups, self.shape.positions, self.shape.inputs)

    def right(self, rows: slice) -> torch.Tensor:
        """Return the other side of the weight at each position."""
        narrow = self._narrow[rows]
        return narrow.reshape(-1, self.shape.outputs, self.shape.positions)

    def direct(self) -> torch.Tensor | None:
        """Return the gradients of a convolution in which each row is a group of its own."""
        each, outputs = self._weight.shape[1], self.shape.outputs
        suits = (
            self._wide.device.type == "cpu"
            and not self._pointwise
            and self.shape.positions >= _FEWEST_DIRECT
            and (each == 1 or each % 8 == 0)
            and outputs % 8 == 0
            and each * outputs <= _WIDEST_DIRECT
        )
        if not suits:
            return None
        joined = Geometry(
            stride=self._geometry.stride,
            padding=self._geometry.padding,
            dilation=self._geometry.dilation,
            groups=self.rows * self._geometry.groups,
        )
        size = (self.rows * self._weight.shape[0], *self._weight.shape[1:])
        made = joined.backward(
            self._narrow.reshape(1, -1, *self._narrow.shape[2:]),
            self._wide.reshape(1, -1, *self._wide.shape[2:]),
            self._weight.new_empty(1).expand(size),  # only its shape is read
            to_source=False,
        )
        return made.view(self.rows, -1)

    def total(self, factors: torch.Tensor, alive: torch.Tensor | None) -> torch.Tensor:
        """Return the weight gradient of the scaled batch, by torch's own kernel."""
        source, gradient = self._source, self._gradient
        across = (-1, *(1,) * (source.dim() - 1))
        if alive is not None:
            source = source.masked_fill(~alive.view(across), 0)
            gradient = gradient.masked_fill(~alive.view(across), 0)
        if source.numel() < gradient.numel():
            source = source * factors.view(across)
        else:
            gradient = gradient * factors.view(across)
        return self._geometry.backward(gradient, source, self._weight, to_source=False)

    def shaped(self, total: torch.Tensor) -> torch.Tensor:
        """Return the weight's order: channels before the kernel."""
        size = (self._weight.shape[0], *self._kernel, self._weight.shape[1])
        return total.view(size).movedim(-1, 1).contiguous()


class Convolution(Rule):
    """Convolution, transposed or not, of any dimension, stride, dilation, groups and padding."""

    def prepare(self, module: Any, source: torch.Tensor) -> torch.Tensor:
        """Pad by hand where the padding is not the same zeros on both sides."""
        if source.dim() != module.weight.dim():
            raise ValueError(f"a convolution was given {source.dim()} dimensions, not a batch")
        if not self._by_hand(module):
            return source
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        pads = module._reversed_padding_repeated_twice
        return functional.pad(source, pads, mode=mode)

    def _by_hand(self, module: Any) -> bool:
        uneven = module.padding == "same" and any(
            by * (size - 1) % 2
            for by, size in zip(module.dilation, module.kernel_size, strict=True)
        )
        return module.padding_mode != "zeros" or uneven

    def _geometry(self, module: Any) -> Geometry:
        kernel = module.kernel_size
        if self._by_hand(module) or module.padding == "valid":
            padding = (0,) * len(kernel)
        elif module.padding == "same":
            padding = tuple(
                by * (size - 1) // 2 for by, size in zip(module.dilation, kernel, strict=True)
            )
        else:
            padding = tuple(module.padding)
        return Geometry(
            stride=tuple(module.stride),
            padding=padding,
            dilation=tuple(module.dilation),
            groups=module.groups,
            transposed=module.transposed,
            output_padding=tuple(module.output_padding),
        )

    def filters(self, module: Any) -> tuple[torch.Tensor, ...]:
        """Return what the input is convolved with, and what :meth:`outer` needs beside it."""
        return (module.weight,)

    def outer(
        self, module: Any, geometry: Geometry, filters: Saved, **sides: torch.Tensor
    ) -> ConvolutionOuter:
        """Return one use of the weight, given ``source`` and ``gradient``."""
        del filters
        return ConvolutionOuter(module.weight, geometry, **sides)

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Convolve."""
        geometry, filters = self._geometry(module), self.filters(module)
        made = torch.ops.aten.convolution(
            source,
            filters[0],
            module.bias,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.transposed,
            geometry.output_padding,
            geometry.groups,
        )
        return made, (geometry, filters)

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
        """Enter weight and bias."""
        geometry, filters = saved
        gradient = gradient.contiguous()
        if trains(module.weight):
            outer = self.outer(module, geometry, filters, source=source, gradient=gradient)
            enter(book, module.weight, outer)
        if trains(module.bias):
            enter_bias(book, module.bias, gradient.flatten(2).sum(2))
        if not wanted:
            return None
        made: torch.Tensor = geometry.backward(gradient, source, filters[0], to_source=True)
        return made
