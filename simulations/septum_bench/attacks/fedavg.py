"""Images from an update of several local steps: the attacker trains along with its guess.

The hospital's local steps are simulated on the guessed images and the update
that comes out is compared with the one that came in (Dimitrov et al. 2022,
arXiv:2206.12395). The order in which images were visited in later epochs is
not known; every epoch of the simulation uses the same one, and since the loss
of a batch ignores order, only the grouping is guessed.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from septum import tasks
from septum.errors import ConfigError
from septum_bench.attacks.batch_inversion import BatchView, Loss, Weights, matched
from septum_bench.attacks.gradient_matching import Layers, Matched, MatchingConfig, Progress
from septum_bench.threat import Grant, View, granted


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """What a hospital does between two releases, as the study declares it.

    Attributes:
      learning_rate: Of plain SGD.
      batch: Images of a step.
      epochs: Times that the same images are visited.
    """

    learning_rate: float
    batch: int
    epochs: int = 1

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or min(self.batch, self.epochs) < 1:
            raise ConfigError(
                f"learning rate {self.learning_rate:g}, batch {self.batch} and epochs "
                f"{self.epochs} must all be above 0.",
                remedy="Take them from the study.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class UpdateView(BatchView):
    """Everything that an inversion of an update may read.

    As of a :class:`BatchView`, but for:

    Attributes:
      observed: Weights after minus weights before, float32 (params,).
      labels: Of every image, in steps of the first epoch, float32 (images, outputs).
      training: The hospital's local settings.

    Raises:
      ConfigError: A field is not granted, or shapes do not fit.
    """

    training: LocalTraining = granted(Grant.LOCAL_TRAINING)

    def __post_init__(self) -> None:
        View.__post_init__(self)
        self._require_fit("an update", "update")


def invert_update(
    view: UpdateView,
    *,
    config: MatchingConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Matched:
    """Return the attack's best guess at all images of the round, in no particular order.

    Args:
      view: All that the attacker holds.
      config: The budget; an evaluation costs as much as the round's steps.
      device: Where to compute.
      progress: Called with evaluations done and in all.

    Guarantees:
      - With one step it is exactly the inversion of that step's gradient.
      - Those of :func:`~septum_bench.attacks.gradient_matching.match`.
    """

    def response(weights: Weights, images: torch.Tensor, labels: torch.Tensor) -> Layers:
        return local_update(
            view.network, weights, images, labels, loss=view.loss, training=view.training
        )

    return matched(view, response, config=config, device=device, progress=progress)


def local_update(
    network: nn.Module,
    weights: Weights,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: Loss,
    training: LocalTraining,
) -> tuple[torch.Tensor, ...]:
    """Return what plain SGD adds to the weights, one tensor a layer, differentiable in ``images``.

    Guarantees:
      - ``network`` is left as it was, buffers included.
    """
    now = dict(weights)
    inputs = tasks.normalise(images)
    for _ in range(training.epochs):
        for start in range(0, len(images), training.batch):
            part = slice(start, start + training.batch)
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            outputs = functional_call(network, (now, buffers), (inputs[part],))
            slopes = torch.autograd.grad(
                loss(outputs, labels[part]).mean(), list(now.values()), create_graph=True
            )
            now = {
                name: value - training.learning_rate * slope
                for (name, value), slope in zip(now.items(), slopes, strict=True)
            }
    return tuple(now[name] - weights[name] for name in weights)
