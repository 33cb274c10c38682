"""Each patient's gradient, by means that share nothing with the client's clipping.

What is under audit must not also be the ruler, so this is plain ``torch.func``
on a copy of the network: slower, and simple enough to be read.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from septum import tasks

Floats = npt.NDArray[np.float32]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_NUMBERS: Final = 1 << 23  # of per-image gradients that are held at once


def patient_gradients(
    network: nn.Module,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    counts: Sequence[int],
    *,
    loss: Loss,
) -> Floats:
    """Return the gradient of each patient's mean loss, unclipped: float32 (patients, params).

    Args:
      network: With the weights at which the gradients are wanted; nothing has
        replaced its layers' ``forward``.
      pixels: Float32 (rows, channels, [depth,] h, w) in [0, 1].
      targets: What to learn of each row.
      counts: Rows of each patient; a patient's rows are adjacent.
      loss: Loss of each row, ``(outputs, targets) -> (rows,)``.

    Guarantees:
      - Columns are in the order of :func:`septum.models.to_vector`.
    """
    values = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    size = sum(value.numel() for value in values.values())

    def row_loss(
        weights: dict[str, torch.Tensor], image: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        outputs = functional_call(network, weights, (tasks.normalise(image[None]),))
        return loss(outputs, target[None]).sum()

    one_row = grad(row_loss)
    per_row = vmap(one_row, in_dims=(None, 0, 0))
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    made = torch.zeros((len(counts), size))
    most = max(1, _NUMBERS // size)
    for start in range(0, len(owner), most):
        rows = slice(start, start + most)
        try:
            named = per_row(values, pixels[rows], targets[rows])
        except RuntimeError:
            # Some layers and losses ask for a number's value, which vmap does not batch.
            each = [one_row(values, *row) for row in zip(pixels[rows], targets[rows], strict=True)]
            named = {name: torch.stack([row[name] for row in each]) for name in values}
        flat = torch.cat([named[name].flatten(1) for name in values], dim=1)
        made.index_add_(0, owner[rows], flat.to("cpu", torch.float32))
    divisor = torch.tensor(counts, dtype=torch.float32).clamp(min=1.0)
    return np.asarray((made / divisor[:, None]).numpy())


def clip_factors(norms: npt.NDArray[np.float64], *, clip: float, automatic: bool) -> Floats:
    """Return what the mechanism says a gradient of each norm is multiplied by.

    ``flat``: ``min(1, clip / norm)`` (Abadi et al. 2016, arXiv:1607.00133);
    ``automatic``: ``clip / (norm + 0.01)`` (Bu et al. 2023, arXiv:2206.07136).
    A gradient that is not finite counts for nothing.
    """
    if automatic:
        factors = clip / (norms + 0.01)
    else:
        factors = np.minimum(1.0, clip / np.maximum(norms, 1e-30))
    return np.where(np.isfinite(norms), factors, 0.0).astype(np.float32)
