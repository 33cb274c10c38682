"""Which images may show a face that can be recognised: closed, by the header alone.

A face rendered from a head scan was matched to its owner's photograph in 83%
(Schwarz 2019) and 97% (Schwarz 2021) of volunteers. So a volume is taken to
show a face unless its header names a part of the body that has none; a header
that names no part is a face too (absent means no).

What this cannot see: a scan labelled CHEST that reaches up to the head. No
description, protocol name or other free text is read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from pydicom.dataset import Dataset

from septum_client.screening import header

# Modalities whose slices stack to a surface of the body.
VOLUMES: Final = frozenset({"CT", "MR", "PT", "NM"})
VOLUME_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
        "1.2.840.10008.5.1.4.1.1.13.1.1",  # X-Ray 3D Angiographic
        "1.2.840.10008.5.1.4.1.1.13.1.2",  # X-Ray 3D Craniofacial
        "1.2.840.10008.5.1.4.1.1.20",  # NM
        "1.2.840.10008.5.1.4.1.1.128",  # PET
        "1.2.840.10008.5.1.4.1.1.128.1",  # Legacy Converted Enhanced PET
        "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
    }
)
# A photograph of the skin is taken with a camera: nothing else keeps a face out of it.
PHOTOGRAPHS: Final = frozenset({"XC", "DMS", "GM"})

# "Clean Recognizable Visual Features Option", DICOM PS3.16 CID 7050.
FEATURES_CLEANED: Final = "113102"
SMALLEST_FACE_MM: Final = 80.0
_ANATOMY: Final = ("AnatomicRegionSequence", "FrameAnatomySequence")
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The body parts without a face: terms of (0018,0015) and codes of (0008,2218)."""

    terms: frozenset[str]
    codes: frozenset[str]


@cache
def faceless() -> Parts:
    """Return the parts of the data file ``parts.json``."""
    read = json.loads(files(__package__).joinpath("parts.json").read_text(encoding="utf-8"))
    return Parts(terms=frozenset(read["terms"]), codes=frozenset(read["codes"]))


def is_head(original: Dataset) -> bool:
    """Say whether the image may be part of a scan that shows a face.

    Args:
      original: As parsed; never the de-identified copy, which has fewer clues.

    Returns:
      False only where the header excludes a face: not a volume; every part
      named is on the list of faceless parts; no part is named and the field
      of view is smaller than a face; or the sender declares in (0028,0302)
      that no features are recognisable, and either names no part or records
      that features were cleaned (code 113102, PS3.15 E.3.2).
    """
    declared = header.text(original, "RecognizableVisualFeatures")
    if declared == "YES":
        return True
    if not _is_volume(original):
        return header.text(original, "Modality") in PHOTOGRAPHS and declared != "NO"
    named = frozenset(_parts(original))
    known = faceless().terms | faceless().codes
    if named and named <= known:
        return False
    if declared == "NO" and (not named or _features_cleaned(original)):
        return False
    return bool(named) or not _smaller_than_a_face(original)


def _is_volume(ds: Dataset) -> bool:
    return (
        header.text(ds, "Modality") in VOLUMES or header.text(ds, "SOPClassUID") in VOLUME_CLASSES
    )


def _parts(ds: Dataset) -> Iterator[str]:
    for term in header.texts(ds, "BodyPartExamined"):
        yield term.replace(" ", "")
    holders = [ds, *(group for keyword in _GROUPS for group in header.items(ds, keyword))]
    for holder in holders:
        for keyword in _ANATOMY:
            for item in header.items(holder, keyword):
                yield from _codes(item)


def _codes(anatomy: Dataset) -> Iterator[str]:
    coded = (anatomy, *header.items(anatomy, "AnatomicRegionSequence"))
    for item in coded:
        yield from header.texts(item, "CodeValue")


def _features_cleaned(ds: Dataset) -> bool:
    return any(
        FEATURES_CLEANED in header.texts(item, "CodeValue")
        for item in header.items(ds, "DeidentificationMethodCodeSequence")
    )


def _smaller_than_a_face(ds: Dataset) -> bool:
    rows, columns = header.whole(ds, "Rows"), header.whole(ds, "Columns")
    down, across = header.number(ds, "PixelSpacing"), header.number(ds, "PixelSpacing", 1)
    if not rows or not columns or not down or not across or down <= 0 or across <= 0:
        return False
    return max(rows * down, columns * across) < SMALLEST_FACE_MM
