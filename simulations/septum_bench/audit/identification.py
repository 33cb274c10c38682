"""Whose data was it, asked by somebody who knows all the rest: held to the mechanism's bound.

Line-ups of the study's own mechanism, at its published weights and its
hospitals' own patients, with fresh noise in each trial. The naming attack is
the optimum of its attacker, so what it reaches is what the mechanism gives
away on these patients, and the bound is what it could give away on any.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from septum.accounting import Charge
from septum.privacy import Mechanism
from septum_bench.attacks.candidate_gradients import clip_factors, in_span
from septum_bench.attacks.likelihood import Doubles, StepNoise
from septum_bench.audit import statistics
from septum_bench.audit.candidates import Roster, attacked_rounds, gradients_of, roster
from septum_bench.audit.finding import Finding, Measured, ThreatRecord
from septum_bench.audit.lineups import Trials, alarms, found_at, run_trials
from septum_bench.audit.robustness import blow_up
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import Progress, Subject
from septum_bench.metrics import exact_binomial
from septum_bench.threat import Grant, ThreatModel

FALSE_ALARMS: Final = 0.01
"""Share of line-ups without the patient in which an open-set attacker raises an alarm."""

_SOURCE: Final = "Hayes et al. 2023, arXiv:2302.07225"
_CANDIDATES: Final = 64
_TRIALS: Final = 6_000
_FEWEST_TRIALS: Final = 200
_ABSENT: Final = 4_000
_POWERFUL: Final = 0.8  # of what anybody could name at all: the patients who were drawn
_ROLES: Final[tuple[Role, ...]] = ("control", "null", "release")
_ROUNDS: Final = 2
_FAINT: Final = 1e-3  # of a gradient's norm: the twin's noise, because a likelihood needs some

INFORMED: Final = ThreatModel(
    name="identification, informed auditor",
    attacker="an auditor who knows every record of the release but one",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.OBSERVED: "a round's noisy sum of clipped gradients, the others' part removed",
            Grant.OTHER_RECORDS: "every record of the release but the target's",
            Grant.CANDIDATES: "images and labels of all candidates, the target among them",
            Grant.NOISE: "clip norm, noise multiplier, sampling rate and steps, from the study",
        }
    ),
)
"""The strongest holder of a line-up: what it cannot name, nobody with less can."""

UNCLIPPED: Final = ThreatModel(
    name="identification, informed auditor, unprotected",
    attacker=INFORMED.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(INFORMED.holds)
        | {Grant.OBSERVED: "the sum of a round's gradients, unclipped, the others' part removed"}
    ),
)
"""The positive control of :data:`INFORMED`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gallery:
    """Gradients of one hospital's line-up, float64 ``(rounds, candidates, k)``."""

    clipped: Doubles
    plain: Doubles
    strangers: Doubles
    plain_strangers: Doubles


@dataclass(frozen=True, kw_only=True, eq=False)
class _Arm:
    """Line-ups of one role, of each hospital, and what raises an alarm there."""

    trials: list[Trials]
    absent: list[Doubles]

    @property
    def count(self) -> int:
        return sum(len(each.rank) for each in self.trials)

    def hits(self, *, alarmed: bool) -> list[npt.NDArray[np.bool_]]:
        """Return which trials named their patient, with an alarm raised if so asked."""
        if not alarmed:
            return [each.rank == 1 for each in self.trials]
        pairs = zip(self.trials, self.absent, strict=True)
        return [found_at(t, a, false_alarms=FALSE_ALARMS) for t, a in pairs]

    def total(self, *, alarmed: bool = False) -> int:
        return sum(int(each.sum()) for each in self.hits(alarmed=alarmed))

    @property
    def ranks(self) -> list[int]:
        return [int(rank) for each in self.trials for rank in each.rank]


