"""The audit of the client's own mechanism: controls caught, the study's own steps not refuted."""

import dataclasses

import numpy as np
import pytest

from septum.models import network_of, to_vector
from septum_bench.audit import canary_probe, conformance_probe
from septum_bench.audit.canary_probe import canary_audit
from septum_bench.audit.conformance_probe import conformance_audit
from septum_bench.audit.finding import Finding, Verdict, settle
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.seeded import SeededSource
from septum_client import train as training
from septum_client.dpsgd import PatientTrainer


@pytest.fixture
def subject(tiny, tmp_path):
    study = tiny.study(
        rounds=2,
        sites=[{"name": name, "patients": 30} for name in ("north", "south")],
        privacy={"sampling_rate": 0.3, "steps_per_round": 6, "max_grad_norm": 0.3},
    )
    cohorts = {
        name: tiny.cohort(tmp_path / name, study, images=(2,) * 32, seed=seed)
        for seed, name in enumerate(("north", "south"))
    }
    model, source = to_vector(network_of(study)), SeededSource(7)
    releases = {
        (name, 1): training.train(
            study,
            mechanism=study.mechanism(name),
            cohort=cohorts[name],
            model=model,
            randomness=source(name, study.digest, 1),
        ).vector
        for name in cohorts
    }
    return Subject(
        study=study,
        cohorts=cohorts,
        models={0: model},
        releases=releases,
        source=source,
        public_images=np.zeros((4, 1, 16, 16), np.float32),
    )


def put(probe, subject, seed=0):
    return settle(probe(subject, rng=np.random.default_rng(seed), progress=None))


def test_canaries_refute_the_twin_without_noise_and_not_the_study(subject):
    for finding in put(canary_audit, subject):
        assert finding.verdict is Verdict.NOT_REFUTED
        # The bound of 95 % on the twin passes what the accountant says of the study; nobody's
        # canaries pass nothing.
        claimed = float(finding.claim.split("epsilon ")[1].split(" at")[0])
        assert finding.control.low > 2 * claimed
        assert finding.release.value < claimed
        assert finding.null.value < 0.5
        assert Finding.model_validate_json(finding.model_dump_json()).claim == finding.claim


def test_canaries_refute_a_client_with_a_quarter_of_its_noise(subject, monkeypatch):
    def quiet(model, *, mechanism, **given):
        less = {"noise_multiplier": mechanism.noise_multiplier / 4}
        return PatientTrainer(model, mechanism=mechanism.model_copy(update=less), **given)

    monkeypatch.setattr("septum_bench.conformance.recorder.PatientTrainer", quiet)
    assert {finding.verdict for finding in put(canary_audit, subject)} == {Verdict.REFUTED}


def test_every_control_of_the_conformance_checks_is_caught_and_the_study_is_not(subject):
    findings = put(conformance_audit, subject)
    assert len(findings) == 5
    for finding in findings:
        assert finding.verdict is Verdict.NOT_REFUTED, finding.sentence
        assert "made 2 of 2 known releases as they were" in finding.sentence
        assert "19 times of 20" in finding.power


def test_a_study_whose_client_halves_its_noise_is_refuted(subject, monkeypatch):
    def quiet(model, *, mechanism, **given):
        less = {"noise_multiplier": mechanism.noise_multiplier / 2}
        return PatientTrainer(model, mechanism=mechanism.model_copy(update=less), **given)

    monkeypatch.setattr("septum_bench.conformance.recorder.PatientTrainer", quiet)
    findings = {finding.attack: finding for finding in put(conformance_audit, subject)}
    noise = findings["conformance: noise"]
    assert noise.verdict is Verdict.REFUTED
    assert noise.release.value == pytest.approx(0.5, abs=0.02)
    assert "made 0 of 2" in noise.sentence


@pytest.mark.parametrize("probe", [canary_audit, conformance_audit])
def test_equal_seeds_give_equal_findings_from_few_canaries_and_steps(subject, probe, monkeypatch):
    monkeypatch.setattr(canary_probe, "_CANARIES", 200)
    monkeypatch.setattr(canary_probe, "_SIMULATED", 2)
    monkeypatch.setattr(conformance_probe, "_STEPS", 4)
    one, same = (put(probe, subject, seed=3) for _ in range(2))
    assert [each.model_dump_json() for each in one] == [each.model_dump_json() for each in same]


@pytest.mark.slow
@pytest.mark.parametrize("probe", [canary_audit, conformance_audit])
def test_equal_seeds_give_equal_findings(subject, probe):
    one, same = (put(probe, subject, seed=3) for _ in range(2))
    assert [each.model_dump_json() for each in one] == [each.model_dump_json() for each in same]


@pytest.mark.parametrize("probe", [canary_audit, conformance_audit])
def test_without_a_hospitals_data_nothing_is_claimed(subject, probe):
    with pytest.raises(NotApplicable, match="no hospital's cohort"):
        put(probe, dataclasses.replace(subject, cohorts={}))
