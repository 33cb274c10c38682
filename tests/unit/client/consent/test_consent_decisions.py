from datetime import date, timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.study import PurposeOfUse
from septum_client.consent.decisions import Basis, Declared, Record, Rule, Use, canonical, permits

TODAY = date(2026, 6, 1)
PURPOSES = get_args(PurposeOfUse)

days = st.dates(date(2026, 1, 1), date(2026, 12, 31))
some_purposes = st.none() | st.sets(st.sampled_from(PURPOSES), min_size=1).map(frozenset)
some_studies = st.none() | st.sets(st.sampled_from("abc"), min_size=1).map(frozenset)
uses = st.builds(
    Use,
    names=st.sets(st.sampled_from("abc"), min_size=1).map(frozenset),
    purpose=st.sampled_from(PURPOSES),
    commercial=st.booleans(),
    today=days,
)
bases = st.sampled_from(get_args(Basis))


def rules_of(permits, exceptions):
    return st.builds(
        Rule,
        permits=permits,
        purposes=some_purposes,
        studies=some_studies,
        valid_from=st.none() | days,
        valid_until=st.none() | days,
        commercial=st.none() | st.booleans(),
        exceptions=exceptions,
    )


flat = rules_of(st.booleans(), st.just(()))
rules = rules_of(st.booleans(), st.lists(flat, max_size=2).map(tuple))
records = st.builds(Record, pseudonym=st.just("0" * 32), rule=rules, dated=st.none() | days)


def use(**changes):
    said = {"names": frozenset({"a"}), "purpose": "BIORCH", "commercial": False, "today": TODAY}
    return Use(**(said | changes))


def record(permits=True, dated=None, **rule):
    return Record(pseudonym="0" * 32, rule=Rule(permits=permits, **rule), dated=dated)


def ask(*said, basis="opt-in", declared=Declared.NOTHING, **asked):
    return permits(said, use(**asked), basis=basis, declared=declared)


@settings(deadline=None)
@given(st.lists(records, max_size=6), uses, bases, st.sampled_from(Declared), st.randoms())
def test_the_order_of_records_never_matters(said, asked, basis, declared, random):
    shuffled = random.sample(said, len(said))
    first, second = (
        permits(each, asked, basis=basis, declared=declared) for each in (said, shuffled)
    )
    assert first == second
    assert list(canonical(said)) == list(canonical(shuffled))


@settings(deadline=None)
@given(st.lists(records, max_size=5), days, uses, bases, st.sampled_from(Declared))
def test_a_denial_beats_every_permission_that_is_not_strictly_later(
    said, on, asked, basis, declared
):
    earlier = [each for each in said if each.dated is None or each.dated <= on]
    denied = [*earlier, record(permits=False, dated=on)]
    assert not permits(denied, asked, basis=basis, declared=declared)


@settings(deadline=None)
@given(st.lists(records, max_size=5), uses, bases, st.sampled_from(Declared))
def test_an_undated_denial_beats_everything(said, asked, basis, declared):
    assert not permits([*said, record(permits=False)], asked, basis=basis, declared=declared)


@settings(deadline=None)
@given(st.lists(records, max_size=5), records, uses, bases, st.sampled_from(Declared))
def test_one_more_denial_never_permits_more(said, more, asked, basis, declared):
    denial = Record(
        pseudonym=more.pseudonym,
        rule=Rule(permits=False, purposes=more.rule.purposes, studies=more.rule.studies),
        dated=more.dated,
    )
    before = permits(said, asked, basis=basis, declared=declared)
    assert permits([*said, denial], asked, basis=basis, declared=declared) <= before


@settings(deadline=None)
@given(st.lists(records, max_size=5), uses, st.sampled_from(Declared))
def test_opt_in_permits_least_and_a_waiver_most(said, asked, declared):
    strict, middle, loose = (
        permits(said, asked, basis=basis, declared=declared) for basis in get_args(Basis)
    )
    assert strict <= middle <= loose


@given(st.lists(records, max_size=4), uses, bases)
def test_a_denial_in_the_images_always_holds(said, asked, basis):
    for declared in (Declared.DENIED, 3, 255):
        assert not permits(said, asked, basis=basis, declared=declared)


