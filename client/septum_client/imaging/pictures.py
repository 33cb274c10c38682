"""PNG, JPEG, TIFF and BMP from bytes in memory: grey values, and nothing else of the file."""

import warnings
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from septum.errors import Quarantine
from septum_client.imaging.limits import LIMITS, Limits
from septum_client.reject import Rejected

MIN_SIDE: Final = 16
FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP")
_LOSSLESS: Final = ("PNG", "TIFF", "BMP")
# Rec. ITU-R BT.601, as DICOM's YBR_FULL (PS3.3 C.7.6.3.1.2).
LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_GREY: Final = frozenset({"L", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR: Final = frozenset({"RGB", "RGBA", "LA", "P", "YCbCr"})
_PHOTOMETRIC: Final = 262
_WHITE_IS_ZERO: Final = 0


def read(data: bytes, *, limits: Limits = LIMITS) -> NDArray[np.float32]:
    """Return the picture as float32 ``(rows, columns)``, brightest highest.

    Args:
      data: The whole file; one page, 8 or 16 bits grey, or 8 bits colour (of
        16-bit colour, Pillow reads the upper 8).
      limits: ``side`` bounds rows and columns.

    Returns:
      Grey values as they are; colour as BT.601 luma, on black where it is
      transparent, as a viewer shows it. Upright: the EXIF orientation is
      applied, because a camera on its side is no property of the patient.

    Guarantees:
      - The size that the header declares is checked before pixels are decoded.
      - Text chunks, EXIF, ICC profiles and thumbnails are not in the result.

    Raises:
      Rejected: CANNOT_DECODE (none of these formats, broken, 32 bits, CMYK),
        MULTI_FRAME, BAD_GEOMETRY (a side below 16), TOO_LARGE.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's quote the file
            return _read(data, limits)
    except Rejected:
        raise
    except (MemoryError, Image.DecompressionBombError):
        raise Rejected(Quarantine.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - Pillow's plugins raise what their formats suggest
        raise Rejected(Quarantine.CANNOT_DECODE) from None


def read_indices(data: bytes, *, limits: Limits = LIMITS) -> NDArray[np.int64]:
    """Return a mask's values ``(rows, columns)`` as they are stored: of a palette, its indices.

    Args:
      data: The whole file: 1, 8 or 16 bits grey, or a palette. Not JPEG, which
        would blur the values.
      limits: As for :func:`read`.

    Raises:
      Rejected: As :func:`read`; CANNOT_DECODE for other kinds of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in read
            with Image.open(BytesIO(data), formats=_LOSSLESS) as image:
                _require_bounded(image, limits)
                if image.mode not in _GREY | {"1", "P"}:
                    raise Rejected(Quarantine.CANNOT_DECODE)
                return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    except Rejected:
        raise
    except (MemoryError, Image.DecompressionBombError):
        raise Rejected(Quarantine.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - as in read
        raise Rejected(Quarantine.CANNOT_DECODE) from None


def _require_bounded(image: Image.Image, limits: Limits) -> None:
    if max(image.size) > limits.side:
        raise Rejected(Quarantine.TOO_LARGE)
    if min(image.size) < MIN_SIDE:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    if getattr(image, "is_animated", False):
        raise Rejected(Quarantine.MULTI_FRAME)


def _read(data: bytes, limits: Limits) -> NDArray[np.float32]:
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        _require_bounded(image, limits)
        mode = image.mode
        if mode not in _GREY | _COLOUR | {"1"}:
            raise Rejected(Quarantine.CANNOT_DECODE)
        # Of 16-bit TIFF with white as zero, Pillow does not invert the values itself.
        tags = getattr(image, "tag_v2", {})
        inverted = mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        upright = ImageOps.exif_transpose(image)
        if mode in _COLOUR:
            return _luma(np.asarray(upright.convert("RGBA"), dtype=np.float32))
        values = np.asarray(upright.convert("L") if mode == "1" else upright)
        grey = values.astype(np.float32)
        return np.float32(2**16 - 1) - grey if inverted else grey


def _luma(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    # Elementwise, unlike a matrix product, gives the same bits whatever BLAS does.
    grey: NDArray[np.float32] = (rgba[..., :3] * LUMA).sum(axis=-1, dtype=np.float32)
    return grey * (rgba[..., 3] / np.float32(255))
