"""Writes words into pixels, as a device or a person at a workstation does."""

import random
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

WORDS = ("MUELLER", "HANNA", "12.03.1961", "BAPTIST", "ST MARY", "MRN 80412", "DR OKAFOR")
SIZES = (12, 16, 24)
MIN_SIDE = 128


@dataclass(frozen=True, kw_only=True)
class Painted:
    """A file with words in its image.

    Args:
      data: The file.
      lines: For each word, one row of pixels through its middle, as bytes: where
        they are in an output's pixels, the word is there, cropped image or not.
    """

    data: bytes = field(repr=False)
    lines: tuple[bytes, ...] = field(repr=False)


def paint(data: bytes, *, seed: int) -> Painted | None:
    """Return a copy with three words in white; None where the image is not plain and native.

    Plain: one frame, grey or RGB, uncompressed, and at least 128 pixels a side.
    """
    ds = pydicom.dcmread(BytesIO(data))
    if not _plain(ds):
        return None
    try:
        pixels = np.array(pixel_array(ds, raw=True))
    except Exception:  # noqa: BLE001 - test files are damaged in every way
        return None
    chooser = random.Random(seed)  # noqa: S311 - a benchmark repeats itself
    white = (
        int(pixels.max()) if ds.PhotometricInterpretation != "MONOCHROME1" else int(pixels.min())
    )
    lines = []
    for part, word in enumerate(chooser.sample(WORDS, k=len(SIZES))):
        font = ImageFont.load_default(size=SIZES[part])
        layer = Image.new("1", (ds.Columns, ds.Rows))
        top = 4 + part * ds.Rows // len(SIZES)
        ImageDraw.Draw(layer).text((4 + chooser.randrange(16), top), word, fill=1, font=font)
        ink = np.array(layer)
        pixels[ink] = white
        rows, columns = np.nonzero(ink)
        middle = (rows.min() + rows.max()) // 2
        lines.append(pixels[middle, columns.min() : columns.max() + 1].tobytes())
    if ds.get("PlanarConfiguration"):
        ds.PlanarConfiguration = 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if ds.BitsAllocated == 16 else "OB"
    out = BytesIO()
    ds.save_as(out)
    return Painted(data=out.getvalue(), lines=tuple(lines))


def _plain(ds: Dataset) -> bool:
    return (
        "PixelData" in ds
        and not ds.file_meta.TransferSyntaxUID.is_compressed
        and str(ds.get("NumberOfFrames") or 1) == "1"
        and ds.get("PhotometricInterpretation") in {"MONOCHROME1", "MONOCHROME2", "RGB"}
        and ds.get("BitsAllocated") in {8, 16}
        and min(ds.Rows, ds.Columns) >= MIN_SIDE
    )


def words_left(painted: Painted, output: bytes) -> int:
    """Return how many of the words are still in the output's pixels."""
    try:
        shown = pixel_array(pydicom.dcmread(BytesIO(output), force=True), raw=True).tobytes()
    except Exception:  # noqa: BLE001 - an output that no longer decodes may still hold the bytes
        shown = output
    return sum(line in shown for line in painted.lines)
