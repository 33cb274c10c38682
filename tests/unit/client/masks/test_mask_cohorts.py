"""Cohorts with masks: whose they are, on whose pixels, and for how long."""

import json
import shutil
from dataclasses import replace
from datetime import date

import nibabel
import numpy as np
import pytest
from PIL import Image

from septum.errors import DataError, Quarantine
from septum_client import cohort as cohorts
from septum_client import ingest as ingesting
from septum_client import storage
from septum_client.cohort import Cohort, CohortSpec
from septum_client.consent.decisions import Declared
from septum_client.ingest import Terms
from septum_client.pseudonyms import pseudonym
from septum_client.rules import Intake

KEY = bytes(range(32))
SPEC = CohortSpec(image_size=24, labels=("lung",), test_fraction=0.4, task="segmentation")
TERMS = Terms(rules=Intake(burned_in_text="header"), today=date(2026, 1, 1))
PATIENTS, SIDE = 6, 24
CT = "1.2.840.10008.5.1.4.1.1.2"
SEGMENTS = "class,value,label,scheme,code\nlung,1,Lung,SCT,39607008\n"


def ingest(source, folder, *, spec=SPEC, terms=TERMS, **kwargs):
    return ingesting.ingest(source, folder, spec=spec, terms=terms, key=KEY, **kwargs)


def name(patient):
    return pseudonym(KEY, f"P{patient}")


def mask_of(patient, shape=(SIDE, SIDE)):
    return np.random.default_rng(100 + patient).random(shape) < 0.4


def films(folder, dcm, seg, *, patients=PATIENTS):
    """Write a film and its segmentation for each patient, and no labels: none are needed."""
    for p in range(patients):
        dcm.write(folder / f"{p}.dcm", patient=f"P{p}", instance=f"1.{p + 1}", pixels=dcm.image(p))
        # The object comes first in the walk and is of its own series.
        seg.write(
            folder / "a" / f"{p}.dcm",
            mask_of(p)[None],
            [seg.frame(1, [f"1.{p + 1}"])],
            patient=f"P{p}",
            instance=f"2.{p + 1}",
        )
    (folder / "segments.csv").write_text(SEGMENTS)
    return folder


@pytest.fixture
def source(tmp_path, dcm, seg):
    return films(tmp_path / "export", dcm, seg)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "cohort"


def masks_of(cohort, patient):
    return cohort.masks[cohort.images_of(cohort.pseudonyms.index(name(patient)))]


def alone(target):
    return [path.name for path in target.parent.iterdir()] == ["cohort"]


def test_each_film_has_the_mask_that_names_it(source, target):
    cohort = ingest(source, target)
    assert (cohort.masks.dtype, cohort.masks.shape) == (np.uint8, (PATIENTS, 24, 24))
    assert isinstance(cohort.masks, np.memmap)
    assert not cohort.masks.flags.writeable
    assert cohort.targets is cohort.masks
    assert cohort.labels.shape == (PATIENTS, 0)
    assert cohort.quarantined == {}
    for p in range(PATIENTS):
        assert np.array_equal(masks_of(cohort, p)[0], mask_of(p))
    cohort.verify()
    assert alone(target)
    assert {path.name for path in target.iterdir()} == {
        storage.IMAGES,
        storage.MASKS,
        storage.INDEX,
        storage.MANIFEST,
    }


def test_names_of_files_and_the_number_of_workers_change_nothing(source, target, tmp_path):
    first = ingest(source, target)
    for path in sorted((source / "a").iterdir()):
        path.rename(source / f"z{path.name}")
    again = ingest(source, tmp_path / "other", workers=2)
    assert again.digest == first.digest


def test_a_class_without_its_own_segment_leaves_the_masks_alone(source, target):
    wider = replace(SPEC, labels=("heart", "lung"))
    (source / "segments.csv").write_text(SEGMENTS + "heart,2,Heart,,\n")
    cohort = ingest(source, target, spec=wider)
    assert set(np.unique(cohort.masks)) == {0, 2}


