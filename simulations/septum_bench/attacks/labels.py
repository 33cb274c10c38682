"""Which labels were in the batch, read off the bias of the head: milliseconds, no image needed.

The gradient of the head's bias is what the loss sends back for each output,
summed over the batch, and it differs by whether the label is there. For one
image the sign tells (iDLG, Zhao et al. 2020, arXiv:2001.02610); for a batch the
counts follow from what public images make the network say (in the manner of
LLG, Wainakh et al. 2022, arXiv:2105.09369).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from torch import nn

from septum import tasks
from septum.errors import ConfigError
from septum.models import trained
from septum_bench.threat import Floats, Grant, View, granted

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Kind = Literal["classification", "multilabel"]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadView(View):
    """Everything that label inference may read.

    Attributes:
      network: With the weights before the step.
      loss: Of each image, ``(outputs, labels) -> (images,)``.
      task: Whether an image has one class or any number of labels.
      observed: The mean gradient of the batch, float32 (params,); its last
        entries are those of the head's bias.
      batch: Images in the batch.
      public_images: Float32 (n, 1, side, side) in [0, 1], non-members.
    """

    network: nn.Module = granted(Grant.MODEL, repr=False)
    loss: Loss = granted(Grant.MODEL, repr=False)
    task: Kind = granted(Grant.MODEL)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    batch: int = granted(Grant.LOCAL_TRAINING)
    public_images: Floats = granted(Grant.PUBLIC_IMAGES, repr=False)


def count_labels(view: HeadView) -> Counts:
    """Return how many images of the batch have each label, int64 (outputs,).

    Guarantees:
      - Every count is between 0 and the batch; those of a classification add up to it.
      - Exact if the network says the same of the batch as of public images on
        average, as it does before it has learned.

    Raises:
      ConfigError: The network does not end on a bias of one entry per output.
    """
    images = torch.from_numpy(np.ascontiguousarray(view.public_images, np.float32))
    mode = view.network.training
    view.network.eval()
    with torch.no_grad():
        logits = view.network(tasks.normalise(images)).float()
    view.network.train(mode)
    outputs = logits.shape[1]
    bias = trained(view.network)[-1]
    if bias.shape != (outputs,):
        raise ConfigError(
            f"the network ends on a parameter of shape {tuple(bias.shape)}, not ({outputs},).",
            remedy="Infer labels only where the head has a bias.",
        )
    seen = view.observed[-outputs:].astype(np.float64) * view.batch
    if view.task == "classification":
        each = np.stack([_sent_back(view.loss, logits, row) for row in np.eye(outputs)])
        # Slopes add up to zero in each image, so the size of the batch must be told.
        rows = np.concatenate([each.T, np.ones((1, outputs))])
        shares, _ = nnls(rows, np.append(seen, view.batch))
        return _rounded(shares, view.batch)
    present = _sent_back(view.loss, logits, np.ones(outputs))
    absent = _sent_back(view.loss, logits, np.zeros(outputs))
    counts = (seen - view.batch * absent) / (present - absent)
    return np.clip(np.rint(counts), 0, view.batch).astype(np.int64)


def as_labels(counts: Counts, *, batch: int, task: Kind) -> Floats:
    """Return labels with these counts, float32 (batch, outputs), for an inversion to use.

    The order is arbitrary, as is that of the reconstructions. Which labels of a
    multilabel batch go together no count can tell: they are given to the first
    images in turn.

    >>> as_labels(np.array([1, 2]), batch=3, task="classification").argmax(1).tolist()
    [0, 1, 1]
    """
    if task == "classification":
        return np.eye(len(counts), dtype=np.float32)[np.repeat(np.arange(len(counts)), counts)]
    return (np.arange(batch)[:, None] < counts).astype(np.float32)


def _sent_back(
    loss: Loss, logits: torch.Tensor, label: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean slope of the loss on each logit if every image had ``label``."""
    free = logits.clone().requires_grad_()
    labels = torch.from_numpy(label.astype(np.float32)).expand_as(free)
    (slope,) = torch.autograd.grad(loss(free, labels).sum(), free)
    return np.asarray(slope.mean(dim=0).double().numpy())


def _rounded(shares: npt.NDArray[np.float64], total: int) -> Counts:
    """Return whole numbers that add up to ``total`` (largest remainder)."""
    scaled = (
        shares * (total / shares.sum())
        if shares.sum() > 0
        else np.full_like(shares, total / len(shares))
    )
    counts = np.floor(scaled).astype(np.int64)
    for place in np.argsort(counts - scaled, kind="stable")[: total - int(counts.sum())]:
        counts[place] += 1
    return counts
