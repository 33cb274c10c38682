"""Segmentation objects written by hand, so that each field can be wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def item(**fields):
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def segment(number, label="Lung", scheme="SCT", code="39607008"):
    kind = item(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning=label)
    return item(
        SegmentNumber=number, SegmentLabel=label, SegmentedPropertyTypeCodeSequence=Sequence([kind])
    )


def frame(number=1, images=(), position=None, orientation=(1, 0, 0, 0, 1, 0)):
    """Return the functional groups of one frame; ``images`` are UIDs, or UID and frame number."""
    groups = item(SegmentIdentificationSequence=Sequence([item(ReferencedSegmentNumber=number)]))
    sources = [
        item(ReferencedSOPInstanceUID=image)
        if isinstance(image, str)
        else item(ReferencedSOPInstanceUID=image[0], ReferencedFrameNumber=image[1])
        for image in images
    ]
    if sources:
        groups.DerivationImageSequence = Sequence([item(SourceImageSequence=Sequence(sources))])
    if position is not None:
        groups.PlanePositionSequence = Sequence([item(ImagePositionPatient=list(position))])
        groups.PlaneOrientationSequence = Sequence(
            [item(ImageOrientationPatient=list(orientation))]
        )
        groups.PixelMeasuresSequence = Sequence([item(PixelSpacing=[1, 1], SliceThickness=2)])
    return groups


def write(path, masks, frames, *, patient="P0", instance="4.4.1", segments=None, **fields):
    """Write bits ``(frames, rows, columns)``; fields given as None are left out."""
    masks = np.asarray(masks)
    ds = item(
        SOPClassUID=SEG,
        SOPInstanceUID=instance,
        PatientID=patient,
        Modality="SEG",
        SegmentationType="BINARY",
        Rows=masks.shape[1],
        Columns=masks.shape[2],
        NumberOfFrames=masks.shape[0],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        PixelRepresentation=0,
        SegmentSequence=Sequence([segment(1)] if segments is None else segments),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    listed = fields.pop("listed", ())
    if listed:
        images = Sequence([item(ReferencedSOPInstanceUID=uid) for uid in listed])
        ds.ReferencedSeriesSequence = Sequence([item(ReferencedInstanceSequence=images)])
    if fields.get("SegmentationType", "BINARY") == "BINARY":
        bits, content = 1, np.packbits(masks.astype(bool).ravel(), bitorder="little").tobytes()
    else:
        bits, content = 8, masks.astype(np.uint8).tobytes()
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OB"
    for keyword, value in fields.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = instance
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def seg():
    return SimpleNamespace(write=write, frame=frame, segment=segment, item=item, SEG=SEG)
