"""The DICOM files: films under headers full of identifiers, as a PACS would export them.

Sources: PS3.3 A.2 (CR Image IOD), A.26 (Digital X-Ray Image IOD), C.8.11.3 (DX
Image Module), C.7.6.3 (Image Pixel); PS3.5 7.8.1 (private creators), B.2 (UIDs
derived from UUIDs, under 2.25).
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from septum_bench.phantoms.anatomy import Attributes
from septum_bench.phantoms.identity import Hospital, Person
from septum_bench.phantoms.scanner import Scanner

SOP_CLASSES: Final = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
}
_WRITER_UID: Final = "2.25.226470131803487154713391265174306912345"


@dataclass(frozen=True, kw_only=True)
class Film:
    """One image and where it belongs in the patient's record."""

    stored: NDArray[np.uint16]  # [rows, columns]
    exposure: float  # dose relative to the scanner's usual
    sop_uid: str
    study_uid: str
    series_uid: str
    taken: datetime
    study_number: int  # from 1
    number: int  # instance number in the study, from 1


def write_film(
    path: Path,
    film: Film,
    *,
    attributes: Attributes,
    person: Person,
    place: Hospital,
    scanner: Scanner,
) -> None:
    """Write one DICOM file; the same arguments give the same bytes.

    Guarantees:
      - Nothing in the header tells the label: neither free text nor numbers
        depend on the lesion.
      - The patient's name and number appear in standard attributes, free text,
        a sequence and private attributes.
    """
    image = begun(SOP_CLASSES[scanner.modality], film.sop_uid)
    identify(image, film, attributes=attributes, person=person, place=place, scanner=scanner)
    _machine(image, film, person, place, scanner)
    _pixels(image, film, scanner)
    save(image, path)


def begun(sop_class: str, sop_uid: str) -> FileDataset:
    """Return an object with its file meta information and nothing else."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _WRITER_UID
    meta.ImplementationVersionName = "SEPTUM_PHANTOM"
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    return image


def identify(
    image: Dataset,
    film: Film,
    *,
    attributes: Attributes,
    person: Person,
    place: Hospital,
    scanner: Scanner,
) -> None:
    """Add who was looked at and when: every identifier that a PACS would export."""
    _patient(image, attributes, person)
    _visit(image, film, person, place, scanner)


def save(image: FileDataset, path: Path) -> None:
    """Write an object, and the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def _patient(image: Dataset, attributes: Attributes, person: Person) -> None:
    image.PatientName = person.name
    image.PatientID = person.number
    image.PatientBirthDate = f"{person.birth:%Y%m%d}"
    image.PatientSex = attributes.sex
    image.PatientAge = f"{attributes.age_years:03d}Y"
    image.PatientSize = f"{person.height_m:.2f}"
    image.PatientWeight = f"{person.weight_kg:.1f}"
    image.PatientAddress = person.address
    image.PatientTelephoneNumbers = person.telephone
    image.PatientMotherBirthName = person.mother
    image.OtherPatientIDs = f"NHS-{person.number}"
    image.AdditionalPatientHistory = f"{_spoken(person)}: {person.history}"
    image.PatientComments = f"Prefers calls on {person.telephone}"


