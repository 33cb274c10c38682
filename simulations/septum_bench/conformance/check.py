"""One statistic of a recording against its exact law, and what all of them together say."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LEVEL: Final = 1e-3
"""Chance that a client that does what it says is flagged at all: over all checks together."""


class Aspect(StrEnum):
    """What part of the mechanism a check is of."""

    NOISE = "noise"
    FRESHNESS = "fresh noise"
    CLIP = "clip"
    DIVISOR = "divisor"
    SAMPLING = "sampling"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statistic.

    Attributes:
      name: What is looked at.
      aspect: Which part of the mechanism it is of.
      value: What was seen, in ``unit``.
      expected: What the mechanism implies.
      unit: Of value and expectation.
      p_value: Two-sided and exact, corrected for every place that was looked at
        within this check; None if this recording cannot tell.
      power: The smallest fault that would have been flagged 19 times of 20.
    """

    name: str
    aspect: Aspect
    value: float
    expected: float
    unit: str
    p_value: float | None
    power: str


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """All checks of one client, and which of them its mechanism cannot explain.

    Guarantees:
      - A client that does what it says has :attr:`flagged` with chance of at most
        ``level``: Bonferroni over the checks, each of them exact.
    """

    checks: tuple[Check, ...]
    level: float = LEVEL

    @property
    def flagged(self) -> tuple[Check, ...]:
        """The checks that fail at the common level."""
        able = [check for check in self.checks if check.p_value is not None]
        least = self.level / max(1, len(able))
        return tuple(c for c in able if c.p_value is not None and c.p_value <= least)

    def of(self, aspect: Aspect) -> tuple[Check, ...]:
        """Return the checks of one aspect."""
        return tuple(check for check in self.checks if check.aspect == aspect)

    def p_value(self, aspect: Aspect) -> float | None:
        """Return the p-value of one aspect, corrected for its checks; None if none could tell."""
        return least([check.p_value for check in self.of(aspect)])


def least(p_values: Sequence[float | None]) -> float | None:
    """Return the smallest p-value times their number, at most 1; None if there is none.

    >>> least([0.01, None, 0.5]), least([None])
    (0.02, None)
    """
    known = [p for p in p_values if p is not None]
    return min(1.0, len(known) * min(known)) if known else None
