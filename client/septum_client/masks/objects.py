"""DICOM segmentation objects: classes of pixels, and which images they were drawn on.

Segmentation (BINARY, FRACTIONAL) and Label Map Segmentation Storage, DICOM
PS3.3 A.51 and C.8.20. The object is read through the allow-list of
:mod:`septum_client.deid.profile`, which maps its references as it maps those
of images; nothing of it is written anywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from septum.errors import Quarantine
from septum_client.deid import elements
from septum_client.deid.items import Reader, value_of
from septum_client.deid.profile import SECTIONS
from septum_client.imaging import geometry, parse
from septum_client.imaging.decode import stored_frames
from septum_client.imaging.geometry import Plane
from septum_client.masks.segments import Mask, Segments
from septum_client.reject import Rejected

_BITS: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP: Final = "1.2.840.10008.5.1.4.1.1.66.7"
CLASSES: Final = frozenset({_BITS, _LABEL_MAP})
_PIXEL_DATA: Final = 0x7FE00010
# The class of a file is among its first elements.
_HEAD_BYTES: Final = 2**16


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Frame:
    """One frame.

    Args:
      classes: Class of each pixel, ``(rows, columns)``.
      images: De-identified SOP Instance UID and frame, from 0, of each image that
        it was drawn on; a frame of -1 is the image's only one.
      plane: Where it lies; ``None`` in a radiograph.
    """

    classes: Mask = field(repr=False)
    images: tuple[tuple[str, int], ...] = field(repr=False)
    plane: Plane | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """One object.

    Args:
      frames: Of all segments.
      images: De-identified SOP Instance UIDs of the images that it was drawn on, those
        where nothing was found included.
      frame_of_reference: De-identified; empty without one.
    """

    frames: tuple[Frame, ...]
    images: frozenset[str] = field(repr=False)
    frame_of_reference: str = field(repr=False)


def is_one(data: bytes) -> bool:
    """Return whether a file's first bytes say that it is a segmentation object."""
    with parse.silent():
        found = value_of(parse.beginning(data[:_HEAD_BYTES]), "SOPClassUID")
    return isinstance(found, str) and found.strip(" \0") in CLASSES


def read(data: bytes, *, key: bytes, segments: Segments) -> Segmentation:
    """Return the object in a file's bytes.

    Args:
      data: The file, whole.
      key: The site's key.
      segments: Which segment is which class. Only segments that a frame shows are asked about.

    Raises:
      Rejected: UNKNOWN_SEGMENT; BAD_GEOMETRY or MULTI_FRAME for frames that do not fit
        together; CANNOT_DECODE for another kind of segmentation; whatever
        :func:`septum_client.imaging.parse.parse` and
        :func:`septum_client.imaging.decode.stored_frames` say.
    """
    with parse.judged(Quarantine.NOT_DICOM):
        original = parse.parse(data)
        clean = _allowed(original, key)
        count = int(clean.get("NumberOfFrames") or 1)
        groups = clean.get("PerFrameFunctionalGroupsSequence") or []
        if len(groups) != count:
            raise Rejected(Quarantine.MULTI_FRAME)
        listed = frozenset(_listed(clean))
        known = _Known(original, segments)
        frames = []
        for index, stored in enumerate(stored_frames(clean)):
            images = tuple(_drawn_on(clean, index))
            if not images and len(listed) == 1:
                images = tuple((image, -1) for image in listed)
            frames.append(
                Frame(
                    classes=known.classes(clean, index, stored),
                    images=images,
                    plane=geometry.plane(clean, index),
                )
            )
    return Segmentation(
        frames=tuple(frames),
        images=listed | {image for frame in frames for image, _ in frame.images},
        frame_of_reference=str(clean.get("FrameOfReferenceUID") or ""),
    )


