"""A cheap look at each release, each round: is it as loud as its stated noise, and like no other?

A coordinator sees releases alone. What it can tell from one: noise that is
plainly missing, on all weights or on a stretch of them; a norm that the
mechanism does not make; the same noise twice. What it cannot: everything that
an audit with the hospital's data is for (``simulations/README.md``). An alarm
refuses nothing; it is a line in the round's record for people to follow up.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from septum.models import Vector
from septum.step_bounds import update_norm
from septum.study import Study
from septum.training import Training

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

_PART: Final = 1 << 6
"""Blocks that are looked at together: they stay in a processor's cache."""

_ENOUGH: Final = 1 << 20
"""Weights whose median stands for all."""

_AT_ONCE: Final = 1 << 21
"""Numbers of all releases together that are compared at a time."""

_COMPARED: Final = 1 << 30
"""Products that comparing every pair should cost."""

_FEWEST, _MOST = 1 << 18, 1 << 20
"""Weights of each release that are compared at least, whatever it costs, and at most."""

_RESOLVED: Final = 0.95
"""A threshold beyond which a score tells nothing."""


class Loud(Protocol):
    """What is looked at of a release: an update that may lie on disk, and what it states."""

    @property
    def site(self) -> str:
        """Who released it."""

    @property
    def noise_multiplier(self) -> float:
        """What it says its noise is."""

    @property
    def max_grad_norm(self) -> float:
        """What it says its clip is."""

    @property
    def update(self) -> Vector:
        """The vector, float32 (params,), read anew at each call."""


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
    def of(cls, release: Loud, study: Study) -> "Implied | None":
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


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one release alone shows: its scores, and the alarms that these raise."""

    scores: Mapping[str, float]
    alarms: tuple[str, ...]


def look(release: Loud, study: Study, *, norm: float | None = None) -> Look:
    """Return what ``release`` alone shows; see :func:`scores`.

    Args:
      release: An admitted one: every number of it is finite.
      study: Its study.
      norm: Its norm, where that is known.
    """
    known, made = Implied.of(release, study), dict[str, float]()
    if known is None:
        return Look(scores=made, alarms=())
    update = release.update
    norm = update_norm(update) if norm is None else norm
    return Look(scores=made, alarms=tuple(_loudness(release.site, update, norm, known, made)))


def scores(
    releases: Mapping[str, Loud],
    *,
    study: Study,
    previous: Mapping[str, Loud] = MappingProxyType({}),
    looks: Mapping[str, Look] = MappingProxyType({}),
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
      looks: What :func:`look` made of some of the releases when they came.

    Guarantees:
      - A site that does what it states raises an alarm less than once in ten
        million releases, but for noise that training itself undid.
      - Memory does not grow with the number of releases, if theirs lie on disk.
    """
    made: dict[str, dict[str, float]] = {}
    alarms: list[str] = []
    implied = {site: Implied.of(release, study) for site, release in releases.items()}
    for site, release in sorted(releases.items()):
        looked = looks.get(site) or look(release, study)
        made[site] = dict(looked.scores)
        alarms += looked.alarms
    order = sorted(releases)
    before = [site for site in order if site in previous]
    told = [*(releases[site] for site in order), *(previous[site] for site in before)]
    alike, size = _likenesses(told)
    pairs = [(a, b) for a, b in combinations(range(len(order)), 2)]
    pairs += [(order.index(site), len(order) + at) for at, site in enumerate(before)]
    for a, b in pairs:
        one, again = order[a], b >= len(order)
        other = one if again else order[b]
        limit = _likeness_limit([each for each in (implied[one], implied[other]) if each], size)
        if limit is None:
            continue
        likeness = float(alike[a, b])
        for site in (one, other):
            made[site]["likeness"] = max(made[site].get("likeness", -1.0), likeness)
        if likeness > limit:
            name = f"{other}'s last" if again else other
            alarms.append(f"{one}: {SAME_NOISE} {likeness:.3f} with {name}'s (most {limit:.3f})")
    rounded = {site: {k: round(v, 4) for k, v in each.items()} for site, each in made.items()}
    return rounded, tuple(alarms)


