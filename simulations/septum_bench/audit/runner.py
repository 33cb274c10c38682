"""The runner: every probe that fits the subject, once, and one correction over all of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import torch

from septum.accounting import epsilon
from septum.errors import ConfigError
from septum_bench.audit.canary_probe import canary_audit
from septum_bench.audit.conformance_probe import conformance_audit
from septum_bench.audit.counting import count
from septum_bench.audit.finding import Finding, settle
from septum_bench.audit.fingerprints import fingerprint
from septum_bench.audit.identification import identify
from septum_bench.audit.imprinting import imprint
from septum_bench.audit.membership import members
from septum_bench.audit.multistep import multistep
from septum_bench.audit.participation import took_part
from septum_bench.audit.property import properties
from septum_bench.audit.reconstruction import reconstruct
from septum_bench.audit.report import Attacked, AuditReport, Untried
from septum_bench.audit.source_hospital import place
from septum_bench.audit.subject import NotApplicable, Probe, Subject

Watcher = Callable[[str, int, int], None]
"""Told the title of the attack under way, and its steps done and in all."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One probe of the registry.

    Attributes:
      key: What it is asked for by.
      title: What it is, in a few words.
      probe: The attack.
      default: Whether the default suite runs it, in ``septum audit`` and ``septum simulate``.
    """

    key: str
    title: str
    probe: Probe
    default: bool = True


REGISTRY: Final[tuple[Attack, ...]] = (
    Attack(key="identification", title="naming a patient in a line-up", probe=identify),
    Attack(key="participation", title="telling who took part in a round", probe=took_part),
    Attack(key="reconstruction", title="drawing a patient's image", probe=reconstruct),
    Attack(key="multistep", title="training along with a round", probe=multistep),
    Attack(key="fingerprint", title="the last layer's input, in closed form", probe=fingerprint),
    Attack(key="labels", title="counting labels among those drawn", probe=count),
    Attack(key="imprint", title="a network made for extracting images", probe=imprint),
    Attack(key="membership", title="membership from the final model", probe=members, default=False),
    Attack(
        key="property",
        title="properties of a hospital from its releases",
        probe=properties,
        default=False,
    ),
    Attack(
        key="source-hospital",
        title="the hospital of a patient, from the final model",
        probe=place,
        default=False,
    ),
    Attack(key="canaries", title="canaries against the accountant", probe=canary_audit),
    Attack(key="conformance", title="what the client really runs", probe=conformance_audit),
)
"""Every attack there is, in the order of the report."""


def chosen(names: Sequence[str] | None, registry: Sequence[Attack] = REGISTRY) -> list[Attack]:
    """Return the attacks to run, in the registry's order.

    Args:
      names: Keys, or None for the default suite, or ``["all"]``.
      registry: What there is.

    Raises:
      ConfigError: A name is not in the registry.
    """
    known = {attack.key for attack in registry}
    if names is None:
        return [attack for attack in registry if attack.default]
    if list(names) == ["all"]:
        return list(registry)
    if unknown := sorted(set(names) - known):
        raise ConfigError(
            f"{', '.join(unknown)} is not an attack of this bench.",
            remedy=f"Choose from {', '.join(sorted(known))}, or all.",
        )
    return [attack for attack in registry if attack.key in names]


def run(
    subject: Subject,
    *,
    name: str,
    today: date,
    attacks: Sequence[str] | None = None,
    registry: Sequence[Attack] = REGISTRY,
    watch: Watcher | None = None,
    clock: Callable[[], float] = time.process_time,
) -> AuditReport:
    """Attack ``subject`` and return the settled report.

    Args:
      subject: What is audited.
      name: What to call it in the report.
      today: The day to print.
      attacks: Keys of the attacks, in any order; None for the default suite.
      registry: What there is.
      watch: Told of the progress.
      clock: CPU seconds; only differences are used.

    Guarantees:
      - Each attack draws from its own stream of the subject's seed, so that
        choosing fewer attacks never changes what another one does.
      - Every attack of the registry is in the report: as findings, or under
        what was not tried with the reason.
      - Verdicts are corrected for everything that was tried.
      - Attacks compute on one thread, so the machine's cores change no byte; torch's
        number of threads is as before afterwards.

    Raises:
      ConfigError: An attack is not known.
    """
    wanted = chosen(attacks, registry)
    findings: list[Finding] = []
    untried: list[Untried] = []
    for attack in registry:
        if attack not in wanted:
            reason = "not chosen" if attack.default or attacks else "not in the default suite"
            untried.append(Untried(key=attack.key, title=attack.title, reason=reason + "."))
            continue
        started = clock()
        try:
            with _one_thread():
                found = attack.probe(
                    subject,
                    rng=stream(subject.seed, attack.key),
                    progress=_steps(watch, attack.title),
                )
        except NotApplicable as refusal:
            untried.append(Untried(key=attack.key, title=attack.title, reason=refusal.message))
            continue
        share = (clock() - started) / max(1, len(found))
        findings += [f if f.seconds else f.model_copy(update={"seconds": share}) for f in found]
    study = subject.study
    charge = study.mechanism(study.sites[0].name).charge()
    return AuditReport(
        name=name,
        audited=today,
        attacked=Attacked.of(subject),
        findings=settle(findings),
        untried=tuple(untried),
        epsilon=epsilon([charge] * study.rounds, delta=study.privacy.delta),
        delta=study.privacy.delta,
        seeded=subject.source is not None,
    )


def stream(seed: int, key: str) -> np.random.Generator:
    """Return the generator of one attack, independent of every other attack's."""
    return np.random.default_rng([seed, *key.encode()])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: sums split over threads are rounded otherwise.

    On a loaded machine two threads were ten times as slow: attacks are many small operations,
    at the end of each of which threads wait for one another (``benchmarks/RESULTS.md``).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _steps(watch: Watcher | None, title: str) -> Callable[[int, int], None] | None:
    if watch is None:
        return None
    return lambda done, total: watch(title, done, total)
