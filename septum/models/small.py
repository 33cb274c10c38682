"""Septum's own small network, for pictures and for volumes."""

import math
from itertools import pairwise
from typing import Final

import torch
from torch import nn
from torch.nn import functional

_CONVOLUTIONS: Final = {2: nn.Conv2d, 3: nn.Conv3d}


class BandPass(nn.Module):
    """A public front end: differences of Gaussians at four scales, each of unit contrast.

    The filters are constants, the same in every study, so they cost no
    privacy, and what is left to learn under noise is small. With little data,
    DP-SGD on fixed features beats DP-SGD on pixels (Tramèr and Boneh 2021,
    arXiv:2011.11660). Scales are in pixels of the training image.
    """

    SCALES_PX: Final = (0.7, 1.1, 1.7, 2.6, 4.0)

    def __init__(self) -> None:
        super().__init__()
        for index, scale in enumerate(self.SCALES_PX):
            reach = int(3 * scale + 0.5)
            offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
            kernel = torch.exp(-(offsets**2) / (2 * scale**2))
            self.register_buffer(f"kernel_{index}", kernel / kernel.sum(), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return bands ``(batch, 4 * channels, [d,] h, w)`` of ``(batch, channels, [d,] h, w)``."""
        smooth = [self._blur(image, kernel) for kernel in self.buffers()]
        bands = torch.cat([fine - coarse for fine, coarse in pairwise(smooth)], dim=1)
        contrast = bands.square().mean(dim=tuple(range(2, bands.ndim)), keepdim=True).sqrt()
        return bands / (contrast + 1e-3)

    @staticmethod
    def _blur(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        channels, dims, reach = image.shape[1], image.ndim - 2, len(kernel) // 2
        convolve = functional.conv2d if dims == 2 else functional.conv3d
        image = functional.pad(image, (reach, reach) * dims, mode="replicate")
        for axis in reversed(range(dims)):
            along = [1] * (2 + dims)
            along[2 + axis] = -1
            each = kernel.view(along).repeat(channels, 1, *[1] * dims)
            image = convolve(image, each, groups=channels)
        return image


class SmallCNN(nn.Module):
    """Public band-pass filters, four convolutions, a smooth maximum over positions.

    About 20 thousand parameters in 2D, and so few are a privacy feature: the
    norm of DP-SGD's noise grows with the square root of their number. The
    activation is smooth (Papernot et al. 2021, arXiv:2007.14191), and the
    log-sum-exp over positions lets one small finding decide an image.

    Args:
      channels: Channels of the input image.
      outputs: Number of logits.
      dims: 2 for pictures, 3 for volumes.
    """

    def __init__(self, channels: int, outputs: int, *, dims: int = 2) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[dims]
        layers: list[nn.Module] = [BandPass()]
        before = channels * (len(BandPass.SCALES_PX) - 1)
        for width, stride in ((16, 2), (24, 2), (32, 2), (32, 1)):
            layers += [
                convolution(before, width, kernel_size=3, stride=stride, padding=1),
                nn.GroupNorm(4, width),
                nn.SiLU(),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = convolution(before, outputs, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, channels, [d,] h, w)``."""
        evidence: torch.Tensor = self.head(self.features(image)).flatten(2)
        return torch.logsumexp(evidence, dim=2) - math.log(evidence.shape[2])
