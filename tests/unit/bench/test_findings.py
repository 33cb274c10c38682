"""The grammar of findings: what a verdict may rest on, and how many attacks it answers for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from septum.errors import ConfigError
from septum_bench.audit.finding import Curve, Finding, Measured, ThreatRecord, Verdict, holm, settle
from septum_bench.threat import RELEASED, Grant

P_VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12)


def measured(role, value=0.0, **more):
    return Measured(role=role, value=value, trials=10, **more)


def finding(**changes):
    base = {
        "key": "identification",
        "claim": "Nobody is named.",
        "attack": "line-up",
        "source": "Hayes et al. 2023, arXiv:2302.07225",
        "threat": ThreatRecord.of(RELEASED),
        "score": "patients named",
        "unit": "share",
        "chance": 0.01,
        "control": measured("control", 1.0),
        "null": measured("null", 0.01),
        "release": measured("release", 0.02),
        "p_value": 0.5,
        "control_ok": True,
        "power": "A release that names 20 % of its patients.",
        "sentence": "1 of 50 was named.",
        "seconds": 3.0,
    }
    return Finding(**(base | changes))


def verdicts(*findings):
    return [found.verdict for found in settle(findings)]


def test_a_finding_that_nobody_settled_is_void():
    assert finding(p_value=0.0).verdict is Verdict.VOID


def test_a_claim_whose_control_failed_is_void_whatever_the_release_scored():
    assert verdicts(finding(control_ok=False, p_value=0.0)) == [Verdict.VOID]


def test_a_small_p_refutes_and_a_large_one_or_none_does_not():
    assert verdicts(finding(p_value=1e-6), finding(p_value=0.4), finding(p_value=None)) == [
        Verdict.REFUTED,
        Verdict.NOT_REFUTED,
        Verdict.NOT_REFUTED,
    ]


def test_a_p_that_refutes_alone_does_not_among_many_attacks():
    one = finding(p_value=0.03)
    assert verdicts(one) == [Verdict.REFUTED]
    assert verdicts(one, finding(p_value=0.9))[0] is Verdict.NOT_REFUTED


def test_a_void_attack_takes_no_power_from_the_others():
    assert verdicts(finding(p_value=0.03), finding(p_value=0.9, control_ok=False)) == [
        Verdict.REFUTED,
        Verdict.VOID,
    ]


@given(P_VALUES)
def test_correction_never_lowers_a_p_value_and_keeps_their_order(values):
    adjusted = holm(values)
    pairs = [(p, q) for p, q in zip(values, adjusted, strict=True) if p is not None]
    assert [q is None for q in adjusted] == [p is None for p in values]
    assert all(p <= q <= 1 for p, q in pairs)
    ordered = [q for _, q in sorted(pairs)]
    assert ordered == sorted(ordered)


@given(P_VALUES, st.floats(0, 1))
def test_one_more_attack_never_makes_another_claim_look_worse(values, extra):
    before, after = holm(values), holm([*values, extra])[:-1]
    assert all(p is None or p <= q for p, q in zip(before, after, strict=True))


@given(P_VALUES, st.randoms(use_true_random=False))
def test_the_order_of_attacks_changes_no_verdict(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    straight, mixed = holm(values), holm([values[i] for i in order])
    for place, i in enumerate(order):
        assert (straight[i] is None) == (mixed[place] is None)
        assert straight[i] is None or math.isclose(straight[i], mixed[place])


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_a_level_outside_zero_and_one_is_refused(level):
    with pytest.raises(ConfigError, match="level"):
        settle([finding()], level=level)


def test_no_record_can_claim_a_verdict_that_was_not_earned():
    with pytest.raises(ValidationError, match="positive control"):
        finding(control_ok=False, verdict=Verdict.NOT_REFUTED)
    with pytest.raises(ValidationError, match="corrected"):
        finding(verdict=Verdict.REFUTED)


def test_a_verdict_without_its_power_is_refused():
    with pytest.raises(ValidationError, match="power"):
        finding(power="")


def test_control_null_and_release_cannot_be_mixed_up():
    with pytest.raises(ValidationError, match="given as"):
        finding(control=measured("release"))
    with pytest.raises(ValidationError, match="given as"):
        finding(null=measured("control"))


def test_an_interval_upside_down_is_refused():
    with pytest.raises(ValidationError, match="upside down"):
        measured("null", low=0.5, high=0.4)


def test_a_curve_with_columns_of_different_lengths_is_refused():
    Curve(name="a", x=(0.0, 1.0), y=(0.0, 1.0))
    with pytest.raises(ValidationError, match="different lengths"):
        Curve(name="a", x=(0.0, 1.0), y=(0.0, 1.0), low=(0.0,))


def test_a_finding_survives_json_except_for_how_long_it_took():
    (kept,) = settle([finding(p_value=0.2, null=None)])
    again = Finding.model_validate_json(kept.model_dump_json())
    assert again == kept.model_copy(update={"seconds": 0.0})
    assert "seconds" not in kept.model_dump_json()


def test_a_printed_threat_lists_every_grant_in_its_own_words():
    assert ThreatRecord.of(RELEASED).grants == tuple(RELEASED.holds.values())
    assert len(ThreatRecord.of(RELEASED).grants) == len(set(RELEASED.holds)) > 3
    assert set(RELEASED.holds) <= set(Grant)
