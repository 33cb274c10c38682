"""A crafting server's network: its gradient *is* the images, sorted into bins.

The first layer measures one number of each image and has one neuron per
quantile of that number; what one neuron's gradient has more than its
neighbour's is the image between their thresholds (Robbing the Fed, Fowl et
al. 2022, arXiv:2110.13057). Several measurements at once separate images
that one of them confuses. It costs milliseconds, works through sums over a
batch, and needs no optimiser: the defence is to train no such network.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import nn

from septum import tasks
from septum.errors import ConfigError
from septum_bench.attacks.first_layer import bin_contents
from septum_bench.threat import Floats, Grant, View, granted

Images = npt.NDArray[np.float32]

_MARGIN: Final = 0.02
_SAME: Final = 1e-3
_SLOPE: Final = 0.5  # of the head: large enough to hear, small enough not to saturate the loss


class ImprintNetwork(nn.Module):
    """A network made to be answered with images.

    Args:
      directions: What is measured, float32 (measurements, pixels).
      thresholds: Float32 (measurements, bins), rising along each row.
      outputs: Number of logits.
    """

    def __init__(self, directions: Floats, thresholds: Floats, *, outputs: int) -> None:
        super().__init__()
        measurements, bins = thresholds.shape
        self.bins = bins
        self.measure = nn.Linear(directions.shape[1], measurements * bins)
        self.head = nn.Linear(measurements * bins, outputs)
        # Alternating signs keep logits near zero; all that matters is that a row is constant.
        signs = torch.where(torch.arange(outputs) % 2 == 0, 1.0, -1.0)
        with torch.no_grad():
            self.measure.weight.copy_(torch.from_numpy(directions).repeat_interleave(bins, dim=0))
            self.measure.bias.copy_(-torch.from_numpy(thresholds).flatten())
            self.head.weight.copy_(
                (signs * _SLOPE / (measurements * bins))[:, None].expand_as(self.head.weight)
            )
            self.head.bias.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, 1, side, side)``."""
        logits: torch.Tensor = self.head(torch.relu(self.measure(image.flatten(1))))
        return logits


def craft(
    public_images: Floats, *, outputs: int, bins: int, measurements: int, seed: int
) -> ImprintNetwork:
    """Return a network whose bins are equally full of images like the public ones.

    Args:
      public_images: Float32 (n, 1, side, side) in [0, 1].
      outputs: Number of logits that the client's loss expects.
      bins: Neurons of each measurement.
      measurements: The first is the mean brightness, the others are random.
      seed: Of the random measurements.

    Raises:
      ConfigError: Fewer than two bins or no measurement.
    """
    if bins < 2 or measurements < 1:
        raise ConfigError(
            f"{measurements} measurements of {bins} bins sort nothing.",
            remedy="Use at least one measurement of two bins.",
        )
    flat = tasks.normalise(torch.from_numpy(public_images)).flatten(1).numpy().astype(np.float64)
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((measurements, flat.shape[1]))
    directions[0] = 1.0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    seen = flat @ directions.T
    centre, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    # Smoothed quantiles: few public images must not leave wide bins at the ends.
    steps = norm.ppf((np.arange(bins) + 0.5) / bins)
    thresholds = centre[:, None] + 1.2 * spread[:, None] * steps
    thresholds[:, 0] = centre - 12 * spread
    return ImprintNetwork(
        directions.astype(np.float32), thresholds.astype(np.float32), outputs=outputs
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImprintView(View):
    """Everything that the crafting server may read: its own network, and the answer.

    Attributes:
      network: The network that it sent.
      observed: The gradient that came back, float32 (params,).
      side: Pixels of a side.
    """

    network: ImprintNetwork = granted(Grant.CRAFTED_MODEL, repr=False)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    side: int = granted(Grant.MODEL)


def recover(view: ImprintView) -> Images:
    """Return the images that the gradient holds, most often seen first.

    Returns:
      Float32 ``(found, side, side)`` in [0, 1], without duplicates; images that
      shared every bin come out as mixtures, and noise as noise.

    Guarantees:
      - An image alone in a bin of any measurement is among them, exactly to
        float32 rounding, if the gradient is plain.
      - Those that several measurements agree on come first.
    """
    weight = view.network.measure.weight
    rows, pixels = weight.shape
    gradient = view.observed[: rows * pixels].reshape(rows, pixels)
    bias = view.observed[rows * pixels : rows * pixels + rows]
    low, high = tasks.normalise(torch.tensor([0.0, 1.0])).tolist()
    found: list[npt.NDArray[np.float64]] = []
    votes: list[int] = []
    for start in range(0, rows, view.network.bins):
        ladder = slice(start, start + view.network.bins)
        for content in bin_contents(gradient[ladder], bias[ladder]):
            grey = (content - low) / (high - low)
            if not np.isfinite(grey).all():
                continue
            plausible = grey.min() > -_MARGIN and grey.max() < 1 + _MARGIN
            for place, other in enumerate(found):
                if np.abs(other - grey).mean() < _SAME:
                    votes[place] += 1
                    break
            else:
                found.append(grey)
                votes.append(1 if plausible else 0)
    order = np.argsort(-np.array(votes, dtype=np.int64), kind="stable")
    shape = (-1, view.side, view.side)
    stacked = np.array([found[place] for place in order]).reshape(shape)
    return np.asarray(np.clip(stacked, 0, 1), dtype=np.float32)
