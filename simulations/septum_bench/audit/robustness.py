"""No attack names a patient more often than this: reconstruction robustness of the mechanism.

A mechanism is (eta, gamma)-robust if no attacker reconstructs within eta with a
chance above gamma (Balle, Cherubin and Hayes 2022, arXiv:2201.04845). For naming
one of N candidates the blind guess is right with kappa = 1 / N, and gamma is how
much the mechanism can blow that up. It holds also for an attacker who sees
every step, chooses the weights and knows everybody else.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dp_accounting
import numpy as np
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
)
from scipy.stats import norm

from septum.accounting import Charge
from septum.errors import ConfigError

_GRID: Final = 1e-3  # of privacy losses; dots are joined, so the bound moves by less than 1e-4
_SLOPES: Final = 4096
_FLATTEST: Final = -10.0  # of the trade-off's slopes, as a logarithm


def gaussian_bound(kappa: float, *, noise_multiplier: float, steps: int) -> float:
    """Return gamma for full-batch steps: ``Phi(Phi^-1(kappa) + sqrt(steps) / noise_multiplier)``.

    Kaissis, Hayes, Ziller and Rueckert (2023, arXiv:2307.03928).

    Args:
      kappa: Chance of the blind guess, in (0, 1).
      noise_multiplier: Above 0.
      steps: At least 1.

    >>> round(gaussian_bound(1 / 256, noise_multiplier=0.5, steps=1), 3)
    0.255
    """
    _check(kappa)
    return float(norm.cdf(norm.ppf(kappa) + np.sqrt(steps) / noise_multiplier))


def blow_up(kappa: float, charge: Charge) -> float:
    """Return gamma: the most that ``charge`` lifts an event of chance ``kappa`` to.

    ``sup {nu(E): mu(E) <= kappa}`` with mu the noise of all steps without the
    patient and nu with the patient drawn at the sampling rate (Hayes et al. 2023,
    arXiv:2302.07225). By duality it is the least of ``delta(eps) + exp(eps) kappa``
    over eps, and delta comes from the accountant's privacy-loss
    distribution with pessimistic rounding, so no sampling error is in it.

    Args:
      kappa: Chance of the blind guess, in (0, 1).
      charge: The mechanism and its steps.

    Guarantees:
      - Never below the exact value, and never below ``kappa``.
      - Deterministic.
    """
    _check(kappa)
    if charge.sampling_rate == 1:
        return gaussian_bound(kappa, noise_multiplier=charge.noise_multiplier, steps=charge.steps)
    slopes = np.linspace(_FLATTEST, -np.log(kappa), _SLOPES)
    delta = np.asarray(_composed(charge).get_delta_for_epsilon(slopes))
    return float(min(1.0, np.maximum(delta + np.exp(slopes) * kappa, kappa).min()))


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What a study's mechanism allows at a gallery's own prior.

    Attributes:
      kappa: Chance of the blind guess.
      gamma: Chance that no attack passes.
    """

    kappa: float
    gamma: float

    @classmethod
    def of_gallery(cls, candidates: int, charge: Charge) -> "Robustness":
        """Return the bound on naming one of ``candidates`` patients, each equally likely."""
        kappa = 1 / candidates
        return cls(kappa=kappa, gamma=blow_up(kappa, charge))


@lru_cache(maxsize=64)
def _composed(charge: Charge) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        charge.noise_multiplier,
        value_discretization_interval=_GRID,
        sampling_prob=charge.sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    ).self_compose(charge.steps)


def _check(kappa: float) -> None:
    if not 0 < kappa < 1:
        raise ConfigError(
            f"the blind guess is right with chance {kappa:g}, which must be between 0 and 1.",
            remedy="Give at least two candidates.",
        )
