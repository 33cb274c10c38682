"""Conformance: the study's own steps, taken again and recorded, against what they promise."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from torch import nn

from septum.privacy import Mechanism
from septum_bench.audit.finding import Finding, Measured, ThreatRecord
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.conformance import (
    Aspect,
    Client,
    Conformance,
    Recording,
    Trainer,
    conformance,
    honest,
    record_round,
)
from septum_bench.conformance.recorder import Observe
from septum_bench.faults import FAULTS
from septum_bench.seeded import SeededRandomness
from septum_bench.threat import Grant, ThreatModel
from septum_client.cohort import Cohort
from septum_client.dpsgd import PatientTrainer
from septum_client.train import Steps

_STEPS: Final = 24
"""Steps that are enough, over all hospitals together."""

_CONTROL: Final = 1e-3
"""P-value at which a control succeeded."""

_SAME: Final = 1e-4
"""Relative distance up to which a step taken again made the same release."""

INSIDE: Final = ThreatModel(
    name="conformance, recorded steps",
    attacker="the hospital's own auditor, who watches its client",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.OBSERVED: "each step's noisy gradient, before the optimizer sees it",
            Grant.OTHER_RECORDS: "every patient's data, and who was drawn",
            Grant.NOISE: "clip norm, noise multiplier, sampling rate and steps, from the study",
        }
    ),
)
"""Not an attacker: somebody with every right to look."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one aspect is claimed to be, and the check whose value stands for it."""

    claim: str
    lead: str
    fault: Client
    broken: str


def _without_clip(observe: Observe, cohort: Cohort) -> Trainer:
    """Return the unprotected twin of the clip: none at all, and the same noise."""
    del cohort

    def make(model: nn.Module, *, mechanism: Mechanism, **given: Any) -> Steps:
        free = {
            "max_grad_norm": mechanism.max_grad_norm * 1e6,
            "noise_multiplier": mechanism.noise_multiplier / 1e6,
            "clipping": "flat",
        }
        return PatientTrainer(model, mechanism=mechanism.model_copy(update=free), **given)

    return observe(make)


_PARTS: Final[Mapping[Aspect, _Part]] = MappingProxyType(
    {
        Aspect.NOISE: _Part(
            claim="Every weight carries Gaussian noise as loud as the study states, at every step.",
            lead="spread of all noise",
            fault=FAULTS["noise halved"].client,
            broken="half the noise",
        ),
        Aspect.FRESHNESS: _Part(
            claim="No noise is used twice.",
            lead="each step and the next",
            fault=FAULTS["noise reused"].client,
            broken="the same noise at each step",
        ),
        Aspect.CLIP: _Part(
            claim="No patient's part of a step is longer than the clip.",
            lead="what is over the clip, all patients",
            fault=_without_clip,
            broken="no clip",
        ),
        Aspect.DIVISOR: _Part(
            claim="Each sum is divided by a constant that no patient moves.",
            lead="noise against the number drawn",
            fault=FAULTS["divisor wrong"].client,
            broken="a mean over those drawn",
        ),
        Aspect.SAMPLING: _Part(
            claim="Each patient is drawn by a coin of their own, anew at every step.",
            lead="how often each patient is drawn",
            fault=FAULTS["shuffled for Poisson"].client,
            broken="shuffled batches",
        ),
    }
)


