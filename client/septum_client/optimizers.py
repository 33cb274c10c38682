"""What follows the noise at a hospital: SGD, momentum or Adam, all of it post-processing.

An optimizer lives for one round. It begins anew at the next, so that a round
is a function of its instruction and its draws alone: a site that restarts, or
moves to another machine, has nothing to carry along and nothing more to keep
secret. What should last over rounds (momentum, Adam, a moving average) is the
server's, computed from releases, and is in its checkpoint
(:mod:`septum_strategies`).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from septum.step_bounds import ADAM_BETAS, ADAM_EPSILON
from septum.training import Training


def optimizer_of(training: Training) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Return what makes the study's optimizer from the parameters.

    Guarantees:
      - An update stays within :func:`septum.step_bounds.update_norm_bound`.
    """
    if training.optimizer == "adam":
        # Kingma and Ba 2015, arXiv:1412.6980.
        return partial(
            torch.optim.Adam, lr=training.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPSILON
        )
    return partial(torch.optim.SGD, lr=training.learning_rate, momentum=training.momentum)
