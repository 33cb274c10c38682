import contextlib
import dataclasses
import multiprocessing
import os
import sqlite3
import stat
from datetime import UTC, datetime, timedelta

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from septum import ledger as chain
from septum.accounting import Charge, epsilon
from septum.errors import BudgetExceeded, Code, LedgerError, Refusal
from septum.privacy_filter import Filter
from septum_client.budget import Ledger
from septum_client.spending import Limits

CHARGE = Charge(noise_multiplier=1.0, sampling_rate=0.2, steps=5)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def debit(ledger, *, study="a" * 64, round=1, instruction="i", charge=CHARGE, at=NOW, **given):
    caps = {"limit": 10.0, "delta": 1e-4, "year": 50.0, "total": 50.0} | given
    return ledger.debit(
        study=study,
        round=round,
        instruction=instruction,
        charge=charge,
        limits=Limits(
            study=caps["limit"],
            delta=caps["delta"],
            year=Filter(epsilon=caps["year"], delta=1e-4),
            total=Filter(epsilon=caps["total"], delta=1e-4),
            rounds=50,
        ),
        at=at,
        note={"cohort": "c"},
    )


def cap_for(rounds, charge=CHARGE):
    """Return an epsilon whose filter pays for so many rounds and no more."""
    caps = (0.1 * tenth for tenth in range(1, 500))
    return next(
        cap
        for cap in caps
        if Filter(epsilon=cap, delta=1e-4).rounds_within(charge, most=rounds + 1) == rounds
    )


def release(ledger, *, study="a" * 64, round=1, instruction="i"):
    return ledger.record_release(
        {"study": study, "round": round, "instruction": instruction, "payload": "p"}
    )


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


def test_the_ledgers_epsilon_equals_an_independent_computation(ledger):
    other = Charge(noise_multiplier=1.7, sampling_rate=0.1, steps=8)
    for number in (1, 2, 3):
        debit(ledger, round=number)
    debit(ledger, study="b" * 64, charge=other)
    composed = dp_accounting.DpEventBuilder()
    for charge, count in ((CHARGE, 3 * 5), (other, 8)):
        gaussian = dp_accounting.GaussianDpEvent(charge.noise_multiplier)
        composed.compose(dp_accounting.PoissonSampledDpEvent(charge.sampling_rate, gaussian), count)
    reference = PLDAccountant().compose(composed.build()).get_epsilon(1e-5)
    assert epsilon(ledger.charges(), delta=1e-5) == pytest.approx(reference, abs=1e-3)
    assert epsilon(ledger.charges("b" * 64), delta=1e-5) < reference
    assert len(ledger.charges("a" * 64)) == 3


def test_a_round_is_charged_once_and_a_second_try_is_refused(ledger):
    assert debit(ledger) is None
    for instruction in ("i", "other"):
        with pytest.raises(Refusal) as refused:
            debit(ledger, instruction=instruction)
        assert refused.value.code is Code.ROUND_ALREADY_CHARGED
    assert len(ledger.charges()) == 1


def test_an_answered_round_is_given_back_for_the_same_instruction_alone(ledger):
    debit(ledger)
    entry = release(ledger)
    assert debit(ledger) == entry
    with pytest.raises(Refusal) as refused:
        debit(ledger, instruction="other")
    assert refused.value.code is Code.ROUND_ALREADY_CHARGED
    assert len(ledger.charges()) == 1


def test_a_round_over_the_budget_is_refused_and_nothing_is_charged(ledger):
    limit = epsilon([CHARGE] * 3, delta=1e-4)
    for number in (1, 2, 3):
        assert debit(ledger, round=number, limit=limit) is None
    before = ledger.entries()
    with pytest.raises(BudgetExceeded, match="pays for 0 more rounds"):
        debit(ledger, round=4, limit=limit)
    assert ledger.entries() == before


def test_a_refused_round_says_how_many_the_budget_still_pays_for(ledger):
    dear = Charge(noise_multiplier=1.0, sampling_rate=0.2, steps=500)
    with pytest.raises(BudgetExceeded, match="pays for 0 more rounds"):
        debit(ledger, charge=dear, limit=2.0)


def test_budgets_add_up_over_restarts_and_studies(tmp_path):
    path = tmp_path / "ledger.sqlite"
    total = cap_for(3)
    studies = ["a" * 64, "b" * 64, "c" * 64]
    for study in studies:
        assert debit(Ledger(path), study=study, total=total) is None
    with pytest.raises(BudgetExceeded, match="all studies of this site"):
        debit(Ledger(path), study="d" * 64, total=total)
    assert len(Ledger(path).charges()) == 3


def test_a_year_gives_room_back_after_365_days_and_the_total_never(ledger):
    year, total = cap_for(2), cap_for(3)
    for number, at in ((1, NOW), (2, NOW + timedelta(days=200))):
        debit(ledger, round=number, at=at, year=year, total=total)
    with pytest.raises(BudgetExceeded, match="one year"):
        debit(ledger, round=3, at=NOW + timedelta(days=364), year=year, total=total)
    debit(ledger, round=3, at=NOW + timedelta(days=366), year=year, total=total)
    with pytest.raises(BudgetExceeded, match="all studies"):
        debit(ledger, round=4, at=NOW + timedelta(days=5000), year=year, total=total)


