import hashlib
import json
import os
import stat
import traceback
from datetime import date

import numpy as np
import pytest

from septum.errors import ConfigError, DataError, Quarantine
from septum_client import ingest as ingesting
from septum_client import storage
from septum_client.cohort import Cohort, CohortSpec, Split, shared_patients
from septum_client.ingest import Terms
from septum_client.pseudonyms import is_held_out, pseudonym
from septum_client.rules import Intake

KEY = bytes(range(32))
SPEC = CohortSpec(image_size=16, labels=("sick",), test_fraction=0.4)
TERMS = Terms(rules=Intake(burned_in_text="header"), today=date(2026, 1, 1))


def ingest(source, folder, *, terms=TERMS, **kwargs):
    return ingesting.ingest(source, folder, terms=terms, **kwargs)


def files_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def refused(source, folder, spec=SPEC, **kwargs):
    with pytest.raises(DataError) as caught:
        ingest(source, folder, spec=spec, key=KEY, **kwargs)
    assert caught.value.remedy
    assert not folder.exists()
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []
    return str(caught.value)


@pytest.fixture
def source(tmp_path, dcm):
    return dcm.hospital(tmp_path / "export")


@pytest.fixture
def target(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "cohort"


def test_a_cohort_is_what_its_contract_says(source, target):
    cohort = ingest(source, target, spec=SPEC, key=KEY)
    assert isinstance(cohort.images, np.memmap)
    assert not cohort.images.flags.writeable
    assert not cohort.labels.flags.writeable
    assert (cohort.images.dtype, cohort.images.shape) == (np.float16, (24, 1, 16, 16))
    assert 0 <= cohort.images.min() < cohort.images.max() <= 1
    assert (cohort.labels.dtype, cohort.labels.shape) == (np.float32, (24, 1))
    assert cohort.patient_of_image.tolist() == sorted(list(range(12)) * 2)
    assert cohort.patient_of_image.dtype == np.int32
    for array in (cohort.split, cohort.sex, cohort.age_band):
        assert (array.dtype, array.shape) == (np.uint8, (12,))
    assert set(cohort.sex.tolist()) == {1}
    assert set(cohort.age_band.tolist()) == {3}
    assert cohort.pseudonyms == tuple(sorted(pseudonym(KEY, f"P{p}") for p in range(12)))
    assert cohort.quarantined == {}
    assert cohort.linkage == ()
    assert dict(cohort.meta) == {}
    train, test = cohort.patients(Split.TRAIN), cohort.patients(Split.TEST)
    assert train.dtype == np.int32
    assert sorted([*train, *test]) == list(range(12))
    assert cohort.images_of(3) == slice(6, 8)
    with pytest.raises(IndexError):
        cohort.images_of(12)
    cohort.verify()


def test_each_image_keeps_its_label_its_patient_and_its_strata(tmp_path, target, dcm):
    source = tmp_path / "export"
    for p in range(8):
        pixels = np.full((16, 16), 10, dtype=np.uint16)
        pixels[p] = 1000
        dcm.write(source / f"f{p}", patient=f"P{p}", instance=f"1.2.{p + 1}", pixels=pixels)
    rows = [(f"P{p}", p % 2, p / 10 if p else "") for p in range(8)]
    dcm.table(source, rows, ("patient_id", "sick", "meta_dose"))
    cohort = ingest(source, target, spec=SPEC, key=KEY)
    by_name = {pseudonym(KEY, f"P{p}"): p for p in range(8)}
    for i, patient in enumerate(cohort.patient_of_image):
        p = by_name[cohort.pseudonyms[patient]]
        assert cohort.images[i, 0].sum(axis=1).argmax() == p
        assert cohort.labels[i, 0] == p % 2
        want = np.float32(p / 10) if p else np.nan
        assert np.array_equal(cohort.meta["dose"][i], want, equal_nan=True)


def test_the_same_input_gives_the_same_bytes_whatever_the_order_and_the_workers(
    source, tmp_path, monkeypatch
):
    first = ingest(source, tmp_path / "a", spec=SPEC, key=KEY)
    walk = os.walk

    def backwards(*args, **kwargs):
        for folder, subfolders, files in walk(*args, **kwargs):
            subfolders.reverse()
            yield folder, subfolders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    second = ingest(source, tmp_path / "b", spec=SPEC, key=KEY, workers=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert first.digest == second.digest
    assert ingest(source, tmp_path / "c", spec=SPEC, key=KEY[::-1]).digest != first.digest


def test_the_order_of_images_does_not_depend_on_file_names(source, tmp_path):
    first = ingest(source, tmp_path / "a", spec=SPEC, key=KEY)
    for n, path in enumerate(sorted(source.glob("study*/*"))):
        path.rename(source / f"{97 * n % 101}.dcm")
    assert ingest(source, tmp_path / "b", spec=SPEC, key=KEY).digest == first.digest


def test_a_patient_who_joins_moves_nobody():
    names = [f"P{n}" for n in range(400)]
    held = [is_held_out(KEY, name, 0.25) for name in names]
    assert 60 < sum(held) < 140
    larger = [is_held_out(KEY, name, 0.5) for name in names]
    assert all(after for before, after in zip(held, larger, strict=True) if before)


def test_refused_files_are_counted_by_reason_and_the_rest_is_used(source, target, dcm):
    ds = dcm.header(instance="9.9", PhotometricInterpretation="HSV")
    dcm.write(source / "colour", ds)
    dcm.write(source / "none", patient="", instance="9.1")
    dcm.write(source / "unlabelled", patient="Unknown", instance="9.2")
    dcm.write(source / "copy", patient="P0", instance="1.2.3.1", pixels=dcm.image(0))
    dcm.write(source / "flat", patient="P0", instance="9.3", pixels=np.full((16, 16), 5, "u2"))
    dcm.write(source / "report", patient="P0", instance="9.4", PixelData=None)
    (source / "README").write_text("hello")
    (source / "elsewhere").symlink_to(source.parent, target_is_directory=True)
    calls = []
    cohort = ingest(source, target, spec=SPEC, key=KEY, progress=lambda *a: calls.append(a))
    assert cohort.quarantined == {
        Quarantine.NOT_DICOM: 1,
        Quarantine.NO_PIXELS: 1,
        Quarantine.COLOUR: 1,
        Quarantine.NO_LABEL: 1,
        Quarantine.NO_PATIENT: 1,
        Quarantine.DUPLICATE: 1,
        Quarantine.UNREADABLE: 1,
        Quarantine.BAD_VALUES: 1,
    }
    assert len(cohort.images) == 24
    assert calls == [(n, 32) for n in range(1, 33)]


def test_a_copy_filed_under_another_patient_changes_nobody_elses_images(tmp_path, source, dcm):
    dcm.write(source / "aa", patient="P0", instance="9.1")
    shared = ingest(source, tmp_path / "one", spec=SPEC, key=KEY)
    dcm.write(source / "zz", patient="P1", instance="9.1")
    both = ingest(source, tmp_path / "two", spec=SPEC, key=KEY)
    place = shared.pseudonyms.index(pseudonym(KEY, "P0"))
    assert both.pseudonyms == shared.pseudonyms
    before, after = shared.images_of(place), both.images_of(place)
    assert (shared.images[before] == both.images[after]).all()
    assert before.stop - before.start == after.stop - after.start == 3


def test_a_whole_copy_is_used_when_the_first_is_broken(source, target, dcm):
    whole = dcm.write(source / "zz", patient="P0", instance="9.1").read_bytes()
    (source / "aa").write_bytes(whole[:-9])
    cohort = ingest(source, target, spec=SPEC, key=KEY)
    assert cohort.quarantined == {Quarantine.TRUNCATED: 1}
    assert len(cohort.images) == 25


def test_a_label_whose_only_image_was_refused_is_not_an_unknown_patient(source, target, dcm):
    path = dcm.write(source / "broken", patient="P99", instance="9.1")
    path.write_bytes(path.read_bytes()[:-9])
    dcm.table(source, [(f"P{p}", p % 2) for p in (*range(12), 99)])
    assert len(ingest(source, target, spec=SPEC, key=KEY).split) == 12


def test_sex_and_age_of_a_patient_are_settled_over_the_images(tmp_path, target, dcm):
    source = tmp_path / "export"
    for p in range(8):
        for i, (sex, age) in enumerate([("F", "081Y"), ("M" if p == 0 else None, "079Y")]):
            dcm.write(
                source / f"{p}_{i}",
                patient=f"P{p}",
                instance=f"1.{p}.{i}",
                PatientSex=sex,
                PatientAge=age,
            )
    dcm.table(source, [(f"P{p}", p % 2) for p in range(8)])
    cohort = ingest(source, target, spec=SPEC, key=KEY)
    at = cohort.pseudonyms.index(pseudonym(KEY, "P0"))
    assert cohort.sex[at] == 0
    assert sorted(cohort.sex.tolist()) == [0] + [1] * 7
    assert set(cohort.age_band.tolist()) == {4}


# Errors


def test_a_missing_source_is_one_sentence(tmp_path, target):
    assert "neither a folder" in refused(tmp_path / "Meier^Anna", target)


def test_a_folder_that_cannot_be_listed_is_one_sentence(source, target, monkeypatch):
    walk = os.walk

    def locked(top, onerror):
        onerror(PermissionError(13, "denied", "Meier^Anna"))
        yield from walk(top)

    monkeypatch.setattr(os, "walk", locked)
    told = refused(source, target)
    assert "1 folder(s) of the source cannot be listed" in told
    assert "Meier" not in told


def test_a_source_without_usable_images_tells_the_counts(tmp_path, target, dcm):
    source = tmp_path / "export"
    source.mkdir()
    dcm.table(source, [("A", 1)])
    assert "None of the 0 files" in refused(source, target)
    (source / "a").write_text("x")
    (source / "b").write_text("x")
    dcm.write(source / "c", patient="")
    assert "3 files of the source can be used: 2 NOT_DICOM (DATA_101), 1 NO_PATIENT" in refused(
        source, target
    )


def test_labels_for_unknown_patients_are_an_error(source, target, dcm):
    dcm.table(source, [(f"P{p}", p % 2) for p in range(12)] + [("Meier^Anna", 1)])
    told = refused(source, target)
    assert told.startswith("1 label row(s) name a patient or image that is not in the folder")
    assert "row 14 of the labels CSV" in told
    assert "Meier" not in told


def test_labels_of_another_patient_than_the_image_s_are_an_error(source, target, dcm):
    dcm.table(source, [("P5", "1.2.3.1", 1)], ("patient_id", "sop_instance_uid", "sick"))
    assert "Row 2 of the labels CSV names another patient" in refused(source, target)


def test_one_patient_is_not_a_cohort(tmp_path, target, dcm):
    source = dcm.hospital(tmp_path / "export", patients=1)
    assert "has 1 patient with a usable" in refused(source, target)


def test_an_empty_split_is_an_error(source, target):
    spec = CohortSpec(image_size=16, labels=("sick",), test_fraction=1e-9)
    assert "None of the 12 patients is in the test split" in refused(source, target, spec)


def test_one_class_among_the_train_patients_is_an_error(source, target, dcm):
    dcm.table(source, [(f"P{p}", 1) for p in range(12)])
    assert "Label sick is 1 for all" in refused(source, target)


@pytest.mark.parametrize("inside", ["export/cohort", "export", "."])
def test_source_and_cohort_stay_apart(source, tmp_path, inside):
    with pytest.raises(DataError, match="inside one another"):
        ingest(source, tmp_path / inside, spec=SPEC, key=KEY)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"image_size": 8}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"labels": ()}, "labels"),
        ({"labels": ("a", "a")}, "labels"),
        ({"labels": ("meta_x",)}, "labels"),
        ({"labels": ("a b",)}, "labels"),
        ({"labels": ["a"]}, "labels"),
        ({"test_fraction": 0.0}, "test_fraction"),
        ({"test_fraction": float("nan")}, "test_fraction"),
        ({"test_fraction": 1}, "test_fraction"),
    ],
)
def test_a_spec_that_cannot_be_used_names_its_key(change, key):
    with pytest.raises(ConfigError, match=f"^{key} "):
        CohortSpec(**{"image_size": 16, "labels": ("a",)} | change)


