"""One patient's files as a PACS would export them: films or a scan, and masks if asked for."""

from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TypedDict

import numpy as np

from septum_bench.phantoms.anatomy import Anatomy, Attributes, draw_attributes, grow
from septum_bench.phantoms.headers import SOP_CLASSES, Film, write_film
from septum_bench.phantoms.identity import Hospital, Person, draw_person, hospital
from septum_bench.phantoms.outlines import outlines
from septum_bench.phantoms.radiograph import View, draw_view, film_of
from septum_bench.phantoms.roster import PATIENT_BRANCH, Enrolled, PhantomPlan
from septum_bench.phantoms.scanner import SCANNERS, Scanner, digitise
from septum_bench.phantoms.scans import scan_of, write_scan
from septum_bench.phantoms.segmentations import Slice, write_segmentation

Row = tuple[str, int, float]
"""SOP Instance UID, whether there is a finding, and its size in mm."""


def write_patient(folder: Path, plan: PhantomPlan, member: Enrolled) -> list[Row]:
    """Write one patient's files below ``folder``, and return a label row for each film or scan.

    Guarantees:
      - The films are the same bytes whatever the task: masks and scans draw
        from branches of their own.
    """
    key = (PATIENT_BRANCH, member.patient)
    branches = np.random.SeedSequence(plan.seed, spawn_key=key).spawn(4)
    body, papers, camera, pen = (np.random.default_rng(branch) for branch in branches)
    attributes = draw_attributes(body, positive=member.positive)
    patient = _Patient(
        plan=plan,
        member=member,
        attributes=attributes,
        anatomy=grow(body, attributes),
        person=draw_person(papers, attributes, hospital(member.site, plan.seed), member.patient),
    )
    if plan.depth > 1:
        return [_write_scan(folder, patient, pen)]
    return _write_films(folder, patient, papers=papers, camera=camera, pen=pen)


def _write_films(
    folder: Path,
    patient: "_Patient",
    *,
    papers: np.random.Generator,
    camera: np.random.Generator,
    pen: np.random.Generator,
) -> list[Row]:
    plan, member, person = patient.plan, patient.member, patient.person
    scanner, of_patient = patient.scanner, patient.named()
    rows: list[Row] = []
    # A new visit begins after every second film or so.
    visits = np.cumsum(np.r_[0, papers.random(member.films - 1) < 0.45])
    days = np.sort(papers.choice(30, size=member.films, replace=False))
    for visit in range(int(visits[-1]) + 1):
        study_uid, series_uid = uid_of(papers), uid_of(papers)
        taken = datetime.combine(
            person.first_visit + timedelta(days=int(days[visit])), time(7, 0)
        ) + timedelta(seconds=int(papers.integers(0, 36_000)))
        for number in range(1, int((visits == visit).sum()) + 1):
            view = draw_view(camera)
            film = Film(
                stored=digitise(
                    film_of(camera, patient.anatomy, view, scanner, matrix=plan.matrix), scanner
                ),
                exposure=view.exposure,
                sop_uid=uid_of(papers),
                study_uid=study_uid,
                series_uid=series_uid,
                taken=taken + timedelta(minutes=4 * number),
                study_number=visit + 1,
                number=number,
            )
            path = folder / _path(member, person, patient.place, film)
            write_film(path, film, **of_patient)
            rows.append((film.sop_uid, int(member.positive), patient.attributes.lesion_mm))
            if plan.task == "segmentation":
                _write_masks(path, film, view, patient, pen)
    return rows


def _write_masks(
    path: Path, film: Film, view: View, patient: "_Patient", pen: np.random.Generator
) -> None:
    scanner = patient.scanner
    drawn = outlines(patient.anatomy, view, field_mm=scanner.field_mm, matrix=patient.plan.matrix)
    seen = Slice(sop_class=SOP_CLASSES[scanner.modality], sop_uid=film.sop_uid, outlines=drawn)
    of_mask = replace(film, sop_uid=uid_of(pen), series_uid=uid_of(pen))
    name = path.name.replace("IM", "SG")
    write_segmentation(path.with_name(name), [seen], of_mask, **patient.named())


def _write_scan(folder: Path, patient: "_Patient", pen: np.random.Generator) -> Row:
    plan, member = patient.plan, patient.member
    scan = scan_of(pen, patient.attributes, depth=plan.depth, matrix=plan.matrix)
    film = Film(
        stored=scan.stored[0],
        exposure=1.0,
        sop_uid=uid_of(pen),
        study_uid=uid_of(pen),
        series_uid=uid_of(pen),
        taken=datetime.combine(patient.person.first_visit, time(9, 0)),
        study_number=1,
        number=1,
    )
    here = folder / _path(member, patient.person, patient.place, film).parent
    slices, grid = write_scan(
        here,
        scan,
        film,
        [uid_of(pen) for _ in scan.stored],
        frame_of_reference=uid_of(pen),
        **patient.named(),
    )
    if plan.task == "segmentation":
        of_mask = replace(film, series_uid=uid_of(pen))
        write_segmentation(here / "SG000001", slices, of_mask, grid=grid, **patient.named())
    return slices[0].sop_uid, int(member.positive), patient.attributes.lesion_mm


@dataclass(frozen=True, kw_only=True)
class _Patient:
    plan: PhantomPlan
    member: Enrolled
    attributes: Attributes
    anatomy: Anatomy
    person: Person

    @property
    def scanner(self) -> Scanner:
        return SCANNERS[self.member.site % len(SCANNERS)]

    @property
    def place(self) -> Hospital:
        return hospital(self.member.site, self.plan.seed)

    def named(self) -> "_Named":
        """Return what every writer of files takes."""
        return {
            "attributes": self.attributes,
            "person": self.person,
            "place": self.place,
            "scanner": self.scanner,
        }


class _Named(TypedDict):
    attributes: Attributes
    person: Person
    place: Hospital
    scanner: Scanner


def _path(member: Enrolled, person: Person, place: Hospital, film: Film) -> Path:
    """Return where the export puts a film; half of the vendors put names into paths."""
    if place.named_folders:
        owner = f"{person.number}_{person.name.replace('^', '_')}".replace("/", "-")
        return Path("DICOM", owner, f"{film.taken:%Y%m%d}_CHEST", f"IM{film.number:06d}.dcm")
    names = (f"PA{member.patient:06d}", f"ST{film.study_number:06d}", "SE000001")
    return Path("DICOM", *names, f"IM{film.number:06d}")


def uid_of(rng: np.random.Generator) -> str:
    """Return a UID derived from a UUID (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"
