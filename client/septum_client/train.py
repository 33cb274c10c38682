"""Cohort and mechanism to update. Called by the gate; what it returns is secret."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from septum.models import Vector, load_vector, network_of, to_vector
from septum.privacy import Mechanism
from septum.study import Study
from septum_client.cohort import Cohort, Split
from septum_client.dpsgd import Indices, PatientTrainer, draw_images, draw_patients
from septum_client.randomness import Randomness


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What training made. Secret: only the gate reads it, and nothing prints it.

    ``vector`` is trained minus initial weights, float32 (params,). ``drawn``
    counts the patients of each step and stays on site.
    """

    vector: Vector = field(repr=False)
    drawn: tuple[int, ...] = field(repr=False)


def network(study: Study, model: Vector) -> nn.Module:
    """Return the study's network with ``model`` as its weights.

    Raises:
      Refusal: The vector does not fit the network, or a layer is not allowed.
    """
    built = network_of(study)
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
) -> Update:
    """Train one round and return the update.

    Args:
      study: Network, learning rate and images per patient.
      mechanism: What was charged for this round: exactly this is run.
      cohort: The site's cohort; only its training patients are drawn.
      model: Weights to start from, float32 (params,).
      randomness: Source of sampling and noise.
      device: Where to compute; the CPU unless told.

    Guarantees:
      - Exactly ``mechanism.steps`` noisy steps.
      - Patients of the test split are never read.
    """
    trained = network(study, model)
    trainer = PatientTrainer(
        trained,
        mechanism=mechanism,
        learning_rate=study.training.learning_rate,
        images_per_patient=study.training.images_per_patient,
        proximal_mu=study.training.proximal_mu,
        randomness=randomness,
        device=device or torch.device("cpu"),
    )
    batches = draw(study, mechanism=mechanism, cohort=cohort, randomness=randomness)
    for batch in batches:
        trainer.step(cohort.images, cohort.labels, batch)
    trainer.detach()
    drawn = tuple(len(batch) for batch in batches)
    return Update(vector=to_vector(trained) - model, drawn=drawn)


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
