"""The one door: an instruction comes in, a release or a refusal goes out.

The gate alone calls training, and it charges the ledger first. It alone makes
a :class:`~septum.wire.Release`.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from septum.bundle import weights_of
from septum.errors import Code, DataError, GateRefusal, LedgerError, Refusal
from septum.ledger import Entry
from septum.models import Vector
from septum.privacy import Mechanism
from septum.step_bounds import update_norm, update_norm_bound
from septum.study import Study
from septum.wire import METRICS, RELEASE_FIELDS, Instruction, Release, payload_digest
from septum_client import lineage, retention, spending, turns
from septum_client import train as training
from septum_client.budget import Ledger
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.consent.standing import standing
from septum_client.policy import Policy
from septum_client.pseudonyms import key_check
from septum_client.randomness import Source, system_source
from septum_client.site import Site, write_durably

Trainer = Callable[..., training.Update]
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, in UTC: the day of a round is the same wherever a site's server stands."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a site agreed to for one study: the study, and the mechanism its policy left of it."""

    study: Study
    policy: Policy
    mechanism: Mechanism


def terms(site: Site, digest: str, *, today: date) -> Terms:
    """Return the terms of an approved study at this site, for a round on this day, in UTC.

    Raises:
      Refusal: Not approved by this site's own signature, ended, no policy, or outside the policy.
    """
    study = site.approved(digest, today=today)
    policy = site.policy
    mechanism = policy.mechanism(study, site=site.name)
    # What a study began with it keeps: a policy relaxed on the way is for the next study.
    begun = spending.announced(site.ledger.said(), study=digest)
    if begun is not None:
        mechanism = mechanism.tightened(
            noise_floor=begun.noise_multiplier, clip_ceiling=policy.clip_ceiling
        )
    return Terms(study=study, policy=policy, mechanism=mechanism)


def answer(
    site: Site,
    instruction: Instruction,
    *,
    source: Source = system_source,
    train: Trainer = training.train,
    clock: Clock = utc_now,
) -> Release:
    """Answer one instruction with a release.

    Every round looks anew at the policy, the cohort's bytes, its last day and
    the register of consent: a patient who was denied or withdrawn since the last
    round is absent from this one.

    Guarantees:
      - Every check that can refuse runs before the charge; the charge is on the
        disk before the first step.
      - The same instruction, asked again, gets the same release, at no charge; asked
        while another process still trains it, once that one has made it.

    Raises:
      Refusal: With a closed code; the reason stays on site.
    """
    # For a study that is not approved here, not even a turn's file is made.
    site.approved(instruction.study, today=clock().date())
    with turns.taken(
        site.folder / "turns",
        instruction.study,
        over=lambda: clock().timestamp() > instruction.deadline,
    ):
        return _answer(site, instruction, source=source, train=train, now=clock())


def _answer(
    site: Site, instruction: Instruction, *, source: Source, train: Trainer, now: datetime
) -> Release:
    agreed = terms(site, instruction.study, today=now.date())
    study, policy = agreed.study, agreed.policy
    if instruction.round > study.rounds:
        raise Refusal(
            Code.ROUND_OUT_OF_RANGE,
            f"round {instruction.round} was asked; the study has {study.rounds}.",
            remedy="Approve a new study for more rounds.",
        )
    cohort, consent = eligible(site, agreed, today=now.date())
    weights = weights_of(study, site.folder / "weights")
    # A model that does not fit must cost nothing.
    training.network(study, instruction.model, weights=weights)
    ledger = site.ledger
    randomness = source(site.name, instruction.study, instruction.round)
    patients = cohort.patients(Split.TRAIN).tolist()
    present = lineage.keep(site, [cohort.pseudonyms[patient] for patient in patients])
    released = ledger.debit(
        study=instruction.study,
        round=instruction.round,
        instruction=instruction.digest,
        charge=agreed.mechanism.charge(),
        limits=policy.limits(study),
        at=now,
        note={
            "cohort": cohort.digest,
            "consent": consent,
            lineage.NOTE: present,
            "delta": agreed.mechanism.delta,
            "randomness": "seeded" if randomness.seeded else "system",
        },
    )
    if released is not None:
        return _again(site, released)
    update = train(
        study,
        mechanism=agreed.mechanism,
        cohort=cohort,
        model=instruction.model,
        weights=weights,
        randomness=randomness,
    )
    return _release(site, instruction, ledger=ledger, agreed=agreed, update=update)


def inspect(update: training.Update, *, agreed: Terms) -> tuple[Vector, Mapping[str, int | float]]:
    """Return what of ``update`` may leave: the vector, and the metrics the policy lets out.

    Raises:
      GateRefusal: A value that is not finite, a dtype other than float32, or a
        norm that the mechanism cannot have produced.
    """
    vector = update.vector
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise GateRefusal(
            Code.FIELD_NOT_ALLOWED,
            f"the update is {vector.dtype} with {vector.ndim} axes; only a float32 vector leaves.",
        )
    norm = update_norm(vector)
    if not np.isfinite(norm):
        raise GateRefusal(
            Code.UPDATE_NOT_FINITE,
            "the update holds a value that is not finite.",
            remedy="Lower the study's learning rate.",
        )
    bound = update_norm_bound(agreed.mechanism, agreed.study.training, parameters=len(vector))
    if norm > bound:
        raise GateRefusal(
            Code.UPDATE_NORM,
            f"the update's norm is {norm:.4g}; this mechanism makes at most {bound:.4g}.",
            remedy="Check the installation: this update was not made by the charged mechanism.",
        )
    known: dict[str, int | float] = {"steps": agreed.mechanism.steps, "update_norm": norm}
    return vector, {name: known[name] for name in METRICS if name in agreed.policy.metrics}