def test_short_keys_and_no_workers_are_refused(source, target):
    for change in ({"key": b"short"}, {"linkage_key": b"short"}, {"workers": 0}):
        with pytest.raises(ConfigError):
            ingest(source, target, **{"spec": SPEC, "key": KEY} | change)


# Nothing is half-written


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, Interrupt, OSError])
@pytest.mark.parametrize("where", ["write_images", "write_index", "_swap", "_sync_folder"])
def test_a_failure_anywhere_leaves_the_old_cohort(source, target, monkeypatch, fault, where):
    ingest(source, target, spec=SPEC, key=KEY)
    before = files_of(target)

    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr(storage, where, fail)
    with pytest.raises(DataError if fault is OSError else fault):
        ingest(source, target, spec=SPEC, key=KEY[::-1])
    assert files_of(target) == before
    assert [p.name for p in target.parent.iterdir()] == ["cohort"]


def test_a_failed_rename_puts_the_old_cohort_back(source, target, monkeypatch):
    ingest(source, target, spec=SPEC, key=KEY)
    before = files_of(target)
    rename = type(target).rename

    def fail(self, to):
        if self.suffix == ".partial":
            raise OSError(5, "I/O")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", fail)
    with pytest.raises(DataError, match="EIO"):
        ingest(source, target, spec=SPEC, key=KEY[::-1])
    assert files_of(target) == before