def _carried(training: Training, *, steps: int) -> list[float]:
    """Return how much of each step's gradient is in the update, in learning rates."""
    kept = 1.0 - training.learning_rate * training.proximal_mu
    if training.momentum == 0:
        return [kept ** (steps - step) for step in range(1, steps + 1)]
    m = training.momentum
    return [(1 - m ** (steps - step + 1)) / (1 - m) for step in range(1, steps + 1)]


def _loudness(
    site: str, update: Vector, norm: float, implied: Implied, made: dict[str, float]
) -> Iterable[str]:
    count, unit = len(update), _HALF * implied.std
    # Evenly spread ones of very many: their median is as exact as the alarm needs.
    spread = np.abs(update[:: -(-count // _ENOUGH)])
    medians = {"noise": (NOISE_LOW, _median(spread), len(spread))}
    if count >= 2 * _BLOCK:
        medians["noise_least"] = (NOISE_LOW_SOMEWHERE, _least_median(update), _BLOCK)
    for name, (alarm, median, size) in medians.items():
        floor = 1.0 - _SLACK - _SIGMAS * _MEDIAN_SPREAD / math.sqrt(size)
        if floor <= 1.0 - _RESOLVED:
            continue
        made[name] = median / unit
        if made[name] < floor:
            yield f"{site}: {alarm} {made[name]:.3f} of the stated noise (least {floor:.3f})"
    loud = implied.std * math.sqrt(count) * (1 + _SIGMAS / math.sqrt(2 * count))
    made["norm"] = norm / (loud + implied.signal)
    if made["norm"] > 1.0:
        yield f"{site}: {NORM_HIGH} {made['norm']:.3f} of what the mechanism makes (most 1)"


def _median(sizes: Vector) -> float:
    """Return the median of finite numbers, which it puts into another order.

    ``np.median`` gives the same; most of its time it looks for what is no number.
    """
    middle = ((len(sizes) - 1) // 2, len(sizes) // 2)
    sizes.partition(middle)
    return float(sizes[middle[0] : middle[1] + 1].mean())


def _least_median(update: Vector) -> float:
    """Return the median of the quietest whole block; counting spares most blocks the sorting."""
    blocks = update[: len(update) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    held = np.empty((min(_PART, len(blocks)), _BLOCK), dtype=np.float32)
    least = math.inf
    for start in range(0, len(blocks), _PART):
        part = blocks[start : start + _PART]
        sizes = np.abs(part, out=held[: len(part)])
        # A median below the least so far has half of its block below it.
        sizes = sizes[np.count_nonzero(sizes < least, axis=1) >= _BLOCK // 2]
        if len(sizes):
            least = min(least, float(np.median(sizes, axis=1).min()))
    return least


def _likeness_limit(both: list[Implied], size: int) -> float | None:
    """Return the largest correlation of two honest releases; None where that says nothing."""
    if not both:
        return None
    signal = math.prod(each.signal for each in both) ** (1 / len(both))
    loud = math.prod(math.hypot(each.signal, each.std * math.sqrt(size)) for each in both)
    limit = signal**2 / loud ** (2 / len(both)) + _SIGMAS / math.sqrt(size)
    return limit if limit < _RESOLVED else None


def _likenesses(releases: Sequence[Loud]) -> tuple[npt.NDArray[np.float64], int]:
    """Return the correlation of every pair, and of how many weights.

    Of weights that would cost too much, blocks at equal distances are compared; of
    these, so many at a time that no more than :data:`_AT_ONCE` numbers are held.
    """
    count = len(releases)
    size = min((len(release.update) for release in releases), default=0)
    block = max(1, min(_BLOCK, size))
    wanted = min(_MOST, max(_FEWEST, _COMPARED // max(1, count**2)))
    every = max(1, round(size / wanted))
    blocks = -(-(size // block) // every)
    each = max(1, _AT_ONCE // (block * max(1, count)))
    products = np.zeros((count, count))
    # float64: a model that diverges overflows less. Made once: fresh memory is slow to get.
    space = np.empty(count * min(each, blocks) * block)
    for first in range(0, blocks, each):
        held = min(each, blocks - first)
        together = space[: count * held * block].reshape(count, -1)
        part = together.reshape(count, held, block)
        chosen = slice(first * every, (first + held - 1) * every + 1, every)
        for row, release in zip(part, releases, strict=True):
            row[:] = release.update[: size // block * block].reshape(-1, block)[chosen]
        products += together @ together.T
    norms = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    alike = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return alike, blocks * block
