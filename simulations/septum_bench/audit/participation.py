"""Who took part, asked of the study's own releases: in a round, in a line-up, and over rounds.

Nothing is simulated here: what is attacked is what each hospital sent, and the
truth is who was really drawn. The attacker knows candidates and the public
contract, and nothing of the hospital's other patients.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from septum_bench.attacks.presence import all_for_one
from septum_bench.audit import statistics
from septum_bench.audit.candidates import Roster, attacked_rounds, roster, summed, twin
from septum_bench.audit.finding import Curve, Finding, Measured, ThreatRecord
from septum_bench.audit.measured_rounds import COORDINATOR, MeasuredRound, measure_round, split
from septum_bench.audit.roc import (
    Stratum,
    area,
    area_interval,
    p_above_chance,
    roc_curve,
    smallest_area,
)
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject

LINE_UP: Final = 10
"""Patients of a line-up: one who took part and nine of the same hospital who did not."""

_ROUNDS: Final = 3
_CANDIDATES: Final = 200
_CONVINCING: Final = 0.75  # the control's whole interval must lie above it
_TWO: Final[tuple[Role, ...]] = ("control", "release")
_SOURCE: Final = "Bayesian form of Hayes et al. 2023, arXiv:2302.07225, for unknown others"


def took_part(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return whether the releases tell who took part in a round, and who is a patient at all.

    Guarantees:
      - The null run attacks another hospital's release with the same candidates
        and scoring; it is left out where there is one hospital.
      - Members of a round are a random draw that the study itself made, so the
        rank test needs no model of the scores.

    Raises:
      NotApplicable: No round, too few candidates, an optimizer whose update is
        no sum, or a run whose randomness is not known.
    """
    rounds = attacked_rounds(subject, most=_ROUNDS)
    sites = subject.released
    lines = {site: roster(subject, site, most=_CANDIDATES, rng=rng) for site in sites}
    firsts = {
        (site, number): summed(subject, site, twin(subject, site, number, steps=1), steps=1)
        for site in sites
        for number in rounds
    }
    seen: dict[str, list[MeasuredRound]] = {site: [] for site in sites}
    for done, (site, number) in enumerate(firsts):
        seen[site].append(measure_round(subject, lines[site], number, firsts=firsts))
        if progress is not None:
            progress(done + 1, len(firsts))
    every = [each for found in seen.values() for each in found if each.comparable]
    if not every:
        raise NotApplicable(
            "no round drew some candidates and left others out.", remedy="Attack more rounds."
        )
    findings: list[Finding | None] = [
        _in_a_round(every, rounds, rng=rng),
        _in_a_line_up(every, rounds, rng=rng),
    ]
    if len(sites) > 1:
        findings.append(_over_rounds(seen, lines, rounds, rng=rng))
    return tuple(finding for finding in findings if finding is not None)


def _roles(every: Sequence[MeasuredRound]) -> tuple[Role, ...]:
    others = len(every[0].measured["release"]) > 1
    return ("control", "null", "release") if others else _TWO


def _strata(rounds: Sequence[MeasuredRound], role: Role) -> list[Stratum]:
    return [each.stratum(role) for each in rounds]


def _area(role: Role, strata: Sequence[Stratum], rng: np.random.Generator) -> Measured:
    low, high = area_interval(strata, rng=rng)
    return Measured(
        role=role,
        value=area(strata),
        low=low,
        high=high,
        trials=sum(len(s.inside) + len(s.outside) for s in strata),
    )


def _arms(
    strata: Mapping[Role, Sequence[Stratum]], rng: np.random.Generator
) -> dict[Role, Measured]:
    return {role: _area(role, found, rng) for role, found in strata.items()}


def _curves(
    strata: Mapping[Role, Sequence[Stratum]], rng: np.random.Generator
) -> tuple[Curve, ...]:
    return tuple(
        roc_curve(
            role,
            np.concatenate([s.inside for s in found]),
            np.concatenate([s.outside for s in found]),
            rng=rng,
        )
        for role, found in strata.items()
    )


def _in_a_round(
    every: Sequence[MeasuredRound], rounds: tuple[int, ...], *, rng: np.random.Generator
) -> Finding:
    roles = _roles(every)
    strata = {role: _strata(every, role) for role in roles}
    arms = _arms(strata, rng)
    whole = area([split(each.whole[each.train], each.drawn[each.train]) for each in every])
    release = arms["release"]
    return Finding(
        key="participation",
        claim="The releases do not tell which patients took part in a round.",
        attack="regression of the release on all candidates' gradients",
        source=_SOURCE,
        threat=ThreatRecord.of(COORDINATOR),
        score="area under the ROC curve of drawn against not drawn",
        unit="AUC",
        chance=0.5,
        rounds=rounds,
        control=arms["control"],
        null=arms.get("null"),
        release=release,
        p_value=p_above_chance(strata["release"]),
        control_ok=_convincing(arms["control"]),
        power=_power(strata["release"]),
        sentence=f"Ranking patients by the release puts one who took part above one who did not "
        f"in {release.value:.1%} of pairs (one unprotected step: {arms['control'].value:.1%}; a "
        f"whole round without clip and noise: {whole:.1%}, so what several steps hide by "
        "moving the weights is no merit of the noise).",
        curves=_curves(strata, rng),
    )


