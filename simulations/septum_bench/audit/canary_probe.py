"""Empirical epsilon: canaries in a run of the client's own mechanism, against the accountant."""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from septum.accounting import Charge, epsilon
from septum.models import Vector
from septum.privacy import Mechanism
from septum_bench.attacks.canaries import INFORMED, Canaries, CanaryView, score, with_canaries
from septum_bench.audit.empirical_epsilon import (
    TradeOff,
    gaussian_epsilon,
    guess,
    held_out_errors,
    p_value,
    separation_p_value,
    steinke_epsilon,
    trade_off,
)
from septum_bench.audit.finding import Curve, Finding, Measured, ThreatRecord
from septum_bench.audit.statistics import Role
from septum_bench.audit.subject import NotApplicable, Progress, Subject
from septum_bench.conformance import Client, Trainer, honest
from septum_bench.conformance.recorder import Observe
from septum_bench.faulty_clients import quieter
from septum_bench.metrics import exact_binomial
from septum_bench.seeded import SeededRandomness
from septum_client.cohort import Cohort
from septum_client.train import train

Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

_CANARIES: Final = 2000
_LEAST_WIDTH: Final = 4  # weights of each canary
_QUIET: Final = 0.02
"""Noise of the unprotected twin, of what is stated: a clip without noise has no scores."""

_CONTROL: Final = 1e-3
"""P-value at which the control succeeded."""

_RATIOS: Final = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_SIMULATED: Final = 10
_POWER_LEVEL: Final = 0.01
_POINTS: Final = np.linspace(0.01, 0.99, 60)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """The canaries of one run, and what follows from their scores."""

    scores: Doubles
    present: Bits
    p_value: float
    gaussian: float
    one_run: float


