"""Which reconstruction is meant for which image: the best one-to-one assignment.

Against the truth it belongs to scoring, and a null run must be scored the same
way: the freedom to match inflates every figure. An attack uses it only among
its own reconstructions, to put those of several restarts in one order.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from septum.errors import DataError

Images = npt.NDArray[np.float32]


def assigned(reconstructions: Images, truth: Images) -> Images:
    """Return the reconstructions in the order of the images that they fit best.

    Args:
      reconstructions: Shape ``(m, side, side)``, m at least n.
      truth: Shape ``(n, side, side)``.

    Returns:
      Shape ``(n, side, side)``.

    Guarantees:
      - The total squared error is the least of all one-to-one assignments
        (Kuhn 1955); the order of ``reconstructions`` never changes it.

    Raises:
      DataError: Fewer reconstructions than images, or other sides.
    """
    if len(reconstructions) < len(truth) or reconstructions.shape[1:] != truth.shape[1:]:
        raise DataError(
            f"{reconstructions.shape} reconstructions cannot be matched to {truth.shape} images.",
            remedy="Give at least as many reconstructions as images, of equal sides.",
        )
    made = reconstructions.reshape(len(reconstructions), -1).astype(np.float64)
    real = truth.reshape(len(truth), -1).astype(np.float64)
    cost = (real**2).sum(1)[:, None] + (made**2).sum(1) - 2 * real @ made.T
    _, column = linear_sum_assignment(cost)
    return np.asarray(reconstructions[column])
