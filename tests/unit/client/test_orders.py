"""Whose order a hospital obeys, asked through the app that its SuperNode runs."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code, SignatureError
from septum.signing import Purpose, SigningKey, verify
from septum.wire import decode_refusal, decode_release, encode_instruction, payload_digest
from septum_bench.seeded import SeededSource
from septum_client.app import SiteApp, app, from_node_config
from septum_client.budget import Ledger
from septum_client.train import Update

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SOON = int((NOW + timedelta(hours=1)).timestamp())


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def signed(tiny):
    return tiny.signed()


@pytest.fixture
def site(tiny, signed, tmp_path):
    return tiny.site(tmp_path / "site", signed)


def zeros(study, **given):
    return Update(vector=np.zeros_like(given["model"]), drawn=())


def ask(site, order, *, now=NOW, app=None, **given):
    app = app or SiteApp(
        from_node_config, source=SeededSource(1), train=zeros, clock=lambda: now, **given
    )
    node = {"site": str(site.folder)}
    context = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})
    return app(
        Message(encode_instruction(order), dst_node_id=2, message_type="train"), context
    ).content


def refused(site, order, code, **given):
    """Check that ``order`` is refused with a signed ``code``, and that nothing was charged."""
    before = Ledger(site.ledger_path).verify().digest
    said = decode_refusal(ask(site, order, **given))
    assert said.code is code
    assert Ledger(site.ledger_path).verify().digest == before
    assert f'"{code.value}"' in (site.folder / "private.log").read_text()
    verify(site.signing.public, Purpose.REFUSAL, said.statement, said.signature)
    return said


def test_an_order_of_the_coordinator_is_answered_under_the_sites_own_key(tiny, signed, site):
    order = tiny.instruction(signed.study, deadline=SOON)
    release = decode_release(ask(site, order))
    north = signed.study.participant("north").key
    verify(north, Purpose.RELEASE, release.statement, release.signature)
    assert release.ledger_head == Ledger(site.ledger_path).verify().digest
    for other in ("south", "coordinator"):
        with pytest.raises(SignatureError):
            verify(tiny.key(other).public, Purpose.RELEASE, release.statement, release.signature)


FORGED = {
    "signed by another key": lambda order: order.signed(SigningKey.from_seed(b"x" * 32)),
    "signed by a hospital of the study": None,
    "unsigned": lambda order: dataclasses.replace(order, signature=""),
    "another round": lambda order: dataclasses.replace(order, round=2),
    "another deadline": lambda order: dataclasses.replace(order, deadline=order.deadline + 1),
    "another model": lambda order: dataclasses.replace(order, model=order.model + np.float32(1)),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_what_the_coordinator_did_not_sign_is_refused_before_anything_is_charged(
    tiny, signed, site, forge
):
    order = tiny.instruction(signed.study, deadline=SOON)
    forge = forge or (lambda order: order.signed(tiny.key("south")))
    said = refused(site, forge(order), Code.ORDER_SIGNATURE)
    assert said.instruction == forge(order).digest


def test_a_signature_made_for_another_purpose_orders_nothing(tiny, signed, site):
    order = tiny.instruction(signed.study, deadline=SOON)
    stolen = tiny.key("coordinator").sign(Purpose.STUDY, order.statement)
    refused(site, dataclasses.replace(order, signature=stolen), Code.ORDER_SIGNATURE)


def test_an_order_is_obeyed_up_to_its_deadline_and_refused_after_it(tiny, signed, site):
    order = tiny.instruction(signed.study, deadline=SOON)
    late = datetime.fromtimestamp(SOON + 1, tz=UTC)
    refused(site, order, Code.ORDER_LATE, now=late)
    assert decode_release(ask(site, order, now=datetime.fromtimestamp(SOON, tz=UTC))).round == 1


def test_an_order_that_would_stay_good_for_ever_is_refused(tiny, signed, site):
    for_ever = tiny.instruction(signed.study, deadline=1 << 62)
    refused(site, for_ever, Code.ORDER_LATE)


def test_an_old_message_is_worth_nothing_and_an_order_repeated_in_time_costs_nothing(
    tiny, signed, site
):
    order = tiny.instruction(signed.study, deadline=SOON)
    first = decode_release(ask(site, order))
    refused(site, order, Code.ORDER_LATE, now=NOW + timedelta(hours=2))
    again = tiny.instruction(signed.study, deadline=SOON + 7200)
    second = decode_release(ask(site, again, now=NOW + timedelta(hours=2)))
    assert second.statement == first.statement
    assert second.signature == first.signature
    assert len(Ledger(site.ledger_path).charges()) == 1


def test_an_order_for_another_study_is_not_obeyed_for_its_signature(tiny, site):
    other = tiny.signed(tiny.study(rounds=9)).study
    refused(site, tiny.instruction(other, deadline=SOON), Code.UNKNOWN_STUDY)


def test_the_first_round_starts_from_the_approved_weights_even_if_the_coordinator_signs_others(
    tiny, tmp_path
):
    plain = tiny.study()
    start = tiny.instruction(plain).model
    signed = tiny.signed(tiny.study(model={"initial": payload_digest(start)}))
    site = tiny.site(tmp_path / "site", signed)
    crafted = start.copy()
    crafted[0] += np.float32(1e-6)
    order = tiny.instruction(signed.study, model=crafted, deadline=SOON)
    refused(site, order, Code.MODEL_MISMATCH)
    assert decode_release(ask(site, tiny.instruction(signed.study, deadline=SOON))).round == 1
    later = tiny.instruction(signed.study, round=2, model=crafted, deadline=SOON)
    assert decode_release(ask(site, later)).round == 2


def test_a_study_that_ended_trains_no_longer(tiny, tmp_path):
    signed = tiny.signed(tiny.study(expires="2026-05-31"))
    site = tiny.site(tmp_path / "site", signed)
    refused(site, tiny.instruction(signed.study, deadline=SOON), Code.STUDY_EXPIRED)


def test_what_a_hospitals_supernode_runs_obeys_no_study_that_nobody_signs(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "site", study)
    order = tiny.instruction(study, deadline=2**40)
    refused(site, order, Code.STUDY_SIGNATURE, app=app)
    assert decode_release(ask(site, order, unsigned=True)).signature == ""


def test_a_site_whose_key_is_not_the_studys_trains_nothing(tiny, signed, tmp_path):
    site = tiny.site(tmp_path / "site", signed)
    (site.folder / "signing.key").unlink()
    tiny.key("somebody else").save(site.folder / "signing.key")
    order = tiny.instruction(signed.study, deadline=SOON)
    said = decode_refusal(ask(site, order))
    assert said.code in {Code.UNKNOWN_STUDY, Code.OTHER_SITE_KEY}
    assert Ledger(site.ledger_path).charges() == []


def test_a_site_that_lost_its_key_says_so_unsigned_and_without_a_word_of_it(tiny, signed, site):
    (site.folder / "signing.key").write_text("Mustermann^Erika")
    said = decode_refusal(ask(site, tiny.instruction(signed.study, deadline=SOON)))
    assert (said.code, said.signature) == (Code.INTERNAL, "")
    assert Ledger(site.ledger_path).charges() == []
