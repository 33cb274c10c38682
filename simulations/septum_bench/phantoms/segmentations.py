"""Masks as a PACS would export them: DICOM segmentation objects of what the phantoms know.

Sources: PS3.3 A.51 (Segmentation IOD), C.8.20 (Segmentation modules); PS3.16 CID
7150 and 7159 (categories and types of segments).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from septum_bench.phantoms.anatomy import Attributes
from septum_bench.phantoms.headers import Film, begun, identify, save
from septum_bench.phantoms.identity import Hospital, Person
from septum_bench.phantoms.scanner import Scanner

SEGMENTS_FILE: Final = "segments.csv"
SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.66.4"

Bits = NDArray[np.bool_]

_STRUCTURE: Final = ("123037004", "Anatomical Structure")
_ABNORMAL: Final = ("49755003", "Morphologically Abnormal Structure")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of segment: its coded type and category, all of SNOMED CT."""

    code: str
    meaning: str
    category: tuple[str, str]


KINDS: Final[Mapping[str, Kind]] = {
    "lung": Kind(code="39607008", meaning="Lung", category=_STRUCTURE),
    "nodule": Kind(code="27925004", meaning="Nodule", category=_ABNORMAL),
    "liver": Kind(code="10200004", meaning="Liver", category=_STRUCTURE),
    "lesion": Kind(code="52988006", meaning="Lesion", category=_ABNORMAL),
}
"""By the class's name in a study."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One image that a segmentation was drawn on.

    Attributes:
      sop_class, sop_uid: Of the image.
      outlines: Pixels of each class, ``[rows, columns]``.
      position_mm: Centre of its first pixel; empty for a radiograph.
    """

    sop_class: str
    sop_uid: str
    outlines: Mapping[str, Bits]
    position_mm: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What all slices of a volume share: plane spacing, slice thickness, frame of reference."""

    spacing_mm: float
    thickness_mm: float
    frame_of_reference: str


def write_segmentation(
    path: Path,
    slices: Sequence[Slice],
    film: Film,
    *,
    attributes: Attributes,
    person: Person,
    place: Hospital,
    scanner: Scanner,
    grid: Grid | None = None,
) -> None:
    """Write one object; the same arguments give the same bytes.

    Args:
      path: Where.
      slices: The images; a class without a pixel in one of them gets no frame there.
      film: The UIDs, day and number of the object itself; its pixels are not used.
      attributes: Of the patient.
      person: The patient.
      place: The hospital.
      scanner: The machine.
      grid: For a volume.
    """
    image = begun(SOP_CLASS, film.sop_uid)
    machine = replace(scanner, modality="SEG")
    identify(image, film, attributes=attributes, person=person, place=place, scanner=machine)
    image.SOPClassUID, image.SOPInstanceUID = SOP_CLASS, film.sop_uid
    image.Manufacturer, image.ManufacturerModelName = scanner.manufacturer, scanner.model
    image.DeviceSerialNumber, image.SoftwareVersions = place.serial, "4.2.1"
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.SyntheticData = "YES"
    image.SegmentationType = "BINARY"
    image.ContentLabel, image.ContentDescription = "PHANTOM", ""
    image.ContentCreatorName = place.staff[2]
    image.LossyImageCompression = "00"
    names = list(slices[0].outlines)
    image.SegmentSequence = [_segment(n, KINDS[name]) for n, name in enumerate(names, start=1)]
    drawn = [
        (number, each, each.outlines[name])
        for number, name in enumerate(names, start=1)
        for each in slices
        # An object must have a frame: where nothing is seen, the first one says so.
        if each.outlines[name].any() or (number == 1 and each is slices[0])
    ]
    image.ReferencedSeriesSequence = [
        _item(
            SeriesInstanceUID=film.series_uid,
            ReferencedInstanceSequence=[_reference(each) for each in slices],
        )
    ]
    image.SharedFunctionalGroupsSequence = [_shared(grid)]
    image.PerFrameFunctionalGroupsSequence = [_frame(number, each) for number, each, _ in drawn]
    _pixels(image, np.stack([bits for *_, bits in drawn]))
    if grid is not None:
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = grid.frame_of_reference, ""
    save(image, path)


def write_segments(path: Path, names: Sequence[str]) -> None:
    """Write the ``segments.csv`` that a hospital puts beside its export."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("class", "scheme", "code"))
        table.writerows((name, "SCT", KINDS[name].code) for name in names)


def _segment(number: int, kind: Kind) -> Dataset:
    return _item(
        SegmentNumber=number,
        SegmentLabel=kind.meaning,
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=[_code(*kind.category)],
        SegmentedPropertyTypeCodeSequence=[_code(kind.code, kind.meaning)],
    )


def _shared(grid: Grid | None) -> Dataset:
    if grid is None:
        return Dataset()
    measures = _item(
        SliceThickness=f"{grid.thickness_mm:g}",
        SpacingBetweenSlices=f"{grid.thickness_mm:g}",
        PixelSpacing=[f"{grid.spacing_mm:.6f}"] * 2,
    )
    axial = _item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])
    return _item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[axial])


def _frame(number: int, image: Slice) -> Dataset:
    source = _reference(image)
    source.PurposeOfReferenceCodeSequence = [
        _code("121322", "Source image for image processing operation", scheme="DCM")
    ]
    derivation = _item(
        SourceImageSequence=[source],
        DerivationCodeSequence=[_code("113076", "Segmentation", scheme="DCM")],
    )
    frame = _item(
        DerivationImageSequence=[derivation],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
    )
    if image.position_mm:
        place = _item(ImagePositionPatient=[f"{part:.6g}" for part in image.position_mm])
        frame.PlanePositionSequence = [place]
    return frame


def _pixels(image: Dataset, bits: Bits) -> None:
    frames, rows, columns = bits.shape
    image.NumberOfFrames = str(frames)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated, image.BitsStored, image.HighBit = 1, 1, 0
    image.PixelRepresentation = 0
    content = np.packbits(bits.ravel(), bitorder="little").tobytes()
    image.PixelData = content + b"\0" * (len(content) % 2)
    image["PixelData"].VR = "OB"


def _reference(image: Slice) -> Dataset:
    return _item(ReferencedSOPClassUID=image.sop_class, ReferencedSOPInstanceUID=image.sop_uid)


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(**fields: object) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item
