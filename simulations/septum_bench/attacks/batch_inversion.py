"""All images of one step at once, from the mean gradient of their batch.

Nothing ties an attack to Septum's registry: any network and per-image loss
will do, in the mode in which the client ran it. With batch normalisation in
training mode the images share statistics, and the attack computes them too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call

from septum import tasks
from septum.errors import ConfigError
from septum.models import trained
from septum_bench.attacks.gradient_matching import (
    Layers,
    Matched,
    MatchingConfig,
    Progress,
    match,
)
from septum_bench.attacks.image_prior import ImagePrior
from septum_bench.threat import Floats, Grant, View, granted

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchView(View):
    """Everything that an inversion of one step may read.

    Attributes:
      network: With the weights before the step, in the mode of the client's step.
      loss: Of each image, ``(outputs, labels) -> (images,)``.
      side: Pixels of a side of the network's input.
      observed: The mean gradient of the batch, float32 (params,).
      labels: Of every image, in any order, float32 (batch, outputs).
      public_images: Images of non-members, float32 (n, 1, side, side) in
        [0, 1]; None to do without.

    Raises:
      ConfigError: A field is not granted, or shapes do not fit.
    """

    network: nn.Module = granted(Grant.MODEL, repr=False)
    loss: Loss = granted(Grant.MODEL, repr=False)
    side: int = granted(Grant.MODEL)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    labels: Floats = granted(Grant.LABELS, repr=False)
    public_images: Floats | None = granted(Grant.PUBLIC_IMAGES, default=None, repr=False)

    def __post_init__(self) -> None:
        View.__post_init__(self)
        self._require_fit("an observed vector", "gradient")

    def _require_fit(self, what: str, given: str) -> None:
        expected = sum(parameter.numel() for parameter in trained(self.network))
        if self.observed.shape != (expected,) or not len(self.labels):
            raise ConfigError(
                f"{what} of shape {self.observed.shape} with {len(self.labels)} "
                f"labels must be ({expected},) with at least one.",
                remedy=f"Give the {given} of this network and one label per image.",
            )


def invert_batch(
    view: BatchView,
    *,
    config: MatchingConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Matched:
    """Return the attack's best guess at all images of the batch, in no particular order.

    Args:
      view: All that the attacker holds.
      config: The budget.
      device: Where to compute.
      progress: Called with evaluations done and in all.

    Guarantees:
      - The view's network is left as it was.
      - Those of :func:`~septum_bench.attacks.gradient_matching.match`.
    """

    def response(weights: Weights, images: torch.Tensor, labels: torch.Tensor) -> Layers:
        return mean_gradient(view.network, weights, images, labels, loss=view.loss)

    return matched(view, response, config=config, device=device, progress=progress)


def matched(
    view: BatchView,
    response: Callable[[Weights, torch.Tensor, torch.Tensor], Layers],
    *,
    config: MatchingConfig,
    device: torch.device | str,
    progress: Progress | None,
) -> Matched:
    """Return images whose ``response`` is what the view observed.

    Args:
      view: All that the attacker holds.
      response: From weights, images and labels to what would have been observed, by layer.
      config: The budget.
      device: Where to compute.
      progress: Called with evaluations done and in all.
    """
    place = torch.device(device)
    labels = torch.from_numpy(np.ascontiguousarray(view.labels, np.float32)).to(place)
    weights = weights_of(view.network, place)
    return match(
        lambda images: response(weights, images, labels),
        split(view.observed, weights),
        count=len(labels),
        prior=prior_of(view.public_images, view.side, seed=config.seed, device=place),
        config=config,
        progress=progress,
    )


def weights_of(network: nn.Module, device: torch.device) -> Weights:
    """Return copies of the trained weights by name, in registry order."""
    return {
        name: parameter.detach().clone().to(device).requires_grad_()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def mean_gradient(
    network: nn.Module,
    weights: Weights,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: Loss,
) -> tuple[torch.Tensor, ...]:
    """Return the gradient of the batch's mean loss, one tensor a layer, differentiable.

    Guarantees:
      - No buffer of ``network`` changes: running statistics are computed on copies.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    outputs = functional_call(network, (weights, buffers), (tasks.normalise(images),))
    return torch.autograd.grad(
        loss(outputs, labels).mean(), list(weights.values()), create_graph=True
    )


def split(vector: npt.NDArray[np.float32], weights: Weights) -> list[torch.Tensor]:
    """Return one flat vector as the layers of ``weights``."""
    parts, start = [], 0
    for weight in weights.values():
        piece = np.ascontiguousarray(vector[start : start + weight.numel()], np.float32)
        parts.append(torch.from_numpy(piece.copy()).view(weight.shape).to(weight.device))
        start += weight.numel()
    return parts


def prior_of(
    public_images: Floats | None, side: int, *, seed: int, device: torch.device
) -> ImagePrior:
    """Return the prior that public images teach, or the natural one of who has none."""
    if public_images is None:
        return ImagePrior.natural(side, device=device)
    return ImagePrior.fit(public_images, seed=seed, device=device)
