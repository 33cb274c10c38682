"""A small CT of the upper abdomen: a body, a spine and a liver, with a lesion in it or not.

Thin on purpose: it shows that volumes and their masks go through the whole
chain, not what a CT looks like. Axes are the patient's, in mm (LPS).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum_bench.phantoms.anatomy import Attributes
from septum_bench.phantoms.headers import Film, begun, identify, save
from septum_bench.phantoms.identity import Hospital, Person
from septum_bench.phantoms.scanner import Scanner
from septum_bench.phantoms.segmentations import Grid, Slice

SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.2"
CLASSES: Final = ("liver", "lesion")
FIELD_MM: Final = 400.0
HEIGHT_MM: Final = 160.0

# Hounsfield units, and their standard deviation.
_AIR, _TISSUE, _LIVER, _BONE, _LESION, _NOISE = -1000.0, 30.0, 200.0, 500.0, 420.0, 12.0
_INTERCEPT: Final = -1024
_HIGHEST: Final = 4095


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One volume, ``[slices, rows, columns]``, from the feet to the head.

    Attributes:
      stored: Values above :data:`_INTERCEPT`, in Hounsfield units.
      liver, lesion: Which voxels are of it.
    """

    stored: NDArray[np.uint16]
    liver: NDArray[np.bool_]
    lesion: NDArray[np.bool_]

    @property
    def grid_mm(self) -> tuple[float, float]:
        """Distance of slices, and of pixels."""
        return HEIGHT_MM / len(self.stored), FIELD_MM / self.stored.shape[1]


def scan_of(rng: np.random.Generator, attributes: Attributes, *, depth: int, matrix: int) -> Scan:
    """Draw one scan.

    Guarantees:
      - The draws do not depend on the lesion: with and without it, scans from
        equal generators differ in the lesion alone.
    """
    across = (np.arange(matrix) + 0.5) * (FIELD_MM / matrix) - FIELD_MM / 2
    up = (np.arange(depth) + 0.5) * (HEIGHT_MM / depth) - HEIGHT_MM / 2
    z, y, x = np.meshgrid(up, across, across, indexing="ij")
    girth = 1.0 + 0.05 * attributes.body_size

    def ball(centre: Sequence[float], radii: Sequence[float]) -> NDArray[np.bool_]:
        parts = zip((x, y, z), centre, radii, strict=True)
        return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in parts) <= 1)

    shift, stretch = rng.normal(0.0, 6.0, 3), np.exp(rng.normal(0.0, 0.08, 3))
    where = rng.uniform(-0.45, 0.45, 3)
    noise = rng.normal(0.0, _NOISE, z.shape)
    body = ball((0, 0, 0), (160 * girth, 110 * girth, math.inf))
    spine = ball((0, 65, 0), (22, 22, math.inf))
    # The liver lies on the patient's right: negative x.
    centre, radii = np.array([-60.0, -10.0, 0.0]) + shift, np.array([75.0, 60.0, 60.0]) * stretch
    liver = ball(centre.tolist(), radii.tolist()) & body & ~spine
    lesion = np.zeros_like(liver)
    if attributes.lesion_mm > 0:
        lesion = ball((centre + where * radii).tolist(), [1.2 * attributes.lesion_mm] * 3) & liver
    values = np.where(body, _TISSUE, _AIR)
    for part, hounsfield in ((spine, _BONE), (liver, _LIVER), (lesion, _LESION)):
        values[part] = hounsfield
    stored = np.clip(np.rint(values + noise) - _INTERCEPT, 0, _HIGHEST).astype(np.uint16)
    return Scan(stored=stored, liver=liver, lesion=lesion)


def write_scan(
    folder: Path,
    scan: Scan,
    film: Film,
    uids: Sequence[str],
    *,
    frame_of_reference: str,
    attributes: Attributes,
    person: Person,
    place: Hospital,
    scanner: Scanner,
) -> tuple[list[Slice], Grid]:
    """Write one CT file for each slice.

    Args:
      folder: Where.
      scan: The volume.
      film: UIDs, day and number of the series; its pixels are not used.
      uids: SOP Instance UID of each slice.
      frame_of_reference: Its UID.
      attributes: Of the patient.
      person: The patient.
      place: The hospital.
      scanner: The machine.

    Returns:
      What a segmentation of these slices needs.
    """
    machine = replace(scanner, modality="CT")
    between, apart = scan.grid_mm
    first = apart / 2 - FIELD_MM / 2
    slices = []
    for number, (uid, stored) in enumerate(zip(uids, scan.stored, strict=True)):
        place_mm = (first, first, between * (number + 0.5) - HEIGHT_MM / 2)
        image = begun(SOP_CLASS, uid)
        each = replace(film, sop_uid=uid, number=number + 1)
        identify(image, each, attributes=attributes, person=person, place=place, scanner=machine)
        image.SOPClassUID, image.SOPInstanceUID = SOP_CLASS, uid
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.Manufacturer, image.ManufacturerModelName = scanner.manufacturer, scanner.model
        image.BodyPartExamined, image.PatientPosition, image.KVP = "ABDOMEN", "HFS", "120"
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = frame_of_reference, ""
        image.ImagePositionPatient = [f"{part:.6g}" for part in place_mm]
        image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        image.PixelSpacing = [f"{apart:.6f}"] * 2
        image.SliceThickness = f"{between:g}"
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = stored.shape
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.PixelRepresentation = 0
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = _INTERCEPT, "1", "HU"
        image.SyntheticData, image.BurnedInAnnotation = "YES", "NO"
        image.LossyImageCompression = "00"
        image.PixelData = stored.astype("<u2").tobytes()
        save(image, folder / f"IM{number + 1:06d}")
        outlines = {"liver": scan.liver[number], "lesion": scan.lesion[number]}
        slices.append(
            Slice(sop_class=SOP_CLASS, sop_uid=uid, outlines=outlines, position_mm=place_mm)
        )
    grid = Grid(spacing_mm=apart, thickness_mm=between, frame_of_reference=frame_of_reference)
    return slices, grid
