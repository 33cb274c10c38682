"""One answer of a pre-flight: green, or with the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "look", "stop"]

NAMES: Final = (
    "coordinator",
    "signature",
    "keys",
    "versions",
    "policy",
    "cohort",
    "consent",
    "budget",
    "weights",
    "disk",
    "memory",
    "graphics card",
    "pace",
    "reach",
    "certificate",
    "clock",
)
"""Every question that a pre-flight asks, in the order of its lines."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer: ``ok``, ``look`` (a person should), or ``stop`` (no round would succeed).

    Args:
      name: One of :data:`NAMES`.
      state: As above.
      text: What was found, with value and limit.
      remedy: What to do next; empty exactly where the state is ``ok``.
    """

    name: str
    state: State
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"{self.name!r} is no question of a pre-flight")
        if (self.state == "ok") == bool(self.remedy):
            raise ValueError(f"{self.name}: what is not ok has a remedy, and nothing else has")


def ok(name: str, text: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(name=name, state="ok", text=text)


def look(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that a person should look at."""
    return Finding(name=name, state="look", text=text, remedy=remedy)


def stop(name: str, text: str, remedy: str) -> Finding:
    """Return a finding with which no round would succeed."""
    return Finding(name=name, state="stop", text=text, remedy=remedy)


def passed(findings: Sequence[Finding]) -> bool:
    """Tell whether no finding stops the study."""
    return all(finding.state != "stop" for finding in findings)
