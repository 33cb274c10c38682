"""Who it was, from what entered the last linear layer: a quotient, no optimiser.

A gradient of a linear layer divided by that of its bias is the layer's input
(:mod:`~septum_bench.attacks.first_layer`). Behind a pooling network the input
is no image but a fingerprint of one, which an attacker computes for each
candidate in the same way and compares; it costs microseconds a candidate.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from septum.errors import ConfigError, DataError
from septum.models import parameter_count, trained
from septum_bench.attacks.first_layer import layer_input
from septum_bench.threat import Floats, Grant, View, granted

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FingerprintView(View):
    """Everything that a comparison of layer inputs may read.

    Attributes:
      network: Ends on a linear layer (or a 1x1 convolution) with a bias.
      observed: What crossed the wire as a gradient, float32 (targets, params).
      candidates: The gradient of each candidate, float32 (candidates, params),
        which whoever holds its image and labels computes.

    Raises:
      ConfigError: A field is not granted, or shapes do not fit.
    """

    network: nn.Module = granted(Grant.MODEL, repr=False)
    observed: Floats = granted(Grant.OBSERVED, repr=False)
    candidates: Floats = granted(Grant.CANDIDATES, repr=False)

    def __post_init__(self) -> None:
        View.__post_init__(self)
        ends_on_linear(self.network)
        width = parameter_count(self.network)
        if self.observed.shape[1:] != (width,) or self.candidates.shape[1:] != (width,):
            raise ConfigError(
                f"vectors of shape {self.observed.shape} and {self.candidates.shape} must have "
                f"{width} columns.",
                remedy="Give gradients of this network.",
            )


def ends_on_linear(network: nn.Module) -> tuple[int, int]:
    """Return outputs and inputs of the last trained layer.

    Raises:
      ConfigError: It is no linear layer with a bias, over one pixel at most.
    """
    parameters = trained(network)
    weight, bias = (parameters[-2].shape, parameters[-1].shape) if len(parameters) > 1 else ((), ())
    if len(weight) < 2 or set(weight[2:]) - {1} or tuple(bias) != (weight[0],):
        raise ConfigError(
            f"the network ends on {tuple(weight)} and {tuple(bias)}, not on a linear layer.",
            remedy="Read the findings on identification instead.",
        )
    return int(weight[0]), int(weight[1])


def alike(view: FingerprintView) -> Doubles:
    """Return how alike each target's fingerprint is to each candidate's.

    Returns:
      Float64 ``(targets, candidates)``: correlations after each coordinate's
      mean over candidates is taken off and its spread divided out.

    Guarantees:
      - The exact gradient of one image of a candidate is as alike to that candidate as can be: 1.
      - A target from which nothing can be read is equally alike to all: 0.
    """
    outputs, inputs = ends_on_linear(view.network)
    known = _inputs(view.candidates, outputs, inputs)
    seen = _inputs(view.observed, outputs, inputs)
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    likeness = _unit((seen - centre) / spread) @ _unit((known - centre) / spread).T
    return np.asarray(np.where(seen.any(axis=1, keepdims=True), likeness, 0.0))


def _inputs(vectors: Floats, outputs: int, inputs: int) -> Doubles:
    """Return the input of the last layer behind each vector; zeros where there is none."""
    found = np.zeros((len(vectors), inputs))
    for row, vector in zip(found, vectors, strict=True):
        try:
            row[:] = layer_input(
                vector[-outputs * (inputs + 1) : -outputs].reshape(outputs, inputs),
                vector[-outputs:],
            )
        except DataError:
            continue
    return found


def _unit(rows: Doubles) -> Doubles:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
