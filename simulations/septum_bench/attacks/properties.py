"""What share of the patients behind a release has a property: a linear probe in closed form.

Melis et al. (2019, arXiv:1805.04049) train a classifier on updates that the
attacker simulates from records of its own. Sums of many patients' gradients are
near to normal, so the best such classifier is Fisher's, and its training set
can be replaced by the means and covariance that it would be drawn from.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from septum.errors import ConfigError
from septum_bench.attacks.likelihood import Doubles, StepNoise
from septum_bench.threat import Grant, View, granted

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyView(View):
    """Releases, and the attacker's own records with the property known.

    Attributes:
      released: Sums of steps' clipped gradients and noise, ``(releases, k)``.
      pool: Clipped gradients of the attacker's own patients, ``(patients, k)``.
      pool_has: Which of them have the property, bool ``(patients,)``.
      noise: The mechanism; ``std`` 0 for none.
      drawn: Patients whom a release adds up, on average.

    Raises:
      ConfigError: A field is not granted, or a side of the property is empty.
    """

    released: Doubles = granted(Grant.OBSERVED, repr=False)
    pool: Doubles = granted(Grant.SHADOW_POOL, repr=False)
    pool_has: Bools = granted(Grant.SHADOW_POOL, repr=False)
    noise: StepNoise = granted(Grant.NOISE)
    drawn: float = granted(Grant.LOCAL_TRAINING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(int(self.pool_has.sum()), int((~self.pool_has).sum())) < 2:
            raise ConfigError(
                f"{int(self.pool_has.sum())} of the attacker's {len(self.pool_has)} patients "
                "have the property.",
                remedy="Give at least two with it and two without.",
            )


def property_scores(view: PropertyView) -> Doubles:
    """Return a score of each release that grows with the share of the property.

    Fisher's direction: the difference of the two groups' mean gradients over the
    covariance of a release, which is the noise and the draws of the pool's spread.
    """
    inside, outside = view.pool[view.pool_has], view.pool[~view.pool_has]
    shift = inside.mean(axis=0) - outside.mean(axis=0)
    rest = np.concatenate([inside - inside.mean(axis=0), outside - outside.mean(axis=0)])
    spread = view.drawn * rest.T @ rest / len(rest)
    noise = view.noise.steps * view.noise.std**2
    # Without noise the estimate of the covariance is singular: a hundredth of its mean holds it.
    floor = max(noise, 0.01 * float(np.trace(spread)) / len(spread))
    weights = np.linalg.solve(spread + floor * np.eye(len(spread)), shift)
    return np.asarray(view.released @ weights)
