"""Source hospital: whether the final model places patients better than their images alone do."""

from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from septum_bench.attacks.candidate_gradients import in_span, patient_gradients
from septum_bench.attacks.likelihood import Doubles
from septum_bench.attacks.shadow import Pool, ShadowRecipe, train_shadow
from septum_bench.attacks.source_site import SourceView, guess_site
from septum_bench.audit import statistics
from septum_bench.audit.candidates import roster
from septum_bench.audit.finding import Finding, ThreatRecord
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.threat import Grant, ThreatModel
from septum_client.train import loss_of

_CANDIDATES: Final = 60
_LEAST_GAIN: Final = 0.0

PLACER: Final = ThreatModel(
    name="source hospital, final model",
    attacker="a holder of the final model with held-out patients of each hospital",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.MODEL: "the final model and the public initial one",
            Grant.SHADOW_POOL: "held-out patients of each hospital, which is known",
            Grant.CANDIDATES: "images and labels of the patients to place",
        }
    ),
)
"""Who wants to know where a patient was treated."""


def place(
    subject: Subject,
    /,
    *,
    rng: np.random.Generator,
    progress: Progress | None = None,
    recipe: ShadowRecipe | None = None,
) -> tuple[Finding, ...]:
    """Return whether the final model tells a training patient's hospital beyond the image's look.

    The blind guess is the same attack with the initial model, patient by patient.

    Raises:
      NotApplicable: One hospital alone, or too few patients.
    """
    sites = tuple(subject.cohorts)
    if len(sites) < 2 or not subject.models:
        raise NotApplicable(
            f"{len(sites)} hospitals and {len(subject.models)} models leave nothing to guess.",
            remedy="Audit a run of at least two hospitals.",
        )
    images, targets, owner, site_of = [], [], [], []
    member: list[npt.NDArray[np.bool_]] = []
    for number, site in enumerate(sites):
        line, cohort = roster(subject, site, most=_CANDIDATES, rng=rng), subject.cohorts[site]
        images.append(np.asarray(cohort.images[line.rows], np.float32))
        targets.append(cohort.targets[line.rows])
        owner.append(line.owner + sum(len(each) for each in member))
        member.append(line.member)
        site_of.append(np.full(len(line.patients), number))
    pool = Pool(
        images=np.concatenate(images),
        targets=np.concatenate(targets),
        owner=np.concatenate(owner),
    )
    inside, truth = np.concatenate(member), np.concatenate(site_of)
    loss, first = loss_of(subject.study), min(subject.models)
    if inside.all() or len(np.unique(truth[~inside])) < 2:
        raise NotApplicable(
            "the hospitals have no held-out patients to learn their look from.",
            remedy="Audit a cohort with a test split.",
        )

    def right(network: nn.Module) -> Doubles:
        exact = patient_gradients(
            network, pool.images, pool.targets, pool.owner, loss=loss, device=subject.device
        )
        spanned = in_span(exact)
        view = SourceView(
            threat=PLACER,
            pool=spanned[~inside],
            pool_site=truth[~inside],
            candidates=spanned[inside],
        )
        return np.asarray(guess_site(view) == truth[inside], np.float64)

    twin = train_shadow(
        subject.network(first), pool, inside, loss=loss, recipe=recipe or ShadowRecipe(),
        rng=rng, device=subject.device,
    )  # fmt: skip
    blind = right(subject.network(first))
    control = right(twin)
    if progress is not None:
        progress(2, 3)
    release = right(subject.network(subject.last_round))
    if progress is not None:
        progress(3, 3)
    count = len(blind)
    chance = float(blind.mean())
    shown = statistics.share("control", int(control.sum()), count)
    found = statistics.share("release", int(release.sum()), count)
    return (
        Finding(
            key="source-hospital",
            claim="The final model does not tell a patient's hospital beyond what the image shows.",
            attack="ridge regression on the directions of patients' gradients",
            source="after Hu et al. 2021, arXiv:2109.05659",
            threat=ThreatRecord.of(PLACER),
            score=f"training patients placed in the right one of {len(sites)} hospitals",
            unit="share",
            chance=chance,
            control=shown,
            null=statistics.share("null", int(blind.sum()), count),
            release=found,
            p_value=statistics.paired_above(release - blind, rng),
            control_ok=float((control - blind).mean()) > _LEAST_GAIN,
            power=statistics.power_of_shares(count, min(chance, 0.99)),
            sentence=f"{found.value:.0%} of {count} training patients are placed rightly by the "
            f"final model, {chance:.0%} by the public initial one, {shown.value:.0%} by a model "
            "trained on them without protection.",
        ),
    )
