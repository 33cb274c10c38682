"""Parts of a study that cost no privacy: local training, and the server's strategy."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """A part of a study: frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(Part):
    """Local training: numbers that do not move epsilon.

    Args:
      learning_rate: Of the hospital's optimizer.
      images_per_patient: Most images of a drawn patient in one step.
      proximal_mu: FedProx's pull towards the global model; plain SGD only.
      optimizer: What follows the noise; it begins anew each round.
      momentum: Of ``sgd``, within a round; over rounds it is ``strategy.momentum``.
      views: Augmented views of each image, averaged before the clip.
      augmentation: ``geometry`` turns, zooms and shifts; ``tone`` changes blur,
        gamma, contrast, brightness and noise; ``radiograph`` does both.
      mirror: Swap left and right in half of the views. Wrong for a finding that has a side.
      label_smoothing: Share of a label's certainty given up: 1 becomes
        ``1 - label_smoothing``, and 0 becomes ``label_smoothing`` (multilabel).
    """

    learning_rate: float = Field(0.5, gt=0, allow_inf_nan=False)
    images_per_patient: int = Field(2, ge=1, le=64)
    proximal_mu: float = Field(0.0, ge=0, allow_inf_nan=False)
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    views: int = Field(1, ge=1, le=64)
    augmentation: Literal["none", "geometry", "tone", "radiograph"] = "none"
    mirror: bool = False
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        if self.optimizer == "adam" and self.momentum:
            raise ValueError("optimizer 'adam' has its own momentum; leave momentum at 0")
        if self.proximal_mu and (self.optimizer == "adam" or self.momentum):
            raise ValueError("proximal_mu above 0 needs optimizer 'sgd' with momentum 0")
        if self.augmentation == "none" and (self.views > 1 or self.mirror):
            raise ValueError("views above 1 and mirror need an augmentation other than 'none'")
        return self


class Aggregation(Part):
    """The server's strategy, by name. All of it is post-processing of releases.

    Args:
      name: See ``strategies/README.md``.
      minimum_sites: Contributions that a round needs.
      learning_rate: Of the server's step (``fedavgm``, ``fedadam``).
      momentum: Of the server, over rounds (``fedavgm``, ``fedadam``).
      ema: Share of the old average in the published model, an exponential moving
        average over rounds; 0 publishes the last model. Hospitals train from the
        last model either way.
    """

    name: Literal["fedavg", "fedprox", "fedavgm", "fedadam"] = "fedavg"
    minimum_sites: int = Field(2, ge=1)
    learning_rate: float = Field(1.0, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        plain = self.name in {"fedavg", "fedprox"}
        if plain and (self.momentum or self.learning_rate != 1):
            raise ValueError(
                f"strategy {self.name!r} takes neither momentum nor learning_rate: "
                "'fedavgm' and 'fedadam' do"
            )
        if self.name == "fedavgm" and not self.momentum:
            raise ValueError("strategy 'fedavgm' needs momentum above 0")
        return self
