"""Uncompressed frames: from packed bits to one array of stored values (DICOM PS3.5 clause 8)."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from septum.errors import Quarantine
from septum_client.imaging.layout import Layout
from septum_client.reject import Rejected

Samples = NDArray[np.integer[Any]]

SYNTAXES: Final = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)


def frame_bits(layout: Layout) -> int:
    """Return the size of one frame, in bits: a binary image's frames share bytes."""
    # Two pixels share their chrominance (YBR_FULL_422, DICOM PS3.3 C.7.6.3.1.2).
    samples = 2 if layout.photometric == "YBR_FULL_422" else layout.samples
    return layout.pixels * samples * layout.bits_allocated


def decode(data: bytes, index: int, layout: Layout, *, swapped: bool = False) -> Samples:
    """Return frame ``index`` as stored, ``(rows, columns)`` or ``(rows, columns, 3)``.

    Args:
      data: The value of Pixel Data.
      index: From 0.
      layout: Its layout.
      swapped: Whether the bytes are 16-bit words in big endian order (OW).

    Raises:
      Rejected: With TRUNCATED, for a frame that is not all there.
    """
    bits = frame_bits(layout)
    if len(data) * 8 < bits * (index + 1):
        raise Rejected(Quarantine.TRUNCATED)
    first = bits * index
    if layout.bits_allocated == 1:
        packed = np.frombuffer(data[first // 8 : -(-(first + bits) // 8)], np.uint8)
        unpacked = np.unpackbits(packed, bitorder="little")[first % 8 :][:bits]
        return unpacked.reshape(layout.rows, layout.columns)
    start, size = first // 8, bits // 8
    if swapped and layout.bits_allocated == 8:
        even = data[start & ~1 : start + size + (start + size) % 2]
        words = np.frombuffer(even[: len(even) & ~1], "<u2").byteswap().tobytes()
        words = (words + even[len(words) :])[start % 2 :][:size]
        stored = np.frombuffer(words, np.uint8)
    else:
        order = ">" if layout.syntax == uid.ExplicitVRBigEndian else "<"
        dtype = np.dtype(f"{order}u{layout.bits_allocated // 8}")
        stored = np.frombuffer(data, dtype, size // dtype.itemsize, start)
        stored = stored.astype(dtype.newbyteorder("="), copy=False)
    return meaningful(_shaped(stored, layout), layout)


def meaningful(stored: Samples, layout: Layout) -> Samples:
    """Return the stored bits alone, at bit 0 and with their sign.

    Bits above the High Bit and below the stored ones may hold an overlay or
    anything else (DICOM PS3.5 8.1.1).
    """
    width = stored.dtype.itemsize * 8
    dtype = np.dtype(f"{'i' if layout.signed else 'u'}{width // 8}")
    above = width - 1 - layout.high_bit
    below = width - layout.bits_stored
    values = stored.astype(dtype, copy=False) if stored.dtype == dtype else stored.view(dtype)
    return np.right_shift(np.left_shift(values, above), below) if below else values


def _shaped(stored: Samples, layout: Layout) -> Samples:
    rows, columns = layout.rows, layout.columns
    if layout.samples == 1:
        return stored.reshape(rows, columns)
    if layout.photometric == "YBR_FULL_422":
        if columns % 2:
            raise Rejected(Quarantine.CANNOT_DECODE)
        pairs = stored.reshape(rows, columns // 2, 4)
        full = np.empty((rows, columns, 3), stored.dtype)
        full[..., 0] = pairs[..., :2].reshape(rows, columns)
        full[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=1)
        return full
    if layout.planar:
        return stored.reshape(3, rows, columns).transpose(1, 2, 0)
    return stored.reshape(rows, columns, 3)