def test_an_interrupt_while_reading_leaves_nothing(source, target):
    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, target, spec=SPEC, key=KEY, progress=stop)
    assert list(target.parent.iterdir()) == []


def test_a_new_ingest_replaces_the_cohort(source, target):
    old = ingest(source, target, spec=SPEC, key=KEY)
    new = ingest(source, target, spec=SPEC, key=KEY[::-1])
    assert Cohort.open(target).digest == new.digest != old.digest
    assert [p.name for p in target.parent.iterdir()] == ["cohort"]


def test_a_folder_with_other_files_is_not_replaced(source, target):
    target.mkdir()
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="something else than a cohort"):
        ingest(source, target, spec=SPEC, key=KEY)
    assert (target / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("number", "told"), [(28, "disk of the cohort folder is full"), (13, "cannot be written")]
)
def test_a_full_or_locked_disk_is_one_sentence(source, target, monkeypatch, number, told):
    def fail(*args, **kwargs):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fail)
    assert told in refused(source, target)


def test_everything_is_private_to_its_owner(source, target):
    old = os.umask(0)
    try:
        ingest(source, target, spec=SPEC, key=KEY)
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in target.iterdir()} == {0o600}


# Opening


def test_an_absent_or_unfinished_cohort_is_not_opened(source, target, tmp_path):
    for folder in (tmp_path / "nothing", source):
        with pytest.raises(DataError, match="There is no cohort"):
            Cohort.open(folder)
    ingest(source, target, spec=SPEC, key=KEY)
    with pytest.raises(DataError, match="There is no cohort"):
        Cohort.open(target.rename(target.with_suffix(".partial")))


