"""A recording of a real client's steps, taken where noisy gradients reach the inner optimizer.

:func:`septum_client.train.train` runs as at a hospital, but for the recorder
that stands in for its trainer: it notes who was drawn, lets the client's own
trainer take the step, and reads what came out of the mechanism before the
inner optimizer does. What the un-noised sum should have been is computed apart
(:mod:`septum_bench.conformance.reference`); what is left over is noise, if the
client does what its mechanism says.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from septum.errors import ConfigError
from septum.models import Vector, Weights, trained
from septum.privacy import Mechanism
from septum.study import Study
from septum_bench.conformance.recording import Floats, Recording, Step, products_of
from septum_bench.conformance.reference import Loss, clip_factors, patient_gradients
from septum_client.cohort import Cohort, Split
from septum_client.dpsgd import Augment, EqualDraws, Images, Indices, PatientTrainer, Targets
from septum_client.randomness import Randomness
from septum_client.train import Steps, Update, train

Trainer = Callable[..., Steps]
Observe = Callable[[Trainer], Trainer]
Client = Callable[[Observe, Cohort], Trainer]
"""From what observes a trainer, and a cohort, to the trainer that a client hands to ``train``."""

_MOST_NUMBERS: Final = 1 << 28
"""Coordinates times steps that a recording holds: 1 GiB of float32."""


def honest(observe: Observe, cohort: Cohort) -> Trainer:
    """Return the client that hospitals run, observed."""
    del cohort
    return observe(PatientTrainer)


def record_round(
    study: Study,
    *,
    mechanism: Mechanism,
    cohort: Cohort,
    model: Vector,
    randomness: Randomness,
    client: Client = honest,
    rng: np.random.Generator,
    device: torch.device | None = None,
    weights: Weights | None = None,
) -> tuple[Recording, Recording, Update]:
    """Run one round of a client and return its recording, a null recording and its update.

    The null recording is of the same round with residuals drawn anew from the
    normal distribution and patients drawn anew by coins: nothing is wrong with
    it by construction, whatever the client did.

    Args:
      study: Network, loss, optimizer and images per patient.
      mechanism: What the client says that it runs; ``steps`` are recorded.
      cohort: Its train patients are drawn.
      model: Weights to start from, float32 (params,).
      randomness: The client's source of sampling and noise.
      client: Whose trainer takes the steps.
      rng: Of the null recording.
      device: Where the client computes.
      weights: The public weights that the study names, if it names any.

    Raises:
      ConfigError: More numbers than a recording holds.
    """
    recorder = Recorder(mechanism=mechanism, cohort=cohort, rng=rng)
    if len(model) * mechanism.steps > _MOST_NUMBERS:
        raise ConfigError(
            f"{mechanism.steps} steps of {len(model):,} weights are more than the "
            f"{_MOST_NUMBERS:,} numbers that a recording holds.",
            remedy="Record fewer steps, or a smaller network.",
        )
    update = train(
        study,
        mechanism=mechanism,
        cohort=cohort,
        model=model,
        randomness=randomness,
        device=device,
        weights=weights,
        trainer=client(recorder.observe, cohort),
    )
    return recorder.recording(), recorder.null(), update


class Recorder:
    """Observes one client; see :func:`record_round`.

    Args:
      mechanism: What the client says that it runs.
      cohort: Whose train patients it draws.
      rng: Of the null recording.
    """

    def __init__(self, *, mechanism: Mechanism, cohort: Cohort, rng: np.random.Generator) -> None:
        self._mechanism, self._rng = mechanism, rng
        self._owner = cohort.patient_of_image
        self._eligible = cohort.patients(Split.TRAIN).astype(np.int64)
        self._layers: tuple[tuple[str, int], ...] = ()
        self._steps: list[Step] = []
        self._null: list[Step] = []

    def observe(self, trainer: Trainer) -> Trainer:
        """Return ``trainer``, recorded."""

        def observed(model: nn.Module, **given: Any) -> Steps:
            named = [(n, p.numel()) for n, p in model.named_parameters() if p.requires_grad]
            self._layers = tuple(named)
            return _Observed(self, trainer, model, given)

        return observed

    def recording(self) -> Recording:
        """Return the steps taken so far."""
        return self._recording(self._steps)

    def null(self) -> Recording:
        """Return as many steps in which nothing is wrong."""
        return self._recording(self._null)

    def _recording(self, steps: Sequence[Step]) -> Recording:
        return Recording(
            mechanism=self._mechanism,
            patients=len(self._eligible),
            layers=self._layers,
            steps=tuple(steps),
        )

    def enter(self, drawn: Sequence[Indices], gradients: Floats, handed: Floats) -> None:
        """Note one step: who was drawn, their unclipped gradients, what reached the optimizer."""
        mechanism = self._mechanism
        std = mechanism.noise_std
        norms = np.sqrt(np.square(gradients, dtype=np.float64).sum(axis=1))
        gradients = np.where(np.isfinite(norms)[:, None], gradients, np.float32(0))
        factors = clip_factors(
            norms, clip=mechanism.max_grad_norm, automatic=mechanism.clipping == "automatic"
        )
        total = factors @ gradients if len(drawn) else np.zeros_like(handed)
        apart = handed.astype(np.float64) * mechanism.expected_patients - total
        residual = (apart / std).astype(np.float32)
        places = np.searchsorted(self._eligible, [int(self._owner[rows[0]]) for rows in drawn])
        layered = self._layer_clipped(gradients)
        scaled = gradients / np.float32(std)
        nothing: Floats = self._rng.standard_normal(len(handed), dtype=np.float32)
        for kept, left in ((self._steps, residual), (self._null, nothing)):
            products = products_of(
                patients=places,
                residual=left,
                scaled=scaled,
                factors=factors,
                total=total,
                layered=layered,
                std=std,
            )
            seen = places
            if kept is self._null:
                coins = self._rng.random(len(self._eligible)) < mechanism.sampling_rate
                seen = np.flatnonzero(coins)
            kept.append(
                Step(drawn=seen.astype(np.int64), norms=norms, residual=left, products=products)
            )

    def _layer_clipped(self, gradients: Floats) -> Floats:
        """Return the sum over patients when each layer's part is clipped by itself."""
        parts, start, clip = [], 0, self._mechanism.max_grad_norm
        for _, size in self._layers:
            block = gradients[:, start : start + size]
            norms = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1))
            parts.append(clip_factors(norms, clip=clip, automatic=False) @ block)
            start += size
        return np.concatenate(parts)


