"""Each way of taking one step of DP-SGD, and the plain step beside it: same model, loss and SGD."""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample.utils import prepare_module
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional

from septum.models import build
from septum.privacy import Mechanism
from septum_client.clipping import PatientGradSampleModule, PatientOptimizer, Patients
from septum_client.randomness import SystemRandomness

LR, CLIP, SIGMA = 0.01, 1.0, 1.0
Step = Callable[[torch.Tensor, torch.Tensor], None]

# Opacus hooks networks whose input needs no gradient, and torch remarks on it.
warnings.filterwarnings("ignore")


def network(name: str, outputs: int = 2) -> nn.Module:
    return build(name, channels=1, outputs=outputs, seed=0).train()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR)


def plain(model: nn.Module, batch: int) -> Step:
    del batch
    optimizer = sgd(model)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def hooks(model: nn.Module, batch: int) -> Step:
    wrapped: Any = prepare_module(
        model, grad_sample_mode="hooks", loss_reduction="mean", strict=False
    )
    optimizer = DPOptimizer(
        sgd(model), noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=batch
    )

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()

    return step


def ghost(model: nn.Module, batch: int) -> Step:
    wrapped: Any = prepare_module(
        model, grad_sample_mode="ghost", loss_reduction="mean", max_grad_norm=CLIP, strict=False
    )
    optimizer = DPOptimizerFastGradientClipping(
        sgd(model), noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=batch
    )
    loss = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), "mean")

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(wrapped(x), y).backward()
        optimizer.step()

    return step


class Quiet(PatientOptimizer):
    """Clips and divides, and adds no noise: what clipping alone costs."""

    def add_noise(self) -> None:
        """Add none."""
        for parameter in self.params:
            parameter.grad = parameter.summed_grad


class Ordinary(PatientOptimizer):
    """Adds noise as Opacus does, from torch's own generator: like beside like."""

    def add_noise(self) -> None:
        """Add it."""
        for parameter in self.params:
            noise = torch.normal(0.0, SIGMA * CLIP, parameter.shape)
            parameter.grad = parameter.summed_grad.add_(noise)


def ours(images: int, kind: type[PatientOptimizer]) -> Callable[[nn.Module, int], Step]:
    def make(model: nn.Module, batch: int) -> Step:
        mechanism = Mechanism(
            noise_multiplier=SIGMA,
            max_grad_norm=CLIP,
            sampling_rate=0.5,
            steps=1,
            expected_patients=batch / images,
            delta=1e-5,
        )
        wrapped = PatientGradSampleModule(model)
        optimizer = kind(sgd(model), mechanism=mechanism, randomness=SystemRandomness())
        patients = Patients.of([images] * (batch // images), batch=batch, most=images)

        def step(x: torch.Tensor, y: torch.Tensor) -> None:
            def total() -> torch.Tensor:
                losses = functional.cross_entropy(model(x), y, reduction="none")
                return losses.sum() / images

            optimizer.add(wrapped.sums(patients, total, optimizer.coefficients))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return make


def peer(model: nn.Module, batch: int) -> Step:
    """fast-differential-privacy, from a checkout named by FASTDP: it is on no registry."""
    sys.path.insert(0, os.environ["FASTDP"])
    from fastDP import PrivacyEngine  # noqa: PLC0415 - only where a checkout is named

    engine = PrivacyEngine(
        model,
        batch_size=batch,
        sample_size=100 * batch,
        epochs=1,
        noise_multiplier=SIGMA,
        max_grad_norm=CLIP,
        clipping_fn="Abadi",
        clipping_mode="MixOpt",
        clipping_style="all-layer",
    )
    optimizer = sgd(model)
    engine.attach(optimizer)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


WAYS: dict[str, Callable[[nn.Module, int], Step]] = {
    "plain torch": plain,
    "Septum": ours(1, PatientOptimizer),
    "Septum, noise from torch's generator": ours(1, Ordinary),
    "Septum, noise left out": ours(1, Quiet),
    "Septum, 4 images a patient": ours(4, PatientOptimizer),
    "Opacus hooks": hooks,
    "Opacus ghost": ghost,
}
if os.environ.get("FASTDP"):
    WAYS["fast-differential-privacy"] = peer


def make(way: str, name: str, batch: int) -> Step:
    return WAYS[way](network(name), batch)
