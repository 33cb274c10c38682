"""A real study's own releases under the whole default audit, each attack beside its control.

Minutes: the quick twin, with every attack at its cheapest, is in
``tests/unit/bench/test_audit_of_runs.py``.
"""

from datetime import date

import pytest

from septum_bench import simulate
from septum_bench.audit import audit
from septum_bench.audit.finding import LEVEL, Verdict
from septum_bench.audit.runner import REGISTRY
from septum_bench.plan import Plan
from septum_bench.pytest_plugin import assert_not_refuted

pytestmark = pytest.mark.slow


class Silent:
    def stage(self, name, total):
        pass

    def advance(self, text="", *, done=None, total=None):
        pass


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    plan = Plan.check(sites=3, patients=150, rounds=2, seed=0, epsilon=8)
    plan = simulate.begin(plan, folder, resume=False)
    simulate.federate(plan, folder, reporter=Silent())
    return audit(folder, today=date(2026, 1, 15))


def test_every_default_attack_ran_and_found_something_to_say(report):
    assert not [each for each in report.untried if each.reason != "not in the default suite."]
    assert {finding.key for finding in report.findings} >= {
        "identification",
        "inversion",
        "participation",
        "conformance",
    }
    assert len(report.findings) >= len([attack for attack in REGISTRY if attack.default])


def test_the_study_as_it_is_refutes_no_claim_about_it(report):
    assert_not_refuted(report, allow_void=True)


def test_most_attacks_show_their_power_on_the_unprotected_twin(report):
    assert len(report.of(Verdict.VOID)) < len(report.findings) / 2
    beaten = [f for f in report.of(Verdict.NOT_REFUTED) if f.control.low is not None]
    assert beaten
    for finding in beaten:
        outside = finding.control.low > finding.chance or finding.control.high < finding.chance
        assert outside, finding.claim


def test_the_null_runs_lie_where_nothing_leaks(report):
    # Each null interval misses the blind guess one time in twenty, by its construction.
    missed = [
        finding.claim
        for finding in report.findings
        if finding.null is not None
        and finding.null.low is not None
        and finding.null.low > finding.chance
        and finding.unit in {"share", "AUC"}
    ]
    assert len(missed) <= 2, missed


def test_every_row_names_its_attacker_grants_source_power_and_chance(report):
    for finding in report.findings:
        assert finding.threat.grants, finding.claim
        assert finding.threat.attacker, finding.claim
        assert any(char.isdigit() for char in finding.source), finding.claim
        assert finding.power, finding.claim
        if finding.p_value is not None and finding.control_ok:
            assert finding.p_adjusted >= finding.p_value - 1e-12, finding.claim


def test_reconstructions_stand_beside_original_control_null_and_guess(report):
    drawn = [each for finding in report.findings for each in finding.reconstructions]
    assert drawn
    for each in drawn:
        assert each.control is not None
        assert each.null is not None
        assert each.original.shape == each.prior.shape == each.reconstruction.shape


def test_the_level_is_kept_for_the_audit_as_a_whole(report):
    tested = [f for f in report.findings if f.p_value is not None and f.control_ok]
    smallest = min(f.p_value for f in tested)
    assert min(f.p_adjusted for f in tested) == pytest.approx(min(1, len(tested) * smallest))
    assert report.level == LEVEL
