"""Who attacks, and what they hold. An attack sees a :class:`View` and nothing else.

The secret image, its patient and the gallery are in no type of this module:
an attack cannot choose its iterate by the truth.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from septum.errors import ConfigError
from septum.models import parameter_count
from septum.privacy import Mechanism

Floats = npt.NDArray[np.float32]


_GRANT: Final = "grant"


class Grant(StrEnum):
    """What an attacker can hold."""

    MODEL = "model"
    OBSERVED = "observed"
    LABELS = "labels"
    NOISE = "noise"
    PUBLIC_IMAGES = "public images"
    LOCAL_TRAINING = "local training"
    """Learning rate, steps and batch of a hospital's local training."""
    CANDIDATES = "candidates"
    """Images and labels of candidate patients, the true one among them or not."""
    OTHER_RECORDS = "other records"
    """Every record of the release but one."""
    CRAFTED_MODEL = "crafted model"
    """The right to send a network of the attacker's own making."""
    ROUNDS = "rounds"
    """The published weights of every round."""
    RELEASES = "releases"
    """The releases of every round."""
    SHADOW_POOL = "shadow pool"
    """Records distributed like the target's, to train shadow models on."""


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


def granted(grant: Grant, **keywords: Any) -> Any:
    """Return a dataclass field that only a threat model holding ``grant`` may fill.

    Args:
      grant: What the field is.
      keywords: Those of :func:`dataclasses.field`; a field without a default
        must be given, one with ``default=None`` may be left out.

    Returns:
      The field; typed as anything, since a dataclass field stands for its value.
    """
    return field(metadata={_GRANT: grant}, **keywords)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What an attack may read: the base of every attack's own view.

    Attributes:
      threat: The attacker.

    Guarantees:
      - A field holds something only if the threat model grants it.
      - A field that names no grant is refused, so that no view can carry the truth.

    Raises:
      ConfigError: A field is filled that is not granted, or names no grant.

    >>> nobody = ThreatModel(name="none", attacker="nobody", protected=True, holds={})
    >>> @dataclass(frozen=True, kw_only=True, eq=False)
    ... class Labelled(View):
    ...     labels: Floats | None = granted(Grant.LABELS, default=None)
    >>> Labelled(threat=nobody).labels is None
    True
    >>> Labelled(threat=nobody, labels=np.ones((1, 1), np.float32))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    septum.errors.ConfigError: none does not grant labels. Use a threat model that grants it, ...
    """

    threat: ThreatModel

    def __post_init__(self) -> None:
        own = [each for each in fields(self) if each.name != "threat"]
        nameless = [each.name for each in own if _GRANT not in each.metadata]
        if nameless:
            raise ConfigError(
                f"{type(self).__name__} has fields that name no grant: {', '.join(nameless)}.",
                remedy="Declare each field of a view with granted().",
            )
        filled = {each.metadata[_GRANT] for each in own if getattr(self, each.name) is not None}
        if refused := sorted(filled - set(self.threat.holds)):
            raise ConfigError(
                f"{self.threat.name} does not grant {', '.join(refused)}.",
                remedy="Use a threat model that grants it, or leave the field out.",
            )


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
class AttackerView(View):
    """Everything that gradient inversion may read.

    Attributes:
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

    network: nn.Module = granted(Grant.MODEL, repr=False)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    labels: Floats = granted(Grant.LABELS, repr=False)
    public_images: Floats = granted(Grant.PUBLIC_IMAGES, repr=False)
    noise: KnownNoise | None = granted(Grant.NOISE, default=None)

    def __post_init__(self) -> None:
        View.__post_init__(self)
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
