"""Has this site the cohort, the consent and the budget that the study's next round asks for?

The gate's own questions, asked before the round: what is green here, the gate
lets through, unless something changes in between.
"""

from datetime import datetime
from typing import Final

from septum.bundle import weights_of
from septum.errors import Code, Refusal, SeptumError
from septum.study import Study
from septum_client import gate
from septum_client.cohort import Split
from septum_client.preflight_findings import Finding, look, ok, stop
from septum_client.review import rounds_left
from septum_client.site import Site

_FEWEST: Final = 0.9
_MOST: Final = 1.5
"""The patients who may train, as a share of those whom the study declares: a site declares a
round number below the true one. With fewer its update shrinks; with more its weight is too low."""


def check_data(site: Site, study: Study, *, now: datetime) -> list[Finding]:
    """Return the answers on policy, cohort, consent, budget and public weights.

    Reads every byte of the cohort, as each round does; no pixel is decoded.

    Args:
      site: The hospital.
      study: What is to train.
      now: The time, with its zone.
    """
    try:
        policy = site.policy
        mechanism = policy.mechanism(study, site=site.name)
    except SeptumError as error:
        return [stop("policy", error.message, error.remedy)]
    agreed = gate.Terms(study=study, policy=policy, mechanism=mechanism)
    return [
        ok("policy", "allows the study; where they differ, the stricter number holds"),
        *_cohort(site, agreed, now=now),
        _budget(site, study, now=now),
        _weights(site, study),
    ]


def _cohort(site: Site, agreed: gate.Terms, *, now: datetime) -> list[Finding]:
    study = agreed.study
    try:
        cohort, _ = gate.eligible(site, agreed, today=now.date())
    except Refusal as refusal:
        consent = refusal.code is Code.TOO_FEW_PATIENTS
        remedy = refusal.remedy or "Run `septum site ingest` again."
        found = stop("consent" if consent else "cohort", refusal.message, remedy)
        return [ok("cohort", "is whole, and of the study's kind"), found] if consent else [found]
    except SeptumError as error:
        return [stop("consent", error.message, error.remedy or "Correct the register.")]
    patients, declared = len(cohort.patients(Split.TRAIN)), study.participant(site.name).patients
    shown = "x".join(str(side) for side in cohort.spec.shape[1:])
    text = (
        f"{patients} training patients may train today; the study declares {declared}, the "
        f"policy's minimum is {agreed.policy.minimum_patients}"
    )
    whole = ok("cohort", f"is whole, of the study's kind ({shown}), until {cohort.expires}")
    if not _FEWEST * declared <= patients <= _MOST * declared:
        remedy = "Declare a number nearer to it (`septum site card --patients`) before the start."
        return [whole, look("consent", text, remedy)]
    return [whole, ok("consent", text)]


def _budget(site: Site, study: Study, *, now: datetime) -> Finding:
    try:
        pays = rounds_left(site, study, now=now)
    except SeptumError as error:
        return stop("budget", error.message, error.remedy or "Restore the ledger from a backup.")
    text = f"the limits pay for {pays} of {study.rounds} rounds"
    if not pays:
        return stop(
            "budget", text, "Let the privacy officer decide on a higher limit, or stay out."
        )
    if pays < study.rounds:
        return look("budget", text, "Agree on fewer rounds or more noise before the start.")
    return ok("budget", text)


def _weights(site: Site, study: Study) -> Finding:
    try:
        weights_of(study, site.folder / "weights")
    except SeptumError as error:
        return stop("weights", error.message, error.remedy)
    if study.model.weights:
        return ok("weights", f"the public weights {study.model.weights[:12]}… are here")
    return ok("weights", "none are needed: training starts from random numbers")
