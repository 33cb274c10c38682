"""Labels by task: classes by name or index, numbers within the study's range, and masks."""

import json
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import ConfigError, DataError, Quarantine
from septum.study import Data
from septum_client import ingest as ingesting
from septum_client import labels, storage
from septum_client.cohort import Cohort, CohortSpec
from septum_client.ingest import Terms
from septum_client.pseudonyms import pseudonym
from septum_client.rules import Intake

KEY = bytes(range(32))
TERMS = Terms(rules=Intake(burned_in_text="header"), today=date(2026, 1, 1))
CLASSES = ("clear", "pneumonia", "nodule")
SECRET = "Abernathy"
KIND = CohortSpec(image_size=16, labels=CLASSES, test_fraction=0.4, task="classification")
SIZE = CohortSpec(
    image_size=16, labels=("mm",), test_fraction=0.4, task="regression", ranges=((0.0, 30.0),)
)


def ingest(source, folder, spec):
    return ingesting.ingest(source, folder, spec=spec, terms=TERMS, key=KEY)


@pytest.fixture
def source(tmp_path, dcm):
    return dcm.hospital(tmp_path / "export", patients=8, images=1)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "cohort"


def of_patient(cohort, patient):
    return cohort.labels[cohort.images_of(cohort.pseudonyms.index(pseudonym(KEY, patient)))][0]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.booleans())
def test_a_class_is_its_name_or_its_index(classes, by_name):
    cells = [CLASSES[index] if by_name else str(index) for index in classes]
    rows = "".join(f"P{n},{cell}\n" for n, cell in enumerate(cells))
    table = labels.parse(f"patient_id,class\n{rows}".encode(), CLASSES, task="classification")
    assert table.values.dtype == np.float32
    assert table.values.argmax(axis=1).tolist() == classes
    assert (table.values.sum(axis=1) == 1).all()


@pytest.mark.parametrize("cell", ["", "3", "-1", "1.0", "Clear", SECRET, "01"])
def test_an_unknown_class_is_named_by_row_and_never_by_cell(cell):
    content = f"patient_id,class\nA,clear\nB,{cell}\n".encode()
    with pytest.raises(DataError, match="Row 3, column class") as caught:
        labels.parse(content, CLASSES, task="classification")
    assert "clear, pneumonia, nodule" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.remedy


def test_a_cohort_of_classes_has_one_of_them_for_each_image(source, target, dcm):
    dcm.table(source, [(f"P{p}", CLASSES[p % 3]) for p in range(8)], ("patient_id", "class"))
    cohort = ingest(source, target, KIND)
    assert cohort.labels.shape == (8, 3)
    assert cohort.targets is cohort.labels
    for p in range(8):
        assert of_patient(cohort, f"P{p}").argmax() == p % 3
    dcm.table(source, [(f"P{p}", 1) for p in range(8)], ("patient_id", "class"))
    with pytest.raises(DataError, match="are of class pneumonia"):
        ingest(source, target, KIND)
    # A hospital may lack a class.
    dcm.table(source, [(f"P{p}", p % 2) for p in range(8)], ("patient_id", "class"))
    assert set(ingest(source, target, KIND).labels.argmax(axis=1)) == {0, 1}


def test_a_number_outside_the_public_range_stays_out_with_a_code(tmp_path, target, dcm):
    sizes = [0.0, 30.0, 30.001, -1.0, 7.5, 12.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0]
    source = dcm.hospital(tmp_path / "more", patients=len(sizes), images=1)
    dcm.table(source, [(f"P{p}", size) for p, size in enumerate(sizes)], ("patient_id", "mm"))
    cohort = ingest(source, target, SIZE)
    assert cohort.quarantined == {Quarantine.OUT_OF_RANGE: 2}
    for p, size in enumerate(sizes):
        if size not in {30.001, -1.0}:
            assert of_patient(cohort, f"P{p}") == np.float32(size)
    assert pseudonym(KEY, "P2") not in cohort.pseudonyms


