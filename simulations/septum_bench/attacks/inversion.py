"""Gradient inversion: the image whose gradient looks most like the one observed.

The distance is the cosine one with total variation of Geiping et al. (2020,
arXiv:2003.14053). The unknown is not the pixels but their coordinates under a
Gaussian prior that is fitted to public images, and the prior weighs as much
as the known noise demands, which makes the result the maximum a posteriori
image (Balunović et al. 2022, arXiv:2111.04706). At 64 pixels this is far
stronger than signed steps on pixels, and it is the form that adapts to a
defence whose parameters are public. Rectifiers are smooth at first and sharp
at the end; what they descend on would be full of jumps otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from septum import tasks
from septum_bench.attacks.image_prior import ImagePrior
from septum_bench.attacks.smooth_relu import SmoothRelu
from septum_bench.threat import AttackerView, KnownNoise

Images = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_TINY: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """The attack's budget.

    Attributes:
      iterations: Steps of Adam in each restart.
      restarts: Runs per target; the first starts from the mean public image,
        each other from a random draw of the prior. The attack keeps the one
        with the lowest objective of its own.
      learning_rate: In standard deviations of the prior; falls along a cosine.
      tv_weight: Weight of the total variation per pixel.
      prior_weight: Least weight of half the squared prior coordinates; known
        noise raises it.
      sharpness: Of the attacker's rectifiers at the first and at the last step;
        see :class:`~septum_bench.attacks.smooth_relu.SmoothRelu`.
      seed: Of the random starts and of the split that fits the prior.
    """

    iterations: int = 200
    restarts: int = 1
    learning_rate: float = 0.2
    tv_weight: float = 1e-2
    prior_weight: float = 1e-6
    sharpness: tuple[float, float] = (3.0, 30.0)
    seed: int = 0


def gradients(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: Loss = tasks.loss,
) -> torch.Tensor:
    """Return the gradient of each image's own loss in the registry's order, ``(n, params)``.

    Args:
      network: A network of the registry; its weights are read, not changed.
      images: Float32 ``(n, channels, size, size)`` in [0, 1]; normalised here
        exactly as training does.
      labels: Float32 ``(n, outputs)``.
      loss: Of each image, ``(outputs, labels) -> (images,)``.

    Guarantees:
      - Differentiable in ``images``.
      - Row ``i`` depends on image ``i`` and label ``i`` alone.
    """
    weights = {
        name: p.detach().to(images.device)
        for name, p in network.named_parameters()
        if p.requires_grad
    }

    def one(
        parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = functional_call(network, parameters, (tasks.normalise(image[None]),))
        return loss(logits, label[None]).sum()

    each = vmap(grad(one), in_dims=(None, 0, 0))(weights, images, labels)
    return torch.cat([each[name].flatten(1) for name in weights], dim=1)


def invert(
    view: AttackerView,
    *,
    config: InversionConfig,
    loss: Loss = tasks.loss,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Images:
    """Return the attack's best image for each observed vector.

    Args:
      view: All that the attacker holds.
      config: The budget.
      loss: Of each image, which comes with the network: it is public in every study.
      device: Where to compute.
      progress: Called with steps done and steps in all.

    Returns:
      Float32 ``(targets, size, size)`` in [0, 1].

    Guarantees:
      - Restarts are chosen by the attacker's own objective; no truth is at hand.
      - Equal inputs and seed give equal images on one device and thread count.
    """
    place = torch.device(device)
    prior = ImagePrior.fit(view.public_images, seed=config.seed, device=place)
    observed = torch.from_numpy(np.ascontiguousarray(view.observed, np.float32)).to(place)
    labels = torch.from_numpy(np.ascontiguousarray(view.labels, np.float32)).to(place)
    weight = _prior_weight(observed, view.noise, config)

    def objective(shape: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        images = prior.render(shape, rest)
        made = gradients(view.network, images, labels, loss=loss)
        distance = 1 - functional.cosine_similarity(made, observed, dim=1, eps=_TINY)
        unlikely = 0.5 * (shape.square().sum(dim=1) + rest.square().sum(dim=(1, 2)))
        return distance + config.tv_weight * _total_variation(images) + weight * unlikely

    random = torch.Generator().manual_seed(config.seed)
    best = torch.full((len(observed),), torch.inf, device=place)
    images = prior.mean.expand(len(observed), -1, -1).clone()
    for restart in range(config.restarts):
        start = [
            torch.randn(len(observed), *dims, generator=random).to(place) * min(restart, 1)
            for dims in ((len(prior.components),), tuple(prior.spectrum.shape))
        ]
        done = restart * config.iterations
        found, misfit = _descend(objective, start, config=config, done=done, progress=progress)
        better = misfit < best
        images = torch.where(better[:, None, None], prior.render(*found)[:, 0], images)
        best = torch.where(better, misfit, best)
    return np.asarray(images.clamp(0, 1).cpu().numpy(), dtype=np.float32)


def _descend(
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    start: list[torch.Tensor],
    *,
    config: InversionConfig,
    done: int,
    progress: Progress | None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    unknown = [part.requires_grad_() for part in start]
    optimizer = torch.optim.Adam(unknown, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations)
    low, high = config.sharpness
    for step in range(config.iterations):
        # Targets share no term, so the sum's gradient is each target's own.
        with SmoothRelu(sharpness=low * (high / low) ** (step / config.iterations)):
            slopes = torch.autograd.grad(objective(unknown[0], unknown[1]).sum(), unknown)
        for part, slope in zip(unknown, slopes, strict=True):
            part.grad = slope
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(done + step + 1, config.iterations * config.restarts)
    with torch.no_grad():
        return [part.detach() for part in unknown], objective(unknown[0], unknown[1])


def _prior_weight(
    observed: torch.Tensor, noise: KnownNoise | None, config: InversionConfig
) -> torch.Tensor:
    """Return what makes the objective proportional to the negative log posterior.

    With noise of variance s², the likelihood of an image with gradient g is
    <v, g> / s² = |v| |g| cos / s²: dividing by |v| |g| / s² leaves the cosine.
    """
    floor = torch.full((len(observed),), config.prior_weight, device=observed.device)
    if noise is None:
        return floor
    loudness = noise.std**2 / (observed.norm(dim=1) * noise.signal_norm).clamp_min(_TINY)
    return torch.maximum(floor, loudness)


def _total_variation(images: torch.Tensor) -> torch.Tensor:
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    across = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + across