def identify(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return whether candidates are named more often than the mechanism allows, closed and open.

    Each hospital gives a gallery of at most 64 patients, and as many strangers
    for the null run: its observations hold somebody who is not in the line-up.

    Guarantees:
      - Control, null and release have the same galleries, number of trials and scoring.
      - The bound is taken at the gallery's own prior, for the rounds attacked.

    Raises:
      NotApplicable: No round, or too few candidates.
    """
    rounds = attacked_rounds(subject, most=_ROUNDS)
    sites = subject.released
    lines = [roster(subject, site, most=2 * _CANDIDATES, rng=rng) for site in sites]
    half = min(len(line.patients) for line in lines) // 2
    galleries = []
    for done, line in enumerate(lines):
        galleries.append(_gallery(subject, line, rounds, half=half))
        _tell(progress, done + 1, len(sites) + 3)
    mechanism = subject.study.mechanism(sites[0])
    arms: dict[Role, _Arm] = {}
    for done, role in enumerate(_ROLES):
        noise = StepNoise.of(mechanism)
        if role == "control":
            noise = replace(noise, std=_FAINT)
        arms[role] = _arm(galleries, role, noise=noise, rng=rng)
        _tell(progress, len(sites) + done + 1, len(sites) + 3)
    return (
        _closed(arms, gallery=half, rounds=rounds, mechanism=mechanism),
        _open(arms, gallery=half, rounds=rounds, mechanism=mechanism),
    )


def _gallery(subject: Subject, line: Roster, rounds: tuple[int, ...], *, half: int) -> _Gallery:
    mechanism = subject.study.mechanism(line.site)
    clipped, plain = [], []
    for number in rounds:
        exact = gradients_of(subject, line, round=number)[: 2 * half]
        norms = np.linalg.norm(exact, axis=1)
        clipped.append(in_span(exact * clip_factors(norms, mechanism)[:, None]))
        # A scale of its own, so that the twin's noise is a share of the gradients' size.
        plain.append(in_span(exact / norms.mean()))
    held, free = np.stack(clipped), np.stack(plain)
    return _Gallery(
        clipped=held[:, :half],
        plain=free[:, :half],
        strangers=held[:, half:],
        plain_strangers=free[:, half:],
    )


def _arm(
    galleries: list[_Gallery], role: Role, *, noise: StepNoise, rng: np.random.Generator
) -> _Arm:
    each = max(_FEWEST_TRIALS, _TRIALS // len(galleries))
    trials, absent = [], []
    for gallery in galleries:
        lined = gallery.plain if role == "control" else gallery.clipped
        threat = UNCLIPPED if role == "control" else INFORMED
        trials.append(
            run_trials(
                lined,
                trials=each,
                noise=noise,
                observations=len(lined),
                threat=threat,
                rng=rng,
                heard=gallery.strangers if role == "null" else None,
            )
        )
        absent.append(alarms(lined, trials=_ABSENT, noise=noise, threat=threat, rng=rng))
    return _Arm(trials=trials, absent=absent)


def _closed(
    arms: Mapping[Role, _Arm], *, gallery: int, rounds: tuple[int, ...], mechanism: Mechanism
) -> Finding:
    charge = _charge(mechanism, rounds)
    gamma, chance = blow_up(1 / gallery, charge), 1 / gallery
    release, control = arms["release"], arms["control"]
    optimum = float(np.concatenate([each.optimum for each in release.trials]).mean())
    drawn = 1 - (1 - mechanism.sampling_rate) ** charge.steps
    needed = _POWERFUL * (drawn + (1 - drawn) * chance)
    return Finding(
        key="identification",
        claim="Somebody who knows all other patients names the one of the release no more often "
        "than the mechanism allows.",
        attack="likelihood of each candidate, in line-ups of the mechanism with fresh noise",
        source=_SOURCE,
        threat=ThreatRecord.of(INFORMED),
        score=f"line-ups of {gallery} patients in which the right one is named",
        unit="share",
        chance=chance,
        rounds=rounds,
        control=_shares("control", control, gallery),
        null=_shares("null", arms["null"], gallery),
        release=_shares("release", release, gallery),
        p_value=statistics.above_chance(release.total(), release.count, gamma),
        control_ok=control.total() / control.count >= needed,
        power=_power(release.count, gamma),
        sentence=f"Naming the right one of {gallery} succeeds in "
        f"{release.total() / release.count:.2%} of {release.count:,} line-ups over "
        f"{_rounds(rounds)}; a blind guess in {chance:.2%}, the best attack there is on these "
        f"patients in {optimum:.2%}, and no attack on anybody in more than {gamma:.2%}.",
        curves=tuple(
            statistics.rank_curve(role, arms[role].ranks, gallery=gallery) for role in _ROLES
        ),
    )


def _open(
    arms: Mapping[Role, _Arm], *, gallery: int, rounds: tuple[int, ...], mechanism: Mechanism
) -> Finding:
    release, control = arms["release"], arms["control"]
    # The alarm's rate is itself estimated: its upper limit, so that luck refutes nothing.
    alarms_at_most = exact_binomial(int(FALSE_ALARMS * _ABSENT), _ABSENT)[1]
    gamma = blow_up(alarms_at_most / gallery, _charge(mechanism, rounds))
    drawn = 1 - (1 - mechanism.sampling_rate) ** (mechanism.steps * len(rounds))
    return Finding(
        key="open-set",
        claim="The same attacker, who may also say that nobody of the line-up took part, finds "
        "the patient no more often than the mechanism allows.",
        attack="likelihood of each candidate against nobody, alarm above a threshold",
        source=_SOURCE,
        threat=ThreatRecord.of(INFORMED),
        score=f"line-ups of {gallery} in which the right one is named and an alarm raised, at "
        f"{FALSE_ALARMS:.0%} false alarms",
        unit="share",
        chance=FALSE_ALARMS / gallery,
        rounds=rounds,
        control=_shares("control", control, gallery, alarmed=True),
        null=_shares("null", arms["null"], gallery, alarmed=True),
        release=_shares("release", release, gallery, alarmed=True),
        p_value=statistics.above_chance(release.total(alarmed=True), release.count, gamma),
        control_ok=control.total(alarmed=True) / control.count >= _POWERFUL * drawn,
        power=_power(release.count, gamma),
        sentence=f"With false alarms in {FALSE_ALARMS:.0%} of line-ups without the patient, "
        f"{release.total(alarmed=True) / release.count:.2%} of {release.count:,} are found; "
        f"blindly {FALSE_ALARMS / gallery:.3%}, and by no attack more than {gamma:.2%}.",
    )


def _shares(role: Role, arm: _Arm, gallery: int, *, alarmed: bool = False) -> Measured:
    hits = arm.hits(alarmed=alarmed)
    each = np.concatenate(
        [t.of_patients(gallery, hit) for t, hit in zip(arm.trials, hits, strict=True)]
    )
    each = each[np.isfinite(each)]
    count = sum(int(hit.sum()) for hit in hits)
    return statistics.share(role, count, arm.count).model_copy(
        update={
            "worst": float(each.max()),
            "percentile95": float(np.quantile(each, 0.95, method="higher")),
        }
    )


def _charge(mechanism: Mechanism, rounds: tuple[int, ...]) -> Charge:
    once = mechanism.charge()
    return replace(once, steps=once.steps * len(rounds))


def _power(trials: int, gamma: float) -> str:
    smallest = statistics.smallest_share(trials, gamma)
    if smallest is None:
        return f"At {gamma:.1%} the bound leaves nothing that {trials:,} line-ups could refute."
    return (
        f"With {trials:,} line-ups this test finds, in {statistics.POWER:.0%} of runs, a mechanism "
        f"that gives away {smallest:.2%} where {gamma:.2%} are allowed."
    )


def _rounds(rounds: tuple[int, ...]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} rounds"


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
