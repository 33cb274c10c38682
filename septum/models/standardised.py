"""Weight standardisation: convolutions whose filters have mean 0 and norm 1, whatever their weight.

Qiao et al. 2019 (arXiv:1903.10520); with norm 1 for each filter, and no gain
of its own beside GroupNorm's, as in De et al. 2022 (arXiv:2204.13650). The
parameter stays the raw weight: it is what is clipped, noised and sent.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

_EPSILON: Final = 1e-4  # De et al.'s least squared norm; here added, which has every derivative
_FEWEST: Final = 3  # of two weights only the sign of their difference would be left, of one nothing


def standardise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each filter with mean 0 and norm just below 1, and the factor that made it so.

    ``filter = factor * (w - mean(w))`` with ``factor = 1 / sqrt(|w - mean(w)|² + 1e-4)``.
    The gradient at ``w`` is ``factor * (P - filter filterᵀ)`` times the one at
    the filter, where ``P`` takes the mean off: linear, the same for every
    patient, and of operator norm at most ``factor``.

    Args:
      weight: ``(outputs, inputs / groups, *kernel)``.

    Returns:
      Filters of the weight's shape, and factors ``(outputs,)``, of at most 100.

    Guarantees:
      - Finite for every finite weight: a filter of equal weights becomes 0, and
        so does one whose squares overflow.
    """
    flat = weight.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    factor = (centred.square().sum(dim=1) + _EPSILON).rsqrt()
    filters = (centred * factor[:, None]).view_as(weight)
    return _finite(filters), _finite(factor)


class _Standardised(_ConvNd):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve with the standardised weight."""
        filters, _ = standardise(self.weight)
        return self._conv_forward(input, filters, self.bias)


class StandardisedConv1d(_Standardised, nn.Conv1d):
    """A :class:`torch.nn.Conv1d` with standardised filters."""


class StandardisedConv2d(_Standardised, nn.Conv2d):
    """A :class:`torch.nn.Conv2d` with standardised filters."""


class StandardisedConv3d(_Standardised, nn.Conv3d):
    """A :class:`torch.nn.Conv3d` with standardised filters."""


STANDARDISED: Final[Mapping[type[nn.Module], type[nn.Module]]] = MappingProxyType(
    {
        nn.Conv1d: StandardisedConv1d,
        nn.Conv2d: StandardisedConv2d,
        nn.Conv3d: StandardisedConv3d,
    }
)
"""torch's class to the one that stands in for it; matched exactly, never by inheritance."""


def standardise_all(model: nn.Module, *, but: Collection[str]) -> None:
    """Let every convolution of ``model`` standardise its weight; names and weights stay.

    Args:
      model: Changed in place.
      but: Names of convolutions that no normalisation follows, or their ends: their
        outputs' scale would be fixed for good. Filters of fewer than three
        weights are left out too.
    """
    for name, layer in model.named_modules():
        stand_in = STANDARDISED.get(type(layer))
        if stand_in is None or any(f".{name}".endswith(f".{end}") for end in but):
            continue
        if layer.get_parameter("weight")[0].numel() >= _FEWEST:
            layer.__class__ = stand_in


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
