"""How alike two images are, and whom a reconstruction names.

Images are float arrays in [0, 1], so the data range is 1 everywhere. A range
taken from the data, or from normalised values, inflates both figures.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from septum.errors import DataError

Images = npt.NDArray[np.float32]
Figures = npt.NDArray[np.float64]

DATA_RANGE: Final = 1.0
PSNR_CEILING: Final = 100.0
"""What equal images get, in dB: finite, so that means and intervals stay finite."""


def psnr(image: Images, truth: Images) -> Figures:
    """Return the peak signal-to-noise ratio of each pair, float64 (n,), in dB at data range 1.

    Args:
      image: Shape ``(n, size, size)``, in [0, 1].
      truth: Same shape.

    Guarantees:
      - One figure per image, never one over a batch; at most :data:`PSNR_CEILING`.
    """
    _same_shape(image, truth)
    error = ((image.astype(np.float64) - truth.astype(np.float64)) ** 2).mean(axis=(1, 2))
    figures: Figures = -10.0 * np.log10(np.maximum(error, 10.0 ** (-PSNR_CEILING / 10)))
    return figures


def ssim(image: Images, truth: Images) -> Figures:
    """Return the structural similarity of each pair, float64 (n,), at data range 1.

    The form of Wang et al. (2004): Gaussian window of sigma 1.5, population
    covariance, K1 = 0.01, K2 = 0.03.

    Args:
      image: Shape ``(n, size, size)``, at least 11 pixels wide, in [0, 1].
      truth: Same shape.
    """
    _same_shape(image, truth)
    return np.array(
        [
            structural_similarity(
                one.astype(np.float64),
                other.astype(np.float64),
                data_range=DATA_RANGE,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for one, other in zip(image, truth, strict=True)
        ],
        dtype=np.float64,
    )


def blind_guesses(public_images: Images) -> Images:
    """Return what anybody can guess without an update: the mean public image and its nearest.

    Args:
      public_images: Shape ``(n, size, size)``.

    Returns:
      float32 ``(2, size, size)``. No truth was consulted.
    """
    mean = public_images.mean(axis=0, dtype=np.float64)
    nearest = ((public_images - mean) ** 2).mean(axis=(1, 2)).argmin()
    return np.stack([mean, public_images[nearest]]).astype(np.float32)


def ranks(
    reconstructions: Images,
    *,
    patients: Sequence[str],
    gallery: Images,
    gallery_patients: Sequence[str],
    public_mean: Images,
    embed: Callable[[Images], Figures] | None = None,
) -> npt.NDArray[np.int64]:
    """Return at which place each reconstruction names its own patient; 1 is identified.

    The likeness is the zero-mean normalised correlation after the public mean
    image is taken from both sides: what all chests share names nobody. A
    patient counts once, by the best of its gallery images.

    Args:
      reconstructions: Shape ``(targets, size, size)``.
      patients: The true patient of each; must be in the gallery.
      gallery: Shape ``(images, size, size)``.
      gallery_patients: The patient of each gallery image.
      public_mean: Shape ``(size, size)``.
      embed: From images to unit vectors, whose inner product is the likeness
        instead; zeros show nothing.

    Guarantees:
      - A tie with another patient counts for the attacker.
      - A reconstruction without any pattern of its own, or with a value that
        is not finite, names nobody and comes last.
      - If targets are drawn at random from the gallery, a reconstruction that
        knows nothing of its target is first with chance 1 / gallery patients.

    Raises:
      DataError: A target is not in the gallery.
    """
    names, column = np.unique(np.asarray(gallery_patients, dtype=str), return_inverse=True)
    own = np.searchsorted(names, np.asarray(patients, dtype=str))
    missing = [p for p, i in zip(patients, own, strict=True) if i == len(names) or names[i] != p]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(patients)} targets are not in the gallery.",
            remedy="Put at least one image of each target into the gallery.",
        )
    alike = np.full((len(reconstructions), len(names)), -np.inf)
    shown = embed or (lambda images: _centred(images, public_mean))
    pictures, made = shown(gallery), shown(reconstructions)
    # Rounding to 1e-9 makes ties of what differs by the order of summation.
    correlation = np.round(made @ pictures.T, 9)
    for image, patient in enumerate(column):
        alike[:, patient] = np.maximum(alike[:, patient], correlation[:, image])
    better = (alike > alike[np.arange(len(own)), own][:, None]).sum(axis=1)
    blank = ~(np.abs(made).sum(axis=1) > 0)
    return np.where(blank, len(names), better + 1).astype(np.int64)


def _centred(images: Images, public_mean: Images) -> Figures:
    flat = (images.astype(np.float64) - public_mean).reshape(len(images), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # 1e-6 per pixel is below one grey level in any medical image: no pattern.
    usable = np.isfinite(length) & (length > 1e-6 * np.sqrt(flat.shape[1]))
    return np.where(usable, flat / np.where(usable, length, 1.0), 0.0)


def _same_shape(image: Images, truth: Images) -> None:
    if image.shape != truth.shape or image.ndim != 3:
        raise DataError(
            f"images of shape {image.shape} and {truth.shape} cannot be compared.",
            remedy="Give two stacks of equal shape (n, size, size).",
        )
