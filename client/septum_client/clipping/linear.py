"""Linear layers, lookup tables and slopes."""

from typing import Any, Final

import torch
from torch.nn import functional

from septum_client.clipping.book import Book
from septum_client.clipping.outer import Outer, Shape, enter
from septum_client.clipping.rules import Rule, Saved, enter_bias, trains

_ALIGNED: Final = 16  # numbers of a cache line, which kernels take at once


class LinearOuter(Outer):
    """One use of a linear layer's weight, on rows of any number of positions."""

    def __init__(self, source: torch.Tensor, gradient: torch.Tensor) -> None:
        rows = source.shape[0]
        self._source = source.reshape(rows, -1, source.shape[-1])
        self._gradient = gradient.reshape(rows, -1, gradient.shape[-1])
        self.rows, self.like = rows, gradient
        self.shape = Shape(
            groups=1,
            positions=self._source.shape[1],
            inputs=self._source.shape[2],
            outputs=self._gradient.shape[2],
        )

    def left(self, rows: slice) -> torch.Tensor:
        """Return the inputs."""
        return self._source[rows]

    def right(self, rows: slice) -> torch.Tensor:
        """Return the gradients."""
        return self._gradient[rows].mT

    def total(self, factors: torch.Tensor, alive: torch.Tensor | None) -> torch.Tensor:
        """Return the product of the scaled batch."""
        source, gradient = self._source, self._gradient
        if alive is not None:
            source = source.masked_fill(~alive.view(-1, 1, 1), 0)
            gradient = gradient.masked_fill(~alive.view(-1, 1, 1), 0)
        if self.shape.inputs < self.shape.outputs:  # the smaller side is the cheaper to scale
            source = source * factors.view(-1, 1, 1)
        else:
            gradient = gradient * factors.view(-1, 1, 1)
        return gradient.flatten(0, 1).T @ source.flatten(0, 1)

    def shaped(self, total: torch.Tensor) -> torch.Tensor:
        """Return the weight's shape."""
        return total.view(self.shape.outputs, self.shape.inputs)


class Linear(Rule):
    """Linear layer, on ``(rows, inputs)`` or with positions between."""

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Multiply. Rows begin alike in memory, or their places would show in the last bit."""
        wider = (0, -source.shape[-1] % _ALIGNED)
        weight = functional.pad(module.weight, wider) if wider[1] else module.weight
        source = functional.pad(source, wider) if wider[1] else source
        return functional.linear(source, weight, module.bias), ()

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
        del saved
        if source.dim() < 2:
            raise ValueError("a linear layer was given one vector, not a batch")
        if trains(module.weight):
            enter(book, module.weight, LinearOuter(source, gradient))
        if trains(module.bias):
            rows = gradient.reshape(len(gradient), -1, gradient.shape[-1]).sum(1)
            enter_bias(book, module.bias, rows)
        return gradient @ module.weight if wanted else None


class Embedding(Rule):
    """Embedding table; a padding index is never trained."""

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Look up."""
        if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
            raise ValueError("max_norm, scale_grad_by_freq and sparse tie patients together")
        return functional.embedding(source, module.weight), ()

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
        """Enter the table."""
        del saved, wanted
        rows, (words, size) = len(source), module.weight.shape
        patients = book.patients.spread(rows)
        made = gradient.new_zeros((patients.count + 1) * words, size)
        who = patients.of_row.view(rows, 1)
        places = (who * words + source.reshape(rows, -1)).flatten()
        made.index_add_(0, places, gradient.reshape(-1, size))
        made = made.view(patients.count + 1, words, size)[: patients.count]
        if module.padding_idx is not None:
            made[:, module.padding_idx] = 0
        book.keep(module.weight, made)
        return None


class PReLU(Rule):
    """PReLU with one slope, or one for each channel."""

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Bend."""
        return functional.prelu(source, module.weight), ()

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
        """Enter the slopes."""
        del saved
        rows, slopes = len(source), module.weight.numel()
        by = (gradient * source.clamp_max(0)).reshape(rows, slopes, -1).sum(2)
        enter_bias(book, module.weight, by)
        if not wanted:
            return None
        slope = module.weight.view(1, -1, *(1,) * (source.dim() - 2))
        return torch.where(source > 0, gradient, gradient * slope)
