"""What one simulated study found: the record behind ``result.json`` and the report.

Everything in the report is drawn from this record and nothing else, so a
figure that is not here cannot be claimed there.
"""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants"
    )


def _pack(image: npt.NDArray[np.uint8]) -> dict[str, object]:
    return {"shape": list(image.shape), "hex": image.tobytes().hex()}


def _unpack(value: object) -> npt.NDArray[np.uint8]:
    if isinstance(value, np.ndarray):
        return np.asarray(value, dtype=np.uint8)
    if not isinstance(value, dict):
        raise TypeError("an image is an array or its packed form")
    flat = np.frombuffer(bytes.fromhex(value["hex"]), dtype=np.uint8)
    return flat.reshape(value["shape"])


Image = Annotated[npt.NDArray[np.uint8], PlainValidator(_unpack), PlainSerializer(_pack)]
"""A grey image, uint8 of shape ``(height, width)``."""


class Interval(_Record):
    """A figure with its 95 % interval; all ``None`` when the data cannot resolve it.

    ``reason`` then says why (for example "one class only").
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Reliability(_Record):
    """One bin of the calibration plot: predicted and observed share, and its patients."""

    predicted: float
    observed: float
    patients: int


class Figure(_Record):
    """One named figure of a task that an AUC does not say, such as a class's Dice."""

    name: str
    interval: Interval


class Metrics(_Record):
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


class Subgroup(_Record):
    """Pooled test performance of the federated model within one stratum."""

    group: str
    level: str
    metrics: Metrics


class ModelScore(_Record):
    """One way of training, scored on the same test patients."""

    name: str
    private: bool
    pooled: Metrics
    per_site: dict[str, Metrics]


class SiteRow(_Record):
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


class RoundRow(_Record):
    """One round: who was asked, who answered, who was refused and why, and how it scored.

    ``epsilon`` is the study's cost up to and including this round.
    """

    round: int
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    refused: dict[str, str]
    epsilon: float
    auc: float | None
    seconds: float


class Reconstruction(_Record):
    """One target patient's image, what the attack made of it, and the best blind guess."""

    site: str
    original: Image
    reconstruction: Image
    prior: Image
    psnr: float
    ssim: float
    prior_psnr: float
    prior_ssim: float
    rank: int


class AttackRow(_Record):
    """One attack under one threat model.

    ``rank`` 1 of ``gallery`` means that the reconstruction names its patient;
    chance of a first rank is ``1 / gallery``. ``identified`` counts first ranks.
    """

    name: str
    attacker: str
    grants: tuple[str, ...]
    protected: bool
    gallery: int
    identified: int
    targets: tuple[Reconstruction, ...]
    identification: Interval
    psnr_gain: Interval
    ssim_gain: Interval
    iterations: int
    seconds: float


class Leakage(_Record):
    """The positive control beside the study's own release, and the verdict they allow.

    ``void``: the control failed, so the attack had no power and says nothing.
    ``leak``: the release was identified above chance.
    ``not refuted``: the control succeeded and the release was not identified
    above chance at this power.
    """

    verdict: Literal["void", "leak", "not refuted"]
    sentence: str
    control: AttackRow
    release: AttackRow

    @model_validator(mode="after")
    def _beside_its_control(self) -> Self:
        if self.verdict != "void" and not self.control.identified:
            raise ValueError("a verdict needs a positive control that identified somebody")
        return self


class Provenance(_Record):
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


class StudyResult(_Record):
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
    leakage: Leakage | None
    warnings: tuple[str, ...] = ()
    provenance: Provenance