def test_one_object_may_be_of_many_films_and_two_of_one(source, target, dcm, seg):
    shutil.rmtree(source / "a")
    dcm.write(source / "0b.dcm", patient="P0", instance="1.99", pixels=dcm.image(50))
    lung, nodule = mask_of(0), np.zeros((SIDE, SIDE), bool)
    nodule[3:8, 4:9] = True
    for p in range(1, PATIENTS):
        seg.write(
            source / "a" / f"{p}.dcm", mask_of(p)[None], [seg.frame(1, [f"1.{p + 1}"])],
            patient=f"P{p}", instance=f"2.{p + 1}",
        )  # fmt: skip
    both = [seg.frame(1, ["1.1"]), seg.frame(1, ["1.99"])]
    seg.write(source / "a" / "both", [lung, ~lung], both, instance="2.1")
    kinds = [seg.segment(1, "Nodule", "SCT", "27925004")]
    seg.write(
        source / "a" / "more", nodule[None], [seg.frame(1, ["1.1"])],
        instance="2.99", segments=kinds,
    )  # fmt: skip
    (source / "segments.csv").write_text(SEGMENTS + "nodule,2,Nodule,,\n")
    cohort = ingest(source, target, spec=replace(SPEC, labels=("lung", "nodule")))
    found = masks_of(cohort, 0)
    want = np.where(nodule, 2, lung)
    assert any(np.array_equal(mask, want) for mask in found)
    assert any(np.array_equal(mask, ~lung) for mask in found)


def test_a_film_that_an_object_lists_and_no_frame_touches_has_an_empty_mask(source, target, seg):
    frames = [seg.frame(1, ["1.1"])]
    empty = np.zeros((1, SIDE, SIDE), bool)
    seg.write(source / "a" / "0.dcm", empty, frames, instance="2.1", listed=["1.1"])
    cohort = ingest(source, target)
    assert cohort.quarantined == {}
    assert not masks_of(cohort, 0).any()


def test_a_film_without_a_mask_stays_out_and_is_never_read_as_empty(source, target):
    (source / "a" / "0.dcm").unlink()
    cohort = ingest(source, target)
    assert cohort.quarantined == {Quarantine.NO_MASK: 1}
    assert name(0) not in cohort.pseudonyms


def test_an_object_of_another_patient_is_no_mask_of_this_one(source, target, seg):
    frames = [seg.frame(1, ["1.1"])]
    seg.write(source / "a" / "0.dcm", mask_of(0)[None], frames, patient="P1", instance="2.1")
    cohort = ingest(source, target)
    assert cohort.quarantined == {Quarantine.NO_MASK: 1}
    assert name(0) not in cohort.pseudonyms


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"segments": "Rib"}, Quarantine.UNKNOWN_SEGMENT),
        ({"SegmentSequence": []}, Quarantine.UNKNOWN_SEGMENT),
        ({"NumberOfFrames": 2}, Quarantine.MULTI_FRAME),
        ({"SegmentationType": "OTHER"}, Quarantine.CANNOT_DECODE),
        ({"PatientID": None}, Quarantine.NO_PATIENT),
        ({"PixelData": b"\0\0"}, Quarantine.TRUNCATED),
    ],
)
def test_an_object_that_cannot_be_read_is_counted_and_so_is_its_film(
    source, target, seg, change, code
):
    if "segments" in change:
        change = {"segments": [seg.segment(1, "Rib", "SCT", "113197003")]}
    seg.write(
        source / "a" / "0.dcm", mask_of(0)[None], [seg.frame(1, ["1.1"])], instance="2.1", **change
    )
    cohort = ingest(source, target)
    assert cohort.quarantined == {code: 1, Quarantine.NO_MASK: 1}
    assert name(0) not in cohort.pseudonyms


def test_a_mask_of_another_matrix_is_refused(source, target, seg):
    wide = mask_of(0, (SIDE, SIDE + 8))
    seg.write(source / "a" / "0.dcm", wide[None], [seg.frame(1, ["1.1"])], instance="2.1")
    assert ingest(source, target).quarantined == {Quarantine.MASK_GEOMETRY: 1}


