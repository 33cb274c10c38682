"""Who took part in a release: each candidate's draws, when nothing is known of the others.

What a hospital's other patients add is no white noise: it points where patients'
gradients point. The attacker learns that from the candidates themselves, and so
a plain inner product becomes a linear regression of the release on all their
gradients at once.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from septum.errors import ConfigError
from septum_bench.attacks.likelihood import Doubles, StepNoise, drawn_mixture
from septum_bench.threat import Grant, View, granted

_LOUDNESS: Final = 4.0 ** np.arange(-12, 13)
_FAINTEST: Final = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleaseView(View):
    """Releases, and candidates whose data may be in one of them.

    Attributes:
      released: Each release as the sum of its steps' clipped gradients and
        noise, ``(releases, params)``.
      candidates: Each candidate's clipped gradient, ``(candidates, params)``.
      noise: The mechanism; ``std`` 0 where there is no noise.
      patients: Those whom the hospital declares.

    Raises:
      ConfigError: A field is not granted, or shapes do not fit.
    """

    released: npt.NDArray[Any] = granted(Grant.OBSERVED, repr=False)
    candidates: npt.NDArray[Any] = granted(Grant.CANDIDATES, repr=False)
    noise: StepNoise = granted(Grant.NOISE)
    patients: int = granted(Grant.LOCAL_TRAINING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates.shape[1:] != self.released.shape[1:] or len(self.candidates) < 2:
            raise ConfigError(
                f"releases of shape {self.released.shape} and candidates of shape "
                f"{self.candidates.shape} do not fit.",
                remedy="Give at least two candidates' gradients of the same network.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Presence:
    """What a release says of each candidate.

    Attributes:
      draws: Unbiased estimate of the steps in which each was drawn, float64
        ``(releases, candidates)``.
      log_odds: How much likelier it is that each is a patient of the hospital, drawn
        at its sampling rate, than that it is not; same shape.
    """

    draws: Doubles
    log_odds: Doubles


def presence(view: ReleaseView) -> Presence:
    """Return each candidate's estimated draws and log odds.

    A Bayesian linear regression: draws have the binomial's variance, scaled to
    the declared patients, and are estimated for each candidate with everybody
    else as noise. Noise that the mechanism does not name, such as the drift of
    the weights within a round, is fitted by the regression's own evidence.

    Guarantees:
      - A candidate's figures are those of a regression that leaves its own prior out.
      - Permuting candidates permutes the result.
    """
    made = np.asarray(view.candidates, np.float64)
    gram, noise, count = made @ made.T, view.noise, len(made)
    expected = noise.steps * noise.rate
    # The gallery stands for all patients of the hospital, so each of its rows weighs more.
    spread = max(expected * (1 - noise.rate), _FAINTEST) * view.patients / count
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, values[-1] * count * np.finfo(np.float64).eps)
    seen = np.asarray(view.released, np.float64) @ made.T
    seen -= expected * view.patients * gram.mean(axis=1)
    draws, log_odds = np.empty(seen.shape), np.empty(seen.shape)
    for number, turned in enumerate(seen @ vectors):
        loud = _fitted(turned, values, spread=spread, least=noise.steps * noise.std**2)
        solved = spread / (loud + spread * values)
        leverage = np.einsum("ij,j,ij->i", vectors, solved * values, vectors)
        leverage = np.clip(leverage, _FAINTEST, 1 - _FAINTEST)
        draws[number] = vectors @ (solved * turned) / leverage + expected
        precision = leverage / (spread * (1 - leverage))
        inner = (draws[number] * precision)[None]
        log_odds[number] = drawn_mixture(inner, precision, noise=noise)[0]
    return Presence(draws=draws, log_odds=log_odds)


def cosines(view: ReleaseView) -> Doubles:
    """Return each release's cosine with each candidate, float64 ``(releases, candidates)``.

    The plain measurement of federated membership attacks: of one release alone,
    it takes what the other patients add for noise.
    """
    made = np.asarray(view.candidates, np.float64)
    seen = np.asarray(view.released, np.float64)
    length = np.linalg.norm(seen, axis=1)[:, None] * np.linalg.norm(made, axis=1)
    return np.asarray(seen @ made.T / np.maximum(length, np.finfo(np.float64).tiny))


def all_for_one(measured: Doubles, *, own: int) -> Doubles:
    """Return FedMIA's score of each candidate for one hospital: how it stands out over rounds.

    Zhu et al. (2025, arXiv:2402.06289): what the other hospitals' releases say of
    a candidate, who is in none of them, tells how non-members measure.

    Args:
      measured: A measurement for each round, hospital and candidate, float64
        ``(rounds, hospitals, candidates)``.
      own: Which hospital is attacked.

    Returns:
      Float64 ``(candidates,)``, the sum over rounds of standardised measurements.

    Raises:
      ConfigError: There is no other hospital to compare with.
    """
    others = np.delete(measured, own, axis=1)
    if not others.shape[1]:
        raise ConfigError(
            "one hospital alone cannot be told apart from others.",
            remedy="Attack a study of at least two hospitals, or sum the measurements.",
        )
    centre = others.mean(axis=1)
    rest = others - centre[:, None]
    # Few hospitals: their spread is pooled over the candidates of a round.
    spread = np.sqrt((rest**2).mean(axis=(1, 2), keepdims=True)[:, 0])
    if others.shape[1] == 1:
        spread = others.std(axis=(1, 2), keepdims=True)[:, 0]
    stands_out = (measured[:, own] - centre) / np.maximum(spread, _FAINTEST)
    return np.asarray(stands_out.sum(axis=0))


def _fitted(turned: Doubles, values: Doubles, *, spread: float, least: float) -> float:
    """Return the noise variance, at least ``least``, under which what is seen is likeliest."""
    floor = max(least, _FAINTEST * float(values.mean()) * spread)
    base = floor if least else float(values.mean()) * spread
    best, loud = -np.inf, floor
    # In the orthonormal basis of the span each coordinate has variance loud + spread * value.
    coordinates = turned**2 / values
    for candidate in np.maximum(base * _LOUDNESS, floor):
        variance = candidate + spread * values
        fit = -0.5 * float((np.log(variance) + coordinates / variance).sum())
        if fit > best:
            best, loud = fit, float(candidate)
    return loud
