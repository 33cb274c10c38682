"""Which part of a network trains: all of it, its head, or low-rank updates beside a frozen part.

What does not train is public: it comes from the registry's seed or from a
weights file whose digest the study names. It is no part of the vector that
crosses the wall, and no noise is added to it.
"""

import math
from typing import Final

import torch
from torch import nn

_SCALE: Final = 1.0


class LowRank(nn.Module):
    """A frozen linear layer plus ``up(down(x))``, both plain linear layers (LoRA).

    Starts as the frozen layer, because ``up`` starts at zero (Hu et al. 2022,
    arXiv:2106.09685). Being made of :class:`torch.nn.Linear`, any per-patient rule for
    these holds for it.
    """

    def __init__(self, base: nn.Linear, *, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(..., out_features)`` for ``(..., in_features)``."""
        result: torch.Tensor = self.base(x) + self.up(self.down(x)) * _SCALE
        return result

    def merged(self) -> nn.Linear:
        """Return one linear layer that computes the same."""
        with torch.no_grad():
            self.base.weight.add_(self.up.weight @ self.down.weight, alpha=_SCALE)
        return self.base


def freeze(model: nn.Module, *, head: str, rank: int = 0) -> None:
    """Freeze all of ``model`` but the layer called ``head``, and add LoRA of ``rank`` elsewhere."""
    model.requires_grad_(False)
    last = model.get_submodule(head)
    last.requires_grad_(True)
    if not rank:
        return
    inside = set(last.modules())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child not in inside:
                setattr(parent, name, LowRank(child, rank=rank))


def merge(model: nn.Module) -> None:
    """Fold every LoRA update into its frozen layer; the function stays, up to rounding."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRank):
                setattr(parent, name, child.merged())


def set_bias(model: nn.Module, values: torch.Tensor, *, head: str) -> None:
    """Write ``values`` of shape ``(outputs,)`` into the bias of the layer called ``head``.

    Raises:
      ValueError: The layer has no bias of that shape.
    """
    bias = model.get_submodule(head).bias
    if not isinstance(bias, nn.Parameter) or bias.numel() != math.prod(values.shape):
        raise ValueError(f"layer {head} has no bias of {math.prod(values.shape)} values")
    with torch.no_grad():
        bias.copy_(values)