def test_half_of_the_greatest_value_is_inside_a_fractional_mask(source, target, seg):
    values = np.zeros((1, SIDE, SIDE), np.uint8)
    values[0, :4], values[0, 4:8] = 100, 99
    seg.write(
        source / "a" / "0.dcm", values, [seg.frame(1, ["1.1"])], instance="2.1",
        SegmentationType="FRACTIONAL", MaximumFractionalValue=200,
    )  # fmt: skip
    found = masks_of(ingest(source, target), 0)[0]
    assert found[:4].all()
    assert not found[4:].any()


def test_a_label_map_says_its_segments_pixel_by_pixel(source, target, seg):
    values = np.zeros((1, SIDE, SIDE), np.uint8)
    values[0, :4], values[0, 4:8] = 1, 3
    kinds = [seg.segment(1), seg.segment(3, "Heart", "SCT", "80891009")]
    groups = seg.frame(1, ["1.1"])
    del groups.SegmentIdentificationSequence
    seg.write(
        source / "a" / "0.dcm", values, [groups], instance="2.1", segments=kinds,
        SegmentationType="LABELMAP", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7",
    )  # fmt: skip
    (source / "segments.csv").write_text(SEGMENTS + ",,Heart,,\n")
    found = masks_of(ingest(source, target), 0)[0]
    assert found[:4].all()
    assert not found[4:].any()


def test_frames_of_a_loop_have_masks_of_their_own(source, target, dcm, seg):
    loop = dcm.header("P0", "1.1", dcm.image(0, 24))
    loop.NumberOfFrames = 3
    loop.PixelData = b"".join(dcm.image(n).tobytes() for n in range(3))
    dcm.write(source / "0.dcm", loop)
    masks = [mask_of(0), mask_of(50)]
    frames = [seg.frame(1, [("1.1", 1)]), seg.frame(1, [("1.1", 3)])]
    seg.write(source / "a" / "0.dcm", masks, frames, instance="2.1")
    found = masks_of(ingest(source, target), 0)
    assert np.array_equal(found, [masks[0], np.zeros((SIDE, SIDE)), masks[1]])
    seg.write(source / "a" / "0.dcm", masks[:1], [seg.frame(1, ["1.1"])], instance="2.1")
    assert ingest(source, target).quarantined == {Quarantine.MASK_GEOMETRY: 1}


def test_without_masks_in_the_study_an_object_is_what_it_was(source, target, dcm):
    dcm.table(source, [(f"P{p}", p % 2) for p in range(PATIENTS)])
    cohort = ingest(source, target, spec=replace(SPEC, task="multilabel", labels=("sick",)))
    assert cohort.quarantined == {Quarantine.NOT_AN_IMAGE: PATIENTS}
    assert cohort.masks is None
    assert cohort.targets is cohort.labels


def test_an_object_that_denies_consent_denies_for_the_patient(source, target, seg):
    said = seg.item(DistributionType="PUBLIC_RELEASE", ConsentForDistributionFlag="NO")
    seg.write(
        source / "a" / "0.dcm", mask_of(0)[None], [seg.frame(1, ["1.1"])], instance="2.1",
        ConsentForClinicalTrialUseSequence=[said],
    )  # fmt: skip
    terms = replace(TERMS, admits=lambda _, declared: declared != Declared.DENIED)
    cohort = ingest(source, target, terms=terms)
    assert cohort.quarantined == {Quarantine.NO_CONSENT: 1}
    assert name(0) not in cohort.pseudonyms


def test_strata_come_from_a_table_that_may_leave_images_out(source, target, dcm):
    dcm.table(source, [("P0", 1.5)], ("patient_id", "meta_mm"))
    cohort = ingest(source, target)
    found = {
        cohort.pseudonyms[owner]: value
        for owner, value in zip(cohort.patient_of_image, cohort.meta["mm"], strict=True)
    }
    assert found.pop(name(0)) == 1.5
    assert np.isnan(list(found.values())).all()


