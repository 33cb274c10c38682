"""Who lies where: the plan of a simulation's hospitals, and the patients that follow from it."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from septum.errors import DataError
from septum_bench.phantoms import outlines, scans
from septum_bench.phantoms.radiograph import DEFAULT_MATRIX

# --- the table of site shift, beside SCANNERS; rows repeat after six sites ---
PATIENTS_WEIGHT: Final = (340, 260, 200, 170, 130, 100)
PREVALENCE: Final = (0.40, 0.25, 0.54, 0.32, 0.60, 0.47)
FILMS_SHARE: Final = (0.20, 0.28, 0.26, 0.15, 0.07, 0.04)  # of patients with 1..6 films
FILMS_MEAN_AT_LEAST: Final = 2.5
# --- end of the table ---

ROSTER_BRANCH, PATIENT_BRANCH = 0, 1  # branch 2 is the public's
TASKS: Final = ("multilabel", "classification", "regression", "segmentation")
_PATIENTS_LIMIT: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class PhantomPlan:
    """What to build.

    Attributes:
      sites: Hospitals, at least 1.
      patients: Patients in all of them together, at least 4 per site.
      seed: Non-negative; everything follows from it.
      matrix: Rows and columns of each film, 32..512.
      task: What the labels beside the films say (:attr:`septum.study.Data.task`):
        a nodule or none, its class, its diameter, or masks of lungs and nodule.
      depth: Above 1, a CT of so many slices in place of each patient's films,
        with a liver and, in it, a lesion or none.

    Raises:
      DataError: a value is out of range.
    """

    sites: int = 6
    patients: int = 1200
    seed: int = 0
    matrix: int = DEFAULT_MATRIX
    task: str = "multilabel"
    depth: int = 1

    def __post_init__(self) -> None:
        require("sites", self.sites, 1, _PATIENTS_LIMIT // 4)
        require("patients", self.patients, 4 * self.sites, _PATIENTS_LIMIT)
        require("seed", self.seed, 0, 2**63 - 1)
        require("matrix", self.matrix, 32, 512)
        require("depth", self.depth, 1, 256)
        if self.task not in TASKS:
            raise DataError(
                f"task is {self.task!r} and must be one of {', '.join(TASKS)}.",
                remedy="Choose one of them.",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the masks, where there are any."""
        return outlines.CLASSES if self.depth == 1 else scans.CLASSES


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
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(ROSTER_BRANCH,)))
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


def require(name: str, value: int, low: int, high: int) -> None:
    """Pass when a number is within its limits; DataError names it, its value and both."""
    if not low <= value <= high:
        raise DataError(
            f"{name} is {value} and must be between {low} and {high}.",
            remedy=f"Choose {name} from {low} to {high}.",
        )
