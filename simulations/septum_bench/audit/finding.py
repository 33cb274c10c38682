"""One claim, put to one attack: what it scored beside its control and null, and the verdict.

The grammar is closed: *refuted*, *not refuted* (always with the smallest fault
that this run would have caught) or *void* (the positive control failed).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from septum.errors import ConfigError
from septum_bench.record import Reconstruction, Record
from septum_bench.threat import ThreatModel

LEVEL: Final = 0.05
"""Chance that an audit of a study that leaks nothing refutes anything at all."""


class Verdict(StrEnum):
    """What a finding says of its claim; nothing stronger exists."""

    REFUTED = "refuted"
    NOT_REFUTED = "not refuted"
    VOID = "void"


class ThreatRecord(Record):
    """A :class:`~septum_bench.threat.ThreatModel` as it is printed."""

    name: str
    attacker: str
    protected: bool
    grants: tuple[str, ...]

    @classmethod
    def of(cls, threat: ThreatModel) -> "ThreatRecord":
        """Return the printable form of ``threat``."""
        return cls(
            name=threat.name,
            attacker=threat.attacker,
            protected=threat.protected,
            grants=threat.grants,
        )


class Measured(Record):
    """One score with its 95 % interval, which is None where the data cannot resolve it.

    Attributes:
      role: What was attacked: the unprotected twin, other patients' data, or the release.
      value: The score, in the finding's unit.
      low: Lower end.
      high: Upper end.
      trials: Independent patients, coins or steps behind it.
      worst: The score of the worst patient, where patients have one each.
      percentile95: The score that one patient in twenty passes.
    """

    role: Literal["control", "null", "release"]
    value: float
    low: float | None = None
    high: float | None = None
    trials: int = Field(ge=0)
    worst: float | None = None
    percentile95: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] is upside down")
        return self


class Curve(Record):
    """One line of a picture; lines of equal ``figure`` are drawn together.

    ``low`` and ``high`` are a 95 % band, or empty. ``chance`` is drawn dotted.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    chance: tuple[float, ...] = ()
    figure: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        beside = (self.y, self.low, self.high, self.chance)
        if any(len(each) not in {0, len(self.x)} for each in beside) or not self.y:
            raise ValueError(f"curve {self.name!r} has columns of different lengths")
        return self


class Finding(Record):
    """One attack's result against one claim.

    Attributes:
      key: Which probe, for example ``identification``.
      claim: The sentence about the release that the attack tries to refute.
      attack: Its name.
      source: Author and year, arXiv number.
      threat: The attacker and everything it held.
      score: What ``value`` counts, for example "patients named, of those tried".
      unit: Unit of every score here, for example "share" or "dB".
      chance: Score of the best blind guess, in the same unit.
      site: The hospital attacked; None if all of them or the final model.
      rounds: Rounds attacked; empty if none in particular.
      control: The same attack on the unprotected twin.
      null: The same attack, seed and scoring on other patients' data.
      release: The attack on what was released.
      p_value: One-sided, release against "nothing leaks"; None if there is no test.
      p_adjusted: ``p_value`` after the correction for all attacks tried.
      control_ok: Whether the control succeeded, by a rule fixed before the run.
      power: The smallest fault or leak that this run would have caught.
      sentence: What was found, in plain words.
      curves: ROC or rank curves, with bands.
      reconstructions: Images, if the attack makes any.
      seconds: CPU seconds; not written out, so that equal seeds give equal bytes.
      verdict: Set by :func:`settle`; a finding that nobody settled is void.
    """

    key: str
    claim: str
    attack: str
    source: str
    threat: ThreatRecord
    score: str
    unit: str
    chance: float
    site: str | None = None
    rounds: tuple[int, ...] = ()
    control: Measured
    null: Measured | None = None
    release: Measured
    p_value: float | None = Field(default=None, ge=0, le=1)
    p_adjusted: float | None = Field(default=None, ge=0, le=1)
    control_ok: bool
    power: str = Field(min_length=1)
    sentence: str
    curves: tuple[Curve, ...] = ()
    reconstructions: tuple[Reconstruction, ...] = ()
    seconds: float = Field(default=0.0, exclude=True)
    verdict: Verdict = Verdict.VOID

    @model_validator(mode="after")
    def _earned(self) -> Self:
        roles = (self.control.role, self.null.role if self.null else "null", self.release.role)
        if roles != ("control", "null", "release"):
            raise ValueError(f"control, null and release are given as {', '.join(roles)}")
        if self.verdict is not Verdict.VOID and not self.control_ok:
            raise ValueError("a verdict needs a positive control that succeeded")
        if self.verdict is Verdict.REFUTED and self.p_adjusted is None:
            raise ValueError("a claim is refuted by a test corrected for all attacks tried")
        return self


def settle(findings: Sequence[Finding], *, level: float = LEVEL) -> tuple[Finding, ...]:
    """Return the findings in their order, each with the verdict that all of them allow.

    Args:
      findings: Everything that was tried, also what found nothing.
      level: Chance that a study that leaks nothing has any claim refuted.

    Guarantees:
      - Holm's correction (1979) over every finding that has a p-value and whose
        control succeeded: adding an attack never makes another verdict harsher.
      - A finding whose control failed is void, whatever it scored.
      - The order of ``findings`` never changes a verdict.

    Raises:
      ConfigError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level:g} and must be between 0 and 1.", remedy="Use 0.05.")
    adjusted = [
        None if each is None else float(each)
        for each in holm([f.p_value if f.control_ok else None for f in findings])
    ]
    return tuple(
        finding.model_copy(update={"p_adjusted": p, "verdict": _verdict(finding, p, level)})
        for finding, p in zip(findings, adjusted, strict=True)
    )


def _verdict(finding: Finding, adjusted: float | None, level: float) -> Verdict:
    if not finding.control_ok:
        return Verdict.VOID
    refuted = adjusted is not None and adjusted <= level
    return Verdict.REFUTED if refuted else Verdict.NOT_REFUTED


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's step-down method (1979); None stays None.

    >>> [round(p, 3) if p is not None else None for p in holm([0.01, None, 0.04, 0.03])]
    [0.03, None, 0.06, 0.06]
    """
    known = [i for i, p in enumerate(p_values) if p is not None]
    values = np.array([p_values[i] for i in known], dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    stepped = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    adjusted: list[float | None] = [None] * len(p_values)
    for place, value in zip(order, stepped, strict=True):
        adjusted[known[int(place)]] = float(value)
    return adjusted
