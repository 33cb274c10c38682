"""Line-ups of a mechanism at a cohort's own gradients: many trials, fresh noise, known truth.

The auditor's side: it draws the target, makes the observation, and scores what
an attack that sees only a :class:`~septum_bench.attacks.likelihood.LineUpView` answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from septum_bench.attacks.likelihood import (
    Doubles,
    LineUpView,
    StepNoise,
    best_success,
    log_likelihoods,
)
from septum_bench.metrics import exact_binomial
from septum_bench.threat import ThreatModel

Indices = npt.NDArray[np.int64]
Attack = Callable[[LineUpView], Doubles]

_NUMBERS: Final = 1 << 24  # at a time: 128 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """What came of many line-ups.

    Attributes:
      truth: Whose data each observation holds, int64 ``(trials,)``.
      rank: Place of that patient in the attack's order, 1 if named; int64 ``(trials,)``.
        A tie is broken at random.
      evidence: Of each trial, how much likelier somebody of the gallery is than
        nobody: the open-set score, float64 ``(trials,)``.
      optimum: Chance with which the best attack names each trial's patient, float64 ``(trials,)``.
    """

    truth: Indices
    rank: Indices
    evidence: Doubles
    optimum: Doubles

    @property
    def named(self) -> int:
        """Trials whose patient was named."""
        return int((self.rank == 1).sum())

    @property
    def share(self) -> float:
        """Share of trials whose patient was named."""
        return self.named / len(self.rank)

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of :attr:`share` (Clopper and Pearson 1934)."""
        return exact_binomial(self.named, len(self.rank))

    def of_patients(self, candidates: int, hit: npt.NDArray[np.bool_]) -> Doubles:
        """Return the share of each patient's trials that were hit; NaN for one never tried."""
        tried = np.bincount(self.truth, minlength=candidates)
        hits = np.bincount(self.truth[hit], minlength=candidates)
        return np.where(tried > 0, hits / np.maximum(tried, 1), np.nan)


def run_trials(
    candidates: Doubles,
    *,
    trials: int,
    noise: StepNoise,
    observations: int,
    threat: ThreatModel,
    rng: np.random.Generator,
    attack: Attack = log_likelihoods,
    heard: Doubles | None = None,
) -> Trials:
    """Put ``trials`` patients, drawn uniformly, to the attack, and score its answers.

    Args:
      candidates: Clipped gradients in one basis, ``(observations or 1, candidates, k)``.
      trials: How many, each with noise of its own.
      noise: The mechanism of one observation.
      observations: Observations of each trial.
      threat: The attacker.
      rng: Of targets, draws and noise.
      attack: Scores of each candidate, ``(trials, candidates)``.
      heard: For a null run, the gradients that the observations really hold, in
        the same shape: patients who are not in the line-up. The truth to name is
        then any candidate, so that naming it is chance.
    """
    count, width = candidates.shape[1:]
    truth = rng.integers(count, size=trials)
    parts = []
    size = max(1, _NUMBERS // (observations * max(width, count)))
    for start in range(0, trials, size):
        who = truth[start : start + size]
        source = candidates if heard is None else heard
        actor = who if heard is None else rng.integers(source.shape[1], size=len(who))
        observed = observe(source, actor, noise=noise, observations=observations, rng=rng)
        view = LineUpView(threat=threat, observed=observed, candidates=candidates, noise=noise)
        scores = attack(view)
        best = scores if attack is log_likelihoods else log_likelihoods(view)
        parts.append((_ranks(scores, who, rng), logsumexp(best, axis=1), best_success(best)))
    rank, evidence, optimum = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Trials(truth=truth, rank=rank, evidence=evidence - np.log(count), optimum=optimum)


def observe(
    source: Doubles,
    actor: Indices,
    *,
    noise: StepNoise,
    observations: int,
    rng: np.random.Generator,
) -> Doubles:
    """Return what is seen of each actor: draws times gradient plus noise, in one basis.

    Args:
      source: ``(observations or 1, patients, k)``.
      actor: Index of each trial's patient; -1 for nobody.
      noise: The mechanism of one observation.
      observations: How many of each trial.
      rng: Of draws and noise.

    Returns:
      float64 ``(trials, observations, k)``.
    """
    drawn = rng.binomial(noise.steps, noise.rate, size=(len(actor), observations))
    drawn = np.where(actor[:, None] < 0, 0, drawn)
    seen = rng.standard_normal((len(actor), observations, source.shape[2]))
    seen *= np.sqrt(noise.steps) * noise.std
    for each in range(observations):
        gradient = source[min(each, len(source) - 1)][np.maximum(actor, 0)]
        seen[:, each] += drawn[:, each, None] * gradient
    return np.asarray(seen)


def alarms(
    candidates: Doubles,
    *,
    trials: int,
    noise: StepNoise,
    threat: ThreatModel,
    rng: np.random.Generator,
) -> Doubles:
    """Return the open-set score of observations that hold nobody, float64 ``(trials,)``."""
    count, width = candidates.shape[1:]
    observations, found = len(candidates), []
    size = max(1, _NUMBERS // (observations * max(width, count)))
    for start in range(0, trials, size):
        nobody = np.full(min(size, trials - start), -1)
        observed = observe(candidates, nobody, noise=noise, observations=observations, rng=rng)
        view = LineUpView(threat=threat, observed=observed, candidates=candidates, noise=noise)
        found.append(logsumexp(log_likelihoods(view), axis=1) - np.log(count))
    return np.concatenate(found)


def found_at(present: Trials, absent: Doubles, *, false_alarms: float) -> npt.NDArray[np.bool_]:
    """Return which trials named their patient with an alarm raised, bool ``(trials,)``.

    Open set: where nobody took part, at most ``false_alarms`` of the trials raise
    an alarm. The threshold comes from ``absent`` alone, which the attacker can
    make: it knows the noise.
    """
    threshold = float(np.quantile(absent, 1 - false_alarms, method="higher"))
    return np.asarray((present.rank == 1) & (present.evidence > threshold))


def _ranks(scores: Doubles, truth: Indices, rng: np.random.Generator) -> Indices:
    own = scores[np.arange(len(truth)), truth][:, None]
    ahead, tied = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
    # A tie is broken at random: an attack that knows nothing must end at chance.
    return np.asarray(1 + ahead + rng.integers(0, tied + 1), np.int64)
