"""Compressed frames without the words that people and devices left in them.

A frame carries more than its image: comments, EXIF and thumbnails, bytes
behind the end. No header tool looks at them. :func:`clean` gives the same
image, bit for bit, in a frame built from nothing but what a decoder needs.
"""

from collections.abc import Sequence
from typing import Final

from pydicom import uid

from septum.errors import Quarantine
from septum_client.imaging import jpeg, jpeg2000, rle
from septum_client.imaging.encapsulation import frames
from septum_client.reject import Rejected

__all__ = ["clean", "frames"]

_JPEG: Final = frozenset(
    {
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
    }
)
_JPEG2000: Final = frozenset(
    {
        uid.JPEG2000Lossless,
        uid.JPEG2000,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.HTJ2K,
    }
)


def clean(
    frame: bytes,
    transfer_syntax: str,
    *,
    pixels: int | None = None,
    stored: Sequence[bytes] | None = None,
) -> bytes:
    """Return the same image in a frame that holds nothing else.

    Args:
      frame: One compressed frame, as :func:`frames` gives it.
      transfer_syntax: Its transfer syntax UID.
      pixels: Rows times columns. RLE frames do not say their own size; with
        it, bytes behind the image go there too.
      stored: What each byte of each RLE segment becomes (:func:`rle.clean`).

    Returns:
      A frame, of any length: the encapsulation pads it.

    Guarantees:
      - A decoder gives the same samples and colours.
      - Comments, application segments, boxes, pointer segments, unused tables, gaps and
        trailing bytes are gone; ``clean(clean(f)) == clean(f)``.
      - Entropy-coded bytes are copied. What is hidden within them is not
        found here, but by the search of the output (:mod:`septum_client.deid.proof`).

    Raises:
      Rejected: With CANNOT_DECODE for a malformed frame, for one whose coded
        bytes end in text, and for a transfer syntax without frames of its own.
    """
    if transfer_syntax in _JPEG:
        return jpeg.clean(frame)
    if transfer_syntax in _JPEG2000:
        return jpeg2000.clean(frame)
    if transfer_syntax == uid.RLELossless:
        return rle.clean(frame, pixels=pixels, stored=stored)
    raise Rejected(Quarantine.CANNOT_DECODE)
