"""What of an image survives being reconstructed: coordinates in which a bad copy is near its own.

Learned from images of nobody in the study: each is blurred, moved, brightened
and made noisy, as inversions do, and directions count by how much more images
differ in them than an image and its copies (Fisher 1936). Linear and in
closed form, so it costs a second and the same images give the same ranks.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from septum.errors import DataError

Images = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

FEWEST: Final = 16
"""Images below which nothing is learned."""

_MOST: Final = 512
_COMPONENTS: Final = 64
_COPIES: Final = 4
_RIDGE: Final = 1e-2  # of the mean variance within: directions never disturbed are not infinite
_BLUR_PX: Final = (0.5, 3.0)
_SHIFT_PX: Final = 2
_NOISE: Final = 0.1
_TONE: Final = 0.15
_TINY: Final = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
    """A linear map of images, by which copies of one image are alike and images are not.

    Attributes:
      mean: Of the images it learned from, float64 (pixels,).
      basis: Float64 (pixels, coordinates).
    """

    mean: Doubles = field(repr=False)
    basis: Doubles = field(repr=False)

    @classmethod
    def fit(cls, images: Images, *, rng: np.random.Generator) -> "Embedder":
        """Learn from images ``(n, side, side)`` in [0, 1].

        Raises:
          DataError: There are fewer than :data:`FEWEST`.
        """
        if len(images) < FEWEST:
            raise DataError(
                f"{len(images)} images teach no embedder; {FEWEST} do.",
                remedy="Rank by correlation instead.",
            )
        chosen = images[rng.permutation(len(images))[:_MOST]].astype(np.float64)
        mean = chosen.mean(axis=0).ravel()
        flat = chosen.reshape(len(chosen), -1) - mean
        count = min(_COMPONENTS, len(chosen) // 2)
        _, _, directions = np.linalg.svd(flat, full_matrices=False)
        axes = directions[:count].T
        copies = np.stack([disturbed(image, rng=rng) for image in chosen for _ in range(_COPIES)])
        apart = (copies.reshape(len(copies), -1) - mean - np.repeat(flat, _COPIES, axis=0)) @ axes
        within = apart.T @ apart / len(apart)
        within += _RIDGE * np.trace(within) / count * np.eye(count)
        values, vectors = np.linalg.eigh(within)
        return cls(mean=mean, basis=axes @ (vectors / np.sqrt(values)))

    def embed(self, images: Images) -> Doubles:
        """Return unit vectors ``(n, coordinates)``; zeros for an image that shows nothing."""
        flat = images.reshape(len(images), -1).astype(np.float64) - self.mean
        coordinates = np.where(np.isfinite(flat), flat, 0.0) @ self.basis
        length = np.linalg.norm(coordinates, axis=1, keepdims=True)
        return np.asarray(np.where(length > _TINY, coordinates / np.maximum(length, _TINY), 0.0))


def disturbed(image: Doubles, *, rng: np.random.Generator) -> Doubles:
    """Return a copy ``(side, side)`` as an inversion might leave it."""
    moved = np.roll(image, rng.integers(-_SHIFT_PX, _SHIFT_PX + 1, size=2), axis=(0, 1))
    soft = gaussian_filter(moved, rng.uniform(*_BLUR_PX))
    toned = soft * (1 + rng.uniform(-_TONE, _TONE)) + rng.uniform(-_TONE, _TONE)
    return np.asarray(toned + _NOISE * rng.random() * rng.standard_normal(image.shape))
