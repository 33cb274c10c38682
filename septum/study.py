"""The study: a hashed contract between hospitals and a coordinator. Data, never code."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from septum.errors import ConfigError, explain
from septum.privacy import Mechanism

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

PurposeOfUse = Literal["HRESCH", "BIORCH", "CLINTRCH", "DSRCH", "POARCH", "TRANSRCH"]
"""HL7 v3 PurposeOfUse: research at large (the parent of the rest), biomedical, clinical
trial, disease specific, population origins or ancestry, translational."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Range = tuple[()] | tuple[FiniteFloat, FiniteFloat]
"""Least and greatest; empty for none, because TOML knows no null."""


class Reference(_Part):
    """What the study's designers expect of the data, so that a hospital can compare.

    Public numbers, never fitted to a hospital's data. Empty means no expectation.

    Args:
      modalities: Values of Modality (0008,0060).
      spacing_mm: Least and greatest median distance of pixels.
      prevalence: Least and greatest share of positive rows of a label.
      mean_intensity: Least and greatest mean of the normalised images, of 1.
    """

    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")], ...] = ()
    spacing_mm: Range = ()
    prevalence: Range = ()
    mean_intensity: Range = ()


class Data(_Part):
    """What a cohort of this study holds."""

    image_size: int = Field(64, ge=16, le=1024)
    labels: tuple[Label, ...] = Field(min_length=1)
    test_fraction: float = Field(0.25, gt=0, lt=1)
    reference: Reference = Reference()


class Model(_Part):
    """The network, by its registered name, and the public seed of its initial weights."""

    name: str = "small_cnn"
    seed: int = Field(0, ge=0)


class Training(_Part):
    """Local training: numbers that do not move epsilon."""

    learning_rate: float = Field(0.5, gt=0, allow_inf_nan=False)
    images_per_patient: int = Field(2, ge=1, le=64)
    proximal_mu: float = Field(0.0, ge=0, allow_inf_nan=False)


class Privacy(_Part):
    """Patient-level differential privacy: the numbers that move epsilon, with the rounds."""

    # Below 0.1 no accountant's figure means anything, and its tables outgrow the memory.
    noise_multiplier: float = Field(ge=0.1, allow_inf_nan=False)
    max_grad_norm: float = Field(1.0, gt=0, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1, allow_inf_nan=False)
    steps_per_round: int = Field(gt=0)
    delta: float = Field(gt=0, lt=0.1)


class Aggregation(_Part):
    """The server's strategy, by name."""

    name: Literal["fedavg", "fedprox"] = "fedavg"
    minimum_sites: int = Field(2, ge=1)


class Participant(_Part):
    """A hospital of this study.

    ``patients`` is a public constant that the hospital declares once. It fixes
    the divisor and the weight; it is not updated when a patient comes or goes.
    """

    name: Name
    patients: int = Field(gt=0)


class Study(_Part):
    """A study, parsed and checked.

    ``purpose`` is for people. ``purpose_of_use`` and ``commercial`` are what each
    hospital holds against its patients' consent before every round.

    Guarantees:
      - Frozen. Equal studies have equal digests; any changed value changes it.
      - No key is ignored: an unknown one is refused by name.
    """

    format: Literal[1] = 1
    name: Name
    purpose: str = Field(min_length=1, max_length=500)
    purpose_of_use: PurposeOfUse = "HRESCH"
    commercial: bool = False
    rounds: int = Field(gt=0, le=10_000)
    data: Data
    model: Model = Model()
    training: Training = Training()
    privacy: Privacy
    strategy: Aggregation = Aggregation()
    sites: tuple[Participant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Here because MONAI takes seconds to import, and `septum --help` must not.
        from septum.models import MODELS  # noqa: PLC0415

        if self.model.name not in MODELS:
            raise ValueError(f"model.name is {self.model.name!r}; choose one of {list(MODELS)}")
        if len(set(self.data.labels)) != len(self.data.labels):
            raise ValueError("data.labels must be unique")
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError("sites.name must be unique")
        if self.strategy.minimum_sites > len(names):
            raise ValueError(
                f"strategy.minimum_sites is {self.strategy.minimum_sites}, "
                f"but the study has {len(names)} sites"
            )
        if self.strategy.name == "fedprox" and self.training.proximal_mu == 0:
            raise ValueError("strategy 'fedprox' needs training.proximal_mu above 0")
        if self.strategy.name == "fedavg" and self.training.proximal_mu > 0:
            raise ValueError("training.proximal_mu above 0 is 'fedprox', not 'fedavg'")
        pull = self.training.learning_rate * self.training.proximal_mu
        if pull > 1:
            raise ValueError(
                f"training.learning_rate times training.proximal_mu is {pull:g}; "
                "above 1 the pull overshoots the global model"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hex digits."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def participant(self, name: str) -> Participant:
        """Return the hospital called ``name``; KeyError if it is not in the study."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    def mechanism(self, name: str) -> Mechanism:
        """Return one round's mechanism at the hospital called ``name``."""
        return Mechanism(
            noise_multiplier=self.privacy.noise_multiplier,
            max_grad_norm=self.privacy.max_grad_norm,
            sampling_rate=self.privacy.sampling_rate,
            steps=self.privacy.steps_per_round,
            expected_patients=self.privacy.sampling_rate * self.participant(name).patients,
        )

    def to_toml(self) -> str:
        """Return the study as TOML that :func:`parse` reads back to an equal study."""
        return tomlkit.dumps(self.model_dump(mode="json"))


def parse(text: str, *, source: str = "study") -> Study:
    """Read a study from TOML.

    Raises:
      ConfigError: Not TOML, an unknown key, or a value outside its limits; the
        message names the key.
    """
    try:
        # Through JSON, whose strict mode still takes an array for a tuple: "3" is not 3 here.
        fields = json.dumps(tomllib.loads(text), default=str)
        return Study.model_validate_json(fields, strict=True)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source} is not valid TOML: {error}.", remedy="Correct the line it names."
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {explain(error)}.", remedy="Correct or remove the key it names."
        ) from None


def load(path: Path) -> Study:
    """Read the study file at ``path``; see :func:`parse`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}).", remedy="Name a readable study file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path} is not UTF-8 text.", remedy="Save the study file as UTF-8."
        ) from None
    return parse(text, source=path.name)
