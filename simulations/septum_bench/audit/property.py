"""What a release gives away about a hospital: the share of a property among its patients.

Patient-level privacy promises nothing here, which is why it is measured.
Rounds are simulated from the cohort's own patients, with a quarter or with
three quarters of the property, and a probe tells the two apart.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from septum_bench.attacks.candidate_gradients import clip_factors, in_span
from septum_bench.attacks.likelihood import Doubles, StepNoise
from septum_bench.attacks.properties import PropertyView, property_scores
from septum_bench.audit.candidates import attacked_rounds, gradients_of, roster
from septum_bench.audit.finding import Finding, Measured, ThreatRecord
from septum_bench.audit.roc import (
    Stratum,
    area,
    area_interval,
    roc_curve,
)
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Grant, ThreatModel
from septum_client.cohort import SEXES

Bools = npt.NDArray[np.bool_]

SHARES: Final = (0.25, 0.75)
"""Shares of the property among the patients of the two kinds of hospitals."""

_CANDIDATES: Final = 60
_FEWEST: Final = 8  # patients with the property, and without, on each side
_TRIALS: Final = 300  # hospitals of each kind
_DEALS: Final = 1999  # of the property among the same patients, for the null and the test

PROBER: Final = ThreatModel(
    name="property of a hospital, one round",
    attacker="a coordinator with records of its own, whose property it knows",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.OBSERVED: "the release of one round, as a sum of its steps",
            Grant.SHADOW_POOL: "images, labels and the property of half of the patients at hand",
            Grant.NOISE: "clip norm, noise multiplier, sampling rate and steps, from the study",
            Grant.LOCAL_TRAINING: "the declared patients",
            Grant.MODEL: "the published weights before the round",
        }
    ),
)
"""Who wants to know about a hospital, not about a patient."""

UNPROTECTED: Final = ThreatModel(
    name="property of a hospital, unprotected round",
    attacker=PROBER.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(PROBER.holds) | {Grant.OBSERVED: "the sum of a round's gradients, no clip, no noise"}
    ),
)
"""The positive control of :data:`PROBER`."""


def properties(
    subject: Subject, /, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return, for each property the cohorts know, whether a round tells much of it from little.

    The property: sex, each label, and the hospital's own look where there are
    several (scanner and protocol: patients of the first hospital against the others').

    Guarantees:
      - The attacker's records and the hospitals' patients are different people.
      - The null has the same attack and patients with the property dealt out at
        random, again and again. It is also the test: patients are its unit, so that many
        simulated rounds of few patients prove nothing.

    Raises:
      NotApplicable: No property has enough patients on both sides.
    """
    number = attacked_rounds(subject, most=1)[0]
    mechanism = subject.study.mechanism(subject.released[0])
    exact_parts, known = [], []
    for done, site in enumerate(subject.released):
        line = roster(subject, site, most=_CANDIDATES, rng=rng)
        exact_parts.append(gradients_of(subject, line, round=number))
        known.append((site, line.patients))
        if progress is not None:
            progress(done + 1, len(subject.released) + 1)
    exact = np.concatenate(exact_parts)
    clipped = in_span(exact * clip_factors(np.linalg.norm(exact, axis=1), mechanism)[:, None])
    plain = in_span(exact)
    attacker = rng.permutation(np.arange(len(exact)) < len(exact) // 2)
    findings = []
    for name, has in _known(subject, known).items():
        groups = [
            int((side & same).sum()) for side in (attacker, ~attacker) for same in (has, ~has)
        ]
        if min(groups) >= _FEWEST:
            findings.append(
                _finding(
                    name, has, attacker, clipped, plain, subject=subject, number=number, rng=rng
                )
            )
    if not findings:
        raise NotApplicable(
            f"no property has {_FEWEST} patients with it and {_FEWEST} without on each side.",
            remedy="Audit a larger cohort.",
        )
    if progress is not None:
        progress(len(subject.released) + 1, len(subject.released) + 1)
    return tuple(findings)


def _known(subject: Subject, people: list[tuple[str, npt.NDArray[np.int64]]]) -> dict[str, Bools]:
    has: dict[str, list[Bools]] = {}
    first = people[0][0]
    for site, patients in people:
        cohort = subject.cohorts[site]
        if "F" in SEXES:
            has.setdefault("sex", []).append(cohort.sex[patients] == SEXES.index("F"))
        rows = np.array([cohort.images_of(int(p)).start for p in patients])
        if subject.study.data.task in {"multilabel", "classification"}:
            for column, label in enumerate(subject.study.data.labels):
                has.setdefault(label, []).append(cohort.labels[rows, column] > 0)
        if len(people) > 1:
            has.setdefault("scanner", []).append(np.full(len(patients), site == first))
    return {name: np.concatenate(each) for name, each in has.items()}


def _rounds(
    gradients: Doubles, has: Bools, *, drawn: int, noise: StepNoise, rng: np.random.Generator
) -> list[Doubles]:
    """Return simulated releases of hospitals with each of :data:`SHARES`, ``(trials, k)``."""
    made = []
    for share in SHARES:
        weight = np.where(has, share / has.sum(), (1 - share) / (~has).sum())
        counts = rng.poisson(drawn * weight, size=(_TRIALS, len(has)))
        noisy = rng.standard_normal((_TRIALS, gradients.shape[1]))
        made.append(counts @ gradients + noisy * (np.sqrt(noise.steps) * noise.std))
    return made


def _expected_area(alone: Doubles, has: Bools, *, drawn: int, loud: float) -> float:
    """Return the area that rounds of such patients have on average, by their normal form.

    Args:
      alone: Score of each patient's gradient.
      has: Who counts as having the property.
      drawn: Patients of a round.
      loud: Variance of the noise in the score.
    """
    means, variances = [], []
    for share in SHARES:
        weight = np.where(has, share / has.sum(), (1 - share) / (~has).sum())
        means.append(drawn * float(weight @ alone))
        variances.append(drawn * float(weight @ alone**2) + loud)
    return float(norm.cdf((means[1] - means[0]) / np.sqrt(max(sum(variances), 1e-300))))


def _finding(
    name: str,
    has: Bools,
    attacker: Bools,
    clipped: Doubles,
    plain: Doubles,
    *,
    subject: Subject,
    number: int,
    rng: np.random.Generator,
) -> Finding:
    mechanism = subject.study.mechanism(subject.released[0])
    noise = StepNoise.of(mechanism)
    drawn = max(1, round(mechanism.expected_patients * mechanism.steps))
    strata: dict[Role, Stratum] = {}
    truth, dealt, p_value = has[~attacker], np.zeros(0), 1.0
    both: tuple[tuple[Role, Doubles], ...] = (("control", plain), ("release", clipped))
    for role, gradients in both:
        used = replace(noise, std=0.0) if role == "control" else noise
        few, many = _rounds(gradients[~attacker], truth, drawn=drawn, noise=used, rng=rng)
        # A direction does not depend on the releases: one patient is scored like a round.
        view = PropertyView(
            threat=UNPROTECTED if role == "control" else PROBER,
            released=np.concatenate([many, few, gradients[~attacker], np.eye(len(has))]),
            pool=gradients[attacker],
            pool_has=has[attacker],
            noise=used,
            drawn=float(drawn),
        )
        scores = property_scores(view)
        strata[role] = Stratum(inside=scores[:_TRIALS], outside=scores[_TRIALS : 2 * _TRIALS])
        alone, weights = scores[2 * _TRIALS : -len(has)], scores[-len(has) :]
        loud = used.steps * used.std**2 * float(weights @ weights)
        own = _expected_area(alone, truth, drawn=drawn, loud=loud)
        deals = [rng.permutation(truth) for _ in range(_DEALS)]
        dealt = np.array([_expected_area(alone, deal, drawn=drawn, loud=loud) for deal in deals])
        p_value = float((1 + (dealt >= own).sum()) / (1 + _DEALS))
    arms = {role: _area(role, found, rng) for role, found in strata.items()}
    low, high = np.quantile(dealt, [0.025, 0.975])
    null = Measured(
        role="null", value=float(dealt.mean()), low=float(low), high=float(high), trials=_DEALS
    )
    control, release = arms["control"], arms["release"]
    return Finding(
        key=f"property-{name.lower()}",
        claim=f"A round's release does not tell a hospital with {SHARES[0]:.0%} from one with "
        f"{SHARES[1]:.0%} of the property {name}.",
        attack="linear probe on releases",
        source="Melis et al. 2019, arXiv:1805.04049",
        threat=ThreatRecord.of(PROBER),
        score="area under the ROC curve of hospitals with much against little of it",
        unit="AUC",
        chance=0.5,
        rounds=(number,),
        control=control,
        null=null,
        release=release,
        p_value=p_value,
        control_ok=control.low is not None and control.low > 0.75,
        power=f"With {len(truth)} patients dealt to the two kinds of hospitals, an area of "
        f"{high:.2f} arises by chance in one deal of 40; what is below passes unseen.",
        sentence=f"From one round of {drawn} draws, much of {name} is told from little in "
        f"{release.value:.1%} of pairs (unprotected: {control.value:.1%}). Patient-level privacy "
        "does not promise to hide what many patients share.",
        curves=tuple(roc_curve(role, s.inside, s.outside, rng=rng) for role, s in strata.items()),
    )


def _area(role: Role, stratum: Stratum, rng: np.random.Generator) -> Measured:
    low, high = area_interval([stratum], rng=rng)
    return Measured(
        role=role,
        value=area([stratum]),
        low=low,
        high=high,
        trials=len(stratum.inside) + len(stratum.outside),
    )
