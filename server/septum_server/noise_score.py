"""A cheap look at each release, each round: is it as loud as its stated noise, and like no other?

A coordinator sees releases alone. What it can tell from one: noise that is
plainly missing, on all weights or on a stretch of them; a norm that the
mechanism does not make; the same noise twice. What it cannot: everything that
an audit with the hospital's data is for (``simulations/README.md``). An alarm
refuses nothing; it is a line in the round's record for people to follow up.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Final

import numpy as np

from septum.models import Vector
from septum.study import Study
from septum.training import Training
from septum.wire import Release

NOISE_LOW: Final = "NOISE_LOW"
NOISE_LOW_SOMEWHERE: Final = "NOISE_LOW_SOMEWHERE"
NORM_HIGH: Final = "NORM_HIGH"
SAME_NOISE: Final = "SAME_NOISE"

_SIGMAS: Final = 6.0
"""Standard deviations of an alarm: an honest release passes them once in a billion."""

_HALF: Final = 0.674489750196082
"""Median of the absolute value of a standard normal number."""

_MEDIAN_SPREAD: Final = 1.166
"""Standard deviation of that median over n numbers, relative to it, times the root of n."""

_SLACK: Final = 0.05
"""What training may take off the noise of earlier steps: its gradients answer to it."""

_BLOCK: Final = 1024
"""Weights of a stretch that is looked at by itself."""

_RESOLVED: Final = 0.95
"""A threshold beyond which a score tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Implied:
    """What a round of the stated mechanism implies for a release.

    Attributes:
      std: Standard deviation of the noise on each weight.
      signal: Largest norm that the patients' part can have.
    """

    std: float
    signal: float

    @classmethod
    def of(cls, release: Release, study: Study) -> "Implied | None":
        """Return it for ``release`` as stated, or None under Adam, which forgets how loud noise is.

        Each step adds ``learning_rate / expected_patients`` times sum and noise, which
        momentum multiplies by ``1 + m + m**2 + ...`` and FedProx's pull shortens.
        """
        mechanism, training = study.mechanism(release.site), study.training
        if training.optimizer == "adam":
            return None
        carried = _carried(training, steps=mechanism.steps)
        unit = training.learning_rate * release.max_grad_norm / mechanism.expected_patients
        most = mechanism.expected_patients + _SIGMAS * math.sqrt(mechanism.expected_patients)
        return cls(
            std=unit * release.noise_multiplier * math.sqrt(sum(each**2 for each in carried)),
            signal=unit * (most + _SIGMAS) * sum(carried),
        )


def scores(
    releases: Mapping[str, Release],
    *,
    study: Study,
    previous: Mapping[str, Vector] = MappingProxyType({}),
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """Return each site's scores of one round, and the alarms.

    Scores: ``noise``, the median size of a weight's change over what noise alone
    gives it, and ``noise_least``, the same on the quietest stretch of weights
    (patients only add to both: Anderson 1955); ``norm``, over the largest that
    the mechanism makes; ``likeness``, the largest correlation with another site's
    release of this round or the site's own last one. A score that this study
    cannot resolve is left out.

    Args:
      releases: The admitted ones, by site.
      study: Learning rate, optimizer, steps and divisors.
      previous: Each site's release of the round before, where there is one.

    Guarantees:
      - A site that does what it states raises an alarm less than once in ten
        million releases, but for noise that training itself undid.
    """
    made: dict[str, dict[str, float]] = {}
    alarms: list[str] = []
    implied = {site: Implied.of(release, study) for site, release in releases.items()}
    for site, release in sorted(releases.items()):
        known = implied[site]
        made[site] = {}
        if known is not None:
            alarms += _loudness(site, release.update, known, made[site])
    pairs: list[tuple[str, str, Vector, Vector]] = [
        (a, b, releases[a].update, releases[b].update) for a, b in combinations(sorted(releases), 2)
    ]
    pairs += [
        (site, f"{site}'s last", releases[site].update, previous[site])
        for site in sorted(releases)
        if site in previous and previous[site].shape == releases[site].update.shape
    ]
    for one, other, mine, theirs in pairs:
        both = [each for each in (implied[one], implied.get(other, implied[one])) if each]
        limit = _likeness_limit(both, len(mine))
        if limit is None:
            continue
        likeness = _correlation(mine, theirs)
        for site in {one, other} & set(made):
            made[site]["likeness"] = max(made[site].get("likeness", -1.0), likeness)
        if likeness > limit:
            alarms.append(f"{one}: {SAME_NOISE} {likeness:.3f} with {other}'s (most {limit:.3f})")
    rounded = {site: {k: round(v, 4) for k, v in each.items()} for site, each in made.items()}
    return rounded, tuple(alarms)


def _carried(training: Training, *, steps: int) -> list[float]:
    """Return how much of each step's gradient is in the update, in learning rates."""
    kept = 1.0 - training.learning_rate * training.proximal_mu
    if training.momentum == 0:
        return [kept ** (steps - step) for step in range(1, steps + 1)]
    m = training.momentum
    return [(1 - m ** (steps - step + 1)) / (1 - m) for step in range(1, steps + 1)]


def _loudness(site: str, update: Vector, implied: Implied, made: dict[str, float]) -> Iterable[str]:
    sizes = np.abs(update.astype(np.float64)) / (_HALF * implied.std)
    blocks = len(sizes) // _BLOCK
    stretches = {"noise": (NOISE_LOW, sizes[None])}
    if blocks > 1:
        by_block = sizes[: blocks * _BLOCK].reshape(blocks, _BLOCK)
        stretches["noise_least"] = (NOISE_LOW_SOMEWHERE, by_block)
    for name, (alarm, table) in stretches.items():
        least = 1.0 - _SLACK - _SIGMAS * _MEDIAN_SPREAD / math.sqrt(table.shape[1])
        if least <= 1.0 - _RESOLVED:
            continue
        made[name] = float(np.median(table, axis=1).min())
        if made[name] < least:
            yield f"{site}: {alarm} {made[name]:.3f} of the stated noise (least {least:.3f})"
    count = len(update)
    loud = implied.std * math.sqrt(count) * (1 + _SIGMAS / math.sqrt(2 * count))
    made["norm"] = float(np.sqrt(np.square(update, dtype=np.float64).sum())) / (
        loud + implied.signal
    )
    if made["norm"] > 1.0:
        yield f"{site}: {NORM_HIGH} {made['norm']:.3f} of what the mechanism makes (most 1)"


def _likeness_limit(both: list[Implied], size: int) -> float | None:
    """Return the largest correlation of two honest releases; None where that says nothing."""
    if not both:
        return None
    signal = math.prod(each.signal for each in both) ** (1 / len(both))
    loud = math.prod(math.hypot(each.signal, each.std * math.sqrt(size)) for each in both)
    limit = signal**2 / loud ** (2 / len(both)) + _SIGMAS / math.sqrt(size)
    return limit if limit < _RESOLVED else None


def _correlation(one: Vector, other: Vector) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = math.sqrt(float(np.square(a).sum()) * float(np.square(b).sum()))
    return float(a @ b) / norms if norms > 0 else 0.0