def _allowed(original: FileDataset, key: bytes) -> FileDataset:
    """Return what the allow-list carries of an object, and its pixels as they are."""
    reader = Reader(key=key, patient_id="", options=frozenset(), signed=False, strict=False)
    found = reader.section(original, SECTIONS["segmentation"])
    content = {tag: elements.raw(tag, *pair) for tag, pair in sorted(found.items())}
    clean = FileDataset("", content, file_meta=original.file_meta, is_implicit_VR=False)
    clean.set_original_encoding(False, True, "iso8859")
    if _PIXEL_DATA in original:
        clean[_PIXEL_DATA] = original[_PIXEL_DATA]
    return clean


class _Known:
    """The classes of one object's segments, each asked about when a frame shows it."""

    def __init__(self, original: Dataset, segments: Segments) -> None:
        self._segments = segments
        self._items = {
            int(item.SegmentNumber): item for item in value_of(original, "SegmentSequence") or ()
        }
        self._found: dict[int, int] = {0: 0}
        self._label_map = value_of(original, "SOPClassUID") == _LABEL_MAP
        kind = str(value_of(original, "SegmentationType") or "")
        if kind not in ({"LABELMAP"} if self._label_map else {"BINARY", "FRACTIONAL"}):
            raise Rejected(Quarantine.CANNOT_DECODE)
        self._binary = kind == "BINARY"

    def classes(self, clean: Dataset, frame: int, stored: NDArray[Any]) -> Mask:
        if clean.PhotometricInterpretation != "MONOCHROME2":
            raise Rejected(Quarantine.CANNOT_DECODE)
        if self._label_map:
            present = np.unique(stored)
            classes = np.array([self._of(int(number)) for number in present], dtype=np.uint8)
            return classes[np.searchsorted(present, stored)]
        # FRACTIONAL: at least half of the greatest value (PS3.3 C.8.20.2.3).
        least = 1 if self._binary else int(clean.MaximumFractionalValue) / 2
        inside = stored >= least
        if not inside.any():
            return np.zeros(stored.shape, dtype=np.uint8)
        return inside.astype(np.uint8) * np.uint8(self._of(_segment_number(clean, frame)))

    def _of(self, number: int) -> int:
        if number not in self._found:
            item = self._items.get(number)
            if item is None:
                raise Rejected(Quarantine.UNKNOWN_SEGMENT)
            types = [
                (_text(code, "CodingSchemeDesignator"), _text(code, "CodeValue"))
                for code in value_of(item, "SegmentedPropertyTypeCodeSequence") or ()
            ]
            self._found[number] = self._segments.of_segment(_text(item, "SegmentLabel"), types)
        return self._found[number]


def _listed(clean: Dataset) -> Iterator[str]:
    for series in clean.get("ReferencedSeriesSequence") or ():
        for image in series.get("ReferencedInstanceSequence") or ():
            if image.get("ReferencedSOPInstanceUID"):
                yield str(image.ReferencedSOPInstanceUID)


def _groups(clean: Dataset, frame: int) -> Iterator[Dataset]:
    yield clean.PerFrameFunctionalGroupsSequence[frame]
    yield from (clean.get("SharedFunctionalGroupsSequence") or [])[:1]


def _drawn_on(clean: Dataset, frame: int) -> Iterator[tuple[str, int]]:
    for group in _groups(clean, frame):
        for derivation in group.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                image = source.get("ReferencedSOPInstanceUID")
                numbers = source.get("ReferencedFrameNumber")
                several = numbers if hasattr(numbers, "__iter__") else [numbers or 0]
                if image:
                    yield from ((str(image), int(number) - 1) for number in several)


def _segment_number(clean: Dataset, frame: int) -> int:
    for group in _groups(clean, frame):
        for item in group.get("SegmentIdentificationSequence") or ():
            return int(item.ReferencedSegmentNumber)
    raise Rejected(Quarantine.UNKNOWN_SEGMENT)


def _text(item: Dataset, keyword: str) -> str:
    value = value_of(item, keyword)
    return value.strip(" \0") if isinstance(value, str) else ""
