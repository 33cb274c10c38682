"""What a simulation is asked to do: the options of ``septum simulate``, checked."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from septum.errors import ConfigError, explain
from septum.privacy import Clipping
from septum.study import Task

Engine = Literal["local", "ray"]


class Plan(BaseModel):
    """One simulation, kept beside its results so that it can be resumed and repeated.

    ``epsilon`` is the patient-level limit of every hospital's policy. The
    noise is calibrated to spend it over ``rounds``, unless ``noise_multiplier``
    fixes the noise instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path | None = None
    sites: int = Field(6, ge=1, le=64)
    patients: int = Field(1200, ge=20, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)
    labels: tuple[str, ...] = ()
    task: Task = "multilabel"
    ranges: tuple[tuple[float, float], ...] = ()
    image_size: int = Field(64, ge=16, le=512)
    depth: int = Field(1, ge=1, le=256)
    model: str = "small_cnn"
    strategy: Literal["fedavg", "fedprox", "fedavgm", "fedadam"] = "fedavg"
    server_learning_rate: float = Field(1.0, gt=0, allow_inf_nan=False)
    server_momentum: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)
    proximal_mu: float = Field(0.1, gt=0, allow_inf_nan=False)
    rounds: int = Field(12, ge=1, le=10_000)
    steps_per_round: int = Field(5, ge=1, le=10_000)
    epsilon: float = Field(8.0, gt=0, allow_inf_nan=False)
    delta: float = Field(1e-4, gt=0, lt=0.1)
    noise_multiplier: float | None = Field(None, ge=0.1, allow_inf_nan=False)
    max_grad_norm: float = Field(1.0, gt=0, allow_inf_nan=False)
    sampling_rate: float = Field(0.2, gt=0, le=1, allow_inf_nan=False)
    learning_rate: float = Field(1.0, gt=0, allow_inf_nan=False)
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    views: int = Field(1, ge=1, le=64)
    augmentation: Literal["none", "geometry", "tone", "radiograph"] = "none"
    mirror: bool = False
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    clipping: Clipping = "flat"
    images_per_patient: int = Field(2, ge=1, le=64)
    minimum_sites: int | None = Field(None, ge=1)
    engine: Engine = "local"
    workers: int = Field(2, ge=1, le=256)
    baselines: bool = True
    attack: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Here because MONAI takes seconds to import, and `septum --help` must not.
        from septum.models import MODELS  # noqa: PLC0415

        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; choose one of {', '.join(MODELS)}")
        least = self.minimum_sites or 1
        if self.data is None and least > self.sites:
            raise ValueError(f"minimum_sites is {least}, but the study has {self.sites} sites")
        if self.data is None and self.patients < 20 * self.sites:
            raise ValueError(
                f"patients is {self.patients}; {self.sites} hospitals need at least "
                f"{20 * self.sites}"
            )
        return self

    @staticmethod
    def check(**options: object) -> "Plan":
        """Return the plan of ``options``; ConfigError naming the option that is off."""
        try:
            return Plan.model_validate(options)
        except ValidationError as error:
            raise ConfigError(
                f"{explain(error)}.", remedy="See `septum simulate --help` for the limits."
            ) from None
