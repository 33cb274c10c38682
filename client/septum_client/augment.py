"""Views of an image that tell the same: moved, turned, and of another tone.

Views of one patient are averaged before the clip, so they cost no epsilon and
only lessen what a gradient owes to one pose or exposure (augmentation
multiplicity, De et al. 2022, arXiv:2204.13650). Each view's changes are drawn
from the injected randomness, independently of every pixel and every other
image; no statistic of a batch or a cohort is read.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from septum.study import Study
from septum_client.randomness import Randomness

TURN_DEGREES: Final = 10.0
LOG_ZOOM: Final = 0.16
SHIFT: Final = 1 / 14  # of the side
LOG_GAMMA: Final = 0.4
LOG_CONTRAST: Final = 0.3
BRIGHTNESS: Final = 0.15
NOISE: Final = 0.04
BLUR_PX: Final = 0.8

_REACH_PX: Final = 3
_DARK: Final = 1e-4
_SHARP: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Radiograph:
    """What another pose, detector or exposure makes of a film.

    Args:
      geometry: Turn by up to 10 degrees, zoom by up to 17 %, shift by up to
        1/14 of the side; masks move along.
      tone: Blur, gamma, contrast, brightness and noise.
      mirror: Left and right swapped with probability one half. Wrong where the
        side is part of the finding.

    Guarantees:
      - Image ``i`` of the result depends on image ``i`` and on chance alone.
      - Values stay in [0, 1]; class numbers of a mask stay whole.
    """

    geometry: bool
    tone: bool
    mirror: bool

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, randomness: Randomness
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a view of each image, float32 (images, channels, h, w) in [0, 1], and its target.

        Three streams of draws a call.
        """
        if self.geometry or self.mirror:
            where = _places(randomness, images, geometry=self.geometry, mirror=self.mirror)
            images = _moved(images, where, mode="bilinear")
            if targets.ndim == images.ndim - 1 and targets.ndim > 2:
                masks = targets[:, None].to(torch.float32)
                targets = _moved(masks, where, mode="nearest")[:, 0].to(targets.dtype)
        return (_toned(randomness, images) if self.tone else images), targets


def change_of(study: Study) -> Radiograph | None:
    """Return the study's augmentation, or None if it has none."""
    kind = study.training.augmentation
    if kind == "none":
        return None
    return Radiograph(
        geometry=kind != "tone", tone=kind != "geometry", mirror=study.training.mirror
    )


def _places(
    randomness: Randomness, images: torch.Tensor, *, geometry: bool, mirror: bool
) -> torch.Tensor:
    """Return where each pixel of the view comes from, ``(images, h, w, 2)``."""
    count = len(images)
    draws = torch.from_numpy(randomness.uniform(5 * count)).to(torch.float32).view(5, count)
    turn, zoom, across, down = (2 * draws[:4] - 1) * float(geometry)
    angle = turn * math.radians(TURN_DEGREES)
    scale = torch.exp(zoom * LOG_ZOOM)
    side = torch.where(draws[4] < 0.5, -1.0, 1.0) if mirror else torch.ones(count)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack(
        [
            torch.stack([cosine * side, -sine, 2 * SHIFT * across], dim=1),
            torch.stack([sine * side, cosine, 2 * SHIFT * down], dim=1),
        ],
        dim=1,
    )
    shape = [count, 1, *images.shape[2:]]
    grid: torch.Tensor = functional.affine_grid(
        matrix.to(images.device), shape, align_corners=False
    )
    return grid


def _moved(images: torch.Tensor, where: torch.Tensor, *, mode: str) -> torch.Tensor:
    moved: torch.Tensor = functional.grid_sample(
        images, where, mode=mode, padding_mode="border", align_corners=False
    )
    return moved


def _toned(randomness: Randomness, images: torch.Tensor) -> torch.Tensor:
    count = len(images)
    draws = torch.from_numpy(randomness.uniform(5 * count)).to(images).view(5, count, 1, 1, 1)
    gamma, contrast, brightness, blur = 2 * draws[:4] - 1
    images = _blurred(images.clamp(0, 1), (blur.clamp_min(0) * BLUR_PX).view(count))
    images = images.clamp_min(_DARK) ** torch.exp(LOG_GAMMA * gamma)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - middle) * torch.exp(LOG_CONTRAST * contrast) + middle
    grain = torch.from_numpy(randomness.normal(images.numel())).to(images).view(images.shape)
    toned: torch.Tensor = images + BRIGHTNESS * brightness + NOISE * draws[4] * grain
    return toned.clamp(0, 1)


def _blurred(images: torch.Tensor, width_px: torch.Tensor) -> torch.Tensor:
    """Blur each image by its own Gaussian; half of all draws leave it as it is."""
    count, channels, height, width = images.shape
    steps = torch.arange(-_REACH_PX, _REACH_PX + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-steps.square() / (2 * width_px[:, None].clamp_min(_SHARP).square()))
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = images.reshape(1, count * channels, height, width)
    padded = functional.pad(planes, (_REACH_PX,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernels[:, None, None, :], groups=count * channels)
    down = functional.conv2d(across, kernels[:, None, :, None], groups=count * channels)
    return down.view(images.shape)
