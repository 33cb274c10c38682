"""The probes of reconstruction on a small run: control, null and release, alike in all but data."""

import dataclasses

import numpy as np
import pytest

from septum_bench import simulate
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.inversion import InversionConfig
from septum_bench.audit import imprinting
from septum_bench.audit import multistep as multistep_probe
from septum_bench.audit.counting import count
from septum_bench.audit.finding import Verdict, settle
from septum_bench.audit.fingerprints import fingerprint
from septum_bench.audit.imprinting import imprint
from septum_bench.audit.loading import open_run
from septum_bench.audit.multistep import multistep
from septum_bench.audit.reconstruction import reconstruct
from septum_bench.audit.subject import NotApplicable
from septum_bench.plan import Plan


class Silent:
    def stage(self, name, total):
        pass

    def advance(self, text="", *, done=None, total=None):
        pass


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inverted") / "run"
    plan = Plan.check(sites=2, patients=60, rounds=1, image_size=32, seed=3)
    plan = simulate.begin(plan, folder, resume=False)
    simulate.federate(plan, folder, reporter=Silent())
    return open_run(folder)


@pytest.fixture(scope="module")
def inverted(subject):
    steps = []
    found = reconstruct(
        subject,
        rng=np.random.default_rng(0),
        config=InversionConfig(iterations=60),
        progress=lambda done, total: steps.append((done, total)),
    )
    return found, steps


def test_inversion_names_patients_without_protection_and_refutes_nothing_with_it(inverted):
    naming, embedded, likeness = inverted[0]
    assert embedded.control_ok
    assert embedded.key != naming.key
    assert naming.control_ok
    assert likeness.control_ok
    assert naming.control.value > naming.null.value
    assert likeness.control.low > 0
    assert {finding.verdict for finding in settle([naming, embedded, likeness])} == {
        Verdict.NOT_REFUTED
    }


def test_the_null_is_never_in_the_gain_twice_and_progress_ends_at_all(inverted):
    (_, _, likeness), steps = inverted
    assert steps[-1] == (180, 180)
    drawn = likeness.reconstructions
    floor = [max(each.prior_psnr, each.null_psnr) for each in drawn]
    gains = [each.psnr - least for each, least in zip(drawn, floor, strict=True)]
    assert likeness.release.value == pytest.approx(np.mean(gains))
    assert likeness.release.worst == pytest.approx(max(gains))


def test_every_reconstruction_stands_beside_its_control_its_null_and_its_guess(inverted):
    for each in inverted[0][-1].reconstructions:
        shapes = {each.original.shape, each.reconstruction.shape, each.prior.shape}
        assert shapes | {each.control.shape, each.null.shape} == {(32, 32)}
        assert 1 <= each.control_rank <= each.gallery


def test_a_study_without_public_images_is_not_inverted(subject):
    blind = dataclasses.replace(subject, public_images=subject.public_images[:2])
    for probe in (reconstruct, imprint):
        with pytest.raises(NotApplicable, match="public images"):
            probe(blind, rng=np.random.default_rng(0), progress=None)


def test_an_imprint_takes_everything_from_a_trusting_client_and_nothing_from_this_one(subject):
    (finding,) = imprint(subject, rng=np.random.default_rng(0))
    assert finding.control.value > 0.9
    assert finding.null.value == finding.release.value == 0
    assert "refuses" in finding.sentence
    assert settle([finding])[0].verdict is Verdict.NOT_REFUTED


def test_a_client_that_accepts_a_crafted_network_refutes_the_claim(subject, monkeypatch):
    monkeypatch.setattr(imprinting, "network", lambda study, vector, weights: None)
    (finding,) = imprint(subject, rng=np.random.default_rng(0))
    assert "ACCEPTS" in finding.sentence
    assert settle([finding])[0].verdict is Verdict.REFUTED


def test_a_layers_input_names_everybody_without_protection_and_nobody_in_a_release(subject):
    (finding,) = fingerprint(subject, rng=np.random.default_rng(0))
    assert finding.control.value == 1
    assert finding.release.value < 1
    assert finding.chance <= 1 / 10
    assert settle([finding])[0].verdict is not Verdict.REFUTED


def test_labels_are_counted_without_protection_and_not_in_a_release(subject):
    steps = []
    (finding,) = count(subject, rng=np.random.default_rng(0), progress=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]
    assert finding.control.value > 0.3
    assert finding.control.value > max(finding.null.value, finding.release.value)
    assert settle([finding])[0].verdict is not Verdict.REFUTED


def test_training_along_draws_patients_without_protection_and_refutes_nothing_with_it(
    subject, monkeypatch
):
    monkeypatch.setattr(multistep_probe, "_SITES", 1)
    brief = MatchingConfig(evaluations=25, layer_power=0.5, box_weight=1.0, spread=0.1, stages=1)
    (finding,) = multistep(subject, rng=np.random.default_rng(0), config=brief)
    assert finding.release.trials >= 4
    assert finding.control.value > finding.release.value + 1
    assert settle([finding])[0].verdict is not Verdict.REFUTED


@pytest.mark.parametrize(
    ("probe", "change", "reason"),
    [
        (multistep, {"momentum": 0.9}, "momentum"),
        (multistep, {"optimizer": "adam"}, "adam"),
        (fingerprint, {"optimizer": "adam"}, "adam"),
        (count, {"optimizer": "adam"}, "adam"),
    ],
)
def test_a_step_that_no_attack_can_undo_is_said_to_be_untried(subject, probe, change, reason):
    training = subject.study.training.model_copy(update=change)
    other = dataclasses.replace(
        subject, study=subject.study.model_copy(update={"training": training})
    )
    with pytest.raises(NotApplicable, match=reason):
        probe(other, rng=np.random.default_rng(0))
