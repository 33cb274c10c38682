"""Layers that only Opacus knows: its per-sample gradients, summed by patient."""

import logging
from typing import Any, Final

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from torch import nn

from septum.errors import Code, Refusal
from septum_client.clipping.book import Book
from septum_client.clipping.rules import Rule, Saved

_log: Final = logging.getLogger(__name__)
_told: Final[set[type[nn.Module]]] = set()


class OpacusRule(Rule):
    """A layer by Opacus' registered grad sampler, or by its functorch one where it has none.

    Costs a second forward of the layer and every row's gradient in memory.
    Tells so once for each class.

    Args:
      layer: The layer, whose ``forward`` is still its own.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_LAYER`: Opacus cannot either.
    """

    def __init__(self, layer: nn.Module) -> None:
        kind = type(layer)
        self._sampler = GradSampleModule.GRAD_SAMPLERS.get(kind)
        self._compute = layer.forward
        if self._sampler is None:
            try:
                prepare_layer(layer)
            except (NotImplementedError, RuntimeError, ValueError) as error:
                raise Refusal(
                    Code.UNKNOWN_LAYER,
                    f"neither Septum nor Opacus knows the gradients of a {kind.__name__}.",
                    remedy="Choose a registered network.",
                ) from error
        if kind not in _told:
            _told.add(kind)
            _log.warning(
                "no fast per-patient norm for layers of class %s: left to Opacus, which "
                "needs more time and memory",
                kind.__name__,
            )

    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Compute the layer on a graph of its own."""
        del module
        with torch.enable_grad():
            leaf = source.detach()
            if leaf.is_floating_point():
                leaf.requires_grad_()
            made = self._compute(leaf)
        if not isinstance(made, torch.Tensor):
            raise ValueError("a layer that is left to Opacus must return one tensor")
        return made.detach(), (leaf, made)

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
        """Enter Opacus' gradients of all rows, added up by patient."""
        leaf, made = saved
        rows = book.patients.spread(len(source))
        sampler = self._sampler or ft_compute_per_sample_gradient
        for parameter, sample in sampler(module, [source], gradient).items():
            if parameter.requires_grad:
                book.keep(parameter, rows.total(sample.detach()).clone())
        if not wanted:
            return None
        return torch.autograd.grad(made, leaf, gradient)[0]
