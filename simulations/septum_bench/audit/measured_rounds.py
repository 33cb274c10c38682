"""A round's releases, measured for each candidate beside an unprotected step.

What is attacked is what each hospital sent; beside it the first step of the same
round, with the same patients, without clip and noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from septum_bench.attacks.candidate_gradients import clip_factors
from septum_bench.attacks.likelihood import Doubles, StepNoise
from septum_bench.attacks.presence import ReleaseView, presence
from septum_bench.audit.candidates import Roster, gradients_of, summed, twin
from septum_bench.audit.roc import Stratum
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import Subject
from septum_bench.threat import Floats, Grant, ThreatModel

Bools = npt.NDArray[np.bool_]

COORDINATOR: Final = ThreatModel(
    name="participation, the study's releases",
    attacker="a coordinator who suspects certain patients",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.OBSERVED: "the releases as they crossed the wire",
            Grant.RELEASES: "the releases of every hospital in the rounds attacked",
            Grant.ROUNDS: "the published weights before each of these rounds",
            Grant.CANDIDATES: "images and labels of up to 200 patients of each hospital",
            Grant.NOISE: "clip norm, noise multiplier, sampling rate and steps, from the study",
            Grant.LOCAL_TRAINING: "learning rate, steps and each hospital's declared patients",
        }
    ),
)
"""What the study's coordinator holds, and candidates' data besides."""

UNPROTECTED: Final = ThreatModel(
    name="participation, one unprotected step",
    attacker=COORDINATOR.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(COORDINATOR.holds)
        | {Grant.OBSERVED: "the first step of each round, unclipped and without noise"}
    ),
)
"""The positive control: the first step, whose weights the attacker knows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredRound:
    """One hospital's round: who was drawn, and the log odds of each candidate.

    ``measured`` holds a row for each hospital's release, the attacked one first;
    ``whole`` the log odds from all steps without protection. Only patients of
    ``train`` can be drawn, so only among them is who was drawn a matter of chance.
    """

    train: Bools
    drawn: Bools
    first: Bools
    measured: dict[Role, Doubles]
    whole: Doubles

    @property
    def comparable(self) -> bool:
        """Whether round and first step each drew some candidates and left others out."""
        among = (self.drawn[self.train], self.first[self.train])
        return all(0 < int(each.sum()) < len(each) for each in among)

    def stratum(self, role: Role) -> Stratum:
        """Return the candidates as drawn and not drawn, by one role's log odds."""
        truth = self.first if role == "control" else self.drawn
        scores = self.measured["release"][1] if role == "null" else self.measured[role][0]
        return split(scores[self.train], truth[self.train])


def measure_round(
    subject: Subject, line: Roster, number: int, *, firsts: Mapping[tuple[str, int], Floats]
) -> MeasuredRound:
    """Return what the releases of a round say of each candidate of one hospital.

    Args:
      subject: The study.
      line: The candidates.
      number: The round.
      firsts: The first unprotected step of each (site, round), as a sum.
    """
    site, cohort = line.site, subject.cohorts[line.site]
    mechanism = subject.study.mechanism(site)
    patients, noise = subject.study.participant(site).patients, StepNoise.of(mechanism)
    order = [site, *(name for name in subject.released if name != site)]
    exact = gradients_of(subject, line, round=number)
    factors = clip_factors(np.linalg.norm(exact, axis=1), mechanism)
    sent = [summed(subject, name, subject.releases[name, number]) for name in order]
    release = ReleaseView(
        threat=COORDINATOR,
        released=np.stack(sent),
        candidates=exact * factors[:, None],
        noise=noise,
        patients=patients,
    )
    control = ReleaseView(
        threat=UNPROTECTED,
        released=np.stack([firsts[name, number] for name in order]),
        candidates=exact,
        noise=replace(noise, std=0.0, steps=1),
        patients=patients,
    )
    whole = ReleaseView(
        threat=UNPROTECTED,
        released=summed(subject, site, twin(subject, site, number))[None],
        candidates=exact,
        noise=replace(noise, std=0.0),
        patients=patients,
    )
    steps = [
        {int(cohort.patient_of_image[rows[0]]) for rows in step}
        for step in subject.took_part(site, number)
    ]
    return MeasuredRound(
        train=line.member,
        drawn=np.isin(line.patients, sorted(set().union(*steps))),
        first=np.isin(line.patients, sorted(steps[0])),
        measured={"release": presence(release).log_odds, "control": presence(control).log_odds},
        whole=presence(whole).log_odds[0],
    )


def split(scores: Doubles, inside: Bools) -> Stratum:
    """Return scores as those of the patients inside and outside; every group needs one."""
    return Stratum(inside=scores[inside], outside=scores[~inside])
