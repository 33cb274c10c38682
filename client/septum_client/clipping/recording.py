"""Where autograd meets the book: the functions that stand in for layers and held weights."""

from typing import Any

import torch
from torch import nn

from septum_client.clipping.book import Book
from septum_client.clipping.rules import Rule


class Recorded(torch.autograd.Function):
    """One use of a layer: its output; backward, its input's gradient and an entry in the book.

    The parameters are inputs so that autograd comes by; they are given no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: torch.Tensor,
        layer: nn.Module,
        rule: Rule,
        book: Book,
        *parameters: nn.Parameter,
    ) -> torch.Tensor:
        """Compute the layer."""
        made, saved = rule.forward(layer, source)
        ctx.save_for_backward(source)
        ctx.layer, ctx.rule, ctx.book, ctx.rest = layer, rule, book, saved
        ctx.uses = len(parameters)
        book.use(parameters, source.numel() * source.element_size())
        return made

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Enter the parameters' gradients and pass on the input's."""
        (source,) = ctx.saved_tensors
        saved, ctx.rest = ctx.rest, ()
        to_source = ctx.rule.backward(
            ctx.layer, source, saved, gradient, wanted=ctx.needs_input_grad[0], book=ctx.book
        )
        return to_source, None, None, None, *[None] * ctx.uses


class Held(torch.autograd.Function):
    """A weight of shape ``(1, ...)`` that is added or joined to each image: one copy for each."""

    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, book: Book) -> torch.Tensor:
        """Return the weight once for each row of the batch."""
        ctx.parameter, ctx.book = parameter, book
        book.use((parameter,), 0)
        return parameter.expand(book.patients.batch, *parameter.shape[1:]).clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        """Enter the gradient of each row."""
        ctx.book.keep(ctx.parameter, ctx.book.patients.total(gradient))
        return None, None
