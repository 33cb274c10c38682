"""Cohort and mechanism to update. Called by the gate; what it returns is secret."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from septum.models import Vector, Weights, load_vector, network_of, to_vector
from septum.privacy import Mechanism
from septum.study import Study
from septum.tasks import task_of
from septum_client.augment import change_of
from septum_client.cohort import Cohort, Split
from septum_client.dpsgd import (
    Augment,
    Images,
    Indices,
    PatientTrainer,
    Targets,
    draw_images,
    draw_patients,
)
from septum_client.optimizers import optimizer_of
from septum_client.randomness import Randomness

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What training made. Secret: only the gate reads it, and nothing prints it.

    ``vector`` is trained minus initial weights, float32 (params,). ``drawn``
    counts the patients of each step and stays on site.
    """

    vector: Vector = field(repr=False)
    drawn: tuple[int, ...] = field(repr=False)


class Steps(Protocol):
    """What takes a round's steps: :class:`PatientTrainer`, or an auditor's stand-in for it."""

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        """Take one step; see :meth:`PatientTrainer.step`."""

    def detach(self) -> None:
        """Leave the model alone; see :meth:`PatientTrainer.detach`."""


def network(study: Study, model: Vector, *, weights: Weights | None = None) -> nn.Module:
    """Return the study's network with ``model`` as its weights.

    ``weights`` are the public ones that the study names, if it names any.

    Raises:
      Refusal: The vector does not fit the network, or a layer is not allowed.
    """
    built = network_of(study, weights=weights)
    load_vector(built, model)
    return built


def train(
    study: Study,
    *,
    mechanism: Mechanism,
    cohort: Cohort,
    model: Vector,
    randomness: Randomness,
    device: torch.device | None = None,
    weights: Weights | None = None,
    trainer: Callable[..., Steps] = PatientTrainer,
) -> Update:
    """Train one round and return the update.

    Args:
      study: Network, learning rate and images per patient.
      mechanism: What was charged for this round: exactly this is run.
      cohort: The site's cohort; only its training patients are drawn.
      model: Weights to start from, float32 (params,).
      randomness: Source of sampling and noise.
      device: Where to compute; the CPU unless told.
      weights: The public weights that the study names, if it names any.
      trainer: Takes the steps. The gate never sets it; the bench's recorder does.

    Guarantees:
      - Exactly ``mechanism.steps`` noisy steps.
      - Patients of the test split are never read.
    """
    trained = network(study, model, weights=weights)
    taking = trainer(
        trained,
        mechanism=mechanism,
        optimizer=optimizer_of(study.training),
        images_per_patient=study.training.images_per_patient,
        views=study.training.views,
        loss=loss_of(study),
        proximal_mu=study.training.proximal_mu,
        randomness=randomness,
        device=device or torch.device("cpu"),
    )
    batches = draw(study, mechanism=mechanism, cohort=cohort, randomness=randomness)
    change = change_of(study)
    for batch in batches:
        taking.step(cohort.images, cohort.targets, batch, change)
    taking.detach()
    drawn = tuple(len(batch) for batch in batches)
    return Update(vector=to_vector(trained) - model, drawn=drawn)


def loss_of(study: Study) -> Loss:
    """Return the study's loss of each image, ``(outputs, targets) -> (images,)``.

    Smoothing is a function of one image's own targets (Szegedy et al. 2016,
    arXiv:1512.00567), so no image moves another's loss.
    """
    loss, given_up = task_of(study).loss, study.training.label_smoothing
    if not given_up:
        return loss
    return _Smoothed(loss, given_up)


@dataclass(frozen=True)
class _Smoothed:
    """Equal settings print alike, so that what was asked of a loss once is not asked each round."""

    loss: Loss
    given_up: float

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(outputs, targets * (1 - 2 * self.given_up) + self.given_up)


def draw(
    study: Study, *, mechanism: Mechanism, cohort: Cohort, randomness: Randomness
) -> list[list[Indices]]:
    """Return, for each step of a round, the image rows of each drawn patient.

    All steps are drawn before the first one is taken, so that the bench, which
    knows its seed, can tell who took part in a round without training it.
    """
    patients = cohort.patients(Split.TRAIN).astype(np.int64)
    most = study.training.images_per_patient
    return [
        [
            draw_images(cohort.images_of(int(patient)), most=most, randomness=randomness)
            for patient in draw_patients(patients, mechanism=mechanism, randomness=randomness)
        ]
        for _ in range(mechanism.steps)
    ]
