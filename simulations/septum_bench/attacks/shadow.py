"""Shadow models: what an attacker trains on records of its own choice to learn how members look.

Plain Adam without clip and noise from the study's public initial weights:
cheap, and as much memory of its patients as the network can hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from septum import tasks
from septum.models import trained

Doubles = npt.NDArray[np.float64]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_ROWS: Final = 128


@dataclass(frozen=True, kw_only=True)
class ShadowRecipe:
    """How long a shadow model trains; the learning rate falls along a cosine."""

    steps: int = 60
    batch: int = 48
    learning_rate: float = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Patients with their images.

    Attributes:
      images: ``(images, channels, [depth,] h, w)`` in [0, 1].
      targets: One per image.
      owner: Patient of each image, from 0, int64 ``(images,)``.
    """

    images: npt.NDArray[Any] = field(repr=False)
    targets: npt.NDArray[Any] = field(repr=False)
    owner: npt.NDArray[np.int64] = field(repr=False)

    @property
    def patients(self) -> int:
        """How many."""
        return int(self.owner.max()) + 1


def train_shadow(
    network: nn.Module,
    pool: Pool,
    members: npt.NDArray[np.bool_],
    *,
    loss: Loss,
    recipe: ShadowRecipe,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train ``network`` in place on the members' images and return it.

    Args:
      network: With the weights to start from.
      pool: All patients.
      members: Whom to train on, bool ``(patients,)``.
      loss: Loss of each image.
      recipe: How long.
      rng: Of the batches.
      device: Where to compute.
    """
    place = torch.device(device)
    network.to(place).train()
    rows = np.flatnonzero(members[pool.owner])
    optimizer = torch.optim.Adam(trained(network), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for _ in range(recipe.steps):
        chosen = rng.choice(rows, min(recipe.batch, len(rows)), replace=False)
        optimizer.zero_grad()
        torch.autograd.backward(_losses(network, pool, chosen, loss, place).mean())
        optimizer.step()
        schedule.step()
    return network.eval()


def patient_losses(
    network: nn.Module, pool: Pool, *, loss: Loss, device: torch.device | str = "cpu"
) -> Doubles:
    """Return the mean loss of each patient's images, float64 ``(patients,)``."""
    place = torch.device(device)
    network.to(place).eval()
    parts: list[npt.NDArray[Any]] = []
    with torch.no_grad():
        for start in range(0, len(pool.owner), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(pool.owner)))
            parts.append(_losses(network, pool, rows, loss, place).cpu().numpy())
    total = np.bincount(pool.owner, np.concatenate(parts))
    return np.asarray(total / np.bincount(pool.owner), np.float64)


def halves(shadows: int, patients: int, *, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return who trains which shadow model: each patient exactly half of them, at random.

    Bool ``(shadows, patients)``.
    """
    order = rng.random((shadows, patients)).argsort(axis=0)
    return np.asarray(order < shadows // 2)


def _losses(
    network: nn.Module,
    pool: Pool,
    rows: npt.NDArray[np.int64] | Sequence[int],
    loss: Loss,
    place: torch.device,
) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(pool.images[rows], np.float32)).to(place)
    wanted = torch.from_numpy(np.ascontiguousarray(pool.targets[rows])).to(place)
    return loss(network(tasks.normalise(pixels)), wanted)
