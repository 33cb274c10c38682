"""DICOM folders to simulated hospitals: real site directories, each with its cohort."""

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from septum.errors import ConfigError, DataError
from septum.signing import SigningKey
from septum.study import Data, Participant, Task
from septum_bench.phantoms import PhantomPlan
from septum_bench.plan import Plan
from septum_client import consent
from septum_client.cohort import Cohort, CohortSpec, Split, shared_patients
from septum_client.ingest import Terms, ingest
from septum_client.labels import classes, columns, segments_of
from septum_client.masks.segments import named_in
from septum_client.policy import Policy
from septum_client.rules import Intake
from septum_client.site import Site, write_durably

Progress = Callable[[str, int, int], None]
"""Told of (hospital, files done, files in all)."""

_SMALLEST = 10
_REGISTER = "register.csv"


def sources(folder: Path) -> list[Path]:
    """Return the hospitals' folders below ``folder``, by name.

    Raises:
      DataError: ``folder`` is missing, cannot be read or has no sub-folder.
    """
    try:
        found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}).",
            remedy="Name a folder with one sub-folder per hospital.",
        ) from None
    if not found:
        raise DataError(
            f"{folder} has no sub-folder.",
            remedy="Make one sub-folder per hospital: DICOM anywhere below it and a labels CSV.",
        )
    return found


def spec_of(folders: Sequence[Path], plan: Plan) -> CohortSpec:
    """Return what every hospital's cohort is made to be.

    Raises:
      DataError: As :func:`labels_of`.
      ConfigError: A value of the plan is off.
    """
    return CohortSpec(
        image_size=plan.image_size,
        labels=labels_of(folders, plan.labels, task=plan.task),
        depth=plan.depth,
        task=plan.task,
        ranges=plan.ranges,
    )


def data_of(spec: CohortSpec) -> Data:
    """Return the part of a study for which cohorts of this kind are made."""
    return Data(
        image_size=spec.image_size,
        labels=spec.labels,
        test_fraction=spec.test_fraction,
        depth=spec.depth,
        task=spec.task,
        ranges=spec.ranges,
    )


def phantoms_of(plan: Plan) -> PhantomPlan:
    """Return the hospitals to build where the plan names no data."""
    return PhantomPlan(
        sites=plan.sites,
        patients=plan.patients,
        seed=plan.seed,
        task=plan.task,
        depth=plan.depth,
    )


def labels_of(
    folders: Sequence[Path], wanted: Sequence[str], *, task: Task = "multilabel"
) -> tuple[str, ...]:
    """Return the labels to train on: ``wanted``, or every label that all hospitals have.

    The labels of a classification are the classes of any hospital, and those of
    a segmentation the classes of every ``segments.csv``.

    Raises:
      DataError: No label is common to all hospitals, or a wanted one is missing.
    """
    if task == "classification":
        return tuple(wanted) or tuple(sorted(frozenset().union(*map(classes, folders))))
    found = [
        _classes_of_masks(folder) if task == "segmentation" else columns(folder)
        for folder in folders
    ]
    common = [name for name in found[0] if all(name in other for other in found)]
    missing = [name for name in wanted if name not in common]
    if missing or not common:
        raise DataError(
            f"the labels CSVs share {common or 'no label column'}"
            + (f" and lack {missing}." if missing else "."),
            remedy="Give every hospital's CSV the same label columns, or name one with --label.",
        )
    return tuple(wanted) or tuple(common)


def _classes_of_masks(folder: Path) -> tuple[str, ...]:
    content = segments_of(folder)
    return () if content is None else named_in(content)


