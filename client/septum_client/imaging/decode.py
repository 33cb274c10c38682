"""An image's frames, one at a time: stored values as the standard means them, or a code."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.processing import convert_color_space

from septum.errors import Quarantine
from septum_client.imaging import compressed, lookup, native
from septum_client.imaging.encapsulation import frames
from septum_client.imaging.layout import Layout, layout_of
from septum_client.imaging.limits import LIMITS, Limits
from septum_client.imaging.parse import judged
from septum_client.imaging.values import Values, frame_values
from septum_client.reject import Rejected

__all__ = ["Values", "frame_values", "stored_frames"]

_YCBCR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})


def stored_frames(ds: Any, *, limits: Limits = LIMITS) -> Iterator[NDArray[np.integer[Any]]]:
    """Yield each frame of an image.

    Args:
      ds: A data set with pixel data and, in ``file_meta``, its transfer syntax.
      limits: The bounds.

    Returns:
      One array for each frame: stored values of shape ``(rows, columns)``,
      or RGB of shape ``(rows, columns, 3)``, uint8 or uint16. Palettes are
      applied, and luminance and chrominance are converted. Surplus bytes
      after the last frame are not a frame.

    Guarantees:
      - The header is judged at the call, against the limits and against each
        frame's own header before that frame is decoded.
      - Memory is that of one frame and of the compressed bytes.
      - Warns of nothing, logs nothing, raises nothing but ``Rejected``.

    Raises:
      Rejected: NO_PIXELS, BAD_GEOMETRY, TOO_LARGE, COLOUR, TRUNCATED or
        CANNOT_DECODE.
    """
    with judged(Quarantine.CANNOT_DECODE):
        layout = layout_of(ds, limits)
        data = ds.PixelData
        if layout.syntax in native.SYNTAXES:
            if ds["PixelData"].is_undefined_length:
                raise Rejected(Quarantine.CANNOT_DECODE)
            if len(data) * 8 < native.frame_bits(layout) * layout.frames:
                raise Rejected(Quarantine.TRUNCATED)
            swapped = layout.syntax == uid.ExplicitVRBigEndian and ds["PixelData"].VR == "OW"
            return _native(ds, data, layout, swapped=swapped)
        if layout.syntax not in compressed.DECODERS or layout.bits_allocated == 1:
            raise Rejected(Quarantine.CANNOT_DECODE)
        return _compressed(ds, frames(data, layout.frames), layout, limits)


def _native(ds: Any, data: bytes, layout: Layout, *, swapped: bool) -> Iterator[NDArray[Any]]:
    for index in range(layout.frames):
        with judged(Quarantine.CANNOT_DECODE):
            samples = native.decode(data, index, layout, swapped=swapped)
            image = _image(ds, samples, layout.photometric, layout)
        yield image


def _compressed(
    ds: Any, encoded: list[bytes], layout: Layout, limits: Limits
) -> Iterator[NDArray[Any]]:
    for frame in encoded:
        with judged(Quarantine.CANNOT_DECODE):
            samples, space = compressed.decode(frame, layout, limits)
            image = _image(ds, samples, space, layout)
        yield image


def _image(ds: Any, samples: NDArray[Any], space: str, layout: Layout) -> NDArray[Any]:
    if layout.photometric == "PALETTE COLOR":
        return lookup.palette(ds, samples, layout)
    if layout.samples == 1:
        return samples
    if layout.signed or layout.bits_stored not in {8, 16}:
        samples = samples.astype(np.uint8 if layout.bits_stored <= 8 else np.uint16)
    if space in _YCBCR:
        if samples.dtype != np.uint8:
            raise Rejected(Quarantine.COLOUR)
        converted: NDArray[Any] = convert_color_space(samples, "YBR_FULL", "RGB")
        return converted
    if space != "RGB":
        raise Rejected(Quarantine.COLOUR)
    return np.ascontiguousarray(samples)
