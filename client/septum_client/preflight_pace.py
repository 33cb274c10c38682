"""How long does a round take here? Measured on made-up images: no patient's image is read."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

import numpy as np

from septum.bundle import weights_of
from septum.models import network_of, to_vector
from septum.study import Study
from septum_client import train as training
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.dpsgd import Augment, Images, Indices, PatientTrainer, Targets
from septum_client.preflight_findings import Finding, look, ok, stop
from septum_client.randomness import SystemRandomness
from septum_client.site import Site

MOST_PATIENTS: Final = 8
"""Made-up patients of the measured batch; a step's time grows with the patients drawn."""

_STEPS: Final = 2
_SHARE: Final = 0.5
"""A round that takes more of the deadline than this is worth a look."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What was measured.

    Args:
      round_s: Seconds that one round takes, start of the process left out.
      peak_bytes: Most memory that this process has held.
      parameters: Trained numbers of the network.
    """

    round_s: float
    peak_bytes: int
    parameters: int


def measure(site: Site, study: Study) -> Pace:
    """Train two steps on made-up patients and say what a round would take.

    The patients of a step are counted as the study expects them; time is taken
    to grow with their number, so the little that does not is counted too often.

    Raises:
      Refusal: The network cannot be made, or its public weights are not here.
    """
    weights = weights_of(study, site.folder / "weights")
    model = to_vector(network_of(study, weights=weights))
    planned = study.mechanism(site.name)
    patients = max(1, min(MOST_PATIENTS, round(planned.expected_patients)))
    # Every made-up patient is drawn in every step.
    drawn = {"sampling_rate": 1.0, "steps": _STEPS, "expected_patients": float(patients)}
    timed: list[float] = []
    training.train(
        study,
        mechanism=planned.model_copy(update=drawn),
        cohort=_made_up(study, patients=patients),
        model=model,
        weights=weights,
        randomness=SystemRandomness(),
        trainer=lambda *given, **named: _Timed(PatientTrainer(*given, **named), timed),
    )
    first, step = timed[0], min(timed)
    step *= max(1.0, planned.expected_patients / patients)
    return Pace(
        # Before its first step a round also asks whether the network treats patients apart.
        round_s=max(0.0, first - min(timed)) + planned.steps * step,
        peak_bytes=_peak_bytes(),
        parameters=len(model),
    )


def check_pace(pace: Pace, study: Study) -> Finding:
    """Return whether a round is done before its deadline."""
    deadline = study.participation.deadline_s
    text = f"about {_time(pace.round_s)} a round; the deadline is {_time(deadline)}"
    if pace.round_s > deadline:
        return stop(
            "pace", text, "Use a faster machine, or ask the coordinator for a later deadline."
        )
    if pace.round_s > _SHARE * deadline:
        return look("pace", text, "Ask the coordinator for a later deadline, to be on time.")
    return ok("pace", text)


class _Timed:
    """Takes the steps of another and notes how long each took."""

    def __init__(self, taking: training.Steps, timed: list[float]) -> None:
        self._taking, self._timed = taking, timed

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        begun = time.perf_counter()
        self._taking.step(images, targets, drawn, augment)
        self._timed.append(time.perf_counter() - begun)

    def detach(self) -> None:
        self._taking.detach()


def _made_up(study: Study, *, patients: int) -> Cohort:
    spec = CohortSpec.of(study.data)
    most = study.training.images_per_patient
    chance = np.random.default_rng(0)
    images = chance.random((patients * most, *spec.shape)).astype(np.float16)
    labels = np.zeros((len(images), len(spec.labels)), dtype=np.float32)
    labels[:, 0] = 1
    masks = None
    if study.data.task == "segmentation":
        masks = np.zeros((len(images), *spec.shape[1:]), dtype=np.uint8)
    unknown = np.zeros(patients, dtype=np.uint8)
    return Cohort(
        spec=spec,
        images=images,
        labels=labels,
        masks=masks,
        patient_of_image=np.repeat(np.arange(patients, dtype=np.int32), most),
        split=np.full(patients, Split.TRAIN, dtype=np.uint8),
        sex=unknown,
        age_band=unknown,
        declared=unknown,
        meta={},
        pseudonyms=(),
        quarantined=MappingProxyType({}),
        lineage={"expires": date.max.isoformat()},
        digest="",
        images_digest="",
    )


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
