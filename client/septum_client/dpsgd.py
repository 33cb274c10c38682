"""DP-SGD whose unit is the patient, on Opacus.

Opacus computes one gradient per image; here a patient's image gradients are
averaged into one before the clip, so a patient weighs the same with one
image or twenty. Sampling, clip, noise and divisor come from one
:class:`~septum.privacy.Mechanism`.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from septum import tasks
from septum.models import check_private, parameter_count
from septum.privacy import Mechanism
from septum_client.allocator import keep_memory, kept_bytes
from septum_client.clipping import (
    PatientGradSampleModule,
    PatientOptimizer,
    Patients,
    free_bytes,
    physical_batch,
    places_alike,
    row_bytes,
    verify,
)
from septum_client.randomness import Randomness

_log = logging.getLogger(__name__)

Images = npt.NDArray[np.float16]
Targets = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Optimizers = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Augment = Callable[[torch.Tensor, torch.Tensor, Randomness], tuple[torch.Tensor, torch.Tensor]]


def draw_patients(patients: Indices, *, mechanism: Mechanism, randomness: Randomness) -> Indices:
    """Return a Poisson sample: each patient independently, with the mechanism's sampling rate."""
    return patients[randomness.uniform(len(patients)) < mechanism.sampling_rate]


def draw_images(images: slice, *, most: int, randomness: Randomness) -> Indices:
    """Return at most ``most`` of one patient's images, chosen uniformly, in stored order."""
    indices = np.arange(images.start, images.stop)
    if len(indices) <= most:
        return indices
    return np.sort(indices[np.argsort(randomness.uniform(len(indices)))[:most]])


