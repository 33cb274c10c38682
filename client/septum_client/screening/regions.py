"""Where an ultrasound frame shows tissue: the regions of PS3.3 C.8.5.5, each one checked."""

from typing import Final

from pydicom.dataset import Dataset

from septum_client.screening import header
from septum_client.screening.boxes import Box, mask

# Region Spatial Format (0018,6012): 1 is two-dimensional (tissue or flow); the
# others are traces and graphics (PS3.3 C.8.5.5.1.1).
_PICTURE: Final = 1
# Region Data Type (0018,6014): tissue, colour flow, integrated backscatter (C.8.5.5.1.3).
_TISSUE: Final = frozenset({0x1, 0x2, 0xF})
# A region as large as the frame separates no picture from no text.
_WHOLE: Final = 0.98
_SIDES: Final = (
    "RegionLocationMinY0",
    "RegionLocationMinX0",
    "RegionLocationMaxY1",
    "RegionLocationMaxX1",
)


def ultrasound_regions(ds: Dataset, frame: Box) -> tuple[Box, ...]:
    """Return the rectangles that hold a picture, or none where they cannot be relied on.

    Args:
      ds: The header.
      frame: The whole image.

    Returns:
      The two-dimensional regions of tissue, flow or backscatter. None at all
      if any of them reaches beyond the frame (the image was resized or cut
      after the scanner wrote its regions, so they say nothing about it), or if
      together they cover the frame.
    """
    found = []
    for item in header.items(ds, "SequenceOfUltrasoundRegions"):
        if header.whole(item, "RegionSpatialFormat") != _PICTURE:
            continue
        if header.whole(item, "RegionDataType") not in _TISSUE:
            continue
        box = _box(item)
        if box is None or not _inside(box, frame):
            return ()
        found.append(box.meet(frame))
    if not found or mask(found, frame.bottom, frame.right).mean() >= _WHOLE:
        return ()
    return tuple(found)


def _box(item: Dataset) -> Box | None:
    sides = [header.whole(item, keyword) for keyword in _SIDES]
    known = [side for side in sides if side is not None]
    if len(known) != len(sides):
        return None
    top, left, bottom, right = known
    # The standard counts the last row and column in (C.8.5.5.1.6).
    box = Box(top, left, bottom + 1, right + 1)
    return box if box.area else None


def _inside(box: Box, frame: Box) -> bool:
    # Some scanners write the size instead of the last index: one pixel is forgiven.
    beyond = (box.bottom - frame.bottom, box.right - frame.right)
    return box.top >= 0 and box.left >= 0 and max(beyond) <= 1