def eligible(site: Site, agreed: Terms, *, today: date) -> tuple[Cohort, str]:
    """Return the patients who may train this study today, and the digest of the register.

    Whether a patient is among them depends on this patient's records alone, and
    sampling rate and divisor are the study's constants: so consent leaves the
    mechanism's neighbouring relation, one patient added or removed, as it was.
    What ``minimum_patients`` refuses, it refuses before anything is charged.
    """
    cohort = _intact(site)
    if cohort.lineage.get("key") != key_check(site.key):
        # Its pseudonyms would match no record, and a denial would not be found.
        raise Refusal(
            Code.COHORT_MISMATCH,
            "the cohort was made under another key than the site's.",
            remedy="Restore the site's key, or ingest again.",
        )
    if cohort.spec != cohort_spec(agreed.study):
        raise Refusal(
            Code.COHORT_MISMATCH,
            "the cohort was made for other labels, image size or test share.",
            remedy="Ingest again for this study.",
        )
    last = retention.expires(cohort, keep_days=agreed.policy.intake.keep_days)
    if last < today:
        raise Refusal(
            Code.COHORT_EXPIRED,
            f"the cohort's last day was {last.isoformat()}; today is {today.isoformat()}.",
            remedy="Purge it, then ingest again if the images may still be used.",
        )
    standings = standing(site, cohort, agreed.study, policy=agreed.policy, today=today)
    consenting = cohort.only(standings.permitted)
    patients = len(consenting.patients(Split.TRAIN))
    least = agreed.policy.minimum_patients
    if patients < least:
        of = len(cohort.patients(Split.TRAIN))
        raise Refusal(
            Code.TOO_FEW_PATIENTS,
            f"{patients} of {of} training patients may train this study under consent "
            f"{agreed.policy.intake.consent!r} ({standings.register.sources} registers); the "
            f"policy's minimum is {least}.",
            remedy="Put the register into consent/, add patients, or let the privacy officer lower "
            "minimum_patients.",
        )
    return consenting, standings.register.digest


def _intact(site: Site) -> Cohort:
    if not (site.cohort_path / "cohort.json").is_file():
        raise Refusal(
            Code.NO_COHORT, "this site has no cohort.", remedy="Run `septum site ingest` first."
        )
    try:
        cohort = Cohort.open(site.cohort_path)
        # Every byte, every round: a file's time and size do not prove what is in it.
        cohort.verify()
    except DataError as error:
        raise Refusal(Code.COHORT_ALTERED, error.message, remedy=error.remedy) from None
    return cohort


def cohort_spec(study: Study) -> CohortSpec:
    """Return what a cohort must hold for ``study``."""
    return CohortSpec.of(study.data)


def _outbox(site: Site, instruction: str) -> Path:
    return site.folder / "outbox" / f"{instruction}.npy"


def _release(
    site: Site, instruction: Instruction, *, ledger: Ledger, agreed: Terms, update: training.Update
) -> Release:
    vector, metrics = inspect(update, agreed=agreed)
    stored = io.BytesIO()
    np.save(stored, vector, allow_pickle=False)
    write_durably(_outbox(site, instruction.digest), stored.getvalue())
    entry = ledger.record_release(
        {
            "study": instruction.study,
            "site": site.name,
            "round": instruction.round,
            "instruction": instruction.digest,
            "noise_multiplier": agreed.mechanism.noise_multiplier,
            "max_grad_norm": agreed.mechanism.max_grad_norm,
            "payload": payload_digest(vector),
            **{f"metric_{name}": value for name, value in metrics.items()},
        }
    )
    return _stated(entry, vector)


def _again(site: Site, entry: Entry) -> Release:
    fields = entry.fields
    vector = np.load(_outbox(site, str(fields["instruction"])), allow_pickle=False)
    if payload_digest(vector) != fields["payload"]:
        raise LedgerError(
            "a stored release differs from what the ledger recorded.",
            remedy="Restore the outbox from a backup; the round is not trained again.",
        )
    return _stated(entry, vector)


def _stated(entry: Entry, vector: Vector) -> Release:
    """Return the release that the ledger's entry states: first answer and repeat are one."""
    fields: dict[str, Any] = dict(entry.fields)
    return Release(
        ledger_head=entry.digest,
        update=vector,
        metrics={name: fields[f"metric_{name}"] for name in METRICS if f"metric_{name}" in fields},
        **{name: fields[name] for name in RELEASE_FIELDS if name in fields},
    )
