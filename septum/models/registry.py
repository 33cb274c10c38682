"""A study's network: built by name, from public numbers alone."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from septum.errors import ConfigError
from septum.models.conversion import check_private, convert
from septum.models.frozen import freeze, set_bias
from septum.models.networks import MODELS, Shape
from septum.models.standardised import standardise_all
from septum.tasks import task_of

if TYPE_CHECKING:
    from septum.study import Study

Weights = Mapping[str, torch.Tensor]
"""Named tensors, as :mod:`septum.bundle` reads them."""

# torch initialises layers from its one global generator, which threads would interleave.
_SEEDING: Final = threading.Lock()

# Running statistics of a BatchNorm that becomes a GroupNorm: nothing reads them.
_LEFT_OUT: Final = ("running_mean", "running_var", "num_batches_tracked")


def build(
    name: str,
    *,
    channels: int,
    outputs: int,
    seed: int,
    dims: int = 2,
    size: tuple[int, ...] = (),
    weights: Weights | None = None,
    weight_standardisation: bool = False,
) -> nn.Module:
    """Return a registered network, initialised from ``seed``, and ``weights`` if given.

    Args:
      name: A key of :data:`MODELS`.
      channels: Channels of the input image.
      outputs: Number of logits, or of channels of a mask.
      seed: Seed of the initial weights, a public constant of the study.
      dims: 2 for pictures, 3 for volumes.
      size: Sides ``([depth,] h, w)``; 64 each if empty. Only a network with
        position codes is made for one size.
      weights: Public weights in place of the seeded ones, under the network's
        names or under MONAI's before conversion; the head may be missing or of
        another shape, and is then the seed's.
      weight_standardisation: Let each convolution that a normalisation follows
        standardise its weight (:mod:`septum.models.standardised`).

    Guarantees:
      - Equal arguments give equal weights, and torch's global generator is
        left as it was.
      - No batch normalisation, no dropout, no in-place operation, and no
        buffer but public constants.

    Raises:
      ConfigError: The name is not registered, the weights do not fit, or
        nothing can be standardised.
    """
    if name not in MODELS:
        raise ConfigError(
            f"model.name is {name!r}, which is not registered.",
            remedy=f"Choose one of {', '.join(MODELS)}.",
        )
    network = MODELS[name]
    shape = Shape(channels=channels, outputs=outputs, size=size or (64,) * dims)
    if shape.dims != dims or dims not in network.dims:
        raise ConfigError(
            f"model.name {name!r} cannot be built for {dims} dimensions and sides {shape.size}.",
            remedy=f"It takes {' or '.join(str(count) for count in network.dims)} dimensions.",
        )
    if weight_standardisation and not network.normalised:
        raise ConfigError(
            f"model.name {name!r} has no convolution that a normalisation follows.",
            remedy="Leave model.weight_standardisation false.",
        )
    with _SEEDING, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would note a stack trace for every absent accelerator at each call.
        torch.default_generator.manual_seed(seed)
        raw = network.make(shape)
        loaded = weights is None or _load(raw, weights, head=network.head)
        model = convert(raw)
    if not loaded and weights is not None and not _load(model, weights, head=network.head):
        raise ConfigError(
            f"the weights are not those of {name!r}: {_difference(model, weights)}.",
            remedy="Name weights that were exported from this network.",
        )
    if weight_standardisation:
        standardise_all(model, but=(network.head, *network.gates))
    check_private(model)
    return model


def network_of(study: "Study", *, weights: Weights | None = None) -> nn.Module:
    """Return the network of ``study`` with its initial weights, for grey images.

    The head starts where the study's public numbers say (prevalence, range).
    What ``model.train`` freezes needs no gradient, and is in no vector.

    Args:
      study: Network, task, and size of images.
      weights: What the file named by ``model.weights`` holds; see
        :func:`septum.bundle.weights_of`.

    Raises:
      ConfigError: See :func:`build`; or the study names weights that were not
        given, or the other way round.
    """
    name, data = study.model.name, study.data
    if bool(study.model.weights) != (weights is not None):
        raise ConfigError(
            f"model.weights is {study.model.weights[:12] or 'empty'!r}, and weights were "
            f"{'not given' if weights is None else 'given'}.",
            remedy="Give the file that the study names, and only that.",
        )
    task = task_of(study)
    dims = 2 if data.depth == 1 else 3
    size = (data.image_size,) * 2 if dims == 2 else (data.depth, *(data.image_size,) * 2)
    model = build(
        name,
        channels=1,
        outputs=task.outputs,
        seed=study.model.seed,
        dims=dims,
        size=size,
        weights=weights,
        weight_standardisation=study.model.weight_standardisation,
    )
    head = MODELS[name].head
    bias = task.bias()
    if bias is not None and f"{head}.bias" not in (weights or {}):
        set_bias(model, bias, head=head)
    if study.model.train == "head":
        with _SEEDING, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(study.model.seed)
            freeze(model, head=head, rank=study.model.lora_rank)
    return model


def _load(model: nn.Module, weights: Weights, *, head: str) -> bool:
    """Write ``weights`` into ``model`` and return True, or change nothing and return False."""
    own = {name: value for name, value in model.state_dict().items() if not _skipped(name)}
    given = {name: value for name, value in weights.items() if not _skipped(name)}
    chosen = {}
    for name, value in own.items():
        fits = name in given and given[name].shape == value.shape
        if not fits and not name.startswith(f"{head}."):
            return False
        if fits:
            chosen[name] = given[name]
    if set(given) - set(own):
        return False
    model.load_state_dict(chosen, strict=False)
    return True


def _difference(model: nn.Module, weights: Weights) -> str:
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = [n for n, shape in own.items() if n not in weights or weights[n].shape != shape]
    # Foreign names are counted, not quoted: they are the sender's text.
    extra = len(set(weights) - set(own))
    return f"{len(wrong)} of {len(own)} tensors are missing or of another shape, {extra} unknown"


def _skipped(name: str) -> bool:
    return name.rpartition(".")[2] in _LEFT_OUT
