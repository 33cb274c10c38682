"""The record of one audit: what was attacked to the byte, what was found, what was not tried.

Everything on the page is drawn from this record alone. It holds no clock, so
that equal subjects, seeds and dates give equal bytes.
"""

import hashlib
import json
from datetime import date
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from septum import __version__
from septum.errors import DataError, explain
from septum_bench.audit.finding import LEVEL, Finding, ThreatRecord, Verdict
from septum_bench.audit.subject import Subject
from septum_bench.record import Record
from septum_bench.threat import Floats


class Untried(Record):
    """An attack that was not tried, and why."""

    key: str
    title: str
    reason: str


class Attacked(Record):
    """Exactly what was attacked: SHA-256 of each part, as hex.

    Attributes:
      study: Digest of the study.
      models: By round; 0 is the initial model.
      releases: By "site/round".
      cohorts: Digest of each hospital's cohort, by name.
      public_images: Of the attackers' public images.
      seed: Of the audit.
      source_known: Whether the audit knew who was drawn (a simulation's seed).
      software: The version that attacked.
    """

    study: str
    models: dict[str, str]
    releases: dict[str, str]
    cohorts: dict[str, str]
    public_images: str
    seed: int
    source_known: bool
    software: str = __version__

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hex digits."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def of(cls, subject: Subject) -> "Attacked":
        """Return the digests of everything in ``subject``."""
        return cls(
            study=subject.study.digest,
            models={str(n): _digest(subject.models[n]) for n in sorted(subject.models)},
            releases={
                f"{site}/{number}": _digest(subject.releases[site, number])
                for site, number in sorted(subject.releases)
            },
            cohorts={name: cohort.digest for name, cohort in sorted(subject.cohorts.items())},
            public_images=_digest(subject.public_images),
            seed=subject.seed,
            source_known=subject.source is not None,
        )


def _digest(array: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class AuditReport(Record):
    """Everything one audit found.

    Attributes:
      name: What was audited, as the reader knows it.
      audited: The day of the audit, ISO 8601, as it was told.
      attacked: Digests of what was attacked.
      level: Chance that an audit of a study that leaks nothing refutes any claim.
      findings: Settled, in the order of the attacks.
      untried: What was not tried, and why.
      epsilon: What the study's rounds cost each hospital as planned.
      delta: At which that epsilon is stated.
      seeded: Whether the noise came from a seed.
    """

    format: int = 1
    name: str
    audited: date
    attacked: Attacked
    level: float = LEVEL
    findings: tuple[Finding, ...]
    untried: tuple[Untried, ...] = ()
    epsilon: float
    delta: float
    seeded: bool = Field(description="a seeded study protects nobody")

    @property
    def digest(self) -> str:
        """SHA-256 of what was attacked."""
        return self.attacked.digest

    @property
    def verdict(self) -> Verdict:
        """The worst verdict: refuted if any claim was, void if no attack had power."""
        found = {finding.verdict for finding in self.findings}
        for verdict in (Verdict.REFUTED, Verdict.NOT_REFUTED):
            if verdict in found:
                return verdict
        return Verdict.VOID

    @property
    def threats(self) -> tuple[ThreatRecord, ...]:
        """Each attacker once, in the order of the findings."""
        return tuple({(f.threat.name, f.threat.attacker): f.threat for f in self.findings}.values())

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        """Return the findings of one verdict."""
        return tuple(finding for finding in self.findings if finding.verdict is verdict)

    @property
    def sentence(self) -> str:
        """The audit in one sentence, without a word that no measurement can earn."""
        refuted, open_, void = (len(self.of(each)) for each in Verdict)
        if not self.findings:
            return "Nothing was attacked, so this audit says nothing about leakage."
        tried = len({finding.key for finding in self.findings})
        counts = (
            f"{len(self.findings)} claims put to {tried} attacks: {refuted} refuted, {open_} not "
            f"refuted at this power, {void} void."
        )
        if refuted:
            keys = sorted({finding.key for finding in self.of(Verdict.REFUTED)})
            return f"{counts} Refuted by: {', '.join(keys)}."
        if not open_:
            return f"{counts} No attack had power here, so nothing follows in either direction."
        return f"{counts} A stronger attack, or a smaller leak, stays possible."

    def to_json(self) -> bytes:
        """Return the record as JSON with a final newline; equal reports give equal bytes."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_report(path: Path) -> AuditReport:
    """Read a report that an audit wrote.

    Raises:
      DataError: It cannot be read, or is no such record.
    """
    try:
        return AuditReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = explain(error)
    except OSError as error:
        reason = error.strerror or "input or output error"
    raise DataError(
        f"{path} cannot be read as an audit ({reason}).",
        remedy="Run `septum audit` again.",
    )
