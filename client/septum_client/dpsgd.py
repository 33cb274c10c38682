"""DP-SGD whose unit is the patient, on Opacus.

Opacus computes one gradient per image; here a patient's image gradients are
averaged into one before Opacus clips, so a patient weighs the same with one
image or twenty. Sampling, clip, noise and divisor come from one
:class:`~septum.privacy.Mechanism`.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn import functional

from septum import tasks
from septum.errors import Code, Refusal
from septum.models import check_private, parameter_count
from septum.privacy import Mechanism
from septum_client.randomness import Randomness

# Inputs are data and need no gradient; Opacus' hooks on the first layer make torch remark on it.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")

_GRADIENT_BYTES: Final = 256 << 20  # per-image gradients of one physical batch
_LARGEST_BATCH: Final = 32

Images = npt.NDArray[np.float16]
Labels = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def draw_patients(patients: Indices, *, mechanism: Mechanism, randomness: Randomness) -> Indices:
    """Return a Poisson sample: each patient independently, with the mechanism's sampling rate."""
    return patients[randomness.uniform(len(patients)) < mechanism.sampling_rate]


def draw_images(images: slice, *, most: int, randomness: Randomness) -> Indices:
    """Return at most ``most`` of one patient's images, chosen uniformly, in stored order."""
    indices = np.arange(images.start, images.stop)
    if len(indices) <= most:
        return indices
    return np.sort(indices[np.argsort(randomness.uniform(len(indices)))[:most]])


def physical_batch(parameters: int, *, images_per_patient: int) -> int:
    """Return the images of every backward pass: a constant of the study, not of the draw.

    Small enough for the gradients to fit in memory, and at least one patient's images.
    """
    fits = min(_LARGEST_BATCH, _GRADIENT_BYTES // (4 * parameters))
    return max(2, images_per_patient, fits)


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, over patients and with injected noise.

    Guarantees:
      - One patient adds at most ``max_grad_norm`` to the sum, in L2 norm, whatever
        its images or loss; a gradient that is not finite adds nothing.
      - Every step adds noise, drawn patients or not.

    Rounding: a patient's gradient is computed in a batch of one constant shape,
    because torch picks other kernels for other shapes, and a coordinator who
    chooses the weights can blow a last bit up into another gradient. Then one
    patient's presence would move another's part of the sum.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, mechanism: Mechanism, randomness: Randomness
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=cast(int, mechanism.expected_patients),
            loss_reduction="mean",
        )
        self._randomness = randomness

    def group(self, patients: torch.Tensor, *, count: int) -> None:
        """Sum per-image gradients into per-patient ones, in place of them.

        Args:
          patients: For each image of the batch, its patient's position, int64;
            ``count`` for an image that only fills the batch.
          count: Number of patients in the batch.
        """
        grouped = []
        for parameter in self.params:
            sample = cast(torch.Tensor, parameter.grad_sample)
            total = sample.new_zeros((count + 1, *sample.shape[1:]))
            grouped.append(total.index_add_(0, patients, sample)[:count])
        finite = torch.ones(count, dtype=torch.bool, device=patients.device)
        for total in grouped:
            # A sum of squares overflows before its terms do: it is the norm that must be finite.
            finite &= total.flatten(1).square().sum(dim=1).isfinite()
        for parameter, total in zip(self.params, grouped, strict=True):
            if not finite.all():
                total[~finite] = 0
            parameter.grad_sample = total

    def no_patients(self) -> None:
        """Stand in for the gradients of an empty draw: none, of the right shapes."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))

    def add_noise(self) -> None:
        """Add Gaussian noise of ``noise_multiplier * max_grad_norm`` to each coordinate."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(self._randomness.normal(parameter.numel()) * std)
            total = parameter.summed_grad.to("cpu", torch.float64) + noise.view(parameter.shape)
            parameter.grad = total.to(parameter.device, parameter.dtype)


class PatientTrainer:
    """Runs steps of the mechanism on one model.

    Args:
      model: A network of the registry; its parameters are trained in place.
      mechanism: Sampling rate, clip, noise and divisor.
      learning_rate: Of plain SGD.
      images_per_patient: Most images of one drawn patient.
      proximal_mu: Pull towards the initial weights (FedProx, Li et al. 2020,
        arXiv:1812.06127), applied after the noise: it depends on no patient.
      randomness: Source of noise.
      device: Where to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mechanism: Mechanism,
        learning_rate: float,
        images_per_patient: int,
        proximal_mu: float,
        randomness: Randomness,
        device: torch.device,
    ) -> None:
        check_private(model)
        findings = ModuleValidator.validate(model, strict=False)
        if findings:
            raise Refusal(
                Code.UNKNOWN_LAYER,
                f"Opacus cannot follow a layer of this network: {type(findings[0]).__name__}.",
                remedy="Choose a registered network.",
            )
        self._device = device
        self._model = GradSampleModule(model.to(device).train(), loss_reduction="sum")
        parameters = list(self._model.parameters())
        self._optimizer = PatientOptimizer(
            torch.optim.SGD(parameters, lr=learning_rate),
            mechanism=mechanism,
            randomness=randomness,
        )
        self._size = physical_batch(parameter_count(model), images_per_patient=images_per_patient)
        if proximal_mu:
            anchors = [parameter.detach().clone() for parameter in parameters]

            def pull(_: Any) -> None:
                for parameter, anchor in zip(parameters, anchors, strict=True):
                    parameter.grad.add_(parameter.detach() - anchor, alpha=proximal_mu)

            self._optimizer.attach_step_hook(pull)

    def step(self, images: Images, labels: Labels, drawn: Sequence[Indices]) -> None:
        """Take one step on the drawn patients.

        Args:
          images: All images of the cohort, float16 (images, channels, h, w) in [0, 1].
          labels: Their labels, float32 (images, labels).
          drawn: For each drawn patient, the indices of its images; may be empty.
        """
        batches = self._split(drawn)
        if not batches:
            self._optimizer.no_patients()
            self._optimizer.step()
        for number, batch in enumerate(batches):
            self._backward(images, labels, batch)
            if number < len(batches) - 1:
                self._optimizer.signal_skip_step()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.zero_grad(set_to_none=True)

    def detach(self) -> None:
        """Take Opacus' hooks off the model, which keeps its trained weights."""
        self._model.remove_hooks()

    def _split(self, drawn: Sequence[Indices]) -> list[list[Indices]]:
        batches: list[list[Indices]] = []
        size = math.inf
        for patient in drawn:
            if size + len(patient) > self._size:
                batches.append([])
                size = 0
            batches[-1].append(patient)
            size += len(patient)
        return batches

    def _backward(self, images: Images, labels: Labels, batch: Sequence[Indices]) -> None:
        rows = np.concatenate(batch)
        filler = self._size - len(rows)
        counts = torch.tensor([len(patient) for patient in batch])
        patients = torch.repeat_interleave(torch.arange(len(batch)), counts)
        share = functional.pad((1.0 / counts)[patients], (0, filler)).to(self._device)
        patients = functional.pad(patients, (0, filler), value=len(batch))
        # Blank images fill the batch up; their gradients are dropped, not weighted by zero.
        pixels = functional.pad(torch.from_numpy(images[rows]), (0, 0) * 3 + (0, filler))
        inputs = tasks.normalise(pixels.to(self._device))
        targets = functional.pad(torch.from_numpy(labels[rows]), (0, 0, 0, filler))
        targets = targets.to(self._device)
        total = (tasks.loss(self._model(inputs), targets) * share).sum()
        torch.autograd.backward(total)
        self._optimizer.group(patients.to(self._device), count=len(batch))
