"""A rehearsal: what a study would cost and give away here, before anybody has said yes.

Run by a hospital's own auditor, on its own cohort, with the study's settings as
the hospital's policy tightens them. Nothing is charged, approved, sent or
written outside the site's directory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from septum.accounting import ACCOUNTANT, epsilon
from septum.bundle import weights_of
from septum.errors import DataError
from septum.models import Vector, network_of, to_vector
from septum.study import Study
from septum_bench.audit.loading import public_of
from septum_bench.audit.report import AuditReport
from septum_bench.audit.runner import Watcher, run
from septum_bench.audit.subject import Subject
from septum_bench.record import Record
from septum_bench.seeded import SeededSource
from septum_client.cohort import Cohort, Split
from septum_client.consent.standing import standing
from septum_client.review import rounds_left
from septum_client.site import Site, write_durably
from septum_client.train import train

FOLDER: Final = "rehearsals"


class Forecast(Record):
    """What the study would cost this hospital.

    Attributes:
      site: Its name.
      study: Digest of the study, as it was proposed.
      patients: Training patients whose consent permits it today. Never leaves.
      noise_multiplier: After the policy tightened it.
      max_grad_norm: Likewise.
      epsilon_round: Patient-level epsilon of one round.
      epsilon_study: Of all rounds.
      epsilon_limit: What the policy allows for one study.
      delta: At which all three are stated.
      accountant: Which computed them.
      rounds: Of the study.
      rounds_paid: How many of them the policy's limits pay for.
      rehearsed: Rounds that were trained here for the rehearsal.
      bytes_round: Size of one release's vector.
      seconds_round: CPU seconds of one round, measured here.
    """

    site: str
    study: str
    patients: int
    noise_multiplier: float
    max_grad_norm: float
    epsilon_round: float
    epsilon_study: float
    epsilon_limit: float
    delta: float
    accountant: str
    rounds: int
    rounds_paid: int
    rehearsed: int
    bytes_round: int
    seconds_round: float


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The forecast, and the audit of the rehearsed rounds."""

    forecast: Forecast
    audit: AuditReport

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Return what a privacy officer reads first, as (name, text)."""
        f = self.forecast
        mechanism = f"noise multiplier {f.noise_multiplier:g}, clip {f.max_grad_norm:g}"
        cost = f"{f.epsilon_round:.2f} for one round, {f.epsilon_study:.2f} for all {f.rounds}"
        terms = f"at delta {f.delta:g} ({f.accountant}); the limit is {f.epsilon_limit:g}"
        paid = "all" if f.rounds_paid >= f.rounds else f"{f.rounds_paid} of"
        whole = f"about {f.seconds_round * f.rounds / 60:.1f} minutes in all"
        return (
            ("study", self.audit.name),
            ("patients", f"{f.patients} training patients permit this today; the count stays here"),
            ("mechanism", f"{mechanism}, as the policy tightens them"),
            ("epsilon", f"{cost} {terms}"),
            ("budget", f"pays for {paid} {f.rounds} rounds"),
            ("time", f"{f.seconds_round:.1f} CPU seconds a round here, {whole}"),
            ("leaves", f"{f.bytes_round / 2**20:.2f} MiB a round, if the study is approved"),
            ("audit", self.audit.sentence),
        )


def rehearse(
    site: Site,
    study: Study,
    *,
    rounds: int,
    seed: int,
    now: datetime,
    attacks: Sequence[str] | None = None,
    watch: Watcher | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Rehearsal:
    """Train ``rounds`` rounds here, alone and in memory, attack them, and forecast the rest.

    Args:
      site: The hospital's directory.
      study: As proposed; it need not be approved.
      rounds: How many to train, at least 1.
      seed: Of the rehearsal's noise and of the audit.
      now: When it is; consent and the audit's date are taken from it.
      attacks: See :func:`septum_bench.audit.runner.run`.
      watch: Told of the progress.
      clock: CPU seconds; only differences are used.

    Guarantees:
      - The ledger, the approvals and the outbox are left as they are.
      - The rounds run the hospital's own training code on the patients whose
        consent permits the study today, under the mechanism that its policy
        would hold the study to.
      - The noise comes from ``seed``, so nothing that was trained here may leave:
        it is kept in memory and forgotten.

    Raises:
      Refusal: The policy does not allow the study.
      DataError: There is no cohort, or nobody in it permits the study.
    """
    policy = site.policy
    mechanism = policy.mechanism(study, site=site.name)
    held = _as_held(study, site=site, delta=policy.study_delta(study))
    cohort = Cohort.open(site.cohort_path)
    cohort = cohort.only(standing(site, cohort, study, policy=policy, today=now.date()).permitted)
    patients = len(cohort.patients(Split.TRAIN))
    if not patients:
        raise DataError(
            "no training patient's consent permits this study today.",
            remedy="Put the register into consent/, or leave the study.",
        )
    source = SeededSource(seed)
    weights = weights_of(held, site.folder / "weights")
    models: dict[int, Vector] = {0: to_vector(network_of(held, weights=weights))}
    releases: dict[tuple[str, int], Vector] = {}
    began = clock()
    rounds = min(rounds, study.rounds)
    for number in range(1, rounds + 1):
        update = train(
            held,
            mechanism=held.mechanism(site.name),
            cohort=cohort,
            model=models[number - 1],
            randomness=source(site.name, held.digest, number),
            weights=weights,
        )
        releases[site.name, number] = update.vector
        # A federation of one: nobody's noise but this hospital's own hides its patients.
        models[number] = models[number - 1] + update.vector
        if watch is not None:
            watch("training", number, rounds)
    seconds = (clock() - began) / rounds
    charge, limits = mechanism.charge(), policy.limits(study)
    audit = run(
        Subject(
            study=held,
            cohorts={site.name: cohort},
            models=models,
            releases=releases,
            source=source,
            public_images=public_of(held, {site.name: cohort}, seed=seed, phantoms=False),
            seed=seed,
            weights=weights,
        ),
        name=f"Rehearsal of {study.name} at {site.name}",
        today=now.date(),
        attacks=attacks,
        watch=watch,
    )
    return Rehearsal(
        forecast=Forecast(
            site=site.name,
            study=study.digest,
            patients=patients,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            epsilon_round=epsilon([charge], delta=limits.delta),
            epsilon_study=epsilon([charge] * study.rounds, delta=limits.delta),
            epsilon_limit=limits.study,
            delta=limits.delta,
            accountant=ACCOUNTANT,
            rounds=study.rounds,
            rounds_paid=rounds_left(site, study, now=now),
            rehearsed=rounds,
            bytes_round=models[0].nbytes,
            seconds_round=seconds,
        ),
        audit=audit,
    )


def _as_held(study: Study, *, site: Site, delta: float) -> Study:
    """Return the study with the privacy that the policy of ``site`` holds it to."""
    mechanism = site.policy.mechanism(study, site=site.name)
    privacy = study.privacy.model_copy(
        update={
            "noise_multiplier": mechanism.noise_multiplier,
            "max_grad_norm": mechanism.max_grad_norm,
            "delta": delta,
        }
    )
    return study.model_copy(update={"privacy": privacy})


def keep(rehearsal: Rehearsal, page: str, *, site: Site) -> Path:
    """Write the page and the record below the site's directory, for its owner alone.

    Returns:
      The folder, ``rehearsals/<first digits of the study's digest>``.
    """
    folder = site.folder / FOLDER / rehearsal.forecast.study[:16]
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    write_durably(folder / "forecast.json", rehearsal.forecast.model_dump_json(indent=1).encode())
    write_durably(folder / "audit.json", rehearsal.audit.to_json())
    write_durably(folder / "audit.html", page.encode())
    return folder
