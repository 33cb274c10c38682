"""The faulty clients themselves: a real client each, with one part replaced.

What each of them is for is said in :mod:`septum_bench.faults`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from septum.models import trained
from septum.privacy import Mechanism
from septum_bench.conformance.recorder import Observe, Trainer
from septum_bench.conformance.reference import patient_gradients
from septum_client.clipping import PatientOptimizer
from septum_client.cohort import Cohort, Split
from septum_client.dpsgd import Augment, Images, Indices, PatientTrainer, Targets
from septum_client.randomness import Randomness
from septum_client.train import Steps
from septum_client.ziggurat import Floats

Given = Mapping[str, Any]

_OVER: Final = 5.0
"""How many times the clip a record may be that escapes it."""


def quieter(share: float) -> Trainer:
    """Return a trainer whose noise is ``share`` of what its mechanism says."""

    def make(model: nn.Module, *, mechanism: Mechanism, **given: Any) -> Steps:
        less = {"noise_multiplier": mechanism.noise_multiplier * share}
        return PatientTrainer(model, mechanism=mechanism.model_copy(update=less), **given)

    return make


class _Replaced(PatientTrainer):
    """A trainer with an optimizer of its own making."""

    optimizer: type[PatientOptimizer]

    def __init__(self, model: nn.Module, **given: Any) -> None:
        super().__init__(model, **given)
        inner = self._optimizer.original_optimizer
        self._optimizer = self.optimizer(
            inner, mechanism=given["mechanism"], randomness=given["randomness"]
        )


class _Bare(PatientOptimizer):
    """Leaves the largest layer without noise."""

    def add_noise(self) -> None:
        bare: Any = max(self.params, key=torch.numel)
        kept = torch.zeros_like(bare) if bare.summed_grad is None else bare.summed_grad.clone()
        super().add_noise()
        bare.grad = kept


class OneLayerUnnoised(_Replaced):
    """Leaves the largest layer without noise."""

    optimizer = _Bare


class _Lenient(PatientOptimizer):
    """Clips every tenth patient at five times the clip: a batch that missed the hook."""

    met = 0

    def coefficients(self, norms: torch.Tensor) -> torch.Tensor:
        strict = super().coefficients(norms)
        loose = (_OVER * self.max_grad_norm / norms.clamp(min=1e-6)).clamp(max=1.0)
        turns = torch.arange(self.met, self.met + len(norms), device=norms.device)
        self.met += len(norms)
        return torch.where(turns % 10 == 0, loose, strict)


class OverTheClip(_Replaced):
    """Lets every tenth patient through up to five times the clip."""

    optimizer = _Lenient


class _Worn:
    """Gives the same normal numbers at each step: a generator that is seeded anew."""

    seeded = True

    def __init__(self, randomness: Randomness) -> None:
        self._inner = randomness
        self._kept: list[Floats] = []
        self._at = 0

    def uniform(self, count: int) -> Floats:
        return self._inner.uniform(count)

    def normal(self, count: int, out: Floats | None = None) -> Floats:
        del out  # it would be overwritten
        if self._at == len(self._kept):
            self._kept.append(self._inner.normal(count))
        self._at += 1
        return self._kept[self._at - 1]

    def rewind(self) -> None:
        self._at = 0


class NoiseReused(PatientTrainer):
    """Adds the noise of the first step at every step."""

    def __init__(self, model: nn.Module, **given: Any) -> None:
        self._worn = _Worn(given["randomness"])
        super().__init__(model, **(given | {"randomness": self._worn}))

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        """Take one step with worn noise."""
        self._worn.rewind()
        super().step(images, targets, drawn, augment)


class _Counting(PatientOptimizer):
    """Divides by the number of patients drawn instead of the number expected."""

    counted = 0

    def coefficients(self, norms: torch.Tensor) -> torch.Tensor:
        self.counted += len(norms)
        return super().coefficients(norms)

    def scale_grad(self) -> None:
        torch._foreach_div_([p.grad for p in self.params], max(1, self.counted))
        self.counted = 0


class DivisorWrong(_Replaced):
    """Takes the mean over those drawn."""

    optimizer = _Counting


class _ByHand(PatientTrainer):
    """Makes each patient's gradient by itself, so that it can be spoiled by itself."""

    def __init__(self, model: nn.Module, **given: Any) -> None:
        super().__init__(model, **given)
        self._clip: float = given["mechanism"].max_grad_norm
        self._std: float = given["mechanism"].noise_std
        self._random: Randomness = given["randomness"]
        self._wrapped.remove_hooks()

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        parameters = trained(self._model)
        totals = [torch.zeros_like(p) for p in parameters]
        if drawn:
            repeated = [np.repeat(one, self._views) for one in drawn]
            rows = np.concatenate(repeated)
            pixels = torch.from_numpy(images[rows]).to(torch.float32)
            wanted = torch.from_numpy(targets[rows])
            pixels, wanted = augment(pixels, wanted, self._random) if augment else (pixels, wanted)
            made = patient_gradients(
                self._model, pixels, wanted, [len(one) for one in repeated], loss=self._loss
            )
            for gradient in torch.from_numpy(made):
                split = torch.split(gradient, [p.numel() for p in parameters])
                for total, part in zip(totals, self._spoiled(split), strict=True):
                    total.add_(part.view_as(total))
        self._optimizer.add(dict(zip(parameters, totals, strict=True)))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def detach(self) -> None:
        """Do nothing: no hook is left."""

    def _spoiled(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        raise NotImplementedError


class ClipPerLayer(_ByHand):
    """Clips each layer at the whole clip: with n layers the sensitivity is sqrt(n) times that."""

    def _spoiled(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [part * min(1.0, self._clip / (float(part.norm()) + 1e-12)) for part in parts]


class _Silent(PatientOptimizer):
    """Adds no noise: it was added before."""

    def add_noise(self) -> None:
        parameter: Any
        for parameter in self.params:
            parameter.grad = parameter.summed_grad


class NoiseBeforeClip(_ByHand, _Replaced):
    """Adds the noise to each patient's gradient and clips after that."""

    optimizer = _Silent

    def _spoiled(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        flat = torch.cat(list(parts))
        noise = torch.from_numpy(self._random.normal(len(flat))).to(flat)
        flat = flat + self._std * noise
        flat = flat * min(1.0, self._clip / float(flat.norm()))
        return torch.split(flat, [len(part) for part in parts])


class _Shuffled:
    """Walks through a shuffled list of patients in batches of one size, as data loaders do."""

    def __init__(self, inner: Steps, *, everybody: Sequence[Indices], given: Given) -> None:
        self._inner, self._everybody = inner, everybody
        self._random: Randomness = given["randomness"]
        self._size = max(1, round(given["mechanism"].expected_patients))
        self._waiting: list[int] = []

    def step(
        self,
        images: Images,
        targets: Targets,
        drawn: Sequence[Indices],
        augment: Augment | None = None,
    ) -> None:
        del drawn
        chosen: list[Indices] = []
        while len(chosen) < min(self._size, len(self._everybody)):
            if not self._waiting:
                self._waiting = np.argsort(self._random.uniform(len(self._everybody))).tolist()
            chosen.append(self._everybody[self._waiting.pop()])
        self._inner.step(images, targets, chosen, augment)

    def detach(self) -> None:
        self._inner.detach()


def shuffled(observe: Observe, cohort: Cohort) -> Trainer:
    """Return the client that walks through shuffled patients where its accountant says coins."""
    observed = observe(PatientTrainer)
    everybody = [cohort.images_of(int(patient)) for patient in cohort.patients(Split.TRAIN)]

    def make(model: nn.Module, **given: Any) -> Steps:
        most = given["images_per_patient"]
        rows = [np.arange(one.start, one.stop)[:most] for one in everybody]
        return _Shuffled(observed(model, **given), everybody=rows, given=given)

    return make
