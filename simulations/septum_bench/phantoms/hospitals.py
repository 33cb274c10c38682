"""Whole hospitals: who lies where, and the folders a PACS export would leave behind.

Chance is a tree of :class:`numpy.random.SeedSequence`: the plan's roster, each
patient and each public phantom own a branch, so neither the number of workers
nor the order of work changes a byte.
"""

import csv
import math
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import DataError
from septum_bench.phantoms.anatomy import draw_attributes, grow
from septum_bench.phantoms.headers import Film, write_film
from septum_bench.phantoms.identity import Hospital, Person, draw_person, hospital
from septum_bench.phantoms.radiograph import DEFAULT_MATRIX, draw_view, film_of
from septum_bench.phantoms.scanner import SCANNERS, digitise

# --- the table of site shift, beside SCANNERS; rows repeat after six sites ---
PATIENTS_WEIGHT: Final = (340, 260, 200, 170, 130, 100)
PREVALENCE: Final = (0.40, 0.25, 0.54, 0.32, 0.60, 0.47)
FILMS_SHARE: Final = (0.20, 0.28, 0.26, 0.15, 0.07, 0.04)  # of patients with 1..6 films
FILMS_MEAN_AT_LEAST: Final = 2.5
# --- end of the table ---

LABELS_FILE: Final = "labels.csv"
LABEL_COLUMNS: Final = ("sop_instance_uid", "nodule", "meta_lesion_mm")
_ROSTER_BRANCH, _PATIENT_BRANCH = 0, 1  # branch 2 is the public's
_PATIENTS_PER_JOB: Final = 12
_PATIENTS_LIMIT: Final = 100_000

Row = tuple[str, int, float]


@dataclass(frozen=True, kw_only=True)
class PhantomPlan:
    """What to build.

    Attributes:
      sites: Hospitals, at least 1.
      patients: Patients in all of them together, at least 4 per site.
      seed: Non-negative; everything follows from it.
      matrix: Rows and columns of each film, 32..512.

    Raises:
      DataError: a value is out of range.
    """

    sites: int = 6
    patients: int = 1200
    seed: int = 0
    matrix: int = DEFAULT_MATRIX

    def __post_init__(self) -> None:
        _require("sites", self.sites, 1, _PATIENTS_LIMIT // 4)
        _require("patients", self.patients, 4 * self.sites, _PATIENTS_LIMIT)
        _require("seed", self.seed, 0, 2**63 - 1)
        _require("matrix", self.matrix, 32, 512)


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """One patient's place in the plan: everything a worker needs besides the seed."""

    patient: int
    site: int
    positive: bool
    films: int


def enrol(plan: PhantomPlan) -> list[Enrolled]:
    """Return the plan's patients, hospital by hospital.

    Guarantees:
      - Each site has at least 4 patients, and both classes.
      - Each patient has 1 to 6 films; the mean is at least 2.5, independent of the label.
    """
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(_ROSTER_BRANCH,)))
    weight = np.array([PATIENTS_WEIGHT[i % len(PATIENTS_WEIGHT)] for i in range(plan.sites)])
    spare = plan.patients - 4 * plan.sites
    edges = np.rint(np.cumsum(weight) / weight.sum() * spare).astype(int)
    sizes = 4 + np.diff(edges, prepend=0)
    films = rng.choice(len(FILMS_SHARE), size=plan.patients, p=FILMS_SHARE) + 1
    while films.sum() < math.ceil(FILMS_MEAN_AT_LEAST * plan.patients):
        films[rng.choice(np.flatnonzero(films < len(FILMS_SHARE)))] += 1
    positive = []
    for site, size in enumerate(sizes):
        count = int(np.clip(round(PREVALENCE[site % len(PREVALENCE)] * size), 1, size - 1))
        positive.append(rng.permutation(np.arange(size) < count))
    return [
        Enrolled(patient=patient, site=int(site), positive=bool(ill), films=int(count))
        for patient, (site, ill, count) in enumerate(
            zip(
                np.repeat(np.arange(plan.sites), sizes),
                np.concatenate(positive),
                films,
                strict=True,
            )
        )
    ]