def test_the_source_must_say_what_its_segments_are(source, target):
    (source / "segments.csv").unlink()
    with pytest.raises(DataError, match=r"no segments\.csv"):
        ingest(source, target)
    (source / "segments.csv").write_text("class,label\nlung,Lungs\n")
    with pytest.raises(DataError, match="None of the 12 files"):
        ingest(source, target)
    assert not target.exists()


def test_masks_that_are_all_background_teach_nothing(source, target):
    (source / "segments.csv").write_text(",".join(["class", "label"]) + "\nlung,X\n,Lung\n")
    with pytest.raises(DataError, match="background"):
        ingest(source, target)


# Pictures and NIfTI


@pytest.fixture
def pictures(tmp_path, dcm):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for p in range(PATIENTS):
        Image.fromarray(dcm.image(p, high=256).astype(np.uint8)).save(folder / f"{p}.png")
        Image.fromarray(mask_of(p).astype(np.uint8) * 255).save(folder / f"{p}-mask.png")
        rows.append((f"{p}.png", f"P{p}", f"{p}-mask.png"))
    dcm.table(folder, rows, ("file", "patient_id", "mask"))
    (folder / "segments.csv").write_text("class,value\nlung,255\n")
    return folder


def test_pictures_and_their_masks_are_named_together(pictures, target, tmp_path):
    cohort = ingest(pictures, target)
    assert cohort.quarantined == {}
    assert len(cohort.images) == PATIENTS
    for p in range(PATIENTS):
        assert np.array_equal(masks_of(cohort, p)[0], mask_of(p))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", pictures)
    packed = ingest(tmp_path / "packed.zip", tmp_path / "from-archive")
    assert archive.endswith("packed.zip")
    assert packed.digest == cohort.digest


def test_a_palette_is_a_list_of_segments_and_not_of_colours(pictures, target):
    image = Image.fromarray(mask_of(0).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 250, 3, 3])
    image.save(pictures / "0-mask.png")
    (pictures / "segments.csv").write_text("class,value\nlung,255\nlung,1\n")
    assert np.array_equal(masks_of(ingest(pictures, target), 0)[0], mask_of(0))


@pytest.mark.parametrize(
    ("spoil", "codes"),
    [
        (lambda at: at.unlink(), {Quarantine.NO_MASK: 1}),
        (
            lambda at: at.write_bytes(at.read_bytes()[:60]),
            {Quarantine.NO_MASK: 1, Quarantine.CANNOT_DECODE: 1},
        ),
        (
            lambda at: Image.new("L", (24, 24), 7).save(at),
            {Quarantine.NO_MASK: 1, Quarantine.UNKNOWN_SEGMENT: 1},
        ),
        (lambda at: Image.new("L", (24, 30), 255).save(at), {Quarantine.MASK_GEOMETRY: 1}),
        (
            lambda at: Image.new("RGB", (24, 24)).save(at),
            {Quarantine.NO_MASK: 1, Quarantine.CANNOT_DECODE: 1},
        ),
    ],
)
def test_a_picture_without_a_usable_mask_stays_out(pictures, target, spoil, codes):
    spoil(pictures / "0-mask.png")
    cohort = ingest(pictures, target)
    assert cohort.quarantined == codes
    assert name(0) not in cohort.pseudonyms