def test_a_clock_that_was_set_back_frees_no_budget(ledger):
    debit(ledger, year=cap_for(1))
    for days in (-10, -400, -4000):
        with pytest.raises(BudgetExceeded, match="one year"):
            debit(ledger, round=2, at=NOW + timedelta(days=days), year=cap_for(1))


def test_noise_added_on_the_way_is_charged_at_the_noise_of_the_first_round(ledger):
    louder = dataclasses.replace(CHARGE, noise_multiplier=3.0)
    debit(ledger)
    debit(ledger, round=2, charge=louder)
    assert ledger.charges() == [CHARGE, CHARGE]


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": 0.9}, {"sampling_rate": 0.3}, {"steps": 6}]
)
def test_a_mechanism_that_changes_on_the_way_is_refused_and_not_charged(ledger, change):
    debit(ledger)
    with pytest.raises(BudgetExceeded, match="may not weaken"):
        debit(ledger, round=2, charge=dataclasses.replace(CHARGE, **change))
    assert ledger.charges() == [CHARGE]


def test_a_smaller_delta_makes_the_same_limit_stricter(ledger):
    limit = epsilon([CHARGE], delta=1e-4)
    with pytest.raises(BudgetExceeded):
        debit(ledger, limit=limit, delta=1e-6)
    assert debit(ledger, limit=limit, delta=1e-4) is None


def test_a_round_that_was_not_debited_cannot_be_released(ledger):
    with pytest.raises(LedgerError, match="not debited"):
        release(ledger)
    debit(ledger)
    release(ledger)
    with pytest.raises(LedgerError, match="released before"):
        release(ledger)


def test_the_file_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        debit(Ledger(tmp_path / "ledger.sqlite"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET body = '{}'",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE sequence=1",
    ],
)
def test_sqlite_itself_refuses_to_change_or_delete_an_entry(ledger, sql):
    debit(ledger)
    before = ledger.entries()
    database = sqlite3.connect(ledger._path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(sql)
    database.close()
    assert ledger.entries() == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET body = replace(body, '1.0', '9.0') WHERE sequence = 1",
        "DELETE FROM entries WHERE sequence = 1",
        "UPDATE entries SET sequence = 9 WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 0",
    ],
)
def test_nothing_is_charged_on_top_of_a_tampered_chain(ledger, sql):
    debit(ledger)
    debit(ledger, round=2)
    database = sqlite3.connect(ledger._path)
    database.execute("DROP TRIGGER no_update")
    database.execute("DROP TRIGGER no_delete")
    database.execute(sql)
    database.commit()
    database.close()
    before = ledger.entries()
    with pytest.raises(LedgerError):
        ledger.verify()
    with pytest.raises(LedgerError):
        debit(ledger, round=3)
    with pytest.raises(LedgerError):
        release(ledger, round=2)
    assert ledger.entries() == before


def test_a_restored_older_copy_is_found_against_the_coordinators_head(ledger):
    debit(ledger)
    old = ledger._path.read_bytes()
    head = release(ledger).digest
    assert ledger.verify(head=head).digest == head
    ledger._path.write_bytes(old)
    ledger.verify()
    with pytest.raises(LedgerError, match="before the head"):
        ledger.verify(head=head)


def test_two_ledgers_never_begin_alike(tmp_path):
    heads = {Ledger(tmp_path / name).verify().digest for name in "abc"}
    assert len(heads) == 3


def test_the_chain_can_be_checked_by_anybody_offline(ledger):
    debit(ledger)
    release(ledger)
    again = chain.parse(chain.export(ledger.entries()))
    assert chain.verify(again) == ledger.verify()


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 500]
)
def test_a_file_that_is_no_ledger_is_one_sentence(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be used"):
        debit(Ledger(path))
    assert path.read_bytes() == content


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "absent" / "ledger.sqlite").entries()


def _race(path, barrier, answers):
    ledger = Ledger(path)
    barrier.wait()
    for number in range(1, 4):
        try:
            answers.put("charged" if debit(ledger, round=number) is None else "again")
        except Refusal as refused:
            answers.put(refused.code.value)


def test_two_processes_that_debit_the_same_round_charge_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    path = tmp_path / "ledger.sqlite"
    epsilon([CHARGE] * 3, delta=1e-4)  # warms the cache that both inherit
    children = [context.Process(target=_race, args=(path, barrier, answers)) for _ in range(2)]
    for child in children:
        child.start()
    said = [answers.get(timeout=600) for _ in range(6)]
    for child in children:
        child.join()
    assert sorted(said) == ["SITE_211"] * 3 + ["charged"] * 3
    ledger = Ledger(path)
    assert len(ledger.charges()) == 3
    ledger.verify()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tries=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.sampled_from("ij"), st.booleans()),
        max_size=12,
    )
)
def test_no_sequence_of_tries_charges_a_round_twice_or_trains_it_uncharged(tmp_path_factory, tries):
    ledger = Ledger(tmp_path_factory.mktemp("l") / "ledger.sqlite")
    trained = []
    for study, number, instruction, crash in tries:
        said = {"study": study, "round": number, "instruction": instruction}
        with contextlib.suppress(Refusal):
            if debit(ledger, **said) is None:
                trained.append((study, number))
                if not crash:
                    release(ledger, **said)
    assert len(trained) == len(set(trained)) == len(ledger.charges())
    ledger.verify()