@pytest.mark.parametrize("cell", ["", "nan", "inf", "1e39", "ten", SECRET])
def test_what_is_no_number_is_an_error_and_not_a_label(cell):
    content = f"patient_id,mm\nA,{cell}\n".encode()
    with pytest.raises(DataError, match="Row 2, column mm") as caught:
        labels.parse(content, ("mm",), task="regression", ranges=((0, 1),))
    assert SECRET not in str(caught.value)


def test_numbers_that_are_all_one_teach_nothing(source, target, dcm):
    dcm.table(source, [(f"P{p}", 5) for p in range(8)], ("patient_id", "mm"))
    with pytest.raises(DataError, match="mm is 5 for all"):
        ingest(source, target, SIZE)


def test_another_task_makes_another_cohort_from_the_same_files(source, target, dcm):
    rows = [(f"P{p}", CLASSES[p % 3], p, p % 2) for p in range(8)]
    dcm.table(source, rows, ("patient_id", "class", "mm", "sick"))
    plain = ingest(source, target, replace(KIND, task="multilabel", labels=("sick",)))
    classes = ingest(source, target, KIND)
    numbers = ingest(source, target, SIZE)
    assert len({plain.digest, classes.digest, numbers.digest}) == 3
    assert plain.images_digest == numbers.images_digest
    assert (classes.lineage["reused"], numbers.lineage["reused"]) == (8, 8)
    assert Cohort.open(target).spec == SIZE


def test_a_label_that_its_task_cannot_have_is_found_when_the_cohort_is_opened(source, target, dcm):
    dcm.table(source, [(f"P{p}", CLASSES[p % 3]) for p in range(8)], ("patient_id", "class"))
    ingest(source, target, KIND)
    stored = storage.load(target)
    arrays = dict(stored.arrays) | {"labels": np.ones((8, 3), np.float32)}
    with storage.replacing(target) as work:
        storage.write_images(work, stored.images, np.arange(8))
        storage.write_index(work, manifest=stored.manifest, arrays=arrays, linkage=())
    with pytest.raises(DataError, match="does not fit"):
        Cohort.open(target)


def test_the_manifest_of_a_cohort_of_labels_has_the_words_it_always_had(source, target, dcm):
    spec = CohortSpec(image_size=16, labels=("sick",), test_fraction=0.4)
    ingest(source, target, spec)
    said = json.loads((target / storage.MANIFEST).read_text())
    assert said["spec"] == {
        "image_size": 16,
        "labels": ["sick"],
        "test_fraction": 0.4,
        "depth": 1,
    }
    assert "masks_digest" not in said


@pytest.mark.parametrize("spec", [KIND, SIZE, replace(KIND, task="segmentation", depth=8)])
def test_what_a_cohort_is_made_to_be_is_read_as_it_was_written(spec):
    assert CohortSpec.read(json.loads(json.dumps(spec.written()))) == spec


def test_a_study_says_what_its_cohorts_must_be():
    data = Data(
        image_size=32, depth=8, task="regression", labels=("mm", "cc"), ranges=((0, 5), (1, 2))
    )
    spec = CohortSpec.of(data)
    assert (spec.shape, spec.task, spec.ranges) == ((1, 8, 32, 32), "regression", data.ranges)
    assert (spec.columns, spec.masked) == (2, False)
    masked = CohortSpec.of(Data(image_size=32, labels=("lung",), task="segmentation"))
    assert (masked.columns, masked.masked) == (0, True)
    assert masked.row.itemsize == 32 * 32 * 3


@pytest.mark.parametrize(
    "change",
    [
        {"task": "poetry"},
        {"task": "regression"},
        {"ranges": ((0.0, 1.0),)},
        {"task": "regression", "ranges": ((1.0, 1.0),)},
        {"task": "regression", "ranges": ((0.0, float("nan")),)},
        {"labels": tuple(f"l{n}" for n in range(256))},
    ],
)
def test_a_spec_that_no_study_could_state_is_refused(change):
    with pytest.raises(ConfigError):
        CohortSpec(**SimpleNamespace(image_size=16, labels=("a",)).__dict__ | change)
