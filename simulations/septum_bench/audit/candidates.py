"""The patients of a hospital as candidates, and its releases as sums of their gradients.

The auditor's side: it makes what the attacks are then granted, and the
unprotected twin of a release, made by the same draws without clip and noise.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from septum.models import parameter_count
from septum_bench.attacks.candidate_gradients import patient_gradients
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.threat import Floats
from septum_bench.unprotected import local_round
from septum_client.cohort import Split
from septum_client.train import loss_of

Indices = npt.NDArray[np.int64]

FEWEST: Final = 10
"""Candidates below which naming one of them says nothing."""

_MOST_NUMBERS: Final = 60_000_000  # of a gallery's gradients: 240 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Roster:
    """Candidates of one hospital, trained on or held out, in random order.

    Attributes:
      site: The hospital.
      patients: Their indices in the cohort, int64 ``(candidates,)``.
      rows: Image rows of all of them.
      owner: Position in ``patients`` of each row's patient.
      member: Whether each is of the training split; held-out patients are in no release.
    """

    site: str
    patients: Indices = field(repr=False)
    rows: Indices = field(repr=False)
    owner: Indices = field(repr=False)
    member: npt.NDArray[np.bool_] = field(repr=False)


def roster(subject: Subject, site: str, *, most: int, rng: np.random.Generator) -> Roster:
    """Return at most ``most`` random patients of a hospital, both splits in proportion.

    Raises:
      NotApplicable: Fewer than :data:`FEWEST` patients fit, by number or by memory.
    """
    if site not in subject.cohorts:
        raise NotApplicable(f"the cohort of {site} is not at hand.", remedy="Audit a whole run.")
    cohort = subject.cohorts[site]
    able = _MOST_NUMBERS // parameter_count(subject.network(min(subject.models, default=0)))
    known = np.concatenate([cohort.patients(Split.TRAIN), cohort.patients(Split.TEST)])
    count = min(most, able, len(known))
    if count < FEWEST:
        raise NotApplicable(
            f"{site} offers {count} candidates and {FEWEST} are needed.",
            remedy="Audit a larger cohort or a smaller network.",
        )
    chosen = rng.permutation(known)[:count].astype(np.int64)
    spans = [cohort.images_of(int(patient)) for patient in chosen]
    return Roster(
        site=site,
        patients=chosen,
        rows=np.concatenate([np.arange(span.start, span.stop) for span in spans]),
        owner=np.repeat(np.arange(count), [span.stop - span.start for span in spans]),
        member=cohort.split[chosen] == Split.TRAIN,
    )


def gradients_of(
    subject: Subject,
    line: Roster,
    *,
    round: int,
) -> Floats:
    """Return each candidate's gradient at the start of a round, unclipped, float32.

    Of shape ``(candidates, params)``. Later steps' weights are not published,
    and noise makes their path a walk that the ends do not tell.
    """
    cohort = subject.cohorts[line.site]
    return patient_gradients(
        subject.network(round - 1),
        cohort.images[line.rows],
        cohort.targets[line.rows],
        line.owner,
        loss=loss_of(subject.study),
        device=subject.device,
    )


def summed(
    subject: Subject, site: str, release: npt.NDArray[Any], *, steps: int | None = None
) -> Floats:
    """Return a release as the sum of its steps' clipped gradients and noise.

    Exact for plain SGD; momentum weighs early steps more, and their mean weight
    is taken off.

    Raises:
      NotApplicable: The local optimizer is none that a constant undoes.
    """
    training, mechanism = subject.study.training, subject.study.mechanism(site)
    if training.optimizer != "sgd":
        raise NotApplicable(
            f"the local optimizer is {training.optimizer}, whose update is no sum of gradients.",
            remedy="Audit the final model by membership instead.",
        )
    taken = mechanism.steps if steps is None else steps
    left = taken - np.arange(taken)
    momentum = training.momentum
    weight = ((1 - momentum**left) / (1 - momentum)).mean()
    scale = -mechanism.expected_patients / (training.learning_rate * weight)
    return np.asarray(release * np.float32(scale), np.float32)


def twin(subject: Subject, site: str, round: int, *, steps: int | None = None) -> Floats:
    """Return what the hospital would have released in a round without clip and noise.

    The patients are those whom the round really drew; ``steps`` stops after the first few.

    Raises:
      NotApplicable: The randomness of the run is not known.
    """
    if subject.source is None:
        raise NotApplicable(
            "the unprotected twin of a release needs the run's randomness.",
            remedy="Audit a simulation.",
        )
    study = subject.study
    mechanism = study.mechanism(site)
    return local_round(
        study,
        mechanism=mechanism if steps is None else mechanism.model_copy(update={"steps": steps}),
        cohort=subject.cohorts[site],
        model=subject.models[round - 1],
        randomness=subject.source(site, study.digest, round),
        weights=subject.weights,
    )


def attacked_rounds(subject: Subject, *, most: int) -> tuple[int, ...]:
    """Return at most ``most`` rounds, spread evenly, whose start and every release are at hand.

    Raises:
      NotApplicable: There is none.
    """
    usable = [
        number
        for number in sorted({number for _, number in subject.releases})
        if number - 1 in subject.models
        and all((site, number) in subject.releases for site in subject.released)
    ]
    if not usable or not subject.released:
        raise NotApplicable(
            "no round has its start weights, cohorts and releases at hand.",
            remedy="Audit the folder of a whole run.",
        )
    places = np.unique(np.linspace(0, len(usable) - 1, min(most, len(usable))).astype(int))
    return tuple(usable[place] for place in places)
