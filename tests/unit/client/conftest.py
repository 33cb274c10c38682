"""A tiny hospital: DICOM files written by hand, and the labels beside them."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def image(seed=0, side=24, high=4096):
    return np.random.default_rng(seed).integers(0, high, (side, side)).astype(np.uint16)


def header(patient="P1", instance="1.2.3.1", pixels=None, syntax=ExplicitVRLittleEndian, **fields):
    """Return a data set; a field given as None is left out."""
    pixels = image() if pixels is None else pixels
    ds = Dataset()
    values = {
        "SOPClassUID": DX,
        "SOPInstanceUID": instance,
        "PatientID": patient,
        "PatientSex": "F",
        "PatientAge": "045Y",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    } | fields
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = DX
    ds.file_meta.MediaStorageSOPInstanceUID = instance or "1.2"
    return ds


def write(path, ds=None, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    (header(**kwargs) if ds is None else ds).save_as(path, enforce_file_format=True)
    return path


def table(folder, rows, columns=("patient_id", "sick"), name="labels.csv"):
    with (folder / name).open("w", newline="") as out:
        csv.writer(out).writerows([columns, *rows])


def hospital(folder: Path, patients=12, images=2):
    """Write ``patients`` with ``images`` each; every other patient is sick."""
    for p in range(patients):
        for i in range(images):
            seed = p * images + i
            write(
                folder / f"study{p % 3}" / f"IM{seed}",
                patient=f"P{p}",
                instance=f"1.2.3.{seed + 1}",
                pixels=image(seed),
            )
    table(folder, [(f"P{p}", p % 2) for p in range(patients)])
    return folder


@pytest.fixture
def dcm():
    return SimpleNamespace(
        image=image, header=header, write=write, table=table, hospital=hospital, DX=DX
    )