class _Observed:
    """A trainer whose inner optimizer tells the recorder what it was handed."""

    def __init__(
        self, recorder: Recorder, trainer: Trainer, model: nn.Module, given: dict[str, Any]
    ) -> None:
        self._recorder, self._model = recorder, model
        self._twin = copy.deepcopy(model)
        self._loss: Loss = given["loss"]
        self._views: int = given.get("views", 1)
        self._pull: float = given.get("proximal_mu", 0.0)
        self._start = [p.detach().clone() for p in trained(model)]
        self._drawn: Sequence[Indices] = ()
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        make = given["optimizer"]

        def listened(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            optimizer: torch.optim.Optimizer = make(parameters)
            optimizer.register_step_pre_hook(self._handed)
            return optimizer

        self._inner = trainer(model, **(given | {"optimizer": listened}))

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        with torch.no_grad():
            for own, theirs in zip(trained(self._twin), trained(self._model), strict=True):
                own.copy_(theirs)
        rows = np.concatenate([np.zeros(0, np.int64), *drawn])
        self._drawn, self._seen = drawn, []
        if augment is None:
            each = np.repeat(rows, self._views)
            self._seen = [(_tensor(images, each), _tensor(targets, each))]
            self._inner.step(images, targets, drawn)
            return

        def kept(
            pixels: torch.Tensor, wanted: torch.Tensor, chance: Randomness
        ) -> tuple[torch.Tensor, torch.Tensor]:
            # The views are random: only those that the client really made can be checked.
            made = augment(pixels, wanted, chance)
            if not isinstance(chance, EqualDraws):  # those are of no patient
                self._seen.append((made[0].detach().clone(), made[1].detach().clone()))
            return made

        self._inner.step(images, targets, drawn, kept)

    def detach(self) -> None:
        self._inner.detach()

    def _handed(self, optimizer: Any, given: Any, named: Any) -> None:
        del optimizer, given, named
        pull, handed = self._pull, []
        for parameter, start in zip(trained(self._model), self._start, strict=True):
            grad = parameter.grad
            noisy = torch.zeros_like(parameter) if grad is None else grad.detach()
            # The proximal pull is no part of the mechanism: it depends on no patient.
            noisy = noisy - pull * (parameter.detach() - start) if pull else noisy
            handed.append(noisy.reshape(-1).to("cpu", torch.float32))
        self._recorder.enter(self._drawn, self._wanted(), torch.cat(handed).numpy())

    def _wanted(self) -> Floats:
        counts = [len(rows) * self._views for rows in self._drawn]
        size = sum(count for _, count in self._recorder.recording().layers)
        if not counts:
            return np.zeros((0, size), dtype=np.float32)
        alone = len(self._seen) > 1 and getattr(self._inner, "alone", False)
        pixels, targets = _packed(self._seen, counts, alone=alone)
        return patient_gradients(self._twin, pixels, targets, counts, loss=self._loss)


def _packed(
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]], counts: Sequence[int], *, alone: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of the patients alone, in order: the client fills each batch up with blanks.

    A patient's rows are in one batch, and a batch takes patients in order while they fit,
    or one alone.
    """
    at, used, pixels, targets = 0, 0, [], []
    for count in counts:
        if used + count > len(batches[at][0]) or (alone and used):
            at, used = at + 1, 0
        pixels.append(batches[at][0][used : used + count])
        targets.append(batches[at][1][used : used + count])
        used += count
    return torch.cat(pixels), torch.cat(targets)


def _tensor(array: Images | Targets, rows: Indices) -> torch.Tensor:
    chosen = torch.from_numpy(array[rows])
    return chosen.to(torch.float32) if array.dtype == np.float16 else chosen
