"""Compressed frames: one decoder for each transfer syntax, chosen here and nowhere else.

All are permissively licensed; pylibjpeg-libjpeg (GPL) is never asked, also
where it is installed. A frame's own header is compared with the data set
first, so that a decoder never allocates more than the data set's budget.
"""

import io
from typing import Any, Final

import gdcm
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from septum.errors import Quarantine
from septum_client.imaging import jpeg, jpeg2000, rle
from septum_client.imaging.layout import Layout
from septum_client.imaging.limits import Limits
from septum_client.imaging.native import meaningful
from septum_client.reject import Rejected

Samples = NDArray[np.integer[Any]]

# JPEG Extended is read where its samples have 8 bits: no permissive decoder reads 12.
DECODERS: Final[dict[str, str]] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}
# Frame markers (T.81 Table B.1, T.87): baseline, extended and progressive; lossless; JPEG-LS.
_PROCESSES: Final[dict[str, frozenset[int]]] = {
    "pillow": frozenset({0xC0, 0xC1, 0xC2}),
    "gdcm": frozenset({0xC3}),
    "pyjpegls": frozenset({0xF7}),
    "pylibjpeg": frozenset({0}),
}
_RGB_ALREADY: Final = frozenset({"YBR_ICT", "YBR_RCT"})

# GDCM otherwise writes to standard error what it thinks of a frame.
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()


def decode(frame: bytes, layout: Layout, limits: Limits) -> tuple[Samples, str]:
    """Return one frame's samples, and the colour space they are in.

    Args:
      frame: One compressed frame.
      layout: What the data set says of it.
      limits: ``tiles`` is used here.

    Returns:
      ``(rows, columns)`` or ``(rows, columns, 3)``, and a Photometric
      Interpretation: the data set's, or RGB where the decoder converts.

    Raises:
      Rejected: CANNOT_DECODE; TOO_LARGE for a frame that is larger than the
        data set says, before it is decoded.
    """
    plugin = DECODERS.get(layout.syntax)
    if plugin is None:
        raise Rejected(Quarantine.CANNOT_DECODE)
    frame = _agreed(frame, layout, limits)
    try:
        if plugin == "pillow":
            samples, space = _pillow(frame, layout)
        else:
            samples, space = _pydicom(frame, layout, plugin)
    except Exception:  # noqa: BLE001 - decoders raise whatever they like
        raise Rejected(Quarantine.CANNOT_DECODE) from None
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if samples.shape != expected or samples.dtype.kind not in "iu":
        raise Rejected(Quarantine.CANNOT_DECODE)
    return samples, space


def _agreed(frame: bytes, layout: Layout, limits: Limits) -> bytes:
    """Return a frame of nothing but what its decoder needs, that promises this very image.

    Built anew, because decoders do worse than raise: RLE panics where runs end
    too early, GDCM aborts on a colour flag that it does not know.
    """
    if layout.syntax == uid.RLELossless:
        return rle.clean(frame, pixels=layout.pixels)
    tiled = layout.syntax in uid.JPEG2000TransferSyntaxes
    said = jpeg2000.header(frame) if tiled else jpeg.header(frame)
    if said.rows > layout.rows or said.columns > layout.columns or said.samples > layout.samples:
        raise Rejected(Quarantine.TOO_LARGE)
    plugin = DECODERS[layout.syntax]
    same = (said.rows, said.columns, said.samples) == (layout.rows, layout.columns, layout.samples)
    widest = 8 if plugin == "pillow" else layout.bits_allocated
    if not same or said.precision > widest or said.process not in _PROCESSES[plugin]:
        raise Rejected(Quarantine.CANNOT_DECODE)
    if tiled and jpeg2000.tiles(frame) > limits.tiles:
        raise Rejected(Quarantine.TOO_LARGE)
    return jpeg2000.clean(frame) if tiled else jpeg.clean(frame)


def _pillow(frame: bytes, layout: Layout) -> tuple[Samples, str]:
    image = Image.open(io.BytesIO(frame), formats=("JPEG",))
    if layout.signed:  # the process has no sign (T.81 B.2.2)
        raise Rejected(Quarantine.CANNOT_DECODE)
    if layout.samples == 1:
        return np.asarray(image).astype(f"u{layout.bits_allocated // 8}"), ""
    if layout.photometric == "RGB" and not jpeg.names_colours(frame):
        # Without a word from the frame the library takes three samples for YCbCr and would
        # convert; the data set says RGB, so ask for the samples as they are.
        image.draft("YCbCr", image.size)
    return np.asarray(image), "RGB"


def _pydicom(frame: bytes, layout: Layout, plugin: str) -> tuple[Samples, str]:
    decoder = get_decoder(layout.syntax)
    rle = layout.syntax == uid.RLELossless
    samples, said = decoder.as_array(
        encapsulate([frame], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=plugin,
        rows=layout.rows,
        columns=layout.columns,
        number_of_frames=1,
        samples_per_pixel=layout.samples,
        photometric_interpretation=layout.photometric,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_stored,
        pixel_representation=int(layout.signed),
        planar_configuration=int(layout.planar),
        pixel_keyword="PixelData",
        # RLE keeps the unused bits, wherever the High Bit is.
        **({"correct_unused_bits": False} if rle else {}),
    )
    space = str(said["photometric_interpretation"])
    if rle:
        samples = meaningful(samples, layout)
    return samples, "RGB" if space in _RGB_ALREADY else space
