"""The attacker's own smooth copy of a rectifier, whose slope says which way a unit would switch.

A gradient of a ReLU network jumps wherever a unit switches on, and the slope
of gradient matching knows nothing of the jumps: descent on it stalls. The
attacker computes with softplus instead and sharpens it towards the network's
own ReLU as it comes near: a homotopy. On an image of
``benchmarks/audit`` it was worth 16 dB at equal steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RECTIFIERS: Final = frozenset({functional.relu, torch.relu, torch.Tensor.relu})
_LEAST_SPREAD: Final = 1e-6


class SmoothRelu(TorchFunctionMode):
    """Within this context every ReLU is a softplus.

    Args:
      sharpness: How steep, in standard deviations of the layer's input; a few
        is smooth, a hundred is almost a ReLU.

    >>> with SmoothRelu(sharpness=100.0):
    ...     soft = torch.relu(torch.tensor([-1.0, 2.0]))
    >>> bool(torch.allclose(soft, torch.tensor([0.0, 2.0]), atol=1e-3))
    True
    """

    def __init__(self, *, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute ``func``, or softplus in the place of a ReLU."""
        del types
        if func not in _RECTIFIERS:
            return func(*args, **(kwargs or {}))
        values: torch.Tensor = args[0] if args else (kwargs or {})["input"]
        steepness = self.sharpness / values.detach().std().clamp_min(_LEAST_SPREAD)
        return functional.softplus(values * steepness) / steepness
