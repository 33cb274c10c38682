"""What a study costs a patient and what a hospital can afford, before anybody joins.

Pure numbers from public constants: no cohort is read, so planning costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from septum.accounting import Charge, epsilon, noise_for, rounds_within
from septum.caps import Caps
from septum.errors import ConfigError
from septum.privacy_filter import cap_for
from septum.study import Study

_WEAK_DELTA: Final = 0.1  # delta times patients from which on a plan is told so


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One round's mechanism, and how many of it.

    Args:
      noise_multiplier: Standard deviation of the noise over the clip.
      sampling_rate: Chance of each patient in each step.
      steps: Steps a round.
      rounds: Rounds.
      delta: Where epsilon is stated.
      patients: Training patients of the hospital, for the batch; 0 if unknown.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    rounds: int
    delta: float
    patients: int = 0

    @property
    def charge(self) -> Charge:
        """What one round costs."""
        return Charge(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

    @property
    def epsilon(self) -> float:
        """Patient-level epsilon of all rounds, by privacy-loss distributions."""
        return epsilon([self.charge] * self.rounds, delta=self.delta)

    @property
    def batch(self) -> float:
        """Patients drawn in a step, on average."""
        return self.sampling_rate * self.patients


def of_study(study: Study, *, site: str) -> Setup:
    """Return the plan of one participant of a study, as the study states it.

    Raises:
      ConfigError: The study does not name this site.
    """
    names = [participant.name for participant in study.sites]
    if site not in names:
        raise ConfigError(f"the study does not name {site!r}.", remedy=f"Choose one of {names}.")
    return Setup(
        noise_multiplier=study.privacy.noise_multiplier,
        sampling_rate=study.privacy.sampling_rate,
        steps=study.privacy.steps_per_round,
        rounds=study.rounds,
        delta=study.privacy.delta,
        patients=study.participant(site).patients,
    )


@dataclass(frozen=True, kw_only=True)
class Affordable:
    """What one hospital can afford of a plan under its limits, with nothing spent before.

    ``setup`` is the plan as it would run: the stricter of each pair of numbers.
    ``by_study``, ``by_year`` and ``by_total`` are the rounds that fit under each
    cap, the year's if all rounds fall into one.
    """

    setup: Setup
    max_grad_norm: float | None
    by_study: int
    by_year: int
    by_total: int
    needs: float

    @property
    def rounds(self) -> int:
        """Rounds that fit under every cap."""
        return min(self.by_study, self.by_year, self.by_total)

    @property
    def weak_delta(self) -> bool:
        """Whether delta is not small against one over the number of patients."""
        return self.setup.patients * self.setup.delta > _WEAK_DELTA


def afford(setup: Setup, caps: Caps, *, max_grad_norm: float | None = None) -> Affordable:
    """Return what a hospital with these limits can afford of ``setup``.

    >>> plan = Setup(noise_multiplier=1.0, sampling_rate=0.1, steps=10, rounds=50, delta=1e-5)
    >>> afford(plan, Caps()).rounds
    1
    """
    held = replace(
        setup,
        noise_multiplier=max(setup.noise_multiplier, caps.noise_floor),
        delta=min(setup.delta, caps.delta),
    )
    one, most = held.charge, setup.rounds
    return Affordable(
        setup=held,
        max_grad_norm=max_grad_norm and min(max_grad_norm, caps.clip_ceiling),
        by_study=rounds_within(one, limit=caps.epsilon_per_study, delta=held.delta, most=most),
        by_year=caps.year.rounds_within(one, most=most),
        by_total=caps.total.rounds_within(one, most=most),
        needs=cap_for([one] * most, delta=caps.delta),
    )


def noise_needed(setup: Setup, target: float) -> float:
    """Return the smallest noise multiplier that brings all rounds of ``setup`` to ``target``."""
    return noise_for(
        target=target,
        delta=setup.delta,
        sampling_rate=setup.sampling_rate,
        steps=setup.steps * setup.rounds,
    )


Curve = Sequence[tuple[float, float]]
"""Points of (what is varied, epsilon)."""


def curves(setup: Setup, *, points: int = 9) -> dict[str, Curve]:
    """Return epsilon against rounds, noise multiplier, batch and patients, each alone varied.

    Batch is the number of patients drawn in a step; varied over patients, it is
    kept and the rate follows. Both are left out where the patients are unknown.
    """

    def curve(values: Sequence[float], changed: Callable[[float], Setup]) -> Curve:
        return [(value, changed(value).epsilon) for value in values]

    found = {
        "rounds": curve(
            sorted({max(1, round(setup.rounds * 2 * k / points)) for k in range(1, points + 1)}),
            lambda value: replace(setup, rounds=int(value)),
        ),
        "noise multiplier": curve(
            [max(0.3, setup.noise_multiplier * factor) for factor in _spread(points)],
            lambda value: replace(setup, noise_multiplier=value),
        ),
    }
    if setup.patients:
        found["patients drawn in a step"] = curve(
            sorted({min(setup.patients, setup.batch * factor) for factor in _spread(points)}),
            lambda value: replace(setup, sampling_rate=value / setup.patients),
        )
        found["training patients, same batch"] = curve(
            sorted({max(setup.batch, setup.patients * factor) for factor in _spread(points)}),
            lambda value: replace(setup, sampling_rate=setup.batch / value),
        )
    return found


def _spread(points: int) -> list[float]:
    """Return factors from 1/3 to 3, evenly by ratio."""
    return [3 ** (2 * k / (points - 1) - 1) for k in range(points)]