@pytest.mark.parametrize("name", ["images.npy", "index.npz", "cohort.json"])
@pytest.mark.parametrize("keep", [0, 10, -40])
def test_a_cut_off_file_is_not_opened(source, target, name, keep):
    ingest(source, target, spec=SPEC, key=KEY)
    path = target / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        Cohort.open(target)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"digest": "0" * 64},
        {"images": 23},
        {"patients": 11},
        {"spec": {"image_size": 32, "labels": ["sick"], "test_fraction": 0.4}},
        {"quarantined": {"DATA_999": 1}},
    ],
)
def test_an_altered_manifest_is_not_opened(source, target, change):
    ingest(source, target, spec=SPEC, key=KEY)
    path = target / "cohort.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError):
        Cohort.open(target)


@pytest.mark.parametrize("name", ["rules", "key", "version", "made", "expires"])
def test_an_altered_origin_is_not_opened(source, target, name):
    ingest(source, target, spec=SPEC, key=KEY)
    path = target / "cohort.json"
    said = json.loads(path.read_text())
    said["lineage"][name] = "2999-01-01"
    path.write_text(json.dumps(said))
    with pytest.raises(DataError):
        Cohort.open(target)


def test_an_altered_label_is_not_opened_and_an_altered_pixel_is_found(source, target):
    ingest(source, target, spec=SPEC, key=KEY)
    pixels = np.lib.format.open_memmap(target / "images.npy", mode="r+")
    pixels[3, 0, 5, 5] = 0.123
    pixels.flush()
    with pytest.raises(DataError, match="altered"):
        Cohort.open(target).verify()
    with np.load(target / "index.npz") as archive:
        arrays = dict(archive)
    arrays["labels"][0] = 1 - arrays["labels"][0]
    np.savez(target / "index.npz", **arrays)
    with pytest.raises(DataError, match="altered"):
        Cohort.open(target)


