"""Cut or blank a part of every frame of a data set, which is then stored uncompressed.

The pixels outside are gone from the file, not hidden by its header.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from septum.errors import Quarantine
from septum_client.imaging.decode import stored_frames
from septum_client.reject import Rejected
from septum_client.screening import boxes
from septum_client.screening.boxes import Box

Stored = NDArray[Any]
_SIDES: Final = ("MinY0", "MinX0", "MaxY1", "MaxX1")


def crop(clean: FileDataset, keep: tuple[Box, ...]) -> None:
    """Reduce every frame to the rectangle around ``keep``, dark outside the boxes.

    Nothing happens without boxes.

    Raises:
      Rejected: The boxes lie outside the image, or its pixels cannot be decoded.
    """
    if not keep:
        return
    around = boxes.hull(keep).meet(Box(0, 0, clean.Rows, clean.Columns))
    if not around.area:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    _rewrite(clean, lambda frame: boxes.crop(frame, keep, fill=_dark(clean, frame)))
    clean.Rows, clean.Columns = around.bottom - around.top, around.right - around.left
    _move_regions(clean, around)


def colour(clean: FileDataset) -> None:
    """Store a palette's colours in place of the palette, whose entries could spell anything.

    Eight bits a colour: of an ultrasound or captured image in RGB the standard
    takes no more (PS3.3 C.8.5.6.1, C.8.6.1).
    """
    if clean.PhotometricInterpretation == "PALETTE COLOR":
        _rewrite(clean, _eight_bits)


def blank(clean: FileDataset, covered: Sequence[Box]) -> None:
    """Overwrite the boxes in every frame with the image's darkest value."""
    if not covered:
        return

    def cover(frame: Stored) -> Stored:
        frame = frame.copy()
        frame[boxes.mask(covered, *frame.shape[:2])] = _dark(clean, frame)
        return frame

    _rewrite(clean, cover)


def _eight_bits(frame: Stored) -> Stored:
    return frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)


def _move_regions(clean: FileDataset, around: Box) -> None:
    """Count the ultrasound regions from the new corner (PS3.3 C.8.5.5.1); drop those cut away."""
    kept = []
    for region in clean.get("SequenceOfUltrasoundRegions") or ():
        try:
            sides = [int(region[f"RegionLocation{side}"].value) for side in _SIDES]
        except (KeyError, TypeError, ValueError):
            continue
        box = Box(sides[0], sides[1], sides[2] + 1, sides[3] + 1).meet(around)
        if box.area:
            moved = (
                box.top - around.top,
                box.left - around.left,
                box.bottom - 1 - around.top,
                box.right - 1 - around.left,
            )
            for side, value in zip(_SIDES, moved, strict=True):
                setattr(region, f"RegionLocation{side}", value)
            kept.append(region)
    if "SequenceOfUltrasoundRegions" in clean:
        clean.SequenceOfUltrasoundRegions = kept


def _dark(clean: FileDataset, frame: Stored) -> Any:
    # MONOCHROME1 shows its highest value black (DICOM PS3.3 C.7.6.3.1.2).
    return frame.max() if clean.PhotometricInterpretation == "MONOCHROME1" else frame.min()


def _rewrite(clean: FileDataset, change: Callable[[Stored], Stored]) -> None:
    frames = [np.ascontiguousarray(change(frame)) for frame in stored_frames(clean)]
    first = frames[0]
    content = b"".join(frame.tobytes() for frame in frames)
    bits = first.dtype.itemsize * 8
    if first.ndim == 3:
        # Decoding has applied the palette and the colour space.
        clean.SamplesPerPixel, clean.PhotometricInterpretation = 3, "RGB"
        clean.PlanarConfiguration = 0
        clean.BitsStored, clean.HighBit, clean.PixelRepresentation = bits, bits - 1, 0
        for name in ("Red", "Green", "Blue"):
            for keyword in (
                f"{name}PaletteColorLookupTableDescriptor",
                f"{name}PaletteColorLookupTableData",
                f"Segmented{name}PaletteColorLookupTableData",
            ):
                if keyword in clean:
                    delattr(clean, keyword)
    else:
        # Decoding has moved the sample to the low bits.
        clean.HighBit = clean.BitsStored - 1
    clean.BitsAllocated = bits
    clean.PixelData = content + b"\0" * (len(content) % 2)
    clean["PixelData"].VR = "OB" if bits == 8 else "OW"
    clean["PixelData"].is_undefined_length = False
    clean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.set_original_encoding(False, True)
