"""Phantoms with masks and volumes: known to the pixel, and the films as they always were."""

import hashlib
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from septum.errors import DataError
from septum_bench import hospitals
from septum_bench.phantoms import PhantomPlan, write_hospitals
from septum_bench.phantoms.anatomy import Attributes
from septum_bench.phantoms.scans import scan_of
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.ingest import Terms, ingest
from septum_client.rules import Intake

PLAN = {"sites": 1, "patients": 6, "seed": 3, "matrix": 32}
TERMS = Terms(rules=Intake(burned_in_text="header", synthetic="include"))


def built(folder: Path, **change) -> Path:
    (hospital,) = write_hospitals(folder, PhantomPlan(**PLAN | change), workers=1)
    return hospital


def files(folder: Path, *, without: str = "") -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("IM*")
        if not (without and path.name.startswith(without))
    }


def cohort_of(source: Path, folder: Path, labels, **change) -> Cohort:
    spec = CohortSpec(image_size=32, labels=labels, test_fraction=0.4, **change)
    return ingest(source, folder, spec=spec, key=bytes(range(32)), terms=TERMS)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return built(tmp_path_factory.mktemp("masks") / "h", task="segmentation")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return built(tmp_path_factory.mktemp("scans") / "h", task="segmentation", depth=6)


def test_films_are_the_same_bytes_whatever_is_asked_about_them(films, tmp_path):
    plain = built(tmp_path / "plain")
    assert files(plain) == files(films)
    assert sorted(path.name for path in plain.iterdir()) == ["DICOM", "labels.csv"]
    one = built(tmp_path / "one", task="classification")
    assert files(one) == files(plain)
    assert one.joinpath("labels.csv").read_text().splitlines()[0].split(",")[1] == "class"
    number = built(tmp_path / "number", task="regression")
    assert hospitals.labels_of([number], ()) == ("diameter_mm",)


def test_the_masks_of_films_are_lungs_and_the_nodule_in_them(films, tmp_path):
    cohort = cohort_of(films, tmp_path / "c", ("lung", "nodule"), task="segmentation")
    assert cohort.quarantined == {}
    image, mask = cohort.images[:, 0].astype(np.float32), cohort.masks
    share = (mask == 1).mean(axis=(1, 2))
    assert ((share > 0.1) & (share < 0.6)).all()
    assert (image[mask == 1].mean() < image[mask == 0].mean() - 0.1).all()
    size = cohort.meta["lesion_mm"]
    assert np.array_equal((mask == 2).any(axis=(1, 2)), size > 4)
    assert image[mask == 2].mean() > image[mask == 1].mean() + 0.2


def test_an_independent_reader_finds_the_object_in_order(films, scans):
    for folder in (films, scans):
        path = next(iter(sorted(folder.rglob("SG*"))))
        found = highdicom.seg.segread(path)
        assert found.segmentation_type.value == "BINARY"
        labels = [found.get_segment_description(n).segment_label for n in (1, 2)]
        assert labels in (["Lung", "Nodule"], ["Liver", "Lesion"])
        named = {str(uid) for _, _, uid in found.get_source_image_uids()}
        images = {str(pydicom.dcmread(at).SOPInstanceUID) for at in path.parent.glob("IM*")}
        assert named <= images


def test_the_masks_of_scans_are_a_liver_and_the_lesion_in_it(scans, tmp_path):
    cohort = cohort_of(scans, tmp_path / "c", ("liver", "lesion"), task="segmentation", depth=6)
    assert cohort.quarantined == {}
    assert cohort.masks.shape == (6, 6, 32, 32)
    image, mask = cohort.images[:, 0].astype(np.float32), cohort.masks
    assert (mask == 1).any(axis=(1, 2, 3)).all()
    body = (image > 0.5) & (mask == 0)
    assert image[mask == 1].mean() > np.median(image[body]) + 0.05
    # On the patient's right, which is the left of the picture.
    assert np.nonzero(mask)[3].mean() < 15


def test_volumes_are_classified_by_what_their_first_slice_is_labelled(tmp_path):
    source = built(tmp_path / "h", task="classification", depth=4)
    classes = hospitals.labels_of([source], (), task="classification")
    assert classes == ("clear", "nodule")
    cohort = cohort_of(source, tmp_path / "c", classes, task="classification", depth=4)
    assert cohort.images.shape == (6, 1, 4, 32, 32)
    assert np.array_equal(cohort.labels[:, 1] == 1, cohort.meta["lesion_mm"] > 0)
    assert len(cohort.patients(Split.TRAIN)) + len(cohort.patients(Split.TEST)) == 6


def test_scans_with_and_without_a_lesion_differ_in_the_lesion_alone():
    healthy = Attributes(sex="F", age_years=50, body_size=0.0)
    ill = Attributes(sex="F", age_years=50, body_size=0.0, lesion_mm=20.0, lesion_density=4.0)
    one, other = (
        scan_of(np.random.default_rng(1), each, depth=6, matrix=32) for each in (healthy, ill)
    )
    assert not one.lesion.any()
    assert other.lesion.any()
    assert np.array_equal(one.stored != other.stored, other.lesion)


def test_a_simulation_takes_the_classes_that_all_hospitals_have(films, scans):
    assert hospitals.labels_of([films], (), task="segmentation") == ("lung", "nodule")
    assert hospitals.labels_of([films], ("lung",), task="segmentation") == ("lung",)
    with pytest.raises(DataError, match="share no label"):
        hospitals.labels_of([films, scans], (), task="segmentation")


def test_a_task_or_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match="task"):
        PhantomPlan(**PLAN, task="poetry")
    with pytest.raises(DataError, match="depth"):
        PhantomPlan(**PLAN, depth=0)
