"""Who attacks, and what they hold. An attack sees an :class:`AttackerView` and nothing else.

The secret image, its patient and the gallery are in no type of this module:
an attack cannot choose its iterate by the truth.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from septum.errors import ConfigError
from septum.models import parameter_count
from septum.privacy import Mechanism

Floats = npt.NDArray[np.float32]


class Grant(StrEnum):
    """What an attacker can hold."""

    MODEL = "model"
    OBSERVED = "observed"
    LABELS = "labels"
    NOISE = "noise"
    PUBLIC_IMAGES = "public images"


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """One attacker.

    Attributes:
      name: Short name of the row in the report.
      attacker: Who it is, to follow "by".
      protected: Whether what it observes went through the mechanism.
      holds: Each grant, and the sentence that says exactly what is held.
    """

    name: str
    attacker: str
    protected: bool
    holds: Mapping[Grant, str]

    @property
    def grants(self) -> tuple[str, ...]:
        """The printable grants."""
        return tuple(self.holds.values())


_COMMON: Final = {
    Grant.MODEL: "the network, its weights before the round, loss and normalisation",
    Grant.LABELS: "the target's label",
    Grant.PUBLIC_IMAGES: "images of people whose data trained nothing in the study",
}

UNPROTECTED: Final = ThreatModel(
    name="gradient inversion, unprotected gradient",
    attacker="a coordinator who receives one patient's gradient, unclipped and without noise",
    protected=False,
    holds=MappingProxyType(
        {Grant.OBSERVED: "the exact gradient of one image of one patient"} | _COMMON
    ),
)
"""The positive control: the easiest case there is, which a sound attack must win."""

RELEASED: Final = ThreatModel(
    name="gradient inversion, the study's release",
    attacker="a coordinator who reads one hospital's release of the first round",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.OBSERVED: "the release of the target's hospital, divided by "
            "minus learning rate times steps",
            Grant.NOISE: "clip norm, noise multiplier, sampling rate and steps, from the study",
        }
        | _COMMON
    ),
)
"""What the study's coordinator really holds, and the target's label besides."""


@dataclass(frozen=True, kw_only=True)
class KnownNoise:
    """How loud the observed vector's noise is beside one patient, from the public contract.

    Attributes:
      std: Standard deviation of the noise on each coordinate.
      signal_norm: L2 norm that one patient's part of the vector is expected to have.
    """

    std: float
    signal_norm: float

    @classmethod
    def of_release(cls, mechanism: Mechanism) -> "KnownNoise":
        """Return the noise of a release that :func:`as_gradient` has scaled.

        A patient is drawn in ``sampling_rate * steps`` steps on average and
        adds at most the clip norm to each.
        """
        return cls(
            std=mechanism.noise_std / (mechanism.expected_patients * math.sqrt(mechanism.steps)),
            signal_norm=mechanism.max_grad_norm
            * mechanism.sampling_rate
            / mechanism.expected_patients,
        )


def as_gradient(update: Floats, *, learning_rate: float, steps: int) -> Floats:
    """Return the mean gradient that plain SGD must have followed, shape of ``update``.

    Exact for one step; a first-order view of several (Geiping et al. 2020,
    arXiv:2003.14053, section 6).
    """
    return (-update / (learning_rate * steps)).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackerView:
    """Everything an attack may read.

    Attributes:
      threat: The attacker; a field that it does not grant is refused.
      network: A network of the registry that holds the weights before the round.
      observed: What crossed the wire as a gradient, float32 (targets, params),
        one attack per row.
      labels: The label of each row's target, float32 (targets, outputs).
      public_images: Images of non-members, float32 (n, 1, size, size) in
        [0, 1], at least four; they also tell the size of the target.
      noise: Known only where the threat grants it.

    Raises:
      ConfigError: A field is not granted, or shapes do not fit.
    """

    threat: ThreatModel
    network: nn.Module = field(repr=False)
    observed: Floats = field(repr=False)
    labels: Floats = field(repr=False)
    public_images: Floats = field(repr=False)
    noise: KnownNoise | None = None

    def __post_init__(self) -> None:
        needed = {Grant.MODEL, Grant.OBSERVED, Grant.LABELS, Grant.PUBLIC_IMAGES}
        needed |= {Grant.NOISE} if self.noise else set()
        refused = sorted(needed - set(self.threat.holds))
        if refused:
            raise ConfigError(
                f"{self.threat.name} does not grant {', '.join(refused)}.",
                remedy="Use a threat model that grants it, or leave the field out.",
            )
        expected = (len(self.observed), parameter_count(self.network))
        if self.observed.shape != expected or len(self.labels) != len(self.observed):
            raise ConfigError(
                f"observed vectors {self.observed.shape} with {len(self.labels)} labels "
                f"must be {expected}.",
                remedy="Give one vector and one label per target.",
            )
        shape = self.public_images.shape
        if len(shape) != 4 or shape[0] < 4 or shape[1] != 1 or shape[2] != shape[3]:
            raise ConfigError(
                f"public images of shape {shape} must be (n >= 4, 1, size, size).",
                remedy="Draw public images of the cohort's size.",
            )