# Linkage


def test_a_patient_in_two_simulated_hospitals_is_found(tmp_path, dcm):
    cohorts = []
    for n, folder in enumerate(("a", "b")):
        source = dcm.hospital(tmp_path / f"export_{folder}", patients=10 + n)
        for p in range(10 + n):
            if p != 4:  # only P4 is the same person in both
                for i in range(2):
                    path = source / f"study{p % 3}" / f"IM{2 * p + i}"
                    dcm.write(path, patient=f"{folder}{p}", instance=f"{n + 1}.{p}.{i}")
        names = [f"{folder}{p}" if p != 4 else "P4" for p in range(10 + n)]
        dcm.table(source, [(name, p % 2) for p, name in enumerate(names)])
        cohorts.append(
            ingest(source, tmp_path / folder, spec=SPEC, key=bytes([n]) * 32, linkage_key=KEY)
        )
    both = shared_patients(cohorts)
    assert len(both) == 1
    assert both <= set(cohorts[0].linkage) & set(cohorts[1].linkage)
    assert set(cohorts[0].pseudonyms).isdisjoint(cohorts[1].pseudonyms)
    assert shared_patients(cohorts[:1]) == frozenset()


def test_linkage_is_absent_unless_asked_for_and_never_changes_the_digest(source, tmp_path):
    plain = ingest(source, tmp_path / "a", spec=SPEC, key=KEY)
    linked = ingest(source, tmp_path / "b", spec=SPEC, key=KEY, linkage_key=KEY[::-1])
    assert not (tmp_path / "a" / "linkage.npy").exists()
    assert linked.digest == plain.digest
    with pytest.raises(DataError, match="carries no linkage"):
        shared_patients([plain, linked])


def test_errors_show_no_context_that_quotes_a_patient(source, target, dcm):
    dcm.table(source, [("Meier^Anna", 3)])
    with pytest.raises(DataError) as caught:
        ingest(source, target, spec=SPEC, key=KEY)
    assert "Meier" not in "".join(traceback.format_exception(caught.value))
