"""The phantoms: simulated hospitals are deterministic, plausible and full of identifiers."""

import csv
import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from septum.errors import DataError
from septum_bench.phantoms import (
    PhantomPlan,
    public_images,
    write_hospitals,
)
from septum_bench.phantoms.scanner import percentile_normalise

PLAN = PhantomPlan(sites=6, patients=48, seed=11, matrix=48)
SMALL = PhantomPlan(sites=2, patients=10, seed=3, matrix=32)
SOP_CLASSES = {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("phantoms") / "out", PLAN, workers=1)


@pytest.fixture(scope="module")
def films(hospitals: list[Path]) -> dict[str, list[pydicom.FileDataset]]:
    return {folder.name: [pydicom.dcmread(path) for path in dicoms(folder)] for folder in hospitals}


def dicoms(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "labels.csv")


def labels(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "labels.csv").open() as file:
        return {row["sop_instance_uid"]: row for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def shown(film: pydicom.FileDataset) -> np.ndarray:
    """The film as MONOCHROME2, in output units."""
    values = film.pixel_array * float(film.RescaleSlope) + float(film.RescaleIntercept)
    return -values if film.PhotometricInterpretation == "MONOCHROME1" else values


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    write_hospitals(tmp_path / "one", SMALL, workers=1)
    write_hospitals(tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_seed_gives_other_patients_and_other_pixels(tmp_path: Path) -> None:
    one = write_hospitals(tmp_path / "one", SMALL, workers=1)
    two = write_hospitals(tmp_path / "two", replace(SMALL, seed=4), workers=1)
    read = [[pydicom.dcmread(p) for f in folders for p in dicoms(f)] for folders in (one, two)]
    uids = [{film.SOPInstanceUID for film in films} for films in read]
    pixels = [{film.PixelData for film in films} for films in read]
    assert not uids[0] & uids[1]
    assert not pixels[0] & pixels[1]


def test_every_file_is_a_radiograph_that_pydicom_can_decode(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    for film in (film for site in films.values() for film in site):
        assert film.SOPClassUID in SOP_CLASSES
        assert film.file_meta.MediaStorageSOPClassUID == film.SOPClassUID
        assert film.file_meta.MediaStorageSOPInstanceUID == film.SOPInstanceUID
        assert film.BitsAllocated == 16
        assert film.pixel_array.shape == (PLAN.matrix, PLAN.matrix)
        assert film.pixel_array.max() < 2**film.BitsStored
        assert np.ptp(film.pixel_array) > 0.4 * 2**film.BitsStored
        for uid in (film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID):
            assert uid.startswith("2.25.")
            assert uid.is_valid


def test_every_film_has_its_own_uid_and_exactly_one_label(
    hospitals: list[Path], films: dict[str, list[pydicom.FileDataset]]
) -> None:
    uids = [film.SOPInstanceUID for site in films.values() for film in site]
    assert len(set(uids)) == len(uids)
    for folder in hospitals:
        assert set(labels(folder)) == {film.SOPInstanceUID for film in films[folder.name]}


def test_labels_have_exactly_the_promised_columns(hospitals: list[Path]) -> None:
    for folder in hospitals:
        header = (folder / "labels.csv").read_text().splitlines()[0]
        assert header == "sop_instance_uid,nodule,meta_lesion_mm"


def test_a_patient_has_one_label_one_lesion_and_one_to_six_films(
    hospitals: list[Path], films: dict[str, list[pydicom.FileDataset]]
) -> None:
    total = 0
    for folder in hospitals:
        table = labels(folder)
        truth = defaultdict(set)
        count = Counter(film.PatientID for film in films[folder.name])
        for film in films[folder.name]:
            row = table[film.SOPInstanceUID]
            truth[film.PatientID].add((row["nodule"], row["meta_lesion_mm"]))
        assert all(len(each) == 1 for each in truth.values())
        for ((nodule, size),) in truth.values():
            assert (nodule == "1") == (float(size) > 0)
            assert nodule == "0" or 6.0 <= float(size) <= 30.0
        assert all(1 <= n <= 6 for n in count.values())
        total += sum(count.values())
    assert total >= 2.5 * PLAN.patients


def test_exactly_one_hospital_stores_monochrome1(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    kinds = {
        name: {film.PhotometricInterpretation for film in site} for name, site in films.items()
    }
    assert sorted(map(tuple, kinds.values())) == [("MONOCHROME1",)] + 5 * [("MONOCHROME2",)]


def test_films_of_every_hospital_show_dark_lungs_once_polarity_is_honoured(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    middle = slice(PLAN.matrix * 2 // 5, PLAN.matrix * 3 // 5)
    for site in films.values():
        film = np.mean([shown(each) for each in site], axis=0)[middle]
        midline = film[:, PLAN.matrix // 2 - 2 : PLAN.matrix // 2 + 2].mean()
        lungs = film[:, PLAN.matrix // 4 : PLAN.matrix // 3].mean()
        assert midline > lungs


def test_hospitals_differ_in_scanner_spacing_depth_and_rescale(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    machines = {(f[0].ManufacturerModelName, f[0].DeviceSerialNumber) for f in films.values()}
    assert len(machines) == 6
    assert len({tuple(site[0].ImagerPixelSpacing) for site in films.values()}) == 6
    assert {site[0].BitsStored for site in films.values()} == {10, 12, 14}
    assert len({(s[0].RescaleSlope, s[0].RescaleIntercept) for s in films.values()}) == 4


def test_no_patient_is_in_two_hospitals(films: dict[str, list[pydicom.FileDataset]]) -> None:
    numbers = [{film.PatientID for film in site} for site in films.values()]
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == PLAN.patients


def test_headers_are_full_of_identifiers(films: dict[str, list[pydicom.FileDataset]]) -> None:
    for film in (film for site in films.values() for film in site):
        family, given = str(film.PatientName).split("^")
        for keyword in (
            "PatientBirthDate", "AccessionNumber", "InstitutionName", "InstitutionAddress",
            "ReferringPhysicianName", "PerformingPhysicianName", "StudyDate", "StudyTime",
            "SeriesDate", "SeriesTime", "DeviceSerialNumber", "StationName", "PatientAddress",
        ):  # fmt: skip
            assert film[keyword].value
        assert family in film.StudyDescription
        assert given in film.ImageComments
        assert film.PatientID in film.ImageComments
        assert family.upper() in film.ProtocolName
        assert family in film.RequestAttributesSequence[0].RequestedProcedureDescription
        private = [element for element in film if element.tag.is_private]
        assert film[0x0019, 0x0010].value
        assert any(str(element.value) == str(film.PatientName) for element in private)


def test_age_in_the_header_is_the_age_on_the_day(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    for film in (film for site in films.values() for film in site):
        born, taken = film.PatientBirthDate, film.StudyDate
        years = int(taken[:4]) - int(born[:4]) - (taken[4:] < born[4:])
        assert film.PatientAge == f"{years:03d}Y"
        assert film.PatientSex in {"F", "M"}


def test_nothing_in_a_header_depends_on_the_lesion(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    for film in (film for site in films.values() for film in site):
        text = str(film).lower()
        assert "nodule" not in text
        assert "lesion" not in text


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder") as caught:
        write_hospitals(tmp_path, SMALL, workers=1)
    assert caught.value.remedy
    assert contents(tmp_path).keys() == {"kept.txt"}


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospitals(tmp_path / "out", SMALL, workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_film_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_hospitals(
        tmp_path / "out", SMALL, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    written = sum(len(dicoms(folder)) for folder in folders)
    assert seen[-1] == (written, written)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "bad", [{"sites": 0}, {"sites": 6, "patients": 23}, {"seed": -1}, {"matrix": 8}]
)
def test_an_impossible_plan_is_refused_with_a_remedy(bad: dict[str, int]) -> None:
    with pytest.raises(DataError) as caught:
        PhantomPlan(**bad)
    assert caught.value.remedy


def test_public_images_are_normalised_deterministic_and_of_nobody_in_a_hospital(
    films: dict[str, list[pydicom.FileDataset]],
) -> None:
    public = public_images(6, PLAN.matrix, seed=PLAN.seed)
    assert public.shape == (6, 1, PLAN.matrix, PLAN.matrix)
    assert public.dtype == np.float32
    assert public.min() >= 0.0
    assert public.max() <= 1.0
    np.testing.assert_array_equal(public[:3], public_images(3, PLAN.matrix, seed=PLAN.seed))
    inside = np.stack(
        [
            percentile_normalise(shown(film).astype(np.float32), PLAN.matrix)
            for site in films.values()
            for film in site
        ]
    )
    for image in public[:, 0]:
        assert np.abs(inside - image).mean(axis=(1, 2)).min() > 0.02
