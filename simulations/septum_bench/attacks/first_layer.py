"""The input of a linear layer, in closed form: its weight's gradient over its bias's.

Each row of the weight's gradient is the error of that neuron times the input,
and the bias's gradient is the error alone. For one image the quotient is the
input itself, exactly, whatever comes after the layer (Phong et al. 2018;
Geiping et al. 2020, arXiv:2003.14053, proposition 3.1).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from septum.errors import DataError

Doubles = npt.NDArray[np.float64]

_FAINT: Final = 1e-30


def layer_input(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> Doubles:
    """Return the input of a layer that saw one image, float64 (inputs,).

    Args:
      weight: Gradient of the weight, (neurons, inputs).
      bias: Gradient of the bias, (neurons,).

    Guarantees:
      - Exact for one image without noise, if any neuron has a nonzero error.
      - Otherwise the least-squares fit over all neurons: for several images, a
        mixture of them weighted by their errors.

    Raises:
      DataError: Shapes do not fit, or no neuron has an error.
    """
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise DataError(
            f"gradients of shape {weight.shape} and {bias.shape} are of no linear layer.",
            remedy="Give (neurons, inputs) and (neurons,).",
        )
    error = bias.astype(np.float64)
    strength = float(error @ error)
    if strength <= _FAINT:
        raise DataError("no neuron of the layer has an error.", remedy="Attack another step.")
    return np.asarray(error @ weight.astype(np.float64) / strength)


def bin_contents(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], *, faintest: float = 1e-6
) -> Doubles:
    """Return what lies between neighbouring neurons of a layer, float64 (found, inputs).

    Where neuron k fires on every image on which neuron k + 1 fires, the
    difference of the two holds the images between their thresholds alone; a
    bin with one image gives it exactly (Fowl et al. 2022, arXiv:2110.13057).

    Args:
      weight: Gradient of the weight, (neurons, inputs), rows by rising threshold.
      bias: Gradient of the bias, (neurons,).
      faintest: Share of the largest bias gradient below which a bin is empty.
    """
    ladder = np.concatenate([weight, np.zeros_like(weight[:1])]).astype(np.float64)
    errors = np.concatenate([bias, np.zeros_like(bias[:1])]).astype(np.float64)
    held, error = ladder[:-1] - ladder[1:], errors[:-1] - errors[1:]
    full = np.abs(error) > faintest * max(float(np.abs(bias).max(initial=0)), _FAINT)
    return np.asarray(held[full] / error[full, None])