def admit(
    folders: Sequence[Path], *, into: Path, spec: CohortSpec, plan: Plan, progress: Progress
) -> dict[str, Site]:
    """Make one site per folder, ingest its DICOM, and return the sites by name.

    A hospital that was already ingested is kept, so that an interrupted
    simulation goes on where it stopped.

    Raises:
      DataError: A folder cannot be ingested, or a patient is in two hospitals.
      ConfigError: Two folders give the same public name.
    """
    into.mkdir(parents=True, exist_ok=True)
    linkage = _derived(plan.seed, "linkage")
    policy = Policy(
        epsilon_per_study=plan.epsilon,
        # One study, one limit: the filters over many studies are left with nothing to decide.
        epsilon_per_year=100 * plan.epsilon,
        epsilon_total=100 * plan.epsilon,
        delta=plan.delta,
        noise_floor=0.1,
        clip_ceiling=max(plan.max_grad_norm, 1.0),
        minimum_patients=1,
        models=(plan.model,),
        metrics=("steps", "update_norm"),
        # Phantoms are synthetic and say so. They carry no text, and looking for it would be most
        # of a simulation's time.
        intake=Intake(burned_in_text="header", synthetic="include"),
    )
    sites: dict[str, Site] = {}
    for folder in folders:
        name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:63] or "hospital"
        if name in sites:
            raise ConfigError(
                f"two hospital folders both become the public name {name!r}.",
                remedy="Rename one of them.",
            )
        home = into / name
        if (home / "site.toml").exists():
            site = Site.open(home)
        else:
            site = Site.create(
                home,
                name=name,
                policy=policy,
                key=site_key(plan.seed, name),
                signing=signing_key(plan.seed, name),
                simulated=True,
            )
        if not (site.cohort_path / "cohort.json").exists():
            ingest(
                folder,
                site.cohort_path,
                spec=spec,
                key=site.key,
                terms=Terms(rules=site.policy.intake),
                linkage_key=linkage,
                workers=plan.workers,
                progress=functools.partial(progress, name),
            )
        permit_everybody(site)
        sites[name] = site
    _require_apart({name: Cohort.open(site.cohort_path) for name, site in sites.items()})
    return sites


def site_key(seed: int, name: str) -> bytes:
    """Return the key of the simulated hospital called ``name``: 32 bytes, known to the bench."""
    return _derived(seed, f"key {name}")


def signing_key(seed: int, name: str) -> SigningKey:
    """Return what the simulated hospital called ``name`` signs with."""
    return SigningKey.from_seed(_derived(seed, f"signing {name}"))


def coordinator_key(seed: int) -> SigningKey:
    """Return what the simulated coordinator signs with."""
    return SigningKey.from_seed(_derived(seed, "coordinator"))


def declare(cohorts: dict[str, Cohort], *, seed: int) -> tuple[Participant, ...]:
    """Return the study's participants, each declaring its training patients rounded down.

    Rounded to tens, the public constant does not tell whether one patient is in.

    Raises:
      DataError: A hospital has fewer than ten training patients.
    """
    participants = []
    for name, cohort in cohorts.items():
        patients = len(cohort.patients(Split.TRAIN)) // _SMALLEST * _SMALLEST
        if not patients:
            raise DataError(
                f"{name} has fewer than {_SMALLEST} training patients.",
                remedy="Add patients, or leave this hospital out.",
            )
        public = signing_key(seed, name).public
        participants.append(Participant(name=name, patients=patients, key=public))
    return tuple(participants)


def permit_everybody(site: Site) -> None:
    """Give a simulated site the register that a hospital has, unless it has one already.

    Each round reads it as it reads a hospital's. A pseudonym of the site stands
    for itself (:func:`septum_client.pseudonyms.pseudonym`), so that it works for
    any source, whether or not its labels name patients.
    """
    folder = site.folder / consent.FOLDER
    if not (folder / _REGISTER).exists():
        rows = [f"{patient},permit,HRESCH" for patient in Cohort.open(site.cohort_path).pseudonyms]
        text = "\n".join(["patient_id,decision,purposes", *rows, ""])
        folder.mkdir(mode=0o700, exist_ok=True)
        write_durably(folder / _REGISTER, text.encode("ascii"))


def _require_apart(cohorts: dict[str, Cohort]) -> None:
    names = list(cohorts)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            shared = shared_patients([cohorts[one], cohorts[other]])
            if shared:
                raise DataError(
                    f"{len(shared)} patients are in both {one} and {other}; "
                    "epsilon is stated for a patient of one hospital.",
                    remedy="Give each patient to one hospital: compare the patient_id columns.",
                )


def _derived(seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{purpose}".encode()).digest()
