"""The mechanism: every number that moves epsilon, in one frozen value.

Noise, clip, sampling rate, steps and divisor cannot be set apart from one
another, so sensitivity cannot drift from the clip. All of them are public
constants of the study: none is computed from a hospital's data, because a
neighbouring data set must not change them (arXiv:2605.15648).
"""

import math
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from septum.accounting import Charge

Clipping = Literal["flat", "automatic"]
"""How a patient's gradient is held to the L2 norm ``max_grad_norm``.

``flat`` shortens what is longer (Abadi et al. 2016, arXiv:1607.00133);
``automatic`` divides every gradient by its norm plus a constant (AUTO-S, Bu et
al. 2023, arXiv:2206.07136). Both have sensitivity ``max_grad_norm``, so both
cost the same.
"""

_TAIL: Final = 6.0  # standard deviations; a Gaussian passes them once in a billion draws


class Mechanism(BaseModel):
    """Poisson-subsampled Gaussian mechanism over the patients of one hospital.

    Each of ``steps`` steps draws every patient independently with probability
    ``sampling_rate``, clips the drawn patient's gradient to the L2 norm
    ``max_grad_norm``, sums, adds Gaussian noise of standard deviation
    ``noise_multiplier * max_grad_norm`` to every coordinate and divides by the
    constant ``expected_patients`` (Abadi et al. 2016, arXiv:1607.00133). ``delta``
    is where its epsilon is stated.

    Guarantees:
      - Adding or removing one patient, with any number of images, moves the
        un-noised sum of a step by at most ``max_grad_norm``.
      - ``steps`` steps cost exactly :meth:`charge`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_multiplier: float = Field(gt=0, allow_inf_nan=False)
    max_grad_norm: float = Field(ge=1e-6, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1, allow_inf_nan=False)
    steps: int = Field(gt=0)
    expected_patients: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=0.1)
    clipping: Clipping = "flat"

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the clipped sum."""
        return self.noise_multiplier * self.max_grad_norm

    def charge(self) -> Charge:
        """Return what one round of this mechanism costs, for the accountant."""
        return Charge(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

    def event(self) -> Any:  # a DpEvent: importing its name would import SciPy
        """Return one round of this mechanism in ``dp-accounting``'s words, for any accountant.

        >>> Mechanism(noise_multiplier=1.0, max_grad_norm=2.0, sampling_rate=0.1, steps=3,
        ...           expected_patients=10, delta=1e-4).event().count
        3
        """
        return self.charge().event()

    def tightened(
        self, *, noise_floor: float, clip_ceiling: float, delta: float = 1.0
    ) -> "Mechanism":
        """Return this mechanism held to a site's limits: more noise, a smaller clip or delta.

        >>> study = Mechanism(noise_multiplier=0.5, max_grad_norm=2.0, sampling_rate=0.1,
        ...                   steps=1, expected_patients=10, delta=1e-4)
        >>> site = study.tightened(noise_floor=1.0, clip_ceiling=1.0)
        >>> site.noise_multiplier, site.max_grad_norm
        (1.0, 1.0)
        """
        return self.model_copy(
            update={
                "noise_multiplier": max(self.noise_multiplier, noise_floor),
                "max_grad_norm": min(self.max_grad_norm, clip_ceiling),
                "delta": min(self.delta, delta),
            }
        )

    def update_norm_bound(self, *, parameters: int, learning_rate: float) -> float:
        """Return an L2 norm that an honest round of this mechanism does not pass.

        Per step: the clipped sum of at most ``expected + 6 * sqrt(expected)``
        patients, plus noise of norm ``std * (sqrt(parameters) + 6)``, which
        plain SGD scales by ``learning_rate / expected_patients``. A proximal
        pull only shortens the way. What is longer was not made by this
        mechanism, so the gate keeps it and the coordinator does not admit it.
        """
        patients = self.expected_patients + _TAIL * math.sqrt(self.expected_patients) + _TAIL
        noise = self.noise_std * (math.sqrt(parameters) + _TAIL)
        step = learning_rate * (self.max_grad_norm * patients + noise) / self.expected_patients
        return self.steps * step
