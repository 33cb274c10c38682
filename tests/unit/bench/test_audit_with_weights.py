"""A study that starts from public weights is audited like any other, by what trained."""

import dataclasses

import numpy as np
import pytest

from septum.errors import ConfigError
from septum.models import build, network_of, parameter_count, to_vector
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.inversion import InversionConfig
from septum_bench.audit import canary_probe, multistep, reconstruction
from septum_bench.audit.canary_probe import canary_audit
from septum_bench.audit.conformance_probe import conformance_audit
from septum_bench.audit.counting import count
from septum_bench.audit.finding import Verdict, settle
from septum_bench.audit.fingerprints import fingerprint
from septum_bench.audit.imprinting import imprint
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.phantoms.public import public_images
from septum_bench.seeded import SeededSource
from septum_client import train as training

NAMES = ("north", "south")


def draw_images(subject, *, rng):
    return reconstruction.reconstruct(subject, rng=rng, config=InversionConfig(iterations=2))


def train_along(subject, *, rng):
    brief = MatchingConfig(evaluations=2, stages=1)
    return multistep.multistep(subject, rng=rng, config=brief)


@pytest.fixture
def subject(tiny, tmp_path):
    weights = build("small_cnn", channels=1, outputs=1, seed=4, size=(16, 16)).state_dict()
    study = tiny.study(
        rounds=1,
        sites=[{"name": name, "patients": 24} for name in NAMES],
        model={"weights": "0" * 64, "train": "head"},
        privacy={"sampling_rate": 0.5, "steps_per_round": 3, "max_grad_norm": 0.3},
    )
    cohorts = {
        name: tiny.cohort(tmp_path / name, study, images=(2,) * 26, seed=seed)
        for seed, name in enumerate(NAMES)
    }
    model, source = to_vector(network_of(study, weights=weights)), SeededSource(7)
    releases = {
        (name, 1): training.train(
            study,
            mechanism=study.mechanism(name),
            cohort=cohorts[name],
            model=model,
            randomness=source(name, study.digest, 1),
            weights=weights,
        ).vector
        for name in NAMES
    }
    return Subject(
        study=study,
        cohorts=cohorts,
        models={0: model},
        releases=releases,
        source=source,
        public_images=public_images(12, 16, 3),
        weights=weights,
    )


def test_the_attacked_network_has_the_public_weights_and_only_its_head_in_the_vector(subject):
    network = subject.network(0)
    frozen = {n: p for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen
    for name, value in frozen.items():
        assert np.array_equal(value.numpy(), subject.weights[name].numpy()), name
    assert len(subject.releases["north", 1]) == parameter_count(network) < 100


@pytest.mark.parametrize(
    "probe",
    [fingerprint, count, imprint, draw_images, train_along, canary_audit, conformance_audit],
)
def test_every_kind_of_attack_runs_on_what_trained(subject, probe, monkeypatch):
    monkeypatch.setattr(canary_probe, "_CANARIES", 8)
    monkeypatch.setattr(canary_probe, "_SIMULATED", 2)
    findings = settle(probe(subject, rng=np.random.default_rng(0)))
    assert findings
    assert Verdict.REFUTED not in {finding.verdict for finding in findings}


def test_without_the_weights_that_its_study_names_nothing_is_attacked(subject):
    bare = dataclasses.replace(subject, weights=None)
    for probe in (fingerprint, conformance_audit):
        with pytest.raises(ConfigError, match="weights were not given"):
            probe(bare, rng=np.random.default_rng(0))


def test_a_large_frozen_backbone_is_not_inverted_however_small_its_head(subject, monkeypatch):
    monkeypatch.setattr(reconstruction, "LARGEST_MODEL", 1_000)
    assert parameter_count(subject.network(0)) < 1_000
    with pytest.raises(NotApplicable, match="hours on a CPU"):
        draw_images(subject, rng=np.random.default_rng(0))
