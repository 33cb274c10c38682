"""Cohorts of volumes: slices in any order, one answer per series, and no face."""

import os
import shutil
import sys
from dataclasses import replace
from datetime import date

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum.errors import DataError, Quarantine
from septum_client import cohort as cohorts
from septum_client import ingest as ingesting
from septum_client import stacking
from septum_client.cohort import CohortSpec
from septum_client.consent.decisions import Declared
from septum_client.ingest import Terms
from septum_client.pseudonyms import pseudonym
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Pool

KEY = bytes(range(32))
SPEC = CohortSpec(image_size=16, depth=4, labels=("sick",), test_fraction=0.4)
TERMS = Terms(rules=Intake(burned_in_text="header"), today=date(2026, 1, 1))
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
PATIENTS, SLICES, SIDE = 6, 6, 20


def ingest(source, folder, *, terms=TERMS, spec=SPEC, **kwargs):
    return ingesting.ingest(source, folder, terms=terms, spec=spec, key=KEY, **kwargs)


def under(**rules):
    return replace(TERMS, rules=TERMS.rules.model_copy(update=rules))


def block(patient):
    return np.random.default_rng(patient).integers(0, 2000, (SLICES, SIDE, SIDE)).astype(np.uint16)


def piece(dcm, patient, number, **fields):
    """Return one slice of a patient's CT."""
    values = {
        "SOPClassUID": CT,
        "Modality": "CT",
        "BodyPartExamined": "CHEST",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "StudyInstanceUID": f"1.5.{patient}",
        "SeriesInstanceUID": f"1.6.{patient}",
        "FrameOfReferenceUID": f"1.7.{patient}",
        "ImagePositionPatient": [0, 0, 2.0 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SliceThickness": 2,
    } | fields
    pixels = values.pop("pixels", None)
    instance = values.pop("instance", f"1.8.{patient}.{number + 1}")
    pixels = block(patient)[number] if pixels is None else pixels
    ds = dcm.header(f"P{patient}", instance, pixels, **values)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return ds


def scans(folder, dcm, *, order=0, patients=PATIENTS, change=lambda ds, patient, number: ds):
    """Write one CT a patient, its slices under names that tell no order."""
    names = np.random.default_rng(order).permutation(1000)
    for patient in range(patients):
        for number in range(SLICES):
            ds = change(piece(dcm, patient, number), patient, number)
            if ds is not None:
                dcm.write(folder / f"{names[patient * SLICES + number]:04d}", ds)
    dcm.table(folder, [(f"P{p}", p % 2) for p in range(patients)])
    return folder


@pytest.fixture
def source(tmp_path, dcm):
    return scans(tmp_path / "export", dcm)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "cohort"


def volume_of(cohort, patient):
    (volume,) = cohort.images[cohort.images_of(cohort.pseudonyms.index(name(patient)))]
    return volume


def name(patient):
    return pseudonym(KEY, f"P{patient}")


def alone(target):
    return [path.name for path in target.parent.iterdir()] == ["cohort"]


def test_slices_in_any_order_are_one_volume_of_their_patient(source, target, tmp_path, dcm):
    cohort = ingest(source, target)
    assert (cohort.images.shape, cohort.images.dtype) == ((6, 1, 4, 16, 16), np.float16)
    assert isinstance(cohort.images, np.memmap)
    assert cohort.quarantined == {}
    assert cohort.lineage["files"] == PATIENTS * SLICES
    labels = dict(zip(cohort.pseudonyms, cohort.labels[:, 0].tolist(), strict=True))
    assert labels == {name(p): p % 2 for p in range(6)}
    cohort.verify()
    assert alone(target)
    shuffled = scans(tmp_path / "shuffled", dcm, order=1)
    assert ingest(shuffled, tmp_path / "other", workers=2).digest == cohort.digest
    again = ingest(source, target)
    assert again.digest == cohort.digest


def test_depth_grows_towards_the_head(tmp_path, target, dcm):
    def brighter(ds, patient, number):
        values = np.full((SIDE, SIDE), 100 * number, np.uint16)
        values[patient, 3] += 50
        ds.PixelData = values.tobytes()
        return ds

    cohort = ingest(scans(tmp_path / "export", dcm, change=brighter), target)
    means = cohort.images.astype(np.float64).mean(axis=(1, 3, 4))
    assert (np.diff(means, axis=1) > 0.1).all()


def test_a_localiser_in_the_series_is_split_off_and_counted(source, target, dcm):
    plain = ingest(source, target)
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    dcm.write(source / "0000a", piece(dcm, 0, 1, instance="9.1", **coronal))
    named = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    dcm.write(source / "0000b", piece(dcm, 0, 1, instance="9.2", **named))
    cohort = ingest(source, target)
    assert cohort.quarantined == {Quarantine.LOCALISER: 2}
    assert (volume_of(cohort, 0) == volume_of(plain, 0)).all()


def without_one(ds, patient, number):
    return None if (patient, number) == (0, 2) else ds


def tilted(ds, patient, number):
    if patient == 0:
        tilt = np.radians(15)
        ds.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    return ds


def nowhere(ds, patient, number):
    if (patient, number) == (0, 2):
        del ds.ImagePositionPatient
    return ds


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without_one, Quarantine.UNEVEN_SPACING),
        (tilted, Quarantine.UNEVEN_SPACING),
        (nowhere, Quarantine.BAD_GEOMETRY),
    ],
)
def test_a_series_that_is_no_even_stack_stays_out_whole(tmp_path, target, dcm, change, code):
    cohort = ingest(scans(tmp_path / "export", dcm, change=change), target)
    assert cohort.quarantined == {code: 1}
    assert name(0) not in cohort.pseudonyms
    assert len(cohort.images) == PATIENTS - 1


