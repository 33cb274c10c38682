"""What each candidate patient would add to a release: clipped per-patient gradients, exactly.

These are the templates of every attack that asks "whose data was it": an
attacker who holds a candidate's images and labels computes them itself.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from septum import tasks
from septum.errors import DataError
from septum.privacy import Mechanism

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_BATCH: Final = 64
_TINY: Final = 1e-6
_STABILITY: Final = 0.01


def patient_gradients(
    network: nn.Module,
    images: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    patient_of_image: npt.ArrayLike,
    *,
    loss: Loss = tasks.loss,
    mechanism: Mechanism | None = None,
    device: torch.device | str = "cpu",
) -> Floats:
    """Return the gradient of each patient's mean loss, float32 ``(patients, params)``.

    Args:
      network: Its trained weights are read, not changed.
      images: ``(images, channels, [depth,] h, w)`` in [0, 1], any float dtype.
      targets: One per image, as the loss takes them.
      patient_of_image: Integer ``(images,)``, from 0, every number used.
      loss: Loss of each image, ``(outputs, targets) -> (images,)``.
      mechanism: Its clip is applied to each patient; None for no clip.
      device: Where to compute.

    Guarantees:
      - A patient's images are averaged before the clip, as training does, so a
        patient weighs the same with one image or twenty.
      - The order of weights is that of :func:`septum.models.to_vector`.

    Raises:
      DataError: There is not one target and one patient per image.
    """
    owner = np.asarray(patient_of_image, np.int64)
    if not len(images) == len(targets) == len(owner) or not len(owner):
        raise DataError(
            f"{len(images)} images, {len(targets)} targets and {len(owner)} patients "
            "must be one each per image, at least one.",
            remedy="Give each image one target and one patient.",
        )
    place = torch.device(device)
    network = network.to(place)
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}

    def one(
        weights: dict[str, torch.Tensor], image: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        outputs = functional_call(network, weights, (tasks.normalise(image[None]),))
        return loss(outputs, target[None]).sum()

    each = vmap(grad(one), in_dims=(None, 0, 0))
    counts = np.bincount(owner)
    total = np.zeros((len(counts), sum(p.numel() for p in trained.values())), np.float32)
    for start in range(0, len(owner), _BATCH):
        part = slice(start, start + _BATCH)
        pixels = torch.from_numpy(np.asarray(images[part], np.float32)).to(place)
        wanted = torch.from_numpy(np.ascontiguousarray(targets[part])).to(place)
        slopes = each(trained, pixels, wanted)
        rows = torch.cat([slopes[name].flatten(1) for name in trained], dim=1).cpu().numpy()
        np.add.at(total, owner[part], rows)
    total /= counts[:, None]
    if mechanism is not None:
        total *= clip_factors(np.linalg.norm(total, axis=1), mechanism)[:, None]
    return total


def clip_factors(norms: npt.NDArray[Any], mechanism: Mechanism) -> Floats:
    """Return what a gradient of each norm is multiplied by, float32, same shape.

    The rule of :meth:`septum_client.clipping.PatientOptimizer.coefficients`,
    which a test holds it to.
    """
    limit = mechanism.max_grad_norm
    if mechanism.clipping == "automatic":
        return np.asarray(limit / (norms + _STABILITY), np.float32)
    return np.asarray(np.minimum(limit / (norms + _TINY), 1.0), np.float32)


def in_span(gradients: npt.NDArray[Any]) -> Doubles:
    """Return the gradients in an orthonormal basis of their span, float64 (candidates, candidates).

    Inner products with the gradients are all that a likelihood needs of an
    observation, and white noise stays white in any orthonormal basis. So an
    attack in these coordinates is the attack in all of them, at the price of
    the candidates instead of the weights.

    Args:
      gradients: ``(candidates, params)``.

    Guarantees:
      - Inner products of rows are those of the gradients.
    """
    exact = np.asarray(gradients, np.float64)
    values, vectors = np.linalg.eigh(exact @ exact.T)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