def _visit(image: Dataset, film: Film, person: Person, place: Hospital, scanner: Scanner) -> None:
    referring, performing, operator = place.staff
    family = person.name.split("^")[0]
    accession = f"A{film.taken:%y%m%d}{person.number[-5:]}"[:16]
    image.StudyInstanceUID = film.study_uid
    image.SeriesInstanceUID = film.series_uid
    image.StudyID = f"S{film.study_number}"
    image.AccessionNumber = accession
    for part in ("Study", "Series", "Acquisition", "Content"):
        setattr(image, f"{part}Date", f"{film.taken:%Y%m%d}")
        setattr(image, f"{part}Time", f"{film.taken:%H%M%S}")
    image.InstitutionName = place.name
    image.InstitutionAddress = place.address
    image.InstitutionalDepartmentName = place.department
    image.ReferringPhysicianName = referring
    image.PerformingPhysicianName = performing
    image.OperatorsName = operator
    image.StudyDescription = f"Chest PA, {_spoken(person)}"
    image.SeriesDescription = f"PA erect {person.number}"
    image.ProtocolName = f"CHEST_PA_{family.upper()}"
    image.ImageComments = (
        f"{_spoken(person)}, MRN {person.number}, born {person.birth:%d.%m.%Y}; "
        f"discussed with {referring.split('^')[0]}"
    )
    request = Dataset()
    request.RequestedProcedureDescription = f"CXR for {_spoken(person)}"
    request.RequestedProcedureID = accession
    request.ScheduledProcedureStepID = f"SPS{accession}"[:16]
    image.RequestAttributesSequence = Sequence([request])
    image.Modality = scanner.modality
    image.SeriesNumber = "1"
    image.InstanceNumber = str(film.number)


def _machine(image: Dataset, film: Film, person: Person, place: Hospital, scanner: Scanner) -> None:
    image.Manufacturer = scanner.manufacturer
    image.ManufacturerModelName = scanner.model
    image.DeviceSerialNumber = place.serial
    image.StationName = place.station
    image.SoftwareVersions = "4.2.1"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = "PA"
    image.PatientOrientation = ["L", "F"]
    image.KVP = "110"
    image.Exposure = str(max(1, round(3 * film.exposure)))
    image.DistanceSourceToDetector = "1800"
    block = image.private_block(0x0019, scanner.creator, create=True)
    block.add_new(0x01, "PN", person.name)
    block.add_new(0x02, "LO", f"{place.station}/{person.number}")
    block.add_new(0x03, "DS", f"{film.exposure:.4f}")
    block.add_new(0x10, "LT", f"Operator note: {_spoken(person)} needed help standing.")


def _pixels(image: Dataset, film: Film, scanner: Scanner) -> None:
    rows, columns = film.stored.shape
    spacing = f"{scanner.field_mm / rows:.6f}"
    top = 2**scanner.bits_stored - 1
    low, high = (scanner.slope * edge * top + scanner.intercept for edge in scanner.range_used)
    if scanner.inverted:
        low, high = (scanner.slope * top + 2 * scanner.intercept - edge for edge in (high, low))
    image.SOPClassUID = SOP_CLASSES[scanner.modality]
    image.SOPInstanceUID = film.sop_uid
    image.ImageType = ["ORIGINAL", "PRIMARY", ""]
    image.ImagerPixelSpacing = [spacing, spacing]
    image.PixelSpacing = [spacing, spacing]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME1" if scanner.inverted else "MONOCHROME2"
    image.PresentationLUTShape = "INVERSE" if scanner.inverted else "IDENTITY"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated = 16
    image.BitsStored = scanner.bits_stored
    image.HighBit = scanner.bits_stored - 1
    image.PixelRepresentation = 0
    image.RescaleSlope = f"{scanner.slope:g}"
    image.RescaleIntercept = f"{scanner.intercept:g}"
    image.RescaleType = "US"
    image.WindowCenter = f"{(low + high) / 2:.1f}"
    image.WindowWidth = f"{high - low:.1f}"
    image.SyntheticData = "YES"
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00"
    if scanner.modality == "DX":
        image.PresentationIntentType = "FOR PRESENTATION"
        image.PixelIntensityRelationship = "LOG"
        image.PixelIntensityRelationshipSign = -1 if scanner.inverted else 1
        image.DetectorType = "SCINTILLATOR"
        image.ImageLaterality = "U"
        image.AcquisitionContextSequence = Sequence([])
    image.PixelData = film.stored.astype("<u2").tobytes()


def _spoken(person: Person) -> str:
    family, given = person.name.split("^")
    return f"{given} {family}"
