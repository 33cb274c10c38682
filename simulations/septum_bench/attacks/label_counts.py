"""How many of those drawn have a label, from a sum that was clipped and noised.

Where :mod:`~septum_bench.attacks.labels` reads counts off an exact gradient,
this attacker knows the clip, the noise and that patients are drawn by chance,
and starts from a hospital's share of the label: what is left to learn is the
luck of one draw. It is the linear estimate of least variance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from septum.errors import ConfigError
from septum.models import trained
from septum.privacy import Mechanism
from septum_bench.attacks.candidate_gradients import patient_gradients
from septum_bench.threat import Floats, Grant, View, granted

Doubles = npt.NDArray[np.float64]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_TINY: Final = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class CountsView(View):
    """Everything that a count of labels may read.

    Attributes:
      network: With the weights before the round.
      loss: Of each image, ``(outputs, labels) -> (images,)``.
      exclusive: Whether an image has exactly one label.
      observed: What the round's steps added up to, float32 (params,): clipped
        gradients of those drawn, and noise. Its last entries are the head's bias.
      drawn: Patients drawn in all steps together, as expected by the contract.
      rate: Chance with which a patient is drawn in a step.
      size: How many were drawn, where that is known: with an exact gradient, the
        size of the batch.
      noise_std: Standard deviation on each entry of ``observed``; 0 for none.
      clip: The mechanism whose clip was applied; None for no clip.
      shares: The hospital's share of patients with each label, float64 (outputs,).
      public_images: Float32 (n, 1, side, side) in [0, 1], non-members.

    Raises:
      ConfigError: A field is not granted, or the network does not end on a bias
        of one entry per label.
    """

    network: nn.Module = granted(Grant.MODEL, repr=False)
    loss: Loss = granted(Grant.MODEL, repr=False)
    exclusive: bool = granted(Grant.MODEL)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    drawn: float = granted(Grant.LOCAL_TRAINING)
    rate: float = granted(Grant.LOCAL_TRAINING)
    size: int | None = granted(Grant.LOCAL_TRAINING, default=None)
    noise_std: float = granted(Grant.NOISE, default=0.0)
    clip: Mechanism | None = granted(Grant.NOISE, default=None)
    shares: Doubles = granted(Grant.LABELS, repr=False)
    public_images: Floats = granted(Grant.PUBLIC_IMAGES, repr=False)

    def __post_init__(self) -> None:
        View.__post_init__(self)
        ends = trained(self.network)[-1].shape
        if ends != (len(self.shares),):
            raise ConfigError(
                f"the network ends on a parameter of shape {tuple(ends)}, not on a bias of "
                f"({len(self.shares)},).",
                remedy="Count labels only where the head has a bias.",
            )


def estimate_counts(view: CountsView) -> Doubles:
    """Return how many of those drawn have each label, float64 (outputs,), as best guessed.

    Guarantees:
      - Without signal it is the blind guess ``drawn * shares``; the more noise,
        the nearer to it.
      - Of all estimates linear in a bias' entry the one of least mean squared error,
        if patients' gradients are like those of the public images.
    """
    present, absent, spread = _sent_back(view)
    seen = view.observed[-len(view.shares) :].astype(np.float64)
    drawn = view.drawn if view.size is None else float(view.size)
    with_it, without = drawn * view.shares, drawn * (1 - view.shares)
    if view.size is None:
        # Poisson sampling: who has the label and who has not are drawn independently.
        luck = max(1.0 - view.rate, _TINY)
        together = luck * with_it * present
        variance = luck * (with_it * present**2 + without * absent**2)
    else:
        together = with_it * (1 - view.shares) * (present - absent)
        variance = together * (present - absent)
    variance = variance + drawn * spread**2 + view.noise_std**2
    surprise = seen - with_it * present - without * absent
    estimate = with_it + together / np.maximum(variance, _TINY) * surprise
    return np.asarray(np.clip(estimate, 0.0, None if view.size is None else drawn))


def _sent_back(view: CountsView) -> tuple[Doubles, Doubles, Doubles]:
    """Return the mean bias gradient of who has each label and who has not, and its spread."""
    outputs, images = len(view.shares), view.public_images
    # What else a patient has matters only through the clip: nothing, or one other class.
    others = np.eye(outputs, dtype=np.float32)
    present, absent, spread = np.zeros((3, outputs))
    for place in range(outputs):
        rest = np.delete(others, place, 0) if view.exclusive and outputs > 1 else 0 * others[:1]
        cases = [others[place], *rest]
        weight = np.delete(view.shares, place) if view.exclusive and outputs > 1 else np.ones(1)
        means, widths = [], []
        for label in cases:
            slopes = patient_gradients(
                view.network,
                images,
                np.tile(label, (len(images), 1)),
                np.arange(len(images)),
                loss=view.loss,
                mechanism=view.clip,
            )[:, -outputs + place]
            means.append(float(slopes.mean(dtype=np.float64)))
            widths.append(float(slopes.std(dtype=np.float64)))
        present[place] = means[0]
        absent[place] = np.average(means[1:], weights=np.maximum(weight, _TINY))
        spread[place] = np.mean(widths)
    return present, absent, spread
