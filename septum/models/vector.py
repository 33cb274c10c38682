"""Trained weights as the one flat vector that crosses the wall, and back."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from septum.errors import Code, Refusal

Vector = npt.NDArray[np.float32]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes, in registry order; frozen ones stay home."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def to_vector(model: nn.Module) -> Vector:
    """Return the trained parameters as one float32 vector ``(params,)``, in registry order."""
    parts = [p.detach().reshape(-1).to("cpu", torch.float32) for p in trained(model)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def load_vector(model: nn.Module, vector: Vector) -> None:
    """Write ``vector`` of shape ``(params,)`` into the trained parameters of ``model``.

    Raises:
      Refusal: With :attr:`Code.MODEL_MISMATCH`, if the length or dtype differs
        or a value is not finite.
    """
    expected = parameter_count(model)
    if vector.dtype != np.float32 or vector.shape != (expected,):
        raise Refusal(
            Code.MODEL_MISMATCH,
            f"the model vector is {vector.dtype}{vector.shape}; "
            f"this network takes float32({expected},).",
            remedy="Start the round from the study's own model.",
        )
    if not np.isfinite(vector).all():
        raise Refusal(
            Code.MODEL_MISMATCH,
            "the model vector holds a value that is not finite.",
            remedy="Resume the study from its last good checkpoint.",
        )
    values = torch.from_numpy(vector.copy())
    offset = 0
    with torch.no_grad():
        for parameter in trained(model):
            count = parameter.numel()
            parameter.copy_(values[offset : offset + count].view_as(parameter))
            offset += count


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(p.numel() for p in trained(model))
