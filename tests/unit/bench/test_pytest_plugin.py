"""The pytest plugin: leakage bounds as a project's own tests, which fail when they should."""

from types import SimpleNamespace

import pytest

from septum_bench.audit.finding import Finding, Measured, ThreatRecord, settle
from septum_bench.pytest_plugin import assert_not_refuted
from septum_bench.threat import RELEASED

pytest_plugins = ["pytester"]


def report(*cases):
    findings = settle(
        [
            Finding(
                key=key,
                claim=f"{key} learns nothing.",
                attack=key,
                source="nobody 2026",
                threat=ThreatRecord.of(RELEASED),
                score="score",
                unit="share",
                chance=0.1,
                control=Measured(role="control", value=1.0, trials=9),
                release=Measured(role="release", value=0.1, trials=9),
                p_value=p_value,
                control_ok=control_ok,
                power="A leak of 0.9.",
                sentence="It scored.",
            )
            for key, p_value, control_ok in cases
        ]
    )
    left = SimpleNamespace(key="left", reason="no cohort was given.")
    return SimpleNamespace(findings=findings, untried=(left,), sentence="Nothing was attacked.")


OPEN, LEAK, VOID = ("open", 0.9, True), ("leak", 1e-9, True), ("void", 0.9, False)


def test_an_audit_in_which_every_claim_stood_passes():
    assert_not_refuted(report(OPEN))


@pytest.mark.parametrize(
    ("cases", "word"),
    [((OPEN, LEAK), "REFUTED: leak"), ((OPEN, VOID), "VOID: void"), ((), "Nothing was attacked")],
)
def test_a_leak_a_void_claim_and_an_empty_audit_fail(cases, word):
    with pytest.raises(pytest.fail.Exception, match=word):
        assert_not_refuted(report(*cases))


def test_a_void_claim_passes_only_where_it_was_allowed():
    assert_not_refuted(report(OPEN, VOID), allow_void=True)
    with pytest.raises(pytest.fail.Exception):
        assert_not_refuted(report(OPEN, LEAK), allow_void=True)


def test_only_the_keys_asked_for_count_and_a_key_that_was_not_tried_fails():
    assert_not_refuted(report(OPEN, LEAK), keys=["open"])
    with pytest.raises(pytest.fail.Exception, match="left: no cohort was given"):
        assert_not_refuted(report(OPEN), keys=["open", "left"])


def test_a_project_names_its_run_once_and_each_audit_is_made_once(pytester, monkeypatch):
    calls = []

    def audit(what, *, attacks=None):
        calls.append((what.name, attacks))
        return report(OPEN)

    monkeypatch.setattr("septum_bench.audit.audit", audit)
    pytester.makeini("[pytest]\nseptum_run = chest-run\n")
    pytester.makepyfile(
        """
        from septum_bench.pytest_plugin import assert_not_refuted
        def test_first(septum_audit):
            assert_not_refuted(septum_audit(attacks=["open"]))
        def test_again(septum_audit):
            assert_not_refuted(septum_audit(attacks=["open"]))
        """
    )
    done = pytester.inline_run("-p", "septum_bench.pytest_plugin", "-p", "no:xdist")
    done.assertoutcome(passed=2)
    assert calls == [("chest-run", ["open"])]


def test_a_project_that_names_no_run_is_told_how(pytester):
    pytester.makepyfile(
        """
        def test_first(septum_audit):
            septum_audit()
        """
    )
    done = pytester.runpytest_inprocess("-p", "septum_bench.pytest_plugin", "-p", "no:xdist")
    done.stdout.fnmatch_lines(["*--septum-run*"])
    assert done.ret != 0