class PatientTrainer:
    """Runs steps of the mechanism on one model.

    Args:
      model: A network of the registry; its parameters are trained in place.
      mechanism: Sampling rate, clip, noise and divisor.
      optimizer: Makes the optimizer of the noisy gradients from the parameters;
        whatever it does is post-processing.
      images_per_patient: Most images of one drawn patient.
      views: Augmented views of each image; averaged before the clip, at no
        privacy cost (De et al. 2022, arXiv:2204.13650).
      loss: Loss of each image, ``(outputs, targets) -> (images,)``, with no tie
        between images.
      proximal_mu: Pull towards the initial weights (FedProx, Li et al. 2020,
        arXiv:1812.06127), applied after the noise: it depends on no patient.
      randomness: Source of noise.
      device: Where to compute.
      physical: Images of every backward pass, a constant of the site; from the
        memory that is free unless given. The result does not depend on it.

    Attributes:
      alone: Whether each patient has a batch of its own; known once a step was taken.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mechanism: Mechanism,
        optimizer: Optimizers,
        images_per_patient: int,
        views: int = 1,
        loss: Loss = tasks.loss,
        proximal_mu: float = 0.0,
        randomness: Randomness,
        device: torch.device,
        physical: int | None = None,
    ) -> None:
        check_private(model)
        keep_memory()
        if device.type == "cuda":
            # Ten bits of a product are fewer than the norms are rounded up by.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._model, self._device = model.to(device).train(), device
        self._loss, self._views, self._most = loss, views, images_per_patient * views
        self._expected = mechanism.expected_patients
        self._size = max(physical, self._most) if physical else 0
        self._ready, self.alone = False, False
        self._randomness = randomness
        self._wrapped = PatientGradSampleModule(self._model)
        parameters = [one for one in model.parameters() if one.requires_grad]
        self._optimizer = PatientOptimizer(
            optimizer(parameters), mechanism=mechanism, randomness=randomness
        )
        if proximal_mu:
            anchors = [parameter.detach().clone() for parameter in parameters]

            def pull(_: Any) -> None:
                for parameter, anchor in zip(parameters, anchors, strict=True):
                    noisy = cast(torch.Tensor, parameter.grad)
                    noisy.add_(parameter.detach() - anchor, alpha=proximal_mu)

            self._optimizer.attach_step_hook(pull)

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        """Take one step on the drawn patients.

        Args:
          images: All images of the cohort, float16 (images, channels, [depth,] h, w) in [0, 1].
          targets: What to learn of each: float32 (images, labels), or uint8 masks
            (images, [depth,] h, w).
          drawn: For each drawn patient, the indices of its images; may be empty.
          augment: Changes a batch of images, float32 in [0, 1], and its targets,
            each image by itself, by draws from the randomness it is given;
            called on each batch of views.
        """
        size = self._prepare(images, targets, augment)
        for batch in self._split(drawn, size):
            self._backward(images, targets, batch, augment, size)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def detach(self) -> None:
        """Take the hooks off the model, which keeps its trained weights."""
        self._wrapped.remove_hooks()

    def _prepare(self, images: Images, targets: Targets, augment: Augment | None) -> int:
        """Return the rows of every batch; before the first one, ask whether the network is exact.

        Asked on made-up images, so it depends on no patient. Where a patient's
        place in a batch would show, each patient has a batch of its own.
        """
        if self._ready:
            return self._size
        shape = images.shape[1:]
        self._wrapped.remove_hooks()
        verify(self._model, shape, most=self._most)
        if not self._size:
            self._size = physical_batch(
                row=row_bytes(self._model, shape, device=self._device),
                parameters=parameter_count(self._model),
                most=self._most,
                expected=self._expected,
                free=free_bytes(self._device) + (kept_bytes() if self._device.type == "cpu" else 0),
                device=self._device,
            )
        self.alone = not self._places_alike(shape, targets, augment)
        self._size = self._most if self.alone else self._size
        self._wrapped = PatientGradSampleModule(self._model)
        self._ready = True
        return self._size

    def _places_alike(
        self, shape: tuple[int, ...], targets: Targets, augment: Augment | None
    ) -> bool:
        """Return whether patients may share a batch, with fewer threads if need be."""
        given = torch.get_num_threads()
        threads = 1 << (given.bit_length() - 1)
        while threads:
            # Threads that cannot share out a batch in whole vectors are left idle.
            torch.set_num_threads(threads)
            if places_alike(
                self._model,
                partial(self._repeated, shape, targets, augment),
                batch=self._size,
                most=self._most,
                device=self._device,
                key=(shape, targets.shape[1:], targets.dtype.str, repr(self._loss), repr(augment)),
            ):
                return True
            threads //= 2
        torch.set_num_threads(given)
        _log.warning("each patient has a batch of its own here, which is slower")
        return False

    def _repeated(
        self,
        shape: tuple[int, ...],
        targets: Targets,
        augment: Augment | None,
        model: nn.Module,
    ) -> Callable[[], torch.Tensor]:
        """Return what runs ``model`` on one made-up image and target, repeated."""
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(self._device).expand(self._size, *shape).contiguous()
        wanted = torch.from_numpy(np.zeros((self._size, *targets.shape[1:]), targets.dtype))
        wanted = wanted.to(self._device)
        if augment is not None:
            pixels, wanted = augment(pixels, wanted, EqualDraws())
        return lambda: self._loss(model(tasks.normalise(pixels)), wanted).sum()

    def _split(self, drawn: Sequence[Indices], most: int) -> list[list[Indices]]:
        batches: list[list[Indices]] = []
        size = math.inf
        for patient in drawn:
            rows = np.repeat(patient, self._views)
            if self.alone or size + len(rows) > most:
                batches.append([])
                size = 0
            batches[-1].append(rows)
            size += len(rows)
        return batches

    def _backward(
        self,
        images: Images,
        targets: Targets,
        batch: Sequence[Indices],
        augment: Augment | None,
        size: int,
    ) -> None:
        rows = np.concatenate(batch)
        counts = [len(patient) for patient in batch]
        patients = Patients.of(counts, batch=size, most=self._most, device=self._device)
        share = patients.spread_out(1.0 / torch.tensor(counts, device=self._device))
        # Blank images fill the batch up; their gradients are dropped, not weighted by zero.
        pixels = _filled(images, rows, size).to(self._device, torch.float32)
        wanted = _filled(targets, rows, size).to(self._device)
        if augment is not None:
            pixels, wanted = augment(pixels, wanted, self._randomness)

        def total() -> torch.Tensor:
            losses = self._loss(self._model(tasks.normalise(pixels)), wanted)
            if losses.shape != share.shape:
                # A mean over the batch would let one patient's loss depend on another's.
                raise ValueError(f"the loss has shape {tuple(losses.shape)}, not ({size},)")
            return (losses * share).sum()

        self._optimizer.add(self._wrapped.sums(patients, total, self._optimizer.coefficients))


class EqualDraws:
    """Chance that is the same for every image."""

    seeded: Final = True

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """Return one number ``count`` times."""
        return np.full(count, 0.7)

    def normal(
        self, count: int, out: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return one number ``count`` times."""
        del out
        return np.full(count, 0.7)


def _filled(array: Images | Targets, rows: Indices, size: int) -> torch.Tensor:
    chosen = torch.from_numpy(array[rows])
    return functional.pad(chosen, (0, 0) * (chosen.dim() - 1) + (0, size - len(rows)))
