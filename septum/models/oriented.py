"""A linear network on public features: what little is learnt, little noise covers."""

import math
from importlib import resources
from typing import Final, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from septum.catalogue import TAKES

SIDE: Final = TAKES["oriented_linear"].least
STATISTICS: Final = "oriented_statistics.npy"

_GRID: Final = 7
_ANGLES: Final = 8
_LEVELS: Final = 3
_REACH_PX: Final = 3
_FREQUENCY: Final = 2.2  # radians per pixel
_ACROSS_PX: Final = 1.0
_ALONG: Final = 1.7  # length of a filter along its edge, in widths
_SLACK: Final = 0.2  # of a feature's public spread, so that a dull one is not blown up

FEATURES: Final = _GRID * _GRID * (1 + _LEVELS * _ANGLES)


def energies(image: torch.Tensor, filters: torch.Tensor, binomial: torch.Tensor) -> torch.Tensor:
    """Return the texture energy of an image by place, scale and direction.

    The root of the modulus of complex Gabor filters in eight directions at
    three scales, averaged over a grid of 7 by 7, and the image itself on that
    grid: the first order of a scattering transform (Bruna and Mallat 2013,
    arXiv:1203.1513; Oyallon and Mallat 2015, arXiv:1412.8659). Each scale is
    normalised within one image, so that a change of contrast changes little.

    Args:
      image: ``(batch, 1, 28, 28)``.
      filters: From :func:`gabors`.
      binomial: Low-pass before each halving, ``(1, 1, 5, 5)``.

    Returns:
      ``(batch, 1225)``, mean 0 and spread 1 within each scale.
    """
    parts = [functional.adaptive_avg_pool2d(image, _GRID)]
    for level in range(_LEVELS):
        if level:
            padded = functional.pad(image, (2,) * 4, mode="replicate")
            image = functional.conv2d(padded, binomial, stride=2)
        padded = functional.pad(image, (_REACH_PX,) * 4, mode="replicate")
        real, imaginary = functional.conv2d(padded, filters).chunk(2, dim=1)
        modulus = (real.square() + imaginary.square() + 1e-8).sqrt()
        parts.append(functional.adaptive_avg_pool2d(modulus, _GRID).sqrt())
    scales = [functional.group_norm(part, 1, eps=1e-6) for part in parts]
    return torch.cat(scales, dim=1).flatten(1)


def gabors() -> torch.Tensor:
    """Return eight complex Gabor filters without mean: real parts, then imaginary ones."""
    steps = torch.arange(-_REACH_PX, _REACH_PX + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    real, imaginary = [], []
    for angle in range(_ANGLES):
        turn = math.pi * angle / _ANGLES
        across = math.cos(turn) * x + math.sin(turn) * y
        along = (math.cos(turn) * y - math.sin(turn) * x) / _ALONG
        window = torch.exp(-(across.square() + along.square()) / (2 * _ACROSS_PX**2))
        even = window * torch.cos(_FREQUENCY * across)
        odd = window * torch.sin(_FREQUENCY * across)
        even = even - window * (even.sum() / window.sum())
        norm = (even.square().sum() + odd.square().sum()).sqrt()
        real.append(even / norm)
        imaginary.append(odd / norm)
    return torch.stack(real + imaginary)[:, None]


class OrientedEnergy(nn.Module):
    """The public front end of :class:`OrientedLinear`: constants alone.

    Features are centred and scaled by the means and spreads that they have on
    Septum's phantoms, which are nobody's images
    (``benchmarks/oriented_statistics.py``): the direction that all chests share
    would fill the clip of every patient.

    Args:
      statistics: Means and spreads, ``(2, 1225)``; the packaged ones unless given.
    """

    def __init__(self, statistics: torch.Tensor | None = None) -> None:
        super().__init__()
        if statistics is None:
            statistics = _packaged()
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("filters", gabors(), persistent=False)
        self.register_buffer("binomial", (row[:, None] * row)[None, None], persistent=False)
        self.register_buffer("mean", statistics[0], persistent=False)
        self.register_buffer("spread", statistics[1] + _SLACK, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, 1225 * channels)`` of norm about 1 for ``(batch, channels, h, w)``."""
        batch, channels = image.shape[:2]
        image = functional.adaptive_avg_pool2d(image, SIDE).reshape(-1, 1, SIDE, SIDE)
        found = energies(image, self.get_buffer("filters"), self.get_buffer("binomial"))
        scaled = (found - self.get_buffer("mean")) / self.get_buffer("spread")
        # By a constant: features on unseen hospitals spread by 1.2 where the phantoms' do by 1.
        return scaled.reshape(batch, channels * FEATURES) / (1.2 * math.sqrt(channels * FEATURES))


class OrientedLinear(nn.Module):
    """Public features and one linear layer: 1,226 parameters for one label.

    With little data DP-SGD on fixed features beats DP-SGD on pixels (Tramèr
    and Boneh 2021, arXiv:2011.11660), and noise grows with the square root of
    the parameters. The image is first averaged to 28 by 28: what is smaller
    than a few of those pixels is not seen.

    Args:
      channels: Channels of the input image.
      outputs: Number of logits.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.features = OrientedEnergy()
        self.head = nn.Linear(channels * FEATURES, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, channels, h, w)``."""
        return cast(torch.Tensor, self.head(self.features(image)))


def _packaged() -> torch.Tensor:
    with resources.files(__package__).joinpath(STATISTICS).open("rb") as file:
        return torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
