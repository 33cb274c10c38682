"""From an export to a cohort: what is read again, what is not, and who never enters."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from datetime import UTC, date, datetime

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence

from septum.errors import DataError, Quarantine
from septum_client import deidentification, reading, storage
from septum_client import ingest as ingesting
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.consent.decisions import Declared
from septum_client.ingest import Terms
from septum_client.pseudonyms import pseudonym
from septum_client.review_pixels import queue_of
from septum_client.rules import Intake
from septum_client.sandbox.pool import Pool
from septum_client.screening import ocr
from septum_client.screening.boxes import Box
from septum_client.screening.verdict import Decision

KEY = bytes(range(32))
SPEC = CohortSpec(image_size=16, labels=("sick",), test_fraction=0.4)
RULES = Intake(burned_in_text="header")
TERMS = Terms(rules=RULES, today=date(2026, 1, 1))
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)

needs_tesseract = pytest.mark.skipif(not ocr.available(), reason="tesseract is not installed")


def ingest(source, folder, *, terms=TERMS, spec=SPEC, key=KEY, **kwargs):
    return ingesting.ingest(source, folder, terms=terms, spec=spec, key=key, **kwargs)


def files_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def changed(**rules):
    return replace(TERMS, rules=RULES.model_copy(update=rules))


@pytest.fixture
def source(tmp_path, dcm):
    return dcm.hospital(tmp_path / "export", patients=8, images=1)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "cohort"


@pytest.fixture
def asked(monkeypatch):
    """Count the answers that are not ``known``: the files that were read."""
    read = []
    real = Pool.map

    def counted(self, tasks, *, settings):
        for answer in real(self, tasks, settings=settings):
            read.append(not answer.fields.get("known"))
            yield answer

    monkeypatch.setattr(Pool, "map", counted)
    return read


# What is read again


def test_a_second_run_reads_nothing_and_gives_the_same_cohort(source, target, tmp_path, asked):
    first = ingest(source, target)
    assert (first.lineage["files"], first.lineage["reused"]) == (8, 0)
    again = ingest(source, target)
    assert again.lineage["reused"] == again.lineage["files"] == 8
    assert asked == [True] * 8 + [False] * 8
    fresh = ingest(source, tmp_path / "fresh", workers=2)
    assert again.digest == first.digest == fresh.digest
    again.verify()
    assert files_of(target)["images.npy"] == files_of(tmp_path / "fresh")["images.npy"]


def test_only_a_new_or_changed_file_is_read_and_what_is_gone_goes(source, target, dcm, asked):
    ingest(source, target)
    dcm.write(source / "new", patient="P0", instance="9.1", pixels=dcm.image(77))
    dcm.write(source / "study1" / "IM1", patient="P1", instance="1.2.3.2", pixels=dcm.image(78))
    (source / "study2" / "IM2").unlink()
    (source / "study2" / "IM5").rename(source / "elsewhere")
    dcm.table(source, [(f"P{p}", p % 2) for p in range(8) if p != 2])
    asked.clear()
    second = ingest(source, target)
    assert sum(asked) == 2
    assert (second.lineage["files"], second.lineage["reused"]) == (8, 6)
    assert pseudonym(KEY, "P2") not in second.pseudonyms
    assert len(second.images) == 8
    assert second.digest == ingest(source, target.with_name("fresh")).digest


def test_other_labels_and_another_split_are_made_of_what_was_read(source, target, dcm, asked):
    first = ingest(source, target)
    dcm.table(source, [(f"P{p}", p // 2 % 2) for p in range(8)])
    asked.clear()
    second = ingest(source, target, spec=replace(SPEC, test_fraction=0.6))
    assert not any(asked)
    assert (first.labels != second.labels).any()
    assert len(second.patients(Split.TEST)) >= len(first.patients(Split.TEST))
    dcm.table(source, [(f"P{p}", p % 2, p % 2) for p in range(8)], ("patient_id", "sick", "ill"))
    third = ingest(source, target, spec=replace(SPEC, labels=("ill", "sick")))
    assert third.lineage["reused"] == 8
    assert third.labels.shape == (8, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"another key of this site, 32 by"},
        {"spec": replace(SPEC, image_size=24)},
        {"terms": changed(patient_characteristics=False)},
        {"terms": changed(synthetic="include")},
        {"terms": changed(faces="allow")},
    ],
    ids=["key", "size", "characteristics", "synthetic", "faces"],
)
def test_where_anything_that_decides_has_changed_everything_is_read(source, target, asked, change):
    ingest(source, target)
    asked.clear()
    second = ingest(source, target, **change)
    assert asked == [True] * 8
    assert second.lineage["reused"] == 0


def test_consent_and_expiry_are_decided_anew_without_reading(source, target, asked):
    first = ingest(source, target)
    asked.clear()
    out = pseudonym(KEY, "P3")
    terms = replace(changed(keep_days=10, consent="waived"), admits=lambda who, _: who != out)
    second = ingest(source, target, terms=terms)
    assert not any(asked)
    assert out in first.pseudonyms
    assert out not in second.pseudonyms
    assert second.quarantined == {Quarantine.NO_CONSENT: 1}
    assert second.expires == date(2026, 1, 11)


@pytest.mark.parametrize("name", ["images.npy", "index.npz", "cohort.json"])
def test_a_tampered_cohort_is_not_taken_over(source, target, name):
    first = ingest(source, target)
    path = target / name
    content = bytearray(path.read_bytes())
    at = content.index(b'"digest": "') + 12 if name == "cohort.json" else len(content) - 40
    content[at] ^= 1
    path.write_bytes(content)
    second = ingest(source, target)
    assert second.lineage["reused"] == 0
    assert second.digest == first.digest
    second.verify()


def test_an_older_version_is_read_again(source, target, monkeypatch):
    monkeypatch.setattr(ingesting, "__version__", "0.0.1")
    ingest(source, target)
    monkeypatch.undo()
    assert ingest(source, target).lineage["reused"] == 0


# Lineage


def test_the_last_day_is_in_the_lineage_and_in_the_digest(source, target):
    first = ingest(source, target)
    assert first.expires == date(2027, 1, 1)
    assert first.lineage["made"] == "2026-01-01"
    later = ingest(source, target, terms=replace(TERMS, today=date(2026, 1, 2)))
    assert later.expires == date(2027, 1, 2)
    assert later.images_digest == first.images_digest
    assert later.digest != first.digest
    manifest = json.loads((target / "cohort.json").read_text())
    manifest["lineage"]["expires"] = "2099-01-01"
    (target / "cohort.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="altered"):
        Cohort.open(target)


def test_an_interrupt_in_the_middle_leaves_the_old_cohort(source, target, dcm):
    ingest(source, target)
    before = files_of(target)
    dcm.write(source / "new", patient="P0", instance="9.1")

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, target, progress=stop)
    assert files_of(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["cohort"]
    assert ingest(source, target).lineage["reused"] == 8


# Who may enter


def test_whoever_does_not_consent_is_counted_and_absent(source, target):
    admitted = {pseudonym(KEY, f"P{p}") for p in range(6)}
    said = []

    def admits(who, declared):
        said.append(declared)
        return who in admitted

    cohort = ingest(source, target, terms=replace(TERMS, admits=admits))
    assert set(cohort.pseudonyms) == admitted
    assert cohort.quarantined == {Quarantine.NO_CONSENT: 2}
    assert set(said) == {Declared.NOTHING}


def consenting(ds, flag, kind="PUBLIC_RELEASE"):
    item = Dataset()
    item.DistributionType, item.ConsentForDistributionFlag = kind, flag
    ds.ConsentForClinicalTrialUseSequence = Sequence([item])
    return ds


@pytest.mark.parametrize("refused_itself", [False, True])
def test_one_file_that_denies_denies_for_the_whole_patient(source, target, dcm, refused_itself):
    other = {"PhotometricInterpretation": "HSV"} if refused_itself else {}
    ds = dcm.header(patient="P0", instance="9.1", pixels=dcm.image(50), **other)
    dcm.write(source / "zz", consenting(ds, "NO"))
    denied = pseudonym(KEY, "P0")
    terms = replace(TERMS, admits=lambda _, declared: declared != Declared.DENIED)
    cohort = ingest(source, target, terms=terms)
    assert denied not in cohort.pseudonyms
    assert cohort.quarantined[Quarantine.NO_CONSENT] == (1 if refused_itself else 2)
    assert len(cohort.images) == 7
    cohort.verify()
    everyone = ingest(source, target.with_name("all"))
    assert everyone.declared[everyone.pseudonyms.index(denied)] == Declared.DENIED
    assert sorted(everyone.declared.tolist()) == [0] * 7 + [Declared.DENIED]
    assert ingest(source, target, terms=terms).digest == cohort.digest


def test_a_permission_in_the_images_needs_every_image(source, target, dcm):
    for p in range(8):
        for i in range(2):
            pixels = dcm.image(90 + 2 * p + i)
            ds = dcm.header(patient=f"P{p}", instance=f"9.{p}.{i}", pixels=pixels)
            dcm.write(source / f"b{p}{i}", consenting(ds, "YES") if i or p % 4 else ds)
        (source / f"study{p % 3}" / f"IM{p}").unlink()
    terms = replace(TERMS, admits=lambda _, declared: declared == Declared.PERMITTED)
    cohort = ingest(source, target, terms=terms)
    assert set(cohort.pseudonyms) == {pseudonym(KEY, f"P{p}") for p in range(8) if p % 4}
    assert cohort.quarantined == {Quarantine.NO_CONSENT: 4}
    assert len(cohort.images) == 12


def test_synthetic_images_stay_out_unless_the_policy_lets_them_in(source, target, dcm):
    dcm.write(source / "made", patient="P0", instance="9.1", SyntheticData="YES")
    assert ingest(source, target).quarantined == {Quarantine.SYNTHETIC: 1}
    assert len(ingest(source, target, terms=changed(synthetic="include")).images) == 9


# Sources


def test_an_archive_gives_the_cohort_that_its_folder_gives(source, target, tmp_path):
    packed = tmp_path / "export.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(source.rglob("*")):
            archive.write(path, path.relative_to(source).as_posix())
        archive.writestr("empty", b"")
    cohort = ingest(packed, target)
    assert cohort.digest == ingest(source, tmp_path / "plain").digest
    assert cohort.quarantined == {Quarantine.NOT_DICOM: 1}
    assert ingest(packed, target).lineage["reused"] == 8


def test_what_a_dicomdir_names_and_is_not_there_is_counted(target, tmp_path, dcm):
    fileset = FileSet()
    for p in range(8):
        ds = dcm.header(patient=f"P{p}", instance=f"1.2.{p + 1}", pixels=dcm.image(p))
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.3.{p}", f"1.4.{p}"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.PatientName = "20200101", "10", "1", "X"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "DX", 1, 1
        fileset.add(ds)
    fileset.write(tmp_path / "media")
    dcm.table(tmp_path / "media", [(f"P{p}", p % 2) for p in range(8)])
    assert ingest(tmp_path / "media", target).lineage["missing"] == 0
    files = sorted(p for p in (tmp_path / "media").rglob("*") if p.is_file() and "." not in p.name)
    next(path for path in files if path.name != "DICOMDIR").unlink()
    # Whose file it was is not known, so the table must not name the patient either.
    left = [p for p in range(8) if p != 0]
    dcm.table(tmp_path / "media", [(f"P{p}", p % 2) for p in left])
    cohort = ingest(tmp_path / "media", target)
    assert cohort.lineage["missing"] == 1
    assert cohort.quarantined == {Quarantine.NOT_AN_IMAGE: 1}


def test_every_frame_is_an_image_of_its_patient(source, target, dcm):
    frames = np.stack([dcm.image(seed) for seed in range(60, 63)])
    ds = dcm.header(patient="P0", instance="9.1", pixels=frames[0], NumberOfFrames=4)
    ds.PixelData = frames.tobytes() + np.full((24, 24), 7, "u2").tobytes()
    dcm.write(source / "loop", ds)
    cohort = ingest(source, target)
    assert len(cohort.images) == 11
    assert cohort.quarantined == {Quarantine.BAD_VALUES: 1}
    own = cohort.images_of(cohort.pseudonyms.index(pseudonym(KEY, "P0")))
    assert own.stop - own.start == 4
    assert ingest(source, target).digest == cohort.digest


def test_files_without_a_header_are_whose_the_table_says(source, target, dcm):
    values = np.random.default_rng(3).integers(0, 900, (20, 20, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source / "scan.nii.gz")
    Image.fromarray(dcm.image(8, high=255).astype(np.uint8)).save(source / "one.png")
    Image.fromarray(dcm.image(9, high=255).astype(np.uint8)).save(source / "two.png")
    rows = [(f"P{p}", "", p % 2, "", "") for p in range(8)]
    rows += [("P0", "scan.nii.gz", 1, "", ""), ("New", "one.png", 1, "M", "81")]
    dcm.table(source, rows, ("patient_id", "file", "sick", "sex", "age"))
    cohort = ingest(source, target, terms=changed(faces="allow"))
    assert cohort.quarantined == {Quarantine.NO_LABEL: 1}
    assert len(cohort.images) == 12
    new = cohort.pseudonyms.index(pseudonym(KEY, "New"))
    assert (cohort.sex[new], cohort.age_band[new]) == (2, 5)
    own = cohort.images_of(cohort.pseudonyms.index(pseudonym(KEY, "P0")))
    assert sorted(cohort.labels[own, 0].tolist()) == [0, 1, 1, 1]
    assert ingest(source, target, terms=changed(faces="allow")).lineage["reused"] == 10
    assert ingest(source, target).quarantined[Quarantine.FACE] == 1


# A person's decisions


def phantom(text=""):
    y, x = np.mgrid[:256, :256] / 256 - 0.5
    grey = 110 * (x**2 / 0.16 + y**2 / 0.2 < 1) + np.random.default_rng(0).normal(10, 4, x.shape)
    drawn = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if text:
        font = ImageFont.load_default(18)
        ImageDraw.Draw(drawn).text((20, 20), text, fill=255, font=font)
    return np.asarray(drawn).astype(np.uint16)


@needs_tesseract
def test_text_in_the_pixels_waits_for_a_person_whose_word_counts(source, target, tmp_path, dcm):
    texts = ["LINDQVIST ANNA", "MRN 12345678", "BERGSTROM OLE"]
    for n, text in enumerate(texts):
        dcm.write(source / f"b{n}", patient="P0", instance=f"9.{n}", pixels=phantom(text))
    queue = queue_of(tmp_path / "site")

    def run():
        decided = {
            name: Decision(verdict=said.verdict, boxes=said.boxes)
            for name, said in queue.decisions().items()
        }
        rules = RULES.model_copy(update={"burned_in_text": "ocr"})
        terms = replace(TERMS, rules=rules, decisions=decided, queue=queue)
        return ingest(source, target, terms=terms)

    first = run()
    assert first.quarantined == {Quarantine.BURNED_IN_TEXT: 3}
    assert first.lineage["reused"] == 0
    waiting = queue.pending()
    assert len(waiting) == 3
    assert all(item.boxes for item in waiting)
    accepted, blanked, rejected = waiting
    queue.decide(accepted.name, "accept", at=NOON, by="anna")
    queue.decide(blanked.name, "blank", at=NOON, by="anna", boxes=[Box(0, 0, 60, 256)])
    queue.decide(rejected.name, "reject", at=NOON, by="anna")
    second = run()
    assert second.quarantined == {Quarantine.REVIEWED_OUT: 1}
    assert len(second.images) == 10
    assert second.lineage["reused"] == 8
    own = second.images[second.images_of(second.pseudonyms.index(pseudonym(KEY, "P0")))]
    dark = [bool((image[0, :3] == 0).all()) for image in own]
    assert dark.count(True) == 1
    # What a person let in is read again, so that a decision taken back counts.
    queue.decide(accepted.name, "undo", at=NOON, by="anna")
    third = run()
    assert third.quarantined == {Quarantine.BURNED_IN_TEXT: 1, Quarantine.REVIEWED_OUT: 1}
    assert len(third.images) == 9


# The same patients, de-identified first


def test_an_export_that_was_deidentified_here_gives_the_same_cohort(source, target, tmp_path, dcm):
    done = deidentification.deidentify(
        source, tmp_path / "clean", key=KEY, rules=RULES, decisions={}, withdrawn=()
    )
    assert done.written == 8
    shutil.copy(source / "labels.csv", tmp_path / "clean")
    first = ingest(source, target)
    second = ingest(tmp_path / "clean", tmp_path / "other")
    assert second.pseudonyms == first.pseudonyms
    assert (second.split == first.split).all()
    assert (second.labels == first.labels).all()
    assert (second.images == first.images).all()
    assert (second.sex == first.sex).all()


def test_the_linkage_of_a_simulation_is_never_that_of_an_earlier_run(source, target):
    one = ingest(source, target, linkage_key=KEY)
    two = ingest(source, target, linkage_key=KEY[::-1])
    assert set(one.linkage).isdisjoint(two.linkage)
    assert ingest(source, target).linkage == ()


def test_the_pixels_lie_on_the_disk_and_nothing_half_made_beside_them(source, target):
    cohort = ingest(source, target)
    assert isinstance(cohort.images, np.memmap)
    assert set(files_of(target)) == {storage.IMAGES, storage.INDEX, storage.MANIFEST}
    assert set(reading.VERBS) == {"prepare", "deidentify", "series", "volume", "mask"}
