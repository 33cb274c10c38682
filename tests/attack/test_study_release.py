"""A real study's own releases, attacked beside their positive control."""

import pytest

from septum_bench import rehearsal, simulate
from septum_bench.metrics import exact_binomial
from septum_bench.plan import Plan


class Silent:
    def stage(self, name, total):
        pass

    def advance(self, text="", *, done=None, total=None):
        pass


@pytest.fixture(scope="module")
def leakage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    plan = Plan.check(sites=3, patients=150, rounds=1, seed=0, epsilon=8)
    plan = simulate.begin(plan, folder, resume=False)
    run = simulate.federate(plan, folder, reporter=Silent())
    return rehearsal.attack(run, progress=lambda done, total: None)


def test_the_positive_control_names_most_patients_above_chance_with_confidence(leakage):
    control = leakage.control
    low, _ = exact_binomial(control.identified, len(control.targets))
    assert not control.protected
    assert control.identified > len(control.targets) / 2
    assert low > 10 / control.gallery


def test_the_reconstructions_of_the_control_beat_every_blind_guess(leakage):
    assert leakage.control.psnr_gain.low > 0


def test_the_release_of_the_study_names_nobody_above_chance(leakage):
    release = leakage.release
    assert release.protected
    assert leakage.verdict == "not refuted"
    assert release.identified <= 1
    low, _ = exact_binomial(release.identified, len(release.targets))
    assert low <= 1 / release.gallery or release.identified == 0


def test_control_and_release_attack_the_same_patients_in_the_same_gallery(leakage):
    control, release = leakage.control, leakage.release
    assert control.gallery == release.gallery
    assert control.iterations == release.iterations
    assert [t.site for t in control.targets] == [t.site for t in release.targets]
    for one, other in zip(control.targets, release.targets, strict=True):
        assert (one.original == other.original).all()


def test_the_verdict_never_says_that_a_release_is_safe(leakage):
    assert "safe" not in leakage.sentence
    assert "stronger attack stays possible" in leakage.sentence
