"""The images that would have made what was observed: one optimiser for every inversion.

What the network would answer to a guess is compared layer by layer with what
was observed; the unknowns are coordinates under an image prior, found by
L-BFGS (Liu and Nocedal 1989) while the attacker's rectifiers grow from smooth
to sharp. The distance is squared, so that the length of a gradient counts as
well as its direction (Zhu et al. 2019, arXiv:1906.08935), with total variation
(Geiping et al. 2020, arXiv:2003.14053).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from septum.errors import ConfigError
from septum_bench.attacks.image_prior import ImagePrior
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.smooth_relu import SmoothRelu

Images = npt.NDArray[np.float32]
Layers = Sequence[torch.Tensor]
Response = Callable[[torch.Tensor], Layers]
"""From images ``(n, 1, side, side)`` in [0, 1] to what would be observed, differentiable."""
Progress = Callable[[int, int], None]

_TINY: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """The attack's budget, and how it spends it.

    Attributes:
      evaluations: Of the objective and its slope, in each restart.
      restarts: Random starts; the one with the lowest misfit of its own is kept.
      consensus: Return the mean of all restarts' images and not the best one:
        errors that differ cancel (as in GradInversion, Yin et al. 2021,
        arXiv:2104.07586). The images of a batch have no common order: each
        restart's are first put in that of the best one, by assignment.
      stages: Steps in which rectifiers are sharpened.
      sharpness: Of the first and of the last stage; see
        :class:`~septum_bench.attacks.smooth_relu.SmoothRelu`.
      layer_power: 0 compares the gradient as one vector; 1 gives every layer
        the same weight, 0.5 is between.
      tv_weight: Weight of the total variation per pixel.
      box_weight: Weight of the mean squared excess over [0, 1].
      prior_weight: Weight of the mean squared coordinate.
      spread: Of the random start, in standard deviations of the prior.
      registrations: After how many of the first stages each image is moved to
        where it fits best. A network that averages over positions hardly tells
        where things are, and descent alone does not move them; 0 for others.
      history: Pairs that L-BFGS remembers.
      seed: Of the random starts.
    """

    evaluations: int = 300
    restarts: int = 1
    consensus: bool = False
    stages: int = 5
    sharpness: tuple[float, float] = (3.0, 30.0)
    layer_power: float = 0.0
    tv_weight: float = 0.0
    box_weight: float = 0.0
    prior_weight: float = 1e-3
    spread: float = 0.5
    registrations: int = 0
    history: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.evaluations, self.restarts, self.stages) < 1 or min(self.sharpness) <= 0:
            raise ConfigError(
                f"{self.evaluations} evaluations, {self.restarts} restarts, {self.stages} stages "
                f"and sharpness {self.sharpness} must all be above 0.",
                remedy="Leave them at their defaults.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """What an inversion found.

    Attributes:
      images: Float32 ``(n, side, side)`` in [0, 1]. Their order means nothing: a
        sum does not tell who came first.
      misfit: The attacker's own objective: squared distance to what was
        observed, as a share of its squared length.
    """

    images: Images = field(repr=False)
    misfit: float


def match(
    response: Response,
    observed: Layers,
    *,
    count: int,
    prior: ImagePrior,
    config: MatchingConfig,
    progress: Progress | None = None,
) -> Matched:
    """Return ``count`` images whose response is nearest to ``observed``.

    Args:
      response: What the network would answer.
      observed: The layers of what was observed, shaped as ``response`` gives them.
      count: Images to find.
      prior: Says where to look first.
      config: The budget.
      progress: Called with evaluations done and in all.

    Guarantees:
      - Restarts are chosen by the attacker's own misfit; no truth is at hand.
      - Equal inputs and seed give equal images on one device and thread count.
      - At most ``evaluations`` per restart, and one more to choose by.
    """
    target = [each.detach() for each in observed]
    weights = _weights(target, config.layer_power)
    random = torch.Generator().manual_seed(config.seed)
    tried: list[Matched] = []
    for restart in range(config.restarts):
        place = prior.mean.device
        start = [
            config.spread * torch.randn(count, *dims, generator=random).to(place)
            for dims in ((len(prior.components),), tuple(prior.spectrum.shape))
        ]

        def watch(done: int, *, before: int = restart * config.evaluations) -> None:
            if progress is not None:
                progress(before + done, config.restarts * config.evaluations)

        found = _descend(
            response, target, weights, prior=prior, start=start, config=config, watch=watch
        )
        tried.append(found)
    best = min(tried, key=lambda each: each.misfit)
    if not config.consensus:
        return best
    ordered = [assigned(each.images, best.images) for each in tried]
    mean = np.stack(ordered).mean(axis=0, dtype=np.float64)
    return Matched(images=mean.astype(np.float32), misfit=best.misfit)


def _descend(
    response: Response,
    target: Layers,
    weights: Sequence[float],
    *,
    prior: ImagePrior,
    start: list[torch.Tensor],
    config: MatchingConfig,
    watch: Callable[[int], None],
) -> Matched:
    unknown = [part.requires_grad_() for part in start]
    each = max(1, config.evaluations // config.stages)
    done = 0
    low, high = config.sharpness
    for stage in range(config.stages):
        sharpness = low * (high / low) ** (stage / max(1, config.stages - 1))
        optimizer = torch.optim.LBFGS(
            [part for part in unknown if part.numel()],
            max_iter=each,
            max_eval=each,
            history_size=config.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def objective(*, sharpness: float = sharpness) -> torch.Tensor:
            nonlocal done
            images = prior.render(unknown[0], unknown[1])
            with SmoothRelu(sharpness=sharpness):
                made = response(images)
            value = distance(made, target, weights) + config.tv_weight * total_variation(images)
            if config.box_weight:
                value = value + config.box_weight * (images - images.clamp(0, 1)).square().mean()
            squares = sum(part.square().sum() for part in unknown) / unknown[1].numel()
            value = value + config.prior_weight * squares
            slopes = torch.autograd.grad(value, unknown, allow_unused=True)
            for part, slope in zip(unknown, slopes, strict=True):
                part.grad = slope
            done += 1
            watch(min(done, config.evaluations))
            return value.detach()

        optimizer.step(objective)  # type: ignore[no-untyped-call]  # torch types no optimizer's step
        if stage < config.registrations:
            with SmoothRelu(sharpness=sharpness), torch.no_grad():
                images = prior.render(unknown[0], unknown[1])
                moved = _registered(response, target, weights, images=images)
                for part, place in zip(unknown, prior.coordinates(moved), strict=True):
                    part.copy_(place)
    images = prior.render(*[part.detach() for part in unknown]).clamp(0, 1)
    misfit = float(distance(response(images), target, weights).detach())
    return Matched(
        images=np.asarray(images[:, 0].cpu().numpy(), dtype=np.float32),
        misfit=misfit if np.isfinite(misfit) else float("inf"),
    )


def _registered(
    response: Response, target: Layers, weights: Sequence[float], *, images: torch.Tensor
) -> torch.Tensor:
    """Return the images, each shifted around the edges to where the misfit is least."""

    def misfit(guess: torch.Tensor) -> float:
        with torch.enable_grad():
            return float(distance(response(guess), target, weights).detach())

    least = misfit(images)
    for place in range(len(images)):
        step = max(1, images.shape[-1] // 8)
        offsets = list(product(range(8), repeat=2))
        while step:
            best = images
            for down, across in offsets:
                moved = images.clone()
                moved[place] = images[place].roll((down * step, across * step), dims=(-2, -1))
                if (value := misfit(moved)) < least:
                    least, best = value, moved
            images, step = best, step // 2
            offsets = list(product((-1, 0, 1), repeat=2))
    return images


def distance(made: Layers, target: Layers, weights: Sequence[float]) -> torch.Tensor:
    """Return the weighted squared distance between two gradients, a scalar."""
    parts = [
        weight * (one - other).square().sum()
        for one, other, weight in zip(made, target, weights, strict=True)
    ]
    return torch.stack(parts).sum()


def _weights(target: Layers, power: float) -> list[float]:
    """Return the weight of each layer, such that a guess of zero is at distance one."""
    lengths = np.array([float(each.norm()) for each in target])
    raw = np.maximum(lengths, _TINY * max(lengths.max(), _TINY)) ** (-2 * power)
    return [float(each) for each in raw / max(float((raw * lengths**2).sum()), _TINY)]


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Return the mean step between neighbours, down plus across, over all images, a scalar."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return down + (images[..., 1:] - images[..., :-1]).abs().mean()
