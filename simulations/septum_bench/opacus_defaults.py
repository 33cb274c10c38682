"""What Opacus gives out of the box: its MNIST example, federated, on the same hospitals.

Network, learning rate, batch size, epochs and clip are those of
``examples/mnist.py`` in Opacus 1.6 (SGD at 0.1, batches of 64, 10 epochs, clip
1.0, no augmentation); nothing is tuned. Only the noise is set by us, to spend
the same epsilon at every hospital, and one epoch is a round of FedAvg.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Final, cast

import numpy as np
import torch
from opacus import PrivacyEngine
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from septum import tasks
from septum.accounting import noise_for
from septum.models import Vector, load_vector, to_vector
from septum.study import Study
from septum_client.cohort import Cohort, Split
from septum_strategies import Contribution
from septum_strategies.mean import weighted_mean

_BATCH: Final = 64
EPOCHS: Final = 10
"""Rounds, of one epoch each."""

_LEARNING_RATE: Final = 0.1
_MAX_GRAD_NORM: Final = 1.0


class ExampleNet(nn.Module):
    """``SampleConvNet`` of Opacus' MNIST example, for 28 by 28 pixels, with one logit a label."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 8, 2, padding=3)
        self.conv2 = nn.Conv2d(16, 32, 4, 2)
        self.fc1 = nn.Linear(32 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, outputs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, 1, 28, 28)``."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(image)), 2, 1)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2, 1)
        return cast(torch.Tensor, self.fc2(functional.relu(self.fc1(hidden.flatten(1)))))


def example_network(study: Study) -> nn.Module:
    """Return the untrained network; equal studies give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(study.model.seed)
        return ExampleNet(len(study.data.labels))


def federated(
    study: Study,
    cohorts: Mapping[str, Cohort],
    *,
    epsilon: float,
    delta: float,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Return the example's network after ten rounds of one epoch at every hospital.

    Privacy: each hospital's ten epochs cost it at most ``epsilon`` at ``delta``,
    add-or-remove of one image, Poisson sampling at 64 / images, PLD accountant.
    The numbers come from a seed and protect nobody.
    """
    network = example_network(study)
    model = to_vector(network)
    training = {name: _training(cohort) for name, cohort in cohorts.items()}
    noise = {
        name: noise_for(
            target=epsilon,
            delta=delta,
            sampling_rate=1 / math.ceil(len(data) / _BATCH),
            steps=EPOCHS * math.ceil(len(data) / _BATCH),
        )
        for name, data in training.items()
    }
    for epoch in range(EPOCHS):
        parts = []
        for index, (name, data) in enumerate(training.items()):
            generator = torch.Generator().manual_seed(seed + 1000 * epoch + index)
            vector = _epoch(example_network(study), model, data, noise[name], generator)
            patients = study.participant(name).patients
            parts.append(Contribution(site=name, update=vector - model, patients=patients))
        model = weighted_mean(model, parts)
        progress()
    load_vector(network, model)
    return network


def score(network: nn.Module, cohorts: Mapping[str, Cohort]) -> tuple[float, float]:
    """Return AUC and accuracy of the first label, pooled over the hospitals' test images."""
    logits, labels = [], []
    with torch.inference_mode():
        for cohort in cohorts.values():
            rows = np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TEST)
            images = tasks.normalise(torch.from_numpy(cohort.images[rows]))
            logits.append(network.eval()(images)[:, 0].numpy())
            labels.append(cohort.labels[rows, 0])
    scores, truth = np.concatenate(logits), np.concatenate(labels) == 1
    return float(roc_auc_score(truth, scores)), float(np.mean((scores > 0) == truth))


def _training(cohort: Cohort) -> TensorDataset:
    rows = np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TRAIN)
    return TensorDataset(
        tasks.normalise(torch.from_numpy(cohort.images[rows])),
        torch.from_numpy(cohort.labels[rows]),
    )


def _epoch(
    network: nn.Module,
    model: Vector,
    data: TensorDataset,
    noise_multiplier: float,
    generator: torch.Generator,
) -> Vector:
    load_vector(network, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its generator is not secure, which a bench knows
        private, optimizer, loader = PrivacyEngine().make_private(
            module=network.train(),
            optimizer=torch.optim.SGD(network.parameters(), lr=_LEARNING_RATE),
            data_loader=DataLoader(data, batch_size=_BATCH),
            noise_multiplier=noise_multiplier,
            max_grad_norm=_MAX_GRAD_NORM,
            noise_generator=generator,
        )
        loader.batch_sampler.generator = generator
        for images, labels in loader:
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(private(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
    return to_vector(private._module)
