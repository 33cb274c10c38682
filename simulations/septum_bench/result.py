"""What one simulated study found: the record behind ``result.json`` and the report.

Everything in the report is drawn from this record and nothing else, so a
figure that is not here cannot be claimed there.
"""

from typing import Literal

from pydantic import Field

from septum_bench.audit.report import AuditReport
from septum_bench.record import Image, Interval, Reconstruction, Record

__all__ = ["Image", "Interval", "Reconstruction"]


class Reliability(Record):
    """One bin of the calibration plot: predicted and observed share, and its patients."""

    predicted: float
    observed: float
    patients: int


class Figure(Record):
    """One named figure of a task that an AUC does not say, such as a class's Dice."""

    name: str
    interval: Interval


class Metrics(Record):
    """Patient-level test performance of one model on one group of patients.

    ``figures`` are those of the task besides: of each class, number or mask.
    """

    patients: int
    positives: int
    auc: Interval
    sensitivity: Interval
    specificity_target: float
    brier: Interval
    calibration_error: Interval
    reliability: tuple[Reliability, ...] = ()
    figures: tuple[Figure, ...] = ()


class Subgroup(Record):
    """Pooled test performance of the federated model within one stratum."""

    group: str
    level: str
    metrics: Metrics


class ModelScore(Record):
    """One way of training, scored on the same test patients."""

    name: str
    private: bool
    pooled: Metrics
    per_site: dict[str, Metrics]


class SiteRow(Record):
    """One hospital: what it brought, what it spent, what it sent.

    ``epsilon_spent`` is what this study was charged here, lost rounds included.
    """

    name: str
    patients_train: int
    patients_test: int
    images: int
    quarantined: dict[str, int]
    epsilon_spent: float
    epsilon_limit: float
    delta: float
    noise_multiplier: float
    rounds_released: int
    rounds_refused: dict[str, int]
    ledger_head: str
    ledger_verified: bool


class RoundRow(Record):
    """One round: who was asked, who answered, who was refused and why, and how it scored.

    ``epsilon`` is the study's cost up to and including this round; ``alarms``
    are what the coordinator saw in the noise of its releases.
    """

    round: int
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    refused: dict[str, str]
    alarms: tuple[str, ...] = ()
    epsilon: float
    auc: float | None
    seconds: float


class Provenance(Record):
    """What it takes to run this again."""

    command: str
    seed: int | None
    engine: str
    study_digest: str
    model_digest: str
    started: str
    seconds: dict[str, float]
    peak_memory_mib: float
    machine: str
    versions: dict[str, str]


class StudyResult(Record):
    """Everything one simulated study found; ``epsilon`` is what all its rounds cost as planned."""

    study_name: str
    study_toml: str
    label: str
    unit: Literal["patient"] = "patient"
    adjacency: str = "add or remove one patient"
    accountant: str
    epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sampling_rate: float
    steps_per_round: int
    seeded: bool
    sites: tuple[SiteRow, ...]
    rounds: tuple[RoundRow, ...]
    federated: ModelScore
    alone: dict[str, ModelScore] = Field(default_factory=dict)
    baselines: tuple[ModelScore, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    audit: AuditReport | None
    warnings: tuple[str, ...] = ()
    provenance: Provenance
