"""What an attacker may believe about an image that it never saw: a Gaussian over images.

Learned from public images (principal components, and a stationary rest measured
on a held-out half) or, without any, the power law that natural and medical
images share (Field 1987). Coordinates under it are the attack's unknowns: coarse
patterns move first and detail follows, which no step on pixels does.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import dct, dctn

Images = npt.NDArray[np.float32]

_MOST_COMPONENTS: Final = 100
_MOST_PUBLIC: Final = 512
_TINY: Final = 1e-12
_FAINTEST: Final = 1e-4  # a detail absent from public images is unlikely, never impossible
_CONTRAST: Final = 0.25  # spread of grey values of a picture that fills [0, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePrior:
    """What public images say about an unseen one: mean + components + stationary rest.

    Attributes:
      mean: Shape ``(size, size)``.
      components: Principal components times their standard deviations,
        ``(k, size * size)``.
      spectrum: Standard deviation of each cosine coefficient of what the
        components leave, ``(size, size)``.
    """

    mean: torch.Tensor
    components: torch.Tensor
    spectrum: torch.Tensor
    cosines: torch.Tensor

    @classmethod
    def fit(cls, images: Images, *, seed: int, device: torch.device) -> "ImagePrior":
        """Fit to images ``(n, 1, size, size)``; the rest is measured on a held-out half."""
        order = np.random.default_rng(seed).permutation(len(images))[:_MOST_PUBLIC]
        size, half = images.shape[-1], len(order) // 2
        flat = images[order].reshape(len(order), -1).astype(np.float64)
        mean, components = _principal(flat, min(_MOST_COMPONENTS, half))
        half_mean, half_components = _principal(flat[:half], min(_MOST_COMPONENTS, half))
        length = np.linalg.norm(half_components, axis=1, keepdims=True)
        unit = half_components / np.maximum(length, _TINY)
        rest = flat[half:] - half_mean
        rest -= (rest @ unit.T) @ unit
        waves = dctn(rest.reshape(-1, size, size), axes=(1, 2), norm="ortho")

        def tensor(values: npt.NDArray[np.float64]) -> torch.Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)

        return cls(
            mean=tensor(mean.reshape(size, size)),
            components=tensor(components),
            spectrum=tensor(np.maximum(np.sqrt((waves**2).mean(axis=0)), _FAINTEST)),
            cosines=tensor(dct(np.eye(size), axis=0, norm="ortho")),
        )

    @classmethod
    def natural(cls, side: int, *, device: torch.device) -> "ImagePrior":
        """Return the prior of somebody who has no public image: amplitude falls as 1/frequency.

        Args:
          side: Pixels of a side.
          device: Where to compute.
        """
        wave = torch.arange(side, dtype=torch.float32, device=device)
        spectrum = 1 / (1 + (wave[:, None].square() + wave.square()).sqrt())
        cosines = dct(np.eye(side), axis=0, norm="ortho").astype(np.float32)
        return cls(
            mean=torch.full((side, side), 0.5, device=device),
            components=torch.zeros((0, side * side), device=device),
            spectrum=spectrum * (_CONTRAST * side / spectrum.norm()),
            cosines=torch.from_numpy(cosines).to(device),
        )

    def render(self, shape: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """Return images ``(n, 1, size, size)`` at coordinates ``(n, k)``, ``(n, size, size)``."""
        size = self.mean.shape[-1]
        global_part = (shape @ self.components).view(-1, size, size)
        local_part = self.cosines.T @ (self.spectrum * rest) @ self.cosines
        return (self.mean + global_part + local_part).unsqueeze(1)

    def coordinates(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return coordinates that render to images ``(n, 1, size, size)``, all in the rest."""
        waves = self.cosines @ (images[:, 0] - self.mean) @ self.cosines.T
        shape = torch.zeros((len(images), len(self.components)), device=images.device)
        return [shape, waves / self.spectrum]


def _principal(
    flat: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean and ``count`` components times their standard deviations."""
    mean = flat.mean(axis=0)
    centred = flat - mean
    # The Gram matrix is images by images: far smaller than pixels by pixels.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    strongest = np.argsort(values)[::-1][:count]
    return mean, (vectors[:, strongest].T @ centred) / np.sqrt(len(flat))
