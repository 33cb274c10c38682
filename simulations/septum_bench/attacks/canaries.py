"""Gradient canaries: crafted patients whose presence in a release is told from the release alone.

A canary is a patient whose gradient is a direction that no other canary shares,
far longer than the clip. An informed attacker knows the directions, not who
took part, and scores each canary by the release along its direction: for
Gaussian noise on orthogonal directions, nothing does better (Nasr et al. 2023,
arXiv:2302.07956; Andrew et al. 2024, arXiv:2302.03098).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from septum.errors import ConfigError
from septum.models import trained
from septum.privacy import Mechanism
from septum_bench.conformance.recorder import Client, Observe, Trainer
from septum_bench.threat import Grant, ThreatModel, View, granted
from septum_client.cohort import Cohort
from septum_client.dpsgd import Augment, Images, Indices, Targets
from septum_client.randomness import Randomness
from septum_client.train import Steps

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

LENGTH: Final = 1e3
"""Norm of a canary's gradient, in clips: whatever is not clipped shows."""

INFORMED: Final = ThreatModel(
    name="gradient canaries, every step of the study",
    attacker="an informed auditor who crafted the canaries and knows all other records",
    protected=True,
    holds=MappingProxyType(
        {
            Grant.RELEASES: "the noisy sum of every single step, not of every round alone",
            Grant.OTHER_RECORDS: "all other patients' part of each sum, which is taken out",
            Grant.CANDIDATES: "each canary's gradient",
            Grant.NOISE: "clip norm, noise multiplier and sampling rate, from the study",
        }
    ),
)
"""The attacker whom epsilon is a promise against."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """Orthogonal directions: each canary owns weights of its own, with random signs.

    Attributes:
      places: Weights of each canary, int64 (canaries, width).
      signs: Plus or minus one over the root of the width, float32 (canaries, width).
    """

    places: npt.NDArray[np.int64] = field(repr=False)
    signs: Floats = field(repr=False)

    @classmethod
    def draw(cls, count: int, *, parameters: int, rng: np.random.Generator) -> "Canaries":
        """Return ``count`` canaries spread over all layers.

        Raises:
          ConfigError: More canaries than weights, or none.
        """
        if not 0 < count <= parameters:
            raise ConfigError(
                f"{count} canaries do not fit {parameters:,} weights.",
                remedy="Ask for at least one, and at most one for each weight.",
            )
        width = parameters // count
        places = rng.permutation(parameters)[: count * width].reshape(count, width)
        signs = rng.choice([-1.0, 1.0], places.shape) / np.sqrt(width)
        return cls(places=places, signs=signs.astype(np.float32))

    def __len__(self) -> int:
        """Return their number."""
        return len(self.places)

    def along(self, vector: Floats) -> Doubles:
        """Return the inner product of ``vector`` (params,) with each canary's direction."""
        return np.asarray((vector[self.places] * self.signs).sum(axis=1, dtype=np.float64))

    def sum(self, factors: Doubles, *, parameters: int) -> Floats:
        """Return the sum of all directions, each times its factor: float32 (params,)."""
        made = np.zeros(parameters, dtype=np.float32)
        made[self.places] = (factors[:, None] * self.signs).astype(np.float32)
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class CanaryView(View):
    """What the attack may read.

    Attributes:
      along: What every step released, along each canary's direction and over the
        clip: float64 (steps, canaries). Directions are orthogonal, so that nothing
        else of a release says anything about a canary.
      mechanism: As the study states it.
    """

    along: Doubles = granted(Grant.RELEASES, repr=False)
    mechanism: Mechanism = granted(Grant.NOISE)


def score(view: CanaryView) -> Doubles:
    """Return the log-likelihood ratio of each canary having taken part: (canaries,).

    At each step a canary that takes part adds its clip with the sampling rate's
    chance, and Gaussian noise covers it: no other score is stronger (Neyman and
    Pearson 1933).
    """
    noise, rate = view.mechanism.noise_multiplier, view.mechanism.sampling_rate
    shift = (view.along - 0.5) / noise**2
    absent = math.log1p(-rate) if rate < 1 else -math.inf
    each: Doubles = np.logaddexp(absent, math.log(rate) + shift)
    return np.asarray(each.sum(axis=0))


def with_canaries(
    client: Client, canaries: Canaries, present: Bits, heard: list[Doubles]
) -> Client:
    """Return ``client`` at a hospital whose patients are the ``present`` canaries alone.

    At each step every present canary is drawn by a coin of its own, from the
    client's own randomness and with its mechanism's rate, clipped by the
    client's own rule, and added to what it adds up. Other patients are left
    out: an informed attacker would only take them out again.

    Args:
      client: Whose clip, noise and divisor are at work.
      canaries: The directions.
      present: Which of them are patients, (canaries,).
      heard: Takes one array (canaries,) for each step, as :attr:`CanaryView.along`.
    """

    def joined(observe: Observe, cohort: Cohort) -> Trainer:
        trainer = client(observe, cohort)

        def make(model: nn.Module, **given: Any) -> Steps:
            among = np.flatnonzero(present)
            return _Joined(trainer, model, given, canaries=canaries, present=among, heard=heard)

        return make

    return joined


class _Joined:
    """A trainer to whose sums the drawn canaries are added before it adds its noise."""

    def __init__(
        self,
        trainer: Trainer,
        model: nn.Module,
        given: dict[str, Any],
        *,
        canaries: Canaries,
        present: npt.NDArray[np.int64],
        heard: list[Doubles],
    ) -> None:
        self._model, self._canaries, self._heard = model, canaries, heard
        self._present, self._mechanism = present, given["mechanism"]
        self._random: Randomness = given["randomness"]
        make = given["optimizer"]

        def listened(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            optimizer: torch.optim.Optimizer = make(parameters)
            optimizer.register_step_pre_hook(self._handed)
            return optimizer

        self._inner: Any = trainer(model, **(given | {"optimizer": listened}))

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        del drawn
        coins = self._random.uniform(len(self._present)) < self._mechanism.sampling_rate
        self._enter(self._present[coins])
        self._inner.step(images, targets, [], augment)

    def detach(self) -> None:
        self._inner.detach()

    def _enter(self, chosen: npt.NDArray[np.int64]) -> None:
        """Add the chosen canaries' gradients, times what the client's clip makes of their norm."""
        optimizer = self._inner._optimizer
        length = LENGTH * self._mechanism.max_grad_norm
        norms = torch.full((len(chosen),), length, dtype=torch.float64)
        factors = np.zeros(len(self._canaries))
        factors[chosen] = optimizer.coefficients(norms).to("cpu").numpy() * length
        parameters = trained(self._model)
        sizes = [p.numel() for p in parameters]
        flat = torch.from_numpy(self._canaries.sum(factors, parameters=sum(sizes)))
        parts = zip(parameters, torch.split(flat, sizes), strict=True)
        optimizer.add({p: part.view_as(p).to(p) for p, part in parts})

    def _handed(self, optimizer: Any, given: Any, named: Any) -> None:
        del optimizer, given, named
        grads = [(p, p.grad) for p in trained(self._model)]
        parts = [torch.zeros_like(p) if g is None else g.detach() for p, g in grads]
        flat = torch.cat([part.reshape(-1).to("cpu", torch.float32) for part in parts]).numpy()
        scale = self._mechanism.expected_patients / self._mechanism.max_grad_norm
        self._heard.append(self._canaries.along(flat) * scale)
