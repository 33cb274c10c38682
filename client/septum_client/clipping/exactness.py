"""Is a network's patient gradient what autograd says, one patient at a time? Asked beforehand."""

import copy
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from septum.errors import Code, Refusal
from septum_client.clipping.module import PatientGradSampleModule
from septum_client.clipping.patients import Patients

_TOLERANCE: Final = 1e-6

# What was found exact in this process; each round has a trainer of its own.
_PASSED: Final[set[tuple[object, ...]]] = set()


def verify(model: nn.Module, shape: Sequence[int], *, most: int) -> None:
    """Refuse a network whose patients' gradients are not told apart exactly.

    On made-up images and weights in float64: the clipped sum of a small batch
    must be the one of plain autograd, one patient at a time. This catches what
    no list of layers can: a weight used outside its layer, a layer that ties
    the images of a batch, rows that are not one image's.

    Args:
      model: Left as it is: a copy is tried.
      shape: Of one image, ``(channels, [depth,] h, w)``.
      most: Most rows of one patient.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_LAYER`.
    """
    names = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
    key = (repr(model), names, tuple(shape), most)
    if key not in _PASSED:
        try:
            _try(copy.deepcopy(model).to("cpu", torch.float64).train(), shape, most=most)
        except (RuntimeError, TypeError, ValueError) as error:
            raise _refused(f"it fails on made-up images: {error}") from error
        _PASSED.add(key)


def made_up(network: nn.Module) -> nn.Module:
    """Return the network with weights that hide nothing: none is zero, no layer saturates."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            made = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = math.sqrt(max(1, parameter.numel() // max(1, len(parameter))))
            parameter.copy_(made / scale if parameter.dim() > 1 else 0.5 + 0.1 * made)
    return network


def _try(tried: nn.Module, shape: Sequence[int], *, most: int) -> None:
    wrapped = PatientGradSampleModule(made_up(tried))
    generator = torch.Generator().manual_seed(1)
    counts = [1, 1] if most == 1 else [1, 2]
    images = torch.randn((sum(counts), *shape), generator=generator, dtype=torch.float64)
    weights: list[torch.Tensor] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        outputs = tried(rows)
        if not isinstance(outputs, torch.Tensor):
            raise TypeError("a network returns one tensor")
        if not weights:
            size = outputs.shape[1:]
            weights.append(torch.randn(size, generator=generator, dtype=torch.float64))
        return (outputs * weights[0]).flatten(1).sum(1)

    trained = [p for p in tried.parameters() if p.requires_grad]
    expected = [torch.zeros_like(p) for p in trained]
    start = 0
    for count in counts:
        own = loss(images[start : start + count]).mean()
        gradient = torch.autograd.grad(own, trained, allow_unused=True, materialize_grads=True)
        norm = torch.stack([one.norm() for one in gradient]).norm()
        for sums, one in zip(expected, gradient, strict=True):
            sums.add_(one / (1 + norm))
        start += count
    patients = Patients.of(counts, batch=len(images), most=most)
    share = patients.spread_out(1 / torch.tensor(counts, dtype=torch.float64))

    def total() -> torch.Tensor:
        return (loss(images) * share).sum()

    got = wrapped.sums(patients, total, lambda norms: 1 / (1 + norms))
    wrapped.remove_hooks()
    scale = float(torch.stack([one.norm() for one in expected]).norm())
    for parameter, sums in zip(trained, expected, strict=True):
        off = float((got.get(parameter, torch.zeros_like(sums)).detach() - sums.detach()).norm())
        if not off <= _TOLERANCE * scale:
            raise _refused(
                f"a weight of shape {tuple(parameter.shape)} has a patient gradient that is off "
                f"by {off / scale:.1e} of its norm, and {_TOLERANCE:.0e} is rounding"
            )


def _refused(why: str) -> Refusal:
    return Refusal(
        Code.UNKNOWN_LAYER,
        f"this network's patients cannot be told apart: {why}.",
        remedy="Choose a registered network.",
    )