@pytest.mark.parametrize("depth", [1, 4])
def test_a_nifti_mask_is_turned_with_its_volume(tmp_path, target, dcm, depth):
    source = tmp_path / "nifti"
    source.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for p in range(PATIENTS):
        values = rng.choice([100, 800], (SIDE, SIDE, 4)).astype(np.int16)
        inside = (values > 450).astype(np.int16)
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(values, affine), source / f"{p}.nii.gz")
        # The mask is stored the other way round, and says so.
        turned = affine @ np.array([[-1, 0, 0, SIDE - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        mask = nibabel.Nifti1Image(inside[::-1] * (p > 0), turned)
        nibabel.save(mask, source / f"m{p}.nii")
        rows.append((f"{p}.nii.gz", f"P{p}", f"m{p}.nii"))
    dcm.table(source, rows, ("file", "patient_id", "mask"))
    (source / "segments.csv").write_text("class,value\nlung,1\n")
    allowed = replace(TERMS, rules=TERMS.rules.model_copy(update={"faces": "allow"}))
    cohort = ingest(source, target, spec=replace(SPEC, depth=depth), terms=allowed)
    assert cohort.quarantined == {}
    assert cohort.masks.shape == cohort.images[:, 0].shape
    for p in range(1, PATIENTS):
        at = cohort.images_of(cohort.pseudonyms.index(name(p)))
        image, mask = cohort.images[at, 0], cohort.masks[at]
        assert np.array_equal(mask == 1, image > 0.5)
    assert not masks_of(cohort, 0).any()
    shifted = nibabel.Nifti1Image(np.ones((SIDE, SIDE, 4), np.int16), np.diag([1, 1, 3, 1.0]))
    nibabel.save(shifted, source / "m0.nii")
    refused = ingest(source, target, spec=replace(SPEC, depth=depth), terms=allowed)
    assert refused.quarantined == {Quarantine.MASK_GEOMETRY: 1}


# Volumes of DICOM


def scans(folder, dcm, seg, *, slices=6, backwards=False):
    rng = np.random.default_rng(1)
    for p in range(PATIENTS):
        values = rng.choice([100, 1900], (slices, SIDE, SIDE)).astype(np.uint16)
        uids = [f"1.8.{p}.{n + 1}" for n in range(slices)]
        for n in range(slices):
            ds = dcm.header(
                f"P{p}", uids[n], values[n], SOPClassUID=CT, Modality="CT",
                BodyPartExamined="CHEST", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
                SeriesInstanceUID=f"1.6.{p}", FrameOfReferenceUID=f"1.7.{p}",
                ImagePositionPatient=[0, 0, 2.0 * n], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[1, 1], SliceThickness=2,
            )  # fmt: skip
            ds.file_meta.MediaStorageSOPClassUID = CT
            dcm.write(folder / f"{p}" / f"{n}", ds)
        # Only the slices with something in them, and of these the frames in any order.
        kept = [4, 1, 2]
        frames, masks = [], []
        for n in kept:
            if backwards:
                place = {"position": (SIDE - 1, 0, 2.0 * n), "orientation": (-1, 0, 0, 0, 1, 0)}
                masks.append((values[n] > 1000)[:, ::-1])
            else:
                place = {"position": (0, 0, 2.0 * n)}
                masks.append(values[n] > 1000)
            frames.append(seg.frame(1, [] if p == 5 else [uids[n]], **place))
        seg.write(
            folder / f"{p}" / "seg", masks, frames, patient=f"P{p}", instance=f"2.{p + 1}",
            FrameOfReferenceUID=f"1.7.{p}",
        )  # fmt: skip
    (folder / "segments.csv").write_text(SEGMENTS)
    return folder


@pytest.mark.parametrize("backwards", [False, True])
def test_the_frames_of_an_object_lie_in_the_volume_where_they_say(
    tmp_path, target, dcm, seg, backwards
):
    source = scans(tmp_path / "ct", dcm, seg, backwards=backwards)
    cohort = ingest(source, target, spec=replace(SPEC, depth=6))
    assert cohort.quarantined == {}
    assert cohort.masks.shape == (PATIENTS, 6, SIDE, SIDE)
    seen = [1, 2, 4]
    images, masks = cohort.images[:, 0], cohort.masks
    assert np.array_equal(masks[:, seen] == 1, images[:, seen].astype(np.float32) > 0.5)
    assert not masks[:, [0, 3, 5]].any()
    cohort.verify()
    assert alone(target)


def test_an_object_beside_the_volume_or_without_a_place_is_refused(tmp_path, target, dcm, seg):
    source = scans(tmp_path / "ct", dcm, seg)
    off = [seg.frame(1, ["1.8.0.1"], position=(0, 0, 1.0))]
    seg.write(source / "0" / "seg", mask_of(0)[None], off, instance="2.1")
    nowhere = [seg.frame(1, ["1.8.1.1"])]
    seg.write(source / "1" / "seg", mask_of(1)[None], nowhere, patient="P1", instance="2.2")
    (source / "2" / "seg").unlink()
    cohort = ingest(source, target, spec=replace(SPEC, depth=6))
    assert cohort.quarantined == {Quarantine.MASK_GEOMETRY: 2, Quarantine.NO_MASK: 1}


# What lies on the disk


def test_a_changed_mask_is_found_before_training(source, target):
    cohort = ingest(source, target)
    path = target / storage.MASKS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="altered"):
        Cohort.open(target).verify()
    path.unlink()
    with pytest.raises(DataError):
        Cohort.open(target)
    assert cohort.digest


def test_the_digest_of_a_cohort_covers_its_masks(source, target, seg):
    first = ingest(source, target)
    seg.write(source / "a" / "0.dcm", ~mask_of(0)[None], [seg.frame(1, ["1.1"])], instance="2.1")
    second = ingest(source, target)
    assert second.images_digest == first.images_digest
    assert second.digest != first.digest
    manifest = json.loads((target / storage.MANIFEST).read_text())
    manifest["masks_digest"] = first.masks_digest
    (target / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError):
        Cohort.open(target)


def test_only_images_whose_mask_changed_are_read_again(source, target, seg):
    first = ingest(source, target)
    again = ingest(source, target)
    assert (again.digest, again.lineage["reused"]) == (first.digest, PATIENTS)
    seg.write(source / "a" / "0.dcm", ~mask_of(0)[None], [seg.frame(1, ["1.1"])], instance="2.1")
    changed = ingest(source, target)
    assert changed.lineage["reused"] == PATIENTS - 1
    assert np.array_equal(masks_of(changed, 0)[0], ~mask_of(0))
    (source / "a" / "1.dcm").unlink()
    less = ingest(source, target)
    assert less.quarantined == {Quarantine.NO_MASK: 1}
    assert ingest(source, target, spec=replace(SPEC, image_size=16)).lineage["reused"] == 0


def test_a_changed_mask_of_a_picture_is_read_again(pictures, target):
    ingest(pictures, target)
    assert ingest(pictures, target).lineage["reused"] == PATIENTS
    Image.fromarray((~mask_of(0)).astype(np.uint8) * 255).save(pictures / "0-mask.png")
    changed = ingest(pictures, target)
    assert changed.lineage["reused"] == PATIENTS - 1
    assert np.array_equal(masks_of(changed, 0)[0], ~mask_of(0))


def test_segments_that_mean_something_else_make_every_mask_anew(source, target):
    ingest(source, target)
    (source / "segments.csv").write_text(SEGMENTS + "heart,2,Heart,,\n")
    spec = replace(SPEC, labels=("heart", "lung"))
    cohort = ingest(source, target, spec=spec)
    assert cohort.lineage["reused"] == 0
    assert set(np.unique(cohort.masks)) == {0, 2}


def test_a_withdrawn_patient_goes_with_the_masks(source, target):
    ingest(source, target)
    left = cohorts.without(target, {name(0)})
    left.verify()
    assert left.masks.shape == (PATIENTS - 1, 24, 24)
    for p in range(1, PATIENTS):
        assert np.array_equal(masks_of(left, p)[0], mask_of(p))
    assert ingest(source, target).lineage["reused"] == PATIENTS - 1
    storage.purge(target)
    assert list(target.parent.iterdir()) == []


def test_no_mask_stays_behind_when_an_ingest_fails(source, target, monkeypatch):
    def failing(*_args, **_kwargs):
        (work,) = target.parent.iterdir()
        assert len(list((work / "masks.partial").iterdir())) == PATIENTS
        raise RuntimeError

    monkeypatch.setattr(ingesting.tasks, "read", failing)
    with pytest.raises(RuntimeError):
        ingest(source, target)
    assert list(target.parent.iterdir()) == []
