"""What the network learns: normalisation, loss and probabilities.

Every loss here is per image and has no reduction, no class weight taken from
a batch and no other tie between images, so that one patient's gradient does
not depend on another's (a class-weighted mean does).
"""

from typing import Final

import torch
from torch.nn import functional

_CENTRE: Final = 0.5
_SPREAD: Final = 0.25


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Map grey values from [0, 1] to [-2, 2] by public constants; any float dtype to float32."""
    return (images.to(torch.float32) - _CENTRE) / _SPREAD


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the multi-label cross-entropy of each image, shape ``(images,)``.

    Args:
      logits: Shape ``(images, labels)``, float32.
      labels: Same shape; 1 where the finding is present, else 0.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ")
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
