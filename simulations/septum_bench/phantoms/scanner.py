"""What the detector makes of a chest: the physics and habits of each hospital's scanner.

The chain is that of projection radiography: attenuation, blur by the point
spread, quantum (Poisson) and electronic noise, logarithm, sharpening, and the
vendor's tone curve. Photons per pixel are far below a clinic's because a pixel
here is about 3.4 mm wide; the noise that shows is what matters.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """One hospital's machine and how its vendor processes and stores films.

    Attributes:
      manufacturer, model, creator: Invented names; ``creator`` reserves private tags.
      modality: ``"CR"`` or ``"DX"``.
      field_mm: Side of the square film; pixel spacing is ``field_mm / matrix``.
      psf_mm: Standard deviation of the Gaussian point spread.
      photons: Expected quanta per pixel in open air.
      electronic: Standard deviation of electronic noise, in quanta.
      tone_centre: Optical depth, above the film's median, shown as mid-grey.
      tone_scale: Optical depths per unit of the logistic tone curve; small is hard.
      sharpen: Strength of the vendor's unsharp mask.
      bits_stored: Bits used of the 16 allocated.
      range_used: Fractions of the stored range between black and white.
      slope, intercept: Rescale to output units; (1, 0) for DX, as PS3.3 C.8.11.3 demands.
      inverted: Stores MONOCHROME1.
      marker: Burns a lead "R" into the upper left corner.
    """

    manufacturer: str
    model: str
    creator: str
    modality: str
    field_mm: float
    psf_mm: float
    photons: float
    electronic: float
    tone_centre: float
    tone_scale: float
    sharpen: float
    bits_stored: int = 12
    range_used: tuple[float, float] = (0.02, 0.98)
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    marker: bool = False


# fmt: off
SCANNERS: Final = (
    Scanner(manufacturer="Aldermere Imaging", model="Lumen DX 400", creator="ALDERMERE HEADER 1.0",
            modality="DX", field_mm=322.0, psf_mm=2.0, photons=90_000.0, electronic=8.0,
            tone_centre=0.10, tone_scale=0.85, sharpen=0.35),
    Scanner(manufacturer="Kestrel Medical AG", model="FilmReader 75", creator="KESTREL CR PRIVATE",
            modality="CR", field_mm=328.0, psf_mm=2.7, photons=42_000.0, electronic=16.0,
            tone_centre=0.25, tone_scale=0.95, sharpen=0.0, range_used=(0.05, 0.80),
            slope=0.5, intercept=-200.0, inverted=True),
    Scanner(manufacturer="Norrvik Röntgen", model="Polar S", creator="NORRVIK_POLAR_01",
            modality="DX", field_mm=316.0, psf_mm=1.8, photons=70_000.0, electronic=10.0,
            tone_centre=0.00, tone_scale=0.75, sharpen=0.6, bits_stored=14, marker=True),
    Scanner(manufacturer="Tessaly Health", model="PortaRay 2", creator="TESSALY PORTARAY",
            modality="CR", field_mm=332.0, psf_mm=3.0, photons=30_000.0, electronic=20.0,
            tone_centre=0.20, tone_scale=1.05, sharpen=0.15, range_used=(0.10, 0.90),
            slope=2.0, intercept=-1024.0, marker=True),
    Scanner(manufacturer="Aldermere Imaging", model="Lumen DX 250", creator="ALDERMERE HEADER 1.0",
            modality="DX", field_mm=325.0, psf_mm=2.2, photons=60_000.0, electronic=10.0,
            tone_centre=0.15, tone_scale=0.90, sharpen=0.25, range_used=(0.00, 0.70)),
    Scanner(manufacturer="Kestrel Medical AG", model="FilmReader 90", creator="KESTREL CR PRIVATE",
            modality="CR", field_mm=318.0, psf_mm=2.4, photons=48_000.0, electronic=14.0,
            tone_centre=0.05, tone_scale=0.80, sharpen=0.4, bits_stored=10,
            slope=1.6, intercept=50.0),
)
# fmt: on

_LETTER_R: Final = ("1110", "1001", "1001", "1110", "1010", "1001")


def expose(
    rng: np.random.Generator, depth: Array, scanner: Scanner, *, exposure: float = 1.0
) -> Array:
    """Return the processed film of an attenuation map.

    Args:
      rng: Consumed by one normal deviate per pixel.
      depth: Optical depth (attenuation along each ray), ``[rows, columns]``, at least 0.
      scanner: The machine.
      exposure: Dose relative to the scanner's usual; scales the quanta.

    Returns:
      float32 ``[rows, columns]`` in [0, 1]; dense tissue is white (MONOCHROME2).
    """
    pixel_mm = scanner.field_mm / depth.shape[0]
    quanta = scanner.photons * exposure
    signal = quanta * np.exp(-depth)
    signal = ndimage.gaussian_filter(signal, scanner.psf_mm / pixel_mm, mode="nearest")
    noise = rng.standard_normal(depth.shape, np.float32)
    signal = signal + noise * np.sqrt(signal + np.float32(scanner.electronic**2))
    seen = -np.log(np.maximum(signal, np.float32(1.0)) / np.float32(quanta))
    if scanner.sharpen:
        smooth = ndimage.gaussian_filter(seen, 9.0 / pixel_mm, mode="nearest")
        seen = seen + np.float32(scanner.sharpen) * (seen - smooth)
    centre = np.median(seen) + scanner.tone_centre
    film = 1.0 / (1.0 + np.exp((centre - seen) / np.float32(scanner.tone_scale)))
    if scanner.marker:
        film = _mark(film)
    return np.asarray(film, np.float32)


def digitise(film: Array, scanner: Scanner) -> NDArray[np.uint16]:
    """Return the stored values of a film in [0, 1]: uint16, ``bits_stored`` used."""
    top = 2**scanner.bits_stored - 1
    low, high = scanner.range_used
    values = np.rint((low + film * (high - low)) * top)
    stored = np.clip(values, 0, top).astype(np.uint16)
    return np.asarray(top - stored if scanner.inverted else stored, np.uint16)


def percentile_normalise(film: Array, size: int) -> Array:
    """Return a film as ingest sees it: 0.5..99.5 percentile to [0, 1], then area-resized.

    Args:
      film: float32 ``[rows, columns]``, MONOCHROME2.
      size: Rows and columns wanted.

    Returns:
      float32 ``[size, size]`` in [0, 1].
    """
    low, high = np.percentile(film, (0.5, 99.5))
    scaled = np.clip((film - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    down, across = (_area_weights(length, size) for length in film.shape)
    return np.asarray(down @ scaled.astype(np.float32) @ across.T, np.float32)


def _area_weights(old: int, new: int) -> Array:
    """Return ``[new, old]``: how much of each new pixel each old pixel covers; rows sum to 1."""
    edges = np.arange(new + 1) * old / new
    cells = np.arange(old)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.maximum(covered, 0.0) * new / old, np.float32)


def _mark(film: Array) -> Array:
    letter = np.array([[float(dot) for dot in row] for row in _LETTER_R], np.float32)
    scale = max(1, film.shape[0] // 96)
    letter = np.kron(letter, np.ones((scale, scale), np.float32))
    top = left = 2 * scale
    marked = film.copy()
    corner = marked[top : top + letter.shape[0], left : left + letter.shape[1]]
    np.maximum(corner, 0.92 * letter, out=corner)
    return marked
