"""Patients leave a cohort, and a cohort leaves the disk."""

import hashlib

import numpy as np
import pytest

from septum.errors import DataError
from septum_client import storage
from septum_client.cohort import Cohort, Split, without

NAMES = sorted(hashlib.sha256(bytes([p])).hexdigest()[:32] for p in range(12))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "site" / "cohort"


@pytest.fixture
def cohort(tiny, target):
    return tiny.cohort(target, tiny.study(), images=(2, 3, 1) * 4, names=NAMES)


def files_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_removed_patient_is_in_no_byte_and_the_others_keep_everything(cohort, target):
    gone = {cohort.pseudonyms[1], cohort.pseudonyms[11]}
    pixels = np.array(cohort.images[cohort.images_of(1)])
    assert pixels.tobytes() in (target / "images.npy").read_bytes()
    left = without(target, gone)
    left.verify()
    assert left.pseudonyms == tuple(who for who in cohort.pseudonyms if who not in gone)
    for place, who in enumerate(left.pseudonyms):
        before = cohort.pseudonyms.index(who)
        new, old = left.images_of(place), cohort.images_of(before)
        assert np.array_equal(left.images[new], cohort.images[old])
        assert np.array_equal(left.labels[new], cohort.labels[old])
        for name in ("split", "sex", "age_band", "declared"):
            assert getattr(left, name)[place] == getattr(cohort, name)[before]
    assert left.lineage == cohort.lineage
    assert left.digest != cohort.digest
    written = b"".join(path.read_bytes() for path in target.iterdir())
    assert pixels.tobytes() not in written
    assert not any(who.encode() in written for who in gone)
    assert names_in(target.parent) == ["cohort"]


def test_removing_nobody_changes_nothing_that_is_digested(cohort, target):
    assert without(target, {"0" * 32 + "x"}).digest == cohort.digest
    assert without(target, ()).digest == cohort.digest


def test_where_nobody_is_left_nothing_is(cohort, target):
    assert without(target, cohort.pseudonyms) is None
    assert names_in(target.parent) == []
    with pytest.raises(DataError, match="no cohort"):
        without(target, ())


@pytest.mark.parametrize("where", ["write_images", "write_index", "_swap", "_sync_folder"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_a_crash_in_between_leaves_the_old_cohort(cohort, target, monkeypatch, where, fault):
    before = files_of(target)

    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr(storage, where, fail)
    with pytest.raises(DataError if fault is OSError else fault):
        without(target, {cohort.pseudonyms[0]})
    assert files_of(target) == before
    assert names_in(target.parent) == ["cohort"]
    Cohort.open(target).verify()


def test_withheld_patients_are_in_neither_split_and_nothing_is_copied(cohort):
    permitted = np.ones(12, dtype=bool)
    permitted[[0, 11]] = False
    some = cohort.only(permitted)
    assert some.images is cohort.images
    assert 0 not in some.patients(Split.TRAIN)
    assert 11 not in some.patients(Split.TEST)
    sides = [*some.patients(Split.TRAIN), *some.patients(Split.TEST)]
    assert sorted(sides) == list(range(1, 11))
    assert not some.split.flags.writeable
    assert some.images_of(3) == cohort.images_of(3)
    assert sorted([*cohort.patients(Split.TRAIN), *cohort.patients(Split.TEST)]) == list(range(12))
    assert not len(cohort.only(np.zeros(12, dtype=bool)).patients(Split.TRAIN))


def test_a_purge_leaves_no_path_and_says_nothing_twice(cohort, target):
    for leftover in ("abc.partial", "def.old", f"purged{storage._UNFINISHED}"):
        folder = target.with_name(f".cohort-{leftover}")
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"pixels")
    (target.parent / "key").write_bytes(b"k")
    storage.purge(target)
    assert names_in(target.parent) == ["key"]
    storage.purge(target)
    assert names_in(target.parent) == ["key"]


def test_what_cannot_be_deleted_is_said(cohort, target, monkeypatch):
    monkeypatch.setattr(storage.shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(DataError, match="could not be deleted") as caught:
        storage.purge(target)
    assert caught.value.remedy
    monkeypatch.undo()
    storage.purge(target)
    assert names_in(target.parent) == []


def test_what_is_no_cohort_is_not_purged(target):
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="something else than a cohort"):
        storage.purge(target)
    assert (target / "thesis.txt").read_text() == "precious"