def conformance_audit(
    subject: Subject, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Take the study's first rounds again with its own client, recorded, and check each promise.

    Where the randomness is known, the steps are the very ones of the releases:
    the sentence says how many of these they made again. Controls are the same
    client with one part broken, at one hospital.

    Raises:
      NotApplicable: No hospital's data is at hand.
    """
    rounds = _rounds(subject)
    controls = len(_PARTS)
    done, total = 0, len(rounds) + controls

    def advance() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    started = time.process_time()
    recordings, nothings, again = [], [], 0
    compared = sum(each in subject.releases for each in rounds)
    for site, number in rounds:
        recording, null, same = _record(subject, site, number, client=honest, rng=rng)
        recordings.append(recording)
        nothings.append(null)
        again += same
        advance()
    found, null_found = conformance(recordings), conformance(nothings)
    replayed = (
        f" Taken again, these steps made {again} of {compared} known releases as they were."
        if subject.source is not None and compared
        else " These are fresh steps of the same client, not those of a release."
    )
    findings = []
    for aspect, part in _PARTS.items():
        site, number = rounds[0]
        broken, _, _ = _record(subject, site, number, client=part.fault, rng=rng)
        advance()
        findings.append(
            _finding(
                aspect,
                found=found,
                null=null_found,
                control=conformance([broken]),
                steps=sum(len(recording.steps) for recording in recordings),
                broken_steps=len(broken.steps),
                rounds=rounds,
                replayed=replayed,
            )
        )
    seconds = (time.process_time() - started) / len(findings)
    return tuple(finding.model_copy(update={"seconds": seconds}) for finding in findings)


def _rounds(subject: Subject) -> list[tuple[str, int]]:
    """Return the hospitals and rounds to record: as few as give enough steps."""
    sites = [site.name for site in subject.study.sites if site.name in subject.cohorts]
    if not sites or not subject.models:
        raise NotApplicable(
            "no hospital's cohort and no model were given.",
            remedy="Audit a simulation, or a site's own study.",
        )
    each = math.ceil(_STEPS / (len(sites) * subject.study.privacy.steps_per_round))
    # A published average is not what hospitals trained from; the first model always is.
    last = 1 if subject.study.strategy.ema else max(subject.models) + 1
    numbers = range(1, min(each, subject.study.rounds, last) + 1)
    usable = [number for number in numbers if number - 1 in subject.models] or [1]
    return [(site, number) for number in usable for site in sites]


def _record(
    subject: Subject, site: str, round: int, *, client: Client, rng: np.random.Generator
) -> tuple[Recording, Recording, bool]:
    """Record one round; also return whether it made the release that is known of it."""
    study = subject.study
    known = subject.source
    randomness = (
        known(site, study.digest, round) if known else SeededRandomness(int(rng.integers(2**63)))
    )
    recording, null, update = record_round(
        study,
        mechanism=study.mechanism(site),
        cohort=subject.cohorts[site],
        model=subject.models[round - 1 if round - 1 in subject.models else min(subject.models)],
        randomness=randomness,
        client=client,
        rng=rng,
        weights=subject.weights,
    )
    released = subject.releases.get((site, round))
    if released is None or released.shape != update.vector.shape:
        return recording, null, False
    apart = float(np.abs(released - update.vector).max())
    return recording, null, apart <= _SAME * float(np.abs(released).max())


def _finding(
    aspect: Aspect,
    *,
    found: Conformance,
    null: Conformance,
    control: Conformance,
    steps: int,
    broken_steps: int,
    rounds: Sequence[tuple[str, int]],
    replayed: str,
) -> Finding:
    part = _PARTS[aspect]
    seen, nothing, broken = (
        next(check for check in one.checks if check.name == part.lead)
        for one in (found, null, control)
    )
    checks = found.of(aspect)
    reach = "; ".join(f"{check.name}: {check.power}" for check in checks)
    p_control = control.p_value(aspect)
    p_value = found.p_value(aspect)
    flagged = [check.name for check in found.flagged if check.aspect == aspect]
    said = f"fails in: {', '.join(flagged)}" if flagged else "is explained by chance"
    return Finding(
        key="conformance",
        claim=part.claim,
        attack=f"conformance: {aspect}",
        source="this bench; faults of Tramèr et al. 2022, arXiv:2202.12219, and Chua et al. "
        "2024, arXiv:2403.17673",
        threat=ThreatRecord.of(INSIDE),
        score=f"{part.lead} ({seen.unit}), of {len(checks)} checks",
        unit=seen.unit,
        chance=seen.expected,
        rounds=tuple(sorted({number for _, number in rounds})),
        control=Measured(role="control", value=broken.value, trials=broken_steps),
        null=Measured(role="null", value=nothing.value, trials=steps),
        release=Measured(role="release", value=seen.value, trials=steps),
        p_value=p_value,
        control_ok=p_control is not None and p_control <= _CONTROL and p_value is not None,
        power=f"At {steps} steps this run finds, 19 times of 20: {reach}.",
        sentence=f"{seen.value:.3g} where {seen.expected:g} is expected: {said} "
        f"({len(checks)} exact checks of {steps} recorded steps at "
        f"{len({site for site, _ in rounds})} hospitals). A client with {part.broken} shows "
        f"{broken.value:.3g}.{replayed}",
    )