def item(**fields):
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def test_one_file_of_many_frames_is_the_volume_that_its_slices_are(source, target, dcm):
    slices = ingest(source, target)
    for path in list(source.iterdir()):
        if path.suffix != ".csv" and dcm_patient(path) == "P0":
            path.unlink()
    whole = piece(dcm, 0, 0, SOPClassUID=ENHANCED_CT, NumberOfFrames=SLICES)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    whole.PixelData = block(0).tobytes()
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
    )
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * n])])
            for n in range(SLICES)
        ]
    )
    dcm.write(source / "whole", whole)
    cohort = ingest(source, target)
    assert cohort.quarantined == {}
    assert (volume_of(cohort, 0) == volume_of(slices, 0)).all()


def dcm_patient(path):
    return pydicom.dcmread(path, stop_before_pixels=True).PatientID


def test_a_nifti_volume_is_whose_the_table_says(source, target, dcm):
    values = np.random.default_rng(3).integers(0, 900, (SIDE, SIDE, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source / "scan.nii.gz")
    (source / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [(f"P{p}", "", p % 2) for p in range(6)] + [("New", "scan.nii.gz", 1)]
    rows += [("New", "picture.png", 1)]
    dcm.table(source, rows, ("patient_id", "file", "sick"))
    cohort = ingest(source, target, terms=under(faces="allow"))
    assert pseudonym(KEY, "New") in cohort.pseudonyms
    assert cohort.quarantined == {Quarantine.BAD_GEOMETRY: 1}
    refused = ingest(source, target)
    assert pseudonym(KEY, "New") not in refused.pseudonyms
    assert refused.quarantined == {Quarantine.BAD_GEOMETRY: 1, Quarantine.FACE: 1}


# Labels and consent


def test_a_volume_is_labelled_by_any_of_its_slices_and_by_no_two_that_disagree(source, target, dcm):
    rows = [(f"P{p}", f"1.8.{p}.4", 1 - p % 2) for p in range(6)]
    dcm.table(source, rows, ("patient_id", "sop_instance_uid", "sick"))
    cohort = ingest(source, target)
    assert cohort.quarantined == {}
    labels = dict(zip(cohort.pseudonyms, cohort.labels[:, 0], strict=True))
    assert {name(p): 1 - p % 2 for p in range(6)} == labels
    agreeing = [*rows, ("P0", "1.8.0.1", 1)]
    dcm.table(source, agreeing, ("patient_id", "sop_instance_uid", "sick"))
    assert ingest(source, target).digest == cohort.digest
    dcm.table(source, [*rows, ("P0", "1.8.0.1", 0)], ("patient_id", "sop_instance_uid", "sick"))
    with pytest.raises(DataError, match="rows 2, 8 of the labels CSV"):
        ingest(source, target)


def test_one_slice_that_denies_denies_for_the_patient(tmp_path, target, dcm):
    def denies(ds, patient, number):
        if (patient, number) == (0, 3):
            said = item(DistributionType="PUBLIC_RELEASE", ConsentForDistributionFlag="NO")
            ds.ConsentForClinicalTrialUseSequence = Sequence([said])
        return ds

    terms = replace(TERMS, admits=lambda _, declared: declared != Declared.DENIED)
    cohort = ingest(scans(tmp_path / "export", dcm, change=denies), target, terms=terms)
    assert name(0) not in cohort.pseudonyms
    assert cohort.quarantined == {Quarantine.NO_CONSENT: 1}


# Faces


def head(ds, patient, number):
    if patient == 0:
        ds.BodyPartExamined = "HEAD"
    return ds


def test_a_scan_that_may_show_a_face_enters_only_where_the_policy_allows(tmp_path, target, dcm):
    source = scans(tmp_path / "export", dcm, change=head)
    refused = ingest(source, target)
    assert refused.quarantined == {Quarantine.FACE: SLICES}
    assert name(0) not in refused.pseudonyms
    assert len(ingest(source, target, terms=under(faces="allow")).images) == PATIENTS


DEFACER = """#!{python}
import sys, nibabel, numpy as np
arguments = sys.argv
scan = nibabel.load(arguments[arguments.index("--i") + 1])
values = scan.get_fdata()
{change}
image = nibabel.Nifti1Image(values.astype("float32"), scan.affine)
nibabel.save(image, arguments[arguments.index("--o") + 1])
"""


@pytest.fixture
def defacer(tmp_path, monkeypatch):
    """Install a defacer, and children that find it."""

    def install(change):
        program = tmp_path / "bin" / "mideface"
        program.parent.mkdir(exist_ok=True)
        program.write_text(DEFACER.format(python=sys.executable, change=change))
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    fresh = Pool()
    monkeypatch.setattr(pool, "shared", lambda workers: fresh)
    yield install
    fresh.close()


def heads(folder, dcm):
    """Write a head of 60 slices for one patient beside the chests; signal 600 on noise."""
    grid = np.meshgrid(*(np.arange(n) * 3.0 - 3.0 * n / 2 for n in (90, 86, 70)), indexing="ij")
    z, y, x = grid  # towards the head, to the back, to the left

    def ball(centre, radii):
        parts = zip((x, -y, z), centre, radii, strict=True)
        return sum(((g - c) / r) ** 2 for g, c, r in parts) <= 1

    tissue = ball((0, 0, 30), (76, 95, 80)) | ball((0, 25, -35), (52, 62, 78))
    tissue |= ball((0, -10, -110), (48, 48, 90)) | ball((0, 92, -20), (13, 20, 22))
    for side in (-32, 32):
        tissue &= ~ball((side, 92, 5), (15, 14, 11))
    values = np.where(tissue, 600, 0)
    values[ball((0, 0, 40), (66, 84, 62))] = 900
    values = values + np.abs(np.random.default_rng(0).normal(0, 20, values.shape))
    for number, pixels in enumerate(values.astype(np.uint16)):
        place = {"ImagePositionPatient": [-105, -129, 3.0 * number - 135], "PixelSpacing": [3, 3]}
        ds = piece(dcm, 0, 0, pixels=pixels, instance=f"7.{number + 1}", **place)
        ds.SeriesInstanceUID, ds.BodyPartExamined = "7.7", "HEAD"
        dcm.write(folder / "head" / f"{number}", ds)
    return values


CUT = """
top = (np.arange(values.shape[2]) - values.shape[2] / 2) * 3.0
along = nibabel.aff2axcodes(scan.affine)[1]
front = (np.arange(values.shape[1]) - values.shape[1] / 2) * 3.0 * (1 if along == "A" else -1)
values[:, (front > 45)[:, None] & (top < 22)] = 0
"""


def test_a_face_is_removed_by_the_defacer_or_the_scan_stays_out(source, target, dcm, defacer):
    heads(source, dcm)
    defacer(CUT)
    cohort = ingest(source, target, terms=under(faces="deface"))
    assert cohort.quarantined == {}
    assert len(cohort.images) == PATIENTS + 1
    shown = ingest(source, target, terms=under(faces="allow"))
    at = cohort.images_of(cohort.pseudonyms.index(name(0)))
    different = np.abs(cohort.images[at].astype(float) - shown.images[at].astype(float)).max()
    assert different > 0.3
    defacer("pass")
    left = ingest(source, target, terms=under(faces="deface"))
    assert left.quarantined == {Quarantine.FACE: 1}
    assert len(left.images) == PATIENTS


# What lies on the disk


def test_the_files_between_are_gone_after_an_error_too(source, target, monkeypatch):
    kept = []
    volumes = stacking._volumes

    def failing(found, ask):
        (work,) = (path for path in target.parent.iterdir() if path.name != "cohort")
        kept.extend((work / "files.partial").iterdir())
        raise RuntimeError
        yield from volumes(found, ask)

    ingest(source, target)
    monkeypatch.setattr(stacking, "_volumes", failing)
    with pytest.raises(RuntimeError):
        ingest(source, target)
    assert len(kept) == PATIENTS * SLICES
    assert alone(target)
    monkeypatch.undo()
    shutil.rmtree(target)
    ingest(source, target)
    assert alone(target)
    assert {path.name for path in target.iterdir()} == {"images.npy", "index.npz", "cohort.json"}


def test_a_patient_goes_from_a_cohort_of_volumes(source, target):
    cohort = ingest(source, target)
    kept = [volume_of(cohort, p).copy() for p in range(1, 6)]
    left = cohorts.without(target, {name(0)})
    left.verify()
    assert name(0) not in left.pseudonyms
    assert left.images.shape == (5, 1, 4, 16, 16)
    assert all((volume_of(left, p) == kept[p - 1]).all() for p in range(1, 6))


def test_frames_alone_and_volumes_are_never_taken_for_each_other(source, target):
    ingest(source, target)
    flat = ingest(source, target, spec=replace(SPEC, depth=1))
    assert (flat.images.shape[1:], flat.lineage["reused"]) == ((1, 16, 16), 0)
    assert ingest(source, target).lineage["reused"] == 0
