"""Membership in the final model: does it tell trained patients from held-out ones, and how well.

The shadow models are trained on the candidates themselves, each on half: more
than most attackers hold. The control is a model trained the same way on
exactly the hospitals' training patients among them, without protection.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from septum_bench.attacks.membership import Doubles, MembershipView, lira, loss_threshold, rmia
from septum_bench.attacks.shadow import Pool, ShadowRecipe, halves, patient_losses, train_shadow
from septum_bench.audit import statistics
from septum_bench.audit.finding import Finding, Measured, ThreatRecord
from septum_bench.audit.roc import (
    Stratum,
    area,
    area_interval,
    p_above_chance,
    rate_at,
    roc_curve,
    smallest_area,
)
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Grant, ThreatModel
from septum_client.cohort import Split
from septum_client.train import loss_of

Bools = npt.NDArray[np.bool_]

_GROUP: Final = 150  # members, and as many non-members
_FEWEST: Final = 10
_SHADOWS: Final = 6
_RATES: Final = (0.01, 0.001)

HOLDER: Final = ThreatModel(
    name="membership, final model",
    attacker="a holder of the final model who has candidates' records",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.MODEL: "the final model, its loss and normalisation",
            Grant.CANDIDATES: "one image and its label of each candidate",
            Grant.SHADOW_POOL: "six shadow models, each trained on half of the candidates",
        }
    ),
)
"""Who holds the published model, and candidates."""

UNPROTECTED: Final = ThreatModel(
    name="membership, unprotected model",
    attacker=HOLDER.attacker,
    protected=False,
    holds=MappingProxyType(
        dict(HOLDER.holds) | {Grant.MODEL: "a model trained on the members without clip and noise"}
    ),
)
"""The positive control of :data:`HOLDER`."""

_ATTACKS: Final[tuple[tuple[str, str, str, Callable[[MembershipView], Doubles]], ...]] = (
    ("membership-loss", "loss threshold", "Yeom et al. 2018, arXiv:1709.01604", loss_threshold),
    ("membership-lira", "LiRA, online", "Carlini et al. 2022, arXiv:2112.03570", lira),
    ("membership-rmia", "RMIA, online", "Zarifzadeh et al. 2024, arXiv:2312.03262", rmia),
)


def members(
    subject: Subject,
    /,
    *,
    rng: np.random.Generator,
    progress: Progress | None = None,
    recipe: ShadowRecipe | None = None,
) -> tuple[Finding, ...]:
    """Return how well three attacks tell members of the final model from non-members.

    Guarantees:
      - Control, null and release share candidates, shadow models and scoring. The
        null is a model trained on a random half of the candidates: it knows as
        many of them, and not those who are members.

    Raises:
      NotApplicable: Too few trained or held-out patients, or no model.
    """
    recipe = recipe or ShadowRecipe()
    loss, last = loss_of(subject.study), subject.last_round
    start = min(subject.models)
    pool, member = _candidates(subject, rng)

    def losses(who: Bools) -> Doubles:
        network = train_shadow(
            subject.network(start),
            pool,
            who,
            loss=loss,
            recipe=recipe,
            rng=rng,
            device=subject.device,
        )
        return patient_losses(network, pool, loss=loss, device=subject.device)

    who = halves(_SHADOWS, pool.patients, rng=rng)
    shadows = []
    for done, each in enumerate(who):
        shadows.append(losses(each))
        if progress is not None:
            progress(done + 1, _SHADOWS + 2)
    attacked: dict[Role, Doubles] = {
        "control": losses(member),
        "null": losses(rng.permutation(member)),
        "release": patient_losses(subject.network(last), pool, loss=loss, device=subject.device),
    }
    views = {
        role: MembershipView(
            threat=HOLDER if role == "release" else UNPROTECTED,
            losses=seen,
            shadow_losses=np.stack(shadows),
            shadow_members=who,
        )
        for role, seen in attacked.items()
    }
    if progress is not None:
        progress(_SHADOWS + 2, _SHADOWS + 2)
    return tuple(
        _finding(
            key,
            name,
            source,
            {role: attack(view) for role, view in views.items()},
            member=member,
            rng=rng,
        )
        for key, name, source, attack in _ATTACKS
    )


def _candidates(subject: Subject, rng: np.random.Generator) -> tuple[Pool, Bools]:
    """Return as many trained as held-out patients of all hospitals, one random image each."""
    people: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    for site, cohort in subject.cohorts.items():
        for split, member in ((Split.TRAIN, True), (Split.TEST, False)):
            people[member] += [(site, int(patient)) for patient in cohort.patients(split)]
    count = min(_GROUP, len(people[True]), len(people[False]))
    if count < _FEWEST:
        raise NotApplicable(
            f"there are {count} trained or held-out patients and {_FEWEST} are needed.",
            remedy="Audit a run with a larger cohort or test split.",
        )
    images, targets, marks = [], [], []
    for member, known in people.items():
        for number in rng.permutation(len(known))[:count]:
            site, patient = known[int(number)]
            cohort = subject.cohorts[site]
            span = cohort.images_of(patient)
            row = int(rng.integers(span.start, span.stop))
            images.append(np.asarray(cohort.images[row], np.float32))
            targets.append(cohort.targets[row])
            marks.append(member)
    pool = Pool(images=np.stack(images), targets=np.stack(targets), owner=np.arange(2 * count))
    return pool, np.array(marks)


def _finding(
    key: str,
    name: str,
    source: str,
    scores: Mapping[Role, Doubles],
    *,
    member: Bools,
    rng: np.random.Generator,
) -> Finding:
    strata = {
        role: Stratum(inside=score[member], outside=score[~member])
        for role, score in scores.items()
    }
    arms = {role: _area(role, stratum, rng) for role, stratum in strata.items()}
    seen = strata["release"]
    rates = [rate_at(seen.inside, seen.outside, false_positive_rate=allowed) for allowed in _RATES]
    said = "; ".join(
        each.reason or f"TPR at {allowed:.1%} FPR {each.value:.1%}"
        for allowed, each in zip(_RATES, rates, strict=True)
    )
    control = arms["control"]
    return Finding(
        key=key,
        claim="The final model does not tell training patients from held-out ones.",
        attack=name,
        source=source,
        threat=ThreatRecord.of(HOLDER),
        score="area under the ROC curve of trained against held-out patients",
        unit="AUC",
        chance=0.5,
        control=control,
        null=arms["null"],
        release=arms["release"],
        p_value=p_above_chance([seen]),
        control_ok=control.low is not None and control.low > 0.5,
        power=f"With {len(seen.inside)} members and {len(seen.outside)} non-members this test "
        f"finds, in {statistics.POWER:.0%} of runs, an area of {smallest_area([seen]):.2f}.",
        sentence=f"A member scores above a non-member in {arms['release'].value:.1%} of pairs "
        f"(unprotected: {control.value:.1%}); {said}.",
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