def test_a_strictly_later_permission_lifts_a_denial():
    denied = record(permits=False, dated=TODAY - timedelta(days=9))
    assert ask(denied, record(dated=TODAY - timedelta(days=8)))
    assert not ask(denied, record(dated=TODAY - timedelta(days=9)))
    assert not ask(denied, record(dated=None))


@pytest.mark.parametrize(("basis", "permitted"), [("opt-in", 0), ("opt-out", 1), ("waived", 1)])
def test_what_no_record_means_depends_on_the_basis(basis, permitted):
    assert ask(basis=basis) == permitted


@pytest.mark.parametrize("asked", PURPOSES)
@pytest.mark.parametrize("given_", PURPOSES)
def test_a_permission_covers_its_purpose_and_research_at_large_covers_all(given_, asked):
    covered = given_ in {asked, "HRESCH"}
    assert ask(record(purposes=frozenset({given_})), purpose=asked) == covered


@pytest.mark.parametrize("asked", PURPOSES)
@pytest.mark.parametrize("denied", PURPOSES)
def test_a_denial_also_covers_research_at_large(denied, asked):
    covered = denied in {asked, "HRESCH"} or asked == "HRESCH"
    said = (record(dated=date(2020, 1, 1)), record(permits=False, purposes=frozenset({denied})))
    assert ask(*said, purpose=asked) != covered


@pytest.mark.parametrize(
    ("first", "last", "permitted"),
    [(0, 0, 1), (-1, 1, 1), (1, 2, 0), (-2, -1, 0), (None, -1, 0), (1, None, 0), (None, None, 1)],
)
def test_a_permission_holds_from_its_first_day_to_its_last(first, last, permitted):
    first, last = (
        None if shift is None else TODAY + timedelta(days=shift) for shift in (first, last)
    )
    assert ask(record(valid_from=first, valid_until=last)) == permitted


@pytest.mark.parametrize(("said", "permitted"), [(True, 1), (False, 0), (None, 0)])
def test_commercial_use_needs_a_permission_that_says_so(said, permitted):
    assert ask(record(commercial=said), commercial=True) == permitted
    assert ask(record(commercial=said), commercial=False)


def test_a_record_may_name_a_study_by_its_name_or_its_digest():
    names = frozenset({"lung", "f00d"})
    for name in names:
        assert ask(record(studies=frozenset({name})), names=names)
    assert not ask(record(studies=frozenset({"liver"})), names=names)


def test_whoever_permitted_one_thing_did_not_permit_another_under_opt_out():
    limited = record(purposes=frozenset({"CLINTRCH"}))
    assert ask(limited, basis="opt-out", purpose="CLINTRCH")
    assert not ask(limited, basis="opt-out", purpose="BIORCH")
    assert ask(limited, basis="waived", purpose="BIORCH")


def test_a_denial_for_one_study_leaves_the_others_under_opt_out():
    denied = record(permits=False, studies=frozenset({"a"}))
    assert not ask(denied, basis="opt-out")
    assert ask(denied, basis="opt-out", names=frozenset({"b"}))


def test_a_permission_in_the_images_counts_only_where_nothing_else_is_said():
    assert ask(declared=Declared.PERMITTED)
    assert not ask(declared=Declared.PERMITTED, commercial=True)
    elsewhere = record(permits=False, studies=frozenset({"other"}))
    assert not ask(elsewhere, declared=Declared.PERMITTED)
    assert not ask(record(valid_until=date(2020, 1, 1)), declared=Declared.PERMITTED)


def test_an_exception_takes_the_place_of_its_rule_and_a_denying_one_wins():
    clinical = Rule(permits=True, purposes=frozenset({"CLINTRCH"}))
    assert ask(record(permits=False, exceptions=(clinical,)), purpose="CLINTRCH")
    assert not ask(record(permits=False, exceptions=(clinical,)), purpose="BIORCH")
    both = (clinical, Rule(permits=False, studies=frozenset({"a"})))
    assert not ask(record(permits=False, exceptions=both), purpose="CLINTRCH")


def test_a_record_never_shows_whose_it_is():
    assert "0" * 32 not in repr(record())