def _in_a_line_up(
    every: Sequence[MeasuredRound], rounds: tuple[int, ...], *, rng: np.random.Generator
) -> Finding | None:
    """Return the finding; None where too few were left out of every round to fill a line-up."""
    ranks = {role: _line_ups(_strata(every, role), rng) for role in _roles(every)}
    ranks = {role: found for role, found in ranks.items() if found}
    if not {"control", "release"} <= set(ranks):
        return None
    arms = {
        role: statistics.share(role, sum(rank == 1 for rank in found), len(found))
        for role, found in ranks.items()
    }
    release, trials = arms["release"], len(ranks["release"])
    return Finding(
        key="line-up",
        claim="The releases do not name the one patient of a line-up who took part.",
        attack="regression of the release on all candidates' gradients",
        source=_SOURCE,
        threat=ThreatRecord.of(COORDINATOR),
        score=f"line-ups of {LINE_UP} in which the one who took part is named",
        unit="share",
        chance=1 / LINE_UP,
        rounds=rounds,
        control=arms["control"],
        null=arms.get("null"),
        release=release,
        p_value=statistics.above_chance(round(release.value * trials), trials, 1 / LINE_UP),
        control_ok=_above_one_half(arms["control"]),
        power=statistics.power_of_shares(trials, 1 / LINE_UP),
        sentence=f"The patient who took part is named in {release.value:.1%} of {trials} line-ups "
        f"of {LINE_UP}; a blind guess names {1 / LINE_UP:.0%}.",
        curves=tuple(
            statistics.rank_curve(role, found, gallery=LINE_UP) for role, found in ranks.items()
        ),
    )


def _line_ups(strata: Sequence[Stratum], rng: np.random.Generator) -> list[int]:
    """Return the rank of the one inside, in line-ups that share no patient of a round."""
    ranks = []
    for stratum in strata:
        inside, outside = rng.permutation(stratum.inside), rng.permutation(stratum.outside)
        for place in range(min(len(inside), len(outside) // (LINE_UP - 1))):
            against = outside[place * (LINE_UP - 1) : (place + 1) * (LINE_UP - 1)]
            tied = int((against == inside[place]).sum())
            ranks.append(1 + int((against > inside[place]).sum()) + int(rng.integers(tied + 1)))
    return ranks


def _over_rounds(
    seen: Mapping[str, Sequence[MeasuredRound]],
    lines: Mapping[str, Roster],
    rounds: tuple[int, ...],
    *,
    rng: np.random.Generator,
) -> Finding | None:
    # The null attacks a hospital the candidates are not from: the two real rows are left out
    # of each other's comparison, so it takes a third.
    roles: tuple[Role, ...] = ("control", "null", "release") if len(seen) > 2 else _TWO
    strata: dict[Role, list[Stratum]] = {role: [] for role in roles}
    for site, found in seen.items():
        member = lines[site].member
        if member.all() or not member.any():
            continue
        for role, split_by in strata.items():
            name: Role = "control" if role == "control" else "release"
            measured = np.stack([each.measured[name] for each in found])
            if role == "null":
                measured = measured[:, 1:]
            split_by.append(split(all_for_one(measured, own=0), member))
    if not strata["release"]:
        return None
    arms = _arms(strata, rng)
    release = arms["release"]
    return Finding(
        key="membership-rounds",
        claim="All attacked rounds together do not tell a hospital's training patients from its "
        "held-out ones.",
        attack="FedMIA over rounds, on the log odds of the regression",
        source="Zhu et al. 2025, arXiv:2402.06289",
        threat=ThreatRecord.of(COORDINATOR),
        score="area under the ROC curve of trained against held-out patients",
        unit="AUC",
        chance=0.5,
        rounds=rounds,
        control=arms["control"],
        null=arms.get("null"),
        release=release,
        p_value=p_above_chance(strata["release"]),
        control_ok=_above_one_half(arms["control"]),
        power=_power(strata["release"]),
        sentence=f"Over {len(rounds)} rounds a training patient scores above a held-out one of "
        f"the same hospital in {release.value:.1%} of pairs.",
        curves=_curves(strata, rng),
    )


def _convincing(control: Measured) -> bool:
    return control.low is not None and control.low > _CONVINCING


def _above_one_half(control: Measured) -> bool:
    return control.low is not None and control.low > 0.5


def _power(strata: Sequence[Stratum]) -> str:
    return (
        f"With {sum(len(s.inside) for s in strata)} patients inside and "
        f"{sum(len(s.outside) for s in strata)} outside this test finds, in "
        f"{statistics.POWER:.0%} of runs, an area of {smallest_area(strata):.2f}."
    )
