"""Convolutions that standardise their weight: the clip is of the raw weight's gradient."""

from typing import Any, Final

import torch
from torch import nn

from septum.models.standardised import standardise
from septum_client.clipping.convolution import Convolution, ConvolutionOuter, Geometry
from septum_client.clipping.rules import Saved

_CACHED: Final = 1 << 18  # numbers that stay in the cache between two passes


class StandardisedOuter(ConvolutionOuter):
    """One use of a raw weight.

    The gradient at a raw filter is ``factor * (P - filter filterᵀ)`` times the
    one at the standardised filter (:func:`~septum.models.standardised.standardise`).
    The factor goes into the gradient at the output, so that the energy by which
    a norm is rounded up has it too; what is left has operator norm 1.

    Args:
      weight: The raw weight ``(outputs, inputs / groups, *kernel)``.
      geometry: Of the layer.
      filters: The standardised weight.
      factors: ``(outputs,)``.
      source: The layer's input.
      gradient: At the layer's output.
    """

    gram = False

    def __init__(
        self,
        weight: nn.Parameter,
        geometry: Geometry,
        *,
        filters: torch.Tensor,
        factors: torch.Tensor,
        source: torch.Tensor,
        gradient: torch.Tensor,
    ) -> None:
        scaled = gradient * factors.view(1, -1, *[1] * (gradient.dim() - 2))
        super().__init__(weight, geometry, source=source, gradient=scaled)
        self._filters = filters

    def pulled(self, gradients: torch.Tensor, *, direct: bool = False) -> torch.Tensor:
        """Take off each filter's mean, and what lies along the filter."""
        ordered = self._filters if direct else self._filters.movedim(1, -1)
        filters = ordered.flatten(1)
        together = max(1, _CACHED // filters.numel())
        for each in torch.split(gradients.view(-1, *filters.shape), together):
            each.sub_(each.mean(dim=2, keepdim=True))
            along = (each * filters).sum(dim=2, keepdim=True)
            each.addcmul_(along, filters, value=-1)
        return gradients

    def total(self, factors: torch.Tensor, alive: torch.Tensor | None) -> torch.Tensor:
        """Return the raw weight's gradient of the scaled batch."""
        made = super().total(factors, alive).contiguous()
        return self.pulled(made.view(1, -1), direct=True).view_as(made)


class StandardisedConvolution(Convolution):
    """Convolution with standardised filters, of any dimension, stride, dilation and groups."""

    def filters(self, module: Any) -> tuple[torch.Tensor, ...]:
        """Return the standardised weight, and its factors."""
        return standardise(module.weight)

    def outer(
        self, module: Any, geometry: Geometry, filters: Saved, **sides: torch.Tensor
    ) -> ConvolutionOuter:
        """Return one use of the raw weight."""
        standard, factors = filters
        return StandardisedOuter(
            module.weight, geometry, filters=standard, factors=factors, **sides
        )
