"""Whose data was it: likelihood of each candidate given the release, the optimum of its attacker.

The prior-aware attack of Hayes, Mahloujifar and Balle (2023, arXiv:2302.07225):
the attacker holds every candidate's records and the public mechanism, and
names whom the observation makes most likely. For noise that is Gaussian and a
prior that is uniform no attack on the same observation names more.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax
from scipy.stats import binom

from septum.errors import ConfigError
from septum.privacy import Mechanism
from septum_bench.threat import Grant, View, granted

Doubles = npt.NDArray[np.float64]

_CHUNK: Final = 1 << 22  # numbers at a time


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """The mechanism behind one observation, from the public contract.

    Attributes:
      std: Standard deviation on each coordinate of one step's clipped sum.
      rate: Chance with which a patient is drawn in a step.
      steps: Steps that one observation adds up.
    """

    std: float
    rate: float = 1.0
    steps: int = 1

    @classmethod
    def of(cls, mechanism: Mechanism) -> "StepNoise":
        """Return what a coordinator sees of a round: the sum of its steps."""
        return cls(std=mechanism.noise_std, rate=mechanism.sampling_rate, steps=mechanism.steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class LineUpView(View):
    """One target among candidates; what everybody else added is known and taken off.

    Attributes:
      observed: Float64 ``(trials, observations, k)``: noisy sums of clipped
        gradients, without the others' part, of steps or of rounds.
      candidates: What each candidate adds in one step in which it is drawn, float64
        ``(observations, candidates, k)``; one for all where the first axis is 1.
      noise: Of each observation.

    Raises:
      ConfigError: A field is not granted, shapes do not fit, or there is no noise.
    """

    observed: Doubles = granted(Grant.OBSERVED, repr=False)
    candidates: Doubles = granted(Grant.CANDIDATES, repr=False)
    noise: StepNoise = granted(Grant.NOISE)

    def __post_init__(self) -> None:
        super().__post_init__()
        seen, lined = self.observed.shape, self.candidates.shape
        fits = len(seen) == len(lined) == 3 and seen[2] == lined[2]
        if not fits or lined[0] not in {1, seen[1]}:
            raise ConfigError(
                f"observations {seen} and candidates {lined} must be (trials, observations, k) "
                "and (observations or 1, candidates, k).",
                remedy="Write both in one basis, candidates once or once per observation.",
            )
        if self.noise.std <= 0:
            raise ConfigError(
                f"the noise has standard deviation {self.noise.std:g}; a likelihood needs some.",
                remedy="Attack an observation without noise by matched_filter.",
            )


def log_likelihoods(view: LineUpView) -> Doubles:
    """Return how much likelier each candidate makes the observation than nobody.

    Per observation ``y`` and candidate gradient ``g``, with ``j`` of the steps
    having drawn it, ``log sum_j Bin(j) exp((j <y, g> - j^2 |g|^2 / 2) / (steps std^2))``;
    for one step and full batch that is Hayes' ``<y, g> - |g|^2 / 2``.

    Returns:
      Natural logarithms, float64 ``(trials, candidates)``. The most likely
      candidate is the argmax; :func:`softmax` of it is the posterior under a uniform prior.
    """
    variance = view.noise.steps * view.noise.std**2
    total = np.zeros((len(view.observed), view.candidates.shape[1]))
    size = view.candidates.shape[1] * (1 if view.noise.rate == 1 else view.noise.steps + 1)
    trials = max(1, _CHUNK // size)
    for seen in range(view.observed.shape[1]):
        lined = view.candidates[min(seen, len(view.candidates) - 1)]
        squared = (lined**2).sum(axis=1) / variance
        for start in range(0, len(total), trials):
            part = slice(start, start + trials)
            inner = view.observed[part, seen] @ lined.T / variance
            total[part] += drawn_mixture(inner, squared, noise=view.noise)
    return total


def drawn_mixture(inner: Doubles, squared: Doubles, *, noise: StepNoise) -> Doubles:
    """Return ``log sum_j Bin(j; steps, rate) exp(j inner - j^2 squared / 2)``, elementwise.

    Args:
      inner: Scaled inner products, float64 ``(trials, candidates)``.
      squared: Scaled squared norms, float64 ``(candidates,)``.
      noise: Steps and sampling rate.
    """
    if noise.rate == 1:
        return np.asarray(noise.steps * inner - noise.steps**2 * squared / 2)
    if noise.steps == 1:
        drawn = np.log(noise.rate) + inner - squared / 2
        return np.asarray(np.logaddexp(np.log1p(-noise.rate), drawn))
    times = np.arange(noise.steps + 1)
    weight = binom.logpmf(times, noise.steps, noise.rate)
    exponents = weight - times**2 * squared[:, None] / 2 + times * inner[..., None]
    return np.asarray(logsumexp(exponents, axis=-1))


def matched_filter(view: LineUpView) -> Doubles:
    """Return each candidate's inner product over its gradient's norm, summed over observations.

    What a signal detector does that knows neither sampling nor noise; float64
    ``(trials, candidates)``.
    """
    total = np.zeros((len(view.observed), view.candidates.shape[1]))
    for seen in range(view.observed.shape[1]):
        lined = view.candidates[min(seen, len(view.candidates) - 1)]
        length = np.maximum(np.linalg.norm(lined, axis=1), np.finfo(np.float64).tiny)
        total += view.observed[:, seen] @ lined.T / length
    return total


def best_success(scores: Doubles) -> Doubles:
    """Return the chance with which the best attack of all names each trial's patient.

    Bayes' optimum is to name the likeliest, and it is right with that one's
    posterior probability: the mean over trials estimates the optimum with less
    variance than counting hits (Rao and Blackwell).

    Args:
      scores: From :func:`log_likelihoods`, candidates drawn uniformly.

    Returns:
      float64 ``(trials,)``.
    """
    return np.asarray(softmax(scores, axis=1).max(axis=1))