def canary_audit(
    subject: Subject, *, rng: np.random.Generator, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Put each hospital's epsilon to canaries that took part by a fair coin.

    The client's own clip, noise, divisor and optimizer run as many steps as the
    study has, on canaries alone: what other patients add is known to the
    attacker and would be taken out. Each coin is guessed from the steps' sums.

    Guarantees:
      - A mechanism that keeps the accountant's curve is refuted with a chance of at
        most the finding's p-value; independence of the canaries rests on their
        directions being orthogonal and on noise that conformance checks.

    Raises:
      NotApplicable: No hospital's data is at hand.
    """
    sites = [site.name for site in subject.study.sites if site.name in subject.cohorts]
    if not sites or not subject.models:
        raise NotApplicable(
            "no hospital's cohort and no model were given.",
            remedy="Audit a simulation, or a site's own study.",
        )
    runner = _Runner(subject, rng)
    findings = []
    for index, site in enumerate(sites):
        findings.append(runner.audit(site))
        if progress:
            progress(index + 1, len(sites))
    return tuple(findings)


class _Runner:
    """Runs canaries at the hospitals of one subject; equal mechanisms share their control."""

    def __init__(self, subject: Subject, rng: np.random.Generator) -> None:
        self._subject, self._rng = subject, rng
        self._model: Vector = subject.models[min(subject.models)]
        self._beside: dict[Charge, tuple[_Scored, _Scored, str]] = {}

    def audit(self, site: str) -> Finding:
        """Return the finding of one hospital."""
        started = time.process_time()
        study, cohort = self._subject.study, self._subject.cohorts[site]
        once = study.mechanism(site)
        mechanism = once.model_copy(update={"steps": once.steps * study.rounds})
        charge = mechanism.charge()
        curve = trade_off(charge)
        if charge not in self._beside:
            control = self._run(cohort, mechanism, curve, client=_quiet)
            null = self._run(cohort, mechanism, curve, client=honest, absent=True)
            self._beside[charge] = control, null, _power(mechanism, curve, self._width()[0])
        control, null, power = self._beside[charge]
        release = self._run(cohort, mechanism, curve, client=honest)
        claimed = epsilon([charge], delta=mechanism.delta)
        return Finding(
            key="empirical epsilon",
            claim=f"All {study.rounds} rounds cost a patient of {site} at most epsilon "
            f"{claimed:.2f} at delta {mechanism.delta:g}.",
            attack="gradient canaries, one run",
            source="Steinke 2023, arXiv:2305.08846; Mahloujifar 2025, arXiv:2410.22235; "
            "Nasr 2023, arXiv:2302.07956",
            threat=ThreatRecord.of(INFORMED),
            score=f"epsilon that is refuted with 95 % confidence, by the separation of "
            f"{len(release.scores)} canaries' scores as of Gaussian noise",
            unit=f"epsilon at delta {mechanism.delta:g}",
            chance=0.0,
            site=site,
            rounds=tuple(range(1, study.rounds + 1)),
            control=_measured("control", control),
            null=_measured("null", null),
            release=_measured("release", release),
            p_value=release.p_value,
            control_ok=control.p_value <= _CONTROL,
            power=power,
            sentence=f"{site}: the accountant says epsilon {claimed:.2f}. Canaries refute what is "
            f"below {release.gaussian:.2f} if the noise is Gaussian, and below "
            f"{release.one_run:.2f} whatever the mechanism is. Without noise the same canaries "
            f"refute {control.gaussian:.1f}; canaries that took no part, {null.gaussian:.2f}.",
            curves=tuple(
                _roc(name, one)
                for name, one in (("control", control), ("null", null), ("release", release))
            ),
            seconds=time.process_time() - started,
        )

    def _width(self) -> tuple[int, int]:
        parameters = len(self._model)
        return min(_CANARIES, max(1, parameters // _LEAST_WIDTH)), parameters

    def _run(
        self,
        cohort: Cohort,
        mechanism: Mechanism,
        curve: TradeOff,
        *,
        client: Client,
        absent: bool = False,
    ) -> _Scored:
        rng = self._rng
        count, parameters = self._width()
        canaries = Canaries.draw(count, parameters=parameters, rng=rng)
        present = rng.random(count) < 0.5
        heard: list[Doubles] = []
        train(
            self._subject.study,
            mechanism=mechanism,
            cohort=cohort,
            model=self._model,
            randomness=SeededRandomness(int(rng.integers(2**63))),
            weights=self._subject.weights,
            trainer=with_canaries(client, canaries, present & (not absent), heard)(
                _unobserved, cohort
            ),
        )
        along = np.stack(heard)
        scores = score(CanaryView(threat=INFORMED, along=along, mechanism=mechanism))
        return _scored(scores, present, curve, delta=mechanism.delta, rng=rng)


def _unobserved(trainer: Trainer) -> Trainer:
    return trainer


def _quiet(observe: Observe, cohort: Cohort) -> Trainer:
    """Return the unprotected twin: the same client with next to no noise."""
    del cohort
    return observe(quieter(_QUIET))


def _scored(
    scores: Doubles, present: Bits, curve: TradeOff, *, delta: float, rng: np.random.Generator
) -> _Scored:
    outcomes = guess(scores, present)
    errors = held_out_errors(scores, present, rng=rng)
    tests = (p_value(outcomes, curve), separation_p_value(errors, curve))
    return _Scored(
        scores=scores,
        present=present,
        p_value=min(1.0, len(tests) * min(tests)),
        gaussian=gaussian_epsilon(errors, delta=delta),
        one_run=steinke_epsilon(outcomes, delta=delta),
    )


def _measured(role: Role, one: _Scored) -> Measured:
    return Measured(role=role, value=one.gaussian, low=one.gaussian, trials=len(one.scores))


def _power(mechanism: Mechanism, curve: TradeOff, count: int) -> str:
    """Return the loudest noise, of what is stated, that simulated runs of this size refute."""
    rng = np.random.default_rng(0)  # the same sentence for the same study
    found = None
    for ratio in _RATIOS:
        caught = sum(
            _simulated(mechanism, curve, count, ratio, rng) <= _POWER_LEVEL
            for _ in range(_SIMULATED)
        )
        if caught >= 0.9 * _SIMULATED:
            found = ratio
            break
    if found is None:
        return f"Canaries catch no noise above {_RATIOS[-1]:g} of what is stated here."
    return (
        f"Noise at {found:g} of what is stated, or a clip {1 / found:.2g} times as long, is caught "
        f"in at least 9 of {_SIMULATED} simulated runs at level {_POWER_LEVEL:g}; reused or "
        f"correlated noise is not caught by canaries at all."
    )


def _simulated(
    mechanism: Mechanism, curve: TradeOff, count: int, ratio: float, rng: np.random.Generator
) -> float:
    present = rng.random(count) < 0.5
    shape = (mechanism.steps, count)
    drawn = (rng.random(shape) < mechanism.sampling_rate) & present
    noise = rng.standard_normal(shape) * mechanism.noise_multiplier * ratio
    scores = score(CanaryView(threat=INFORMED, along=drawn + noise, mechanism=mechanism))
    return 2 * separation_p_value(held_out_errors(scores, present, rng=rng), curve)


def _roc(name: str, one: _Scored) -> Curve:
    """Return hits against false alarms, with Clopper-Pearson bands of the hits."""
    inside, outside = one.scores[one.present], one.scores[~one.present]
    if not len(inside) or not len(outside):
        return Curve(name=name, x=(0.0, 1.0), y=(0.0, 1.0), figure="ROC")
    falses = _POINTS
    hits = [int((inside > np.quantile(outside, 1 - rate)).sum()) for rate in falses]
    bounds = [exact_binomial(count, len(inside)) for count in hits]
    return Curve(
        name=name,
        x=tuple(falses.tolist()),
        y=tuple(count / len(inside) for count in hits),
        low=tuple(low for low, _ in bounds),
        high=tuple(high for _, high in bounds),
        chance=tuple(falses.tolist()),
        figure="ROC of the canaries",
        x_label="share of absent canaries said to be present",
        y_label="share of present canaries said to be present",
    )