def write_hospitals(
    folder: Path,
    plan: PhantomPlan,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one folder per hospital: nested DICOM files and ``labels.csv``.

    Args:
      folder: Where ``hospital-1``, ``hospital-2``, … go; absent or empty.
      plan: What to build.
      workers: Processes; 1 stays in this one. More than 1 spawns, so a script
        that calls this needs the usual ``if __name__ == "__main__"`` guard.
      progress: Called with (films written, films in all) after each batch.

    Returns:
      The hospitals' folders, in order.

    Guarantees:
      - The same plan gives the same files, byte for byte, whatever ``workers``.
      - All or nothing: the work is done in a hidden sibling and renamed.
      - ``labels.csv`` has one row per film, columns :data:`LABEL_COLUMNS`.

    Raises:
      DataError: ``folder`` is a file or not empty, or a worker could not run.
    """
    _require("workers", workers, 1, 256)
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is not an empty folder.",
            remedy="Name a new folder, or remove this one first.",
        )
    roster = enrol(plan)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        rows: list[list[Row]] = [[] for _ in range(plan.sites)]
        total = sum(each.films for each in roster)
        done = 0
        with closing(_batches(partial, plan, roster, workers)) as batches:
            for site, batch in batches:
                rows[site].extend(batch)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        for site, table in enumerate(rows):
            _write_labels(partial / _site_name(site) / LABELS_FILE, table)
        partial.replace(folder)
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process ended before its films were written (workers={workers}).",
            remedy='Use workers=1, or guard the script with if __name__ == "__main__".',
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / _site_name(site) for site in range(plan.sites)]


def _batches(
    root: Path, plan: PhantomPlan, roster: list[Enrolled], workers: int
) -> Generator[tuple[int, list[Row]], None, None]:
    """Yield (site, label rows) as jobs finish; order is not promised."""
    jobs = [
        (site, chunk)
        for site in range(plan.sites)
        for members in [[each for each in roster if each.site == site]]
        for chunk in (
            members[i : i + _PATIENTS_PER_JOB] for i in range(0, len(members), _PATIENTS_PER_JOB)
        )
    ]
    if workers == 1:
        for site, chunk in jobs:
            yield site, _write_patients(root, plan, chunk)
        return
    # Forking a process that runs threads (torch, Ray, rich) can deadlock; spawning cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_write_patients, root, plan, chunk): site for site, chunk in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_patients(root: Path, plan: PhantomPlan, members: list[Enrolled]) -> list[Row]:
    return [row for each in members for row in _write_patient(root, plan, each)]


def _write_patient(root: Path, plan: PhantomPlan, member: Enrolled) -> list[Row]:
    key = (_PATIENT_BRANCH, member.patient)
    branches = np.random.SeedSequence(plan.seed, spawn_key=key).spawn(3)
    body, papers, camera = (np.random.default_rng(branch) for branch in branches)
    attributes = draw_attributes(body, positive=member.positive)
    anatomy = grow(body, attributes)
    scanner = SCANNERS[member.site % len(SCANNERS)]
    place = hospital(member.site, plan.seed)
    person = draw_person(papers, attributes, place, member.patient)
    rows: list[Row] = []
    # A new visit begins after every second film or so.
    visits = np.cumsum(np.r_[0, papers.random(member.films - 1) < 0.45])
    days = np.sort(papers.choice(30, size=member.films, replace=False))
    for visit in range(int(visits[-1]) + 1):
        study_uid, series_uid = _uid(papers), _uid(papers)
        taken = datetime.combine(
            person.first_visit + timedelta(days=int(days[visit])), time(7, 0)
        ) + timedelta(seconds=int(papers.integers(0, 36_000)))
        for number in range(1, int((visits == visit).sum()) + 1):
            view = draw_view(camera)
            film = Film(
                stored=digitise(
                    film_of(camera, anatomy, view, scanner, matrix=plan.matrix), scanner
                ),
                exposure=view.exposure,
                sop_uid=_uid(papers),
                study_uid=study_uid,
                series_uid=series_uid,
                taken=taken + timedelta(minutes=4 * number),
                study_number=visit + 1,
                number=number,
            )
            path = root / _site_name(member.site) / _path(member, person, place, film)
            write_film(
                path, film, attributes=attributes, person=person, place=place, scanner=scanner
            )
            rows.append((film.sop_uid, int(member.positive), attributes.lesion_mm))
    return rows


def _path(member: Enrolled, person: Person, place: Hospital, film: Film) -> Path:
    """Return where the export puts a film; half of the vendors put names into paths."""
    if place.named_folders:
        owner = f"{person.number}_{person.name.replace('^', '_')}".replace("/", "-")
        return Path("DICOM", owner, f"{film.taken:%Y%m%d}_CHEST", f"IM{film.number:06d}.dcm")
    names = (f"PA{member.patient:06d}", f"ST{film.study_number:06d}", "SE000001")
    return Path("DICOM", *names, f"IM{film.number:06d}")


def _write_labels(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(LABEL_COLUMNS)
        # By UID: neither patients nor the order of work show.
        table.writerows((uid, label, f"{size:.1f}") for uid, label, size in sorted(rows))


def _uid(rng: np.random.Generator) -> str:
    return f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"


def _site_name(site: int) -> str:
    return f"hospital-{site + 1}"


def _require(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise DataError(
            f"{name} is {value} and must be between {low} and {high}.",
            remedy=f"Choose {name} from {low} to {high}.",
        )
