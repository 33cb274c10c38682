"""From a finished run to the record behind its report."""

import os
import platform
import resource
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from septum import __version__
from septum.accounting import ACCOUNTANT, epsilon
from septum.errors import LedgerError
from septum.models import Vector
from septum.wire import payload_digest
from septum_bench.audit.report import AuditReport
from septum_bench.evaluate import Tested
from septum_bench.result import Provenance, RoundRow, SiteRow, StudyResult
from septum_bench.simulate import Run
from septum_client.cohort import Split
from septum_server import rounds

_LIBRARIES: Final = ("flwr", "torch", "monai", "opacus", "pydicom", "dp-accounting", "numpy")


def assemble(
    run: Run,
    models: Mapping[str, Vector],
    *,
    audit: AuditReport | None,
    warnings: tuple[str, ...],
    command: str,
    started: str,
) -> StudyResult:
    """Score every model on the same test patients and put all findings together.

    Args:
      run: The finished federation.
      models: From :func:`septum_bench.comparison.compare`; may be empty.
      audit: What the attacks found, or None if they were left out.
      warnings: What the reader must know besides.
      command: What to type to run it again.
      started: When it began, ISO 8601.
    """
    study = run.study
    tested = Tested(study, run.cohorts, seed=run.plan.seed)
    records = rounds.read(run.folder / "server")
    charge = study.mechanism(study.sites[0].name).charge()
    final = run.model(study.rounds)
    alone = {
        name: tested.score(f"{name} alone", models[f"alone/{name}"], private=True)
        for name in run.cohorts
        if f"alone/{name}" in models
    }
    titles = {"pooled": "pooled, without privacy", "federated": "federated, without privacy"}
    return StudyResult(
        study_name=study.name,
        study_toml=study.to_toml(),
        label=study.data.labels[0],
        accountant=ACCOUNTANT,
        epsilon=epsilon([charge] * study.rounds, delta=study.privacy.delta),
        delta=study.privacy.delta,
        noise_multiplier=study.privacy.noise_multiplier,
        max_grad_norm=study.privacy.max_grad_norm,
        sampling_rate=study.privacy.sampling_rate,
        steps_per_round=study.privacy.steps_per_round,
        seeded=True,
        sites=tuple(_site(run, name, records) for name in run.cohorts),
        rounds=tuple(
            RoundRow(
                round=record.round,
                asked=record.asked,
                answered=record.answered,
                refused=record.refused,
                alarms=record.alarms,
                epsilon=epsilon([charge] * record.round, delta=study.privacy.delta),
                auc=tested.auc(run.model(record.round)),
                seconds=record.seconds,
            )
            for record in records
        ),
        federated=tested.score("federated", final, private=True),
        alone=alone,
        baselines=tuple(
            tested.score(title, models[name], private=False)
            for name, title in titles.items()
            if name in models
        ),
        subgroups=tested.subgroups(final),
        audit=audit,
        warnings=warnings,
        provenance=Provenance(
            command=command,
            seed=run.plan.seed,
            engine=run.plan.engine,
            study_digest=study.digest,
            model_digest=payload_digest(final),
            started=started,
            seconds=dict(run.seconds),
            peak_memory_mib=peak_memory_mib(),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, CPU only",
            versions={"septum": __version__, "python": platform.python_version()}
            | {name: version(name) for name in _LIBRARIES},
        ),
    )


def peak_memory_mib() -> float:
    """Return the largest resident size so far of this process or of any one of its children."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, child) / 1024  # Linux counts in KiB


def _site(run: Run, name: str, records: list[rounds.RoundRecord]) -> SiteRow:
    site, cohort, study = run.sites[name], run.cohorts[name], run.study
    policy = site.policy
    delta = policy.study_delta(study)
    ledger = site.ledger
    heads = [record.heads[name] for record in records if name in record.heads]
    try:
        # The coordinator's copy of the head catches a ledger that was cut short.
        head = ledger.verify(head=heads[-1] if heads else None).digest
        verified = True
    except LedgerError:
        head, verified = "", False
    return SiteRow(
        name=name,
        patients_train=len(cohort.patients(Split.TRAIN)),
        patients_test=len(cohort.patients(Split.TEST)),
        images=len(cohort.images),
        quarantined={str(code): count for code, count in cohort.quarantined.items()},
        epsilon_spent=epsilon(ledger.charges(study.digest), delta=delta),
        epsilon_limit=policy.epsilon_per_study,
        delta=delta,
        noise_multiplier=policy.mechanism(study, site=name).noise_multiplier,
        rounds_released=sum(name in record.answered for record in records),
        rounds_refused=dict(
            Counter(record.refused[name] for record in records if name in record.refused)
        ),
        ledger_head=head,
        ledger_verified=verified,
    )
