"""The study: a hashed contract between hospitals and a coordinator. Data, never code."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import tomlkit
from pydantic import Field, ValidationError, model_validator

from septum.catalogue import unfit
from septum.data import Data, Reference, Task
from septum.errors import ConfigError, explain
from septum.participants import Approval, Day, Name, Participant, Participation, PublicKey
from septum.plain_text import PLAIN
from septum.privacy import Clipping, Mechanism
from septum.toml_text import TomlError, as_json
from septum.training import Aggregation, Part, Training

__all__ = [
    "Approval",
    "Data",
    "Model",
    "Name",
    "Participant",
    "Participation",
    "Privacy",
    "PurposeOfUse",
    "Reference",
    "Study",
    "Task",
    "load",
    "parse",
]

PurposeOfUse = Literal["HRESCH", "BIORCH", "CLINTRCH", "DSRCH", "POARCH", "TRANSRCH"]
"""HL7 v3 PurposeOfUse: research at large (the parent of the rest), biomedical, clinical
trial, disease specific, population origins or ancestry, translational."""


class Model(Part):
    """The network, by its registered name, and where its initial weights come from.

    Args:
      name: A name of :data:`septum.models.MODELS`; no free-form option exists, so
        no architecture comes from the wire.
      seed: Public seed of the initial weights.
      weights: SHA-256 of a public weights file (:mod:`septum.bundle`) to start
        from instead; empty for the seed alone.
      initial: SHA-256 of the vector that round 1 starts from
        (:func:`septum.models.to_vector`), so that a hospital need not believe the
        coordinator's; empty where nobody computed it.
      train: ``all`` weights, or the ``head`` alone on a frozen backbone.
      lora_rank: Rank of low-rank updates of the backbone's linear layers, whose
        own weights stay frozen (Hu et al. 2022, arXiv:2106.09685); 0 for none.
      weight_standardisation: Give each filter of a convolution that a
        normalisation follows mean 0 and norm 1 (Qiao et al. 2019,
        arXiv:1903.10520). What is clipped and sent stays the raw weight.
    """

    name: str = "small_cnn"
    seed: int = Field(0, ge=0)
    weights: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    initial: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    train: Literal["all", "head"] = "all"
    lora_rank: int = Field(0, ge=0, le=64)
    weight_standardisation: bool = False

    @model_validator(mode="after")
    def _frozen_backbone(self) -> Self:
        if self.lora_rank and self.train == "all":
            raise ValueError("lora_rank above 0 needs train 'head': the backbone stays frozen")
        if self.weight_standardisation and self.train == "head":
            raise ValueError(
                "weight_standardisation needs train 'all': it changes how convolutions train, "
                "and those of a frozen backbone do not"
            )
        return self


class Privacy(Part):
    """Patient-level differential privacy: the numbers that move epsilon, with the rounds."""

    # Below 0.1 no accountant's figure means anything, and its tables outgrow the memory.
    noise_multiplier: float = Field(ge=0.1, allow_inf_nan=False)
    # Below it the factors of the clip leave the range of float32.
    max_grad_norm: float = Field(1.0, ge=1e-6, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1, allow_inf_nan=False)
    steps_per_round: int = Field(gt=0)
    delta: float = Field(gt=0, lt=0.1)
    clipping: Clipping = "flat"


class Study(Part):
    """A study, parsed and checked.

    ``purpose`` is for people, on one line. ``purpose_of_use`` and ``commercial`` are
    what each hospital holds against its patients' consent before every round. ``recipients``
    is who gets the model: ``participants`` (the hospitals and their coordinator),
    ``public`` (anybody), or the name of an organisation. ``coordinator`` is the key
    that signs the study and each of its orders; empty in a study that nobody
    signs, which no hospital's own process obeys. ``expires`` is the last day of
    training, in UTC; empty for none.

    Guarantees:
      - Frozen. Equal studies have equal digests; any changed value changes it.
      - No key is ignored: an unknown one is refused by name.
    """

    format: Literal[1] = 1
    name: Name
    purpose: Annotated[str, PLAIN] = Field(min_length=1, max_length=500)
    purpose_of_use: PurposeOfUse = "HRESCH"
    commercial: bool = False
    recipients: tuple[Name, ...] = Field(("participants",), min_length=1)
    rounds: int = Field(gt=0, le=10_000)
    data: Data
    model: Model = Model()
    training: Training = Training()
    privacy: Privacy
    strategy: Aggregation = Aggregation()
    participation: Participation = Participation()
    coordinator: PublicKey = ""
    expires: Day = ""
    approvals: tuple[Approval, ...] = Field((), max_length=32)
    sites: tuple[Participant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        reason = unfit(self.model, self.data)
        if reason:
            raise ValueError(reason)
        if len(set(self.data.labels)) != len(self.data.labels):
            raise ValueError("data.labels must be unique")
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError("sites.name must be unique")
        for kind in ("key", "node_key"):
            keys = [key for site in self.sites if (key := getattr(site, kind))]
            if len(set(keys)) != len(keys):
                raise ValueError(f"sites.{kind} must be unique: two sites cannot share a key")
        if self.coordinator and self.coordinator in {site.key for site in self.sites}:
            raise ValueError("coordinator must have another key than every site")
        if self.strategy.minimum_sites > len(names):
            raise ValueError(
                f"strategy.minimum_sites is {self.strategy.minimum_sites}, "
                f"but the study has {len(names)} sites"
            )
        if self.strategy.name == "fedprox" and self.training.proximal_mu == 0:
            raise ValueError("strategy 'fedprox' needs training.proximal_mu above 0")
        if self.strategy.name != "fedprox" and self.training.proximal_mu > 0:
            raise ValueError(
                f"training.proximal_mu above 0 is 'fedprox', not {self.strategy.name!r}"
            )
        if self.training.augmentation != "none" and self.data.depth > 1:
            raise ValueError("training.augmentation is for pictures; data.depth is above 1")
        if self.training.label_smoothing and self.data.task != "multilabel":
            raise ValueError("training.label_smoothing is for data.task 'multilabel'")
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
        canonical = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def canonical(self) -> dict[str, Any]:
        """Return what is hashed: every key, but for later ones that hold what they mean absent.

        Guarantees:
          - A study keeps its digest when a later version of Septum adds a key.
        """
        fields = self.model_dump(mode="json")
        tables = [(_LATER["study"], fields), (_LATER["model"], fields["model"])]
        tables += [(_LATER["site"], site) for site in fields["sites"]]
        for later, table in tables:
            for key, absent in later.items():
                if table[key] == absent:
                    del table[key]
        return fields

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
            delta=self.privacy.delta,
            clipping=self.privacy.clipping,
        )

    def to_toml(self) -> str:
        """Return the study as TOML that :func:`parse` reads back to an equal study."""
        return tomlkit.dumps(self.model_dump(mode="json"))


_LATER: Final[dict[str, dict[str, Any]]] = {
    "study": {
        "participation": Participation().model_dump(mode="json"),
        "coordinator": "",
        "expires": "",
        "approvals": [],
    },
    "model": {"initial": "", "weight_standardisation": False},
    "site": {"key": "", "node_key": ""},
}
"""Keys that format 1 gained after it had been in use, and the values that say nothing."""


_SIGNATURE: Final = re.compile(r'\Asignature = "[0-9a-f]{128}"\n')


def parse(text: str, *, source: str = "study") -> Study:
    """Read a study from TOML.

    Raises:
      ConfigError: Not TOML, an unknown key, or a value outside its limits; the
        message names the key.
    """
    try:
        # Through JSON, whose strict mode still takes an array for a tuple: "3" is not 3 here.
        fields = as_json(text)
        return Study.model_validate_json(fields, strict=True)
    except TomlError as error:
        raise ConfigError(
            f"{source} is not valid TOML: {error}.", remedy="Correct the line it names."
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {explain(error)}.", remedy="Correct or remove the key it names."
        ) from None


def load(path: Path) -> Study:
    """Read the study file at ``path``; see :func:`parse`.

    A coordinator's signature above it is passed over, neither checked nor
    believed: that is :mod:`septum.signed_study`'s.
    """
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
    return parse(_SIGNATURE.sub("", text, count=1), source=path.name)
