import dataclasses
import threading
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code, EngineError, Refusal
from septum.signing import Purpose, verify
from septum.wire import (
    Declined,
    Release,
    encode_instruction,
    encode_refusal,
    encode_release,
)
from septum_server import checkpoint, rounds
from septum_server.app import server_app
from septum_server.arrivals import Arrivals
from septum_server.asking import read
from septum_server.bridge import RoundLoop
from septum_server.clock import Clock

PATIENT = "Mustermann^Erika"
NODES = {"north": 2, "south": 3, "west": 4}
START = np.zeros(40, np.float32)


class Round:
    """One study's rounds, driven by hand."""

    def __init__(self, tiny, folder, **study):
        self.tiny, self.folder = tiny, folder
        self.study = tiny.signed(tiny.study(**study)).study
        self.watched = []
        folder.mkdir(exist_ok=True)
        self.loop = RoundLoop(
            self.study,
            folder=folder,
            key=tiny.key("coordinator"),
            watch=lambda *seen: self.watched.append(seen),
        )

    def ask(self, number=1, model=START):
        self.model = model
        self.instruction = self.loop.order(number, model)
        self.tally = self.loop.tally(self.instruction)
        content = encode_instruction(self.instruction)
        self.messages = {
            node: Message(content, dst_node_id=node, message_type="train")
            for node in NODES.values()
        }

    def unsigned(self, site, **changes):
        honest = Release(
            study=self.instruction.study,
            site=site,
            round=self.instruction.round,
            instruction=self.instruction.digest,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            ledger_head="0" * 64,
            update=np.full(40, 0.1, np.float32),
        )
        return dataclasses.replace(honest, **changes)

    def release(self, site, **changes):
        return encode_release(self.unsigned(site, **changes).signed(self.tiny.key(site)))

    def refusal(self, site, code, **changes):
        fields = {"code": code, "site": site, "instruction": self.instruction.digest}
        return encode_refusal(Declined(**(fields | changes)).signed(self.tiny.key(site)))

    def reply(self, node, content):
        return Message(content, reply_to=self.messages[node])

    def close(self, *replies):
        for reply in replies:
            node = reply.metadata.src_node_id
            self.tally.take(node, partial(read, reply, node))
        model = self.loop.close(self.tally, self.model)
        return model, rounds.read(self.folder)[-1]


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def round_(tiny, tmp_path):
    made = Round(tiny, tmp_path / "run")
    made.ask()
    return made


def test_a_full_round_is_averaged_recorded_saved_and_watched(round_, tiny):
    model, entry = round_.close(
        *(round_.reply(node, round_.release(site)) for site, node in NODES.items())
    )
    assert np.allclose(model, 0.1)
    assert entry.complete
    assert entry.answered == ("north", "south", "west")
    assert entry.heads == dict.fromkeys(NODES, "0" * 64)
    saved = checkpoint.latest(round_.folder, digest=round_.study.digest)
    assert (saved.round, saved.model.tobytes()) == (1, model.tobytes())
    assert len(round_.watched) == 1


def test_a_hospital_that_adds_more_noise_takes_part_for_a_share_that_is_on_record(round_):
    model, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        round_.reply(4, round_.release("west", noise_multiplier=4.0)),
    )
    assert entry.complete
    (part,) = (entry.scores[site].get("share") for site in ("west",))
    assert 0.2 < part < 0.9
    assert np.allclose(model, (0.1 + 0.1 + part * 0.1) / 3, atol=1e-4)
    assert "share" not in entry.scores["north"]


def test_a_quorum_is_loud_about_who_is_missing_and_why(round_):
    model, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
    )
    assert np.allclose(model, 0.1)
    assert entry.asked == ("north", "south", "west")
    assert entry.answered == ("north", "south")
    assert entry.refused == {"west": rounds.NO_ANSWER}
    assert not entry.complete


def test_below_the_minimum_the_run_ends_and_the_model_stays(round_, tiny):
    with pytest.raises(EngineError, match=r"1 contributions.*needs 2.*south: SITE_210"):
        round_.close(
            round_.reply(2, round_.release("north")),
            round_.reply(3, round_.refusal("south", Code.BUDGET_EXCEEDED)),
        )
    assert checkpoint.latest(round_.folder, digest=round_.study.digest) is None
    assert round_.watched == []
    (entry,) = rounds.read(round_.folder)
    assert entry.refused == {"south": "SITE_210", "west": "NO_ANSWER"}


def test_a_round_that_is_said_to_be_lost_to_two_runs_is_given_up_with_its_model_unchanged(
    tiny, tmp_path
):
    for times in (1, 2):
        round_ = Round(tiny, tmp_path / "run")
        round_.ask()
        lost = [
            round_.reply(node, round_.refusal(site, Code.ROUND_ALREADY_CHARGED))
            for site, node in list(NODES.items())[:2]
        ]
        with pytest.raises(EngineError, match="SITE_211") as ended:
            round_.close(*lost, round_.reply(4, round_.release("west")))
        saved = checkpoint.latest(round_.folder, digest=round_.study.digest)
        if times == 1:
            assert saved is None, "one word of theirs does not end what west was charged for"
            assert "Ask north, south" in ended.value.remedy
    assert (saved.round, saved.model.tobytes()) == (1, START.tobytes())
    assert "given up" in ended.value.remedy


def test_two_hospitals_that_each_lose_a_round_once_do_not_end_it(tiny, tmp_path):
    for claims in ("south", "west"):
        made = Round(tiny, tmp_path / "run", strategy={"minimum_sites": 3})
        made.ask()
        said = [
            made.refusal(site, Code.ROUND_ALREADY_CHARGED) if site == claims else made.release(site)
            for site in NODES
        ]
        with pytest.raises(EngineError, match=f"{claims}: SITE_211"):
            made.close(
                *(made.reply(node, each) for node, each in zip(NODES.values(), said, strict=True))
            )
        assert checkpoint.latest(made.folder, digest=made.study.digest) is None


def test_nobody_answering_is_no_success(round_):
    with pytest.raises(EngineError, match="0 contributions"):
        round_.close()


SPOILT = {
    "NOT_FINITE": {"update": np.full(40, np.nan, np.float32)},
    "SHAPE": {"update": np.ones(1, np.float32)},
    "NORM": {"update": np.full(40, 1e30, np.float32)},
    "WEAKER_PRIVACY": {"noise_multiplier": 0.5},
    "TOO_MUCH_NOISE": {"noise_multiplier": 1e9},
    "OTHER_INSTRUCTION": {"round": 7},
    "REPLAYED": {"round": 0},
}


@pytest.mark.parametrize(("reason", "changes"), SPOILT.items(), ids=SPOILT)
def test_a_release_that_is_not_admitted_never_reaches_the_model(round_, reason, changes):
    model, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        round_.reply(4, round_.release("west", **changes)),
    )
    assert np.allclose(model, 0.1)
    assert entry.refused == {"west": reason}
    assert entry.answered == ("north", "south")


def _other_record_kind(content):
    content["metrics"] = MetricRecord({"steps": 3})


def _extra_metric(content):
    content["metrics"]["patients"] = 41


def _stray_record(content):
    content[PATIENT] = ConfigRecord({"text": PATIENT})


@pytest.mark.parametrize("spoil", [_other_record_kind, _extra_metric, _stray_record])
def test_a_message_of_another_form_is_a_stray_and_the_run_goes_on(round_, spoil):
    content = round_.release("west")
    spoil(content)
    _, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        round_.reply(4, content),
    )
    assert entry.strays == ("FORM",)
    assert entry.refused == {"west": rounds.NO_ANSWER}
    assert PATIENT not in (round_.folder / "rounds.jsonl").read_text()


def test_a_site_contributes_once_however_often_it_answers(round_):
    longer = round_.release("north", update=np.full(40, 0.3, np.float32))
    model, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(2, longer),
        round_.reply(3, round_.release("south")),
        round_.reply(4, round_.refusal("west", Code.INTERNAL)),
    )
    assert np.allclose(model, 0.1)
    assert entry.strays == ("DUPLICATE",)
    assert entry.answered == ("north", "south")


def test_a_second_node_cannot_speak_for_a_site(round_):
    forged = round_.release("north", update=np.full(40, 0.3, np.float32))
    model, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, forged),
        round_.reply(4, round_.release("west")),
    )
    assert np.allclose(model, 0.1)
    assert entry.strays == ("OTHER_NODE",)
    assert entry.refused == {"south": rounds.NO_ANSWER}


def test_a_node_cannot_change_the_site_it_speaks_for(round_):
    round_.close(*(round_.reply(node, round_.release(site)) for site, node in NODES.items()))
    round_.ask(2)
    forged = round_.release("north", update=np.full(40, 0.3, np.float32))
    model, entry = round_.close(
        round_.reply(3, forged),
        round_.reply(2, round_.release("north")),
        round_.reply(4, round_.release("west")),
    )
    assert np.allclose(model, 0.1)
    assert entry.refused == {"south": "OTHER_SITE"}


def test_a_site_outside_the_study_is_a_stray(round_):
    _, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        round_.reply(4, round_.release("elsewhere")),
    )
    assert entry.strays == ("UNKNOWN_SITE",)
    assert entry.refused == {"west": rounds.NO_ANSWER}


def test_flowers_error_text_is_never_kept(round_, caplog, capfd):
    failed = Message(Error(code=2, reason=PATIENT), reply_to=round_.messages[4])
    spoilt = {"code": PATIENT, "site": "west", "instruction": "", "signature": ""}
    text = RecordDict({"refusal": ConfigRecord(spoilt)})
    _, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        failed,
        round_.reply(4, text),
    )
    assert sorted(entry.strays) == ["FLOWER_2", "FORM"]
    kept = (round_.folder / "rounds.jsonl").read_text() + caplog.text + "".join(capfd.readouterr())
    assert PATIENT not in kept


def test_the_order_of_answers_never_changes_the_model(tiny, tmp_path):
    models = []
    for name, order in (("a", [2, 3, 4]), ("b", [4, 3, 2])):
        made = Round(tiny, tmp_path / name)
        made.ask()
        sites = {node: site for site, node in NODES.items()}
        updates = {
            node: np.random.default_rng(node).normal(0, 0.1, 40).astype(np.float32)
            for node in sites
        }
        model, _ = made.close(
            *(made.reply(n, made.release(sites[n], update=updates[n])) for n in order)
        )
        models.append(model.tobytes())
    assert models[0] == models[1]


def test_an_existing_run_is_not_overwritten_without_resume(tiny, tmp_path):
    study = tiny.study()
    checkpoint.save(tmp_path, checkpoint.Checkpoint(digest=study.digest, round=2, model=START))
    with pytest.raises(EngineError, match="already holds 2 rounds"):
        server_app(study, folder=tmp_path, resume=False, watch=lambda *_: None, key=None)
    with pytest.raises(EngineError, match="another study"):
        server_app(
            tiny.study(rounds=9), folder=tmp_path, resume=True, watch=lambda *_: None, key=None
        )


def others(round_):
    """Return two honest answers, so that the third decides nothing."""
    return (
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
    )


def forged(round_, site, by, **changes):
    return round_.unsigned(site, **changes).signed(round_.tiny.key(by))


UNBELIEVED = {
    "without a signature": ("UNSIGNED", lambda r: r.unsigned("west")),
    "signed by a stranger": ("FORGED", lambda r: forged(r, "west", "stranger")),
    "signed by another site": ("FORGED", lambda r: forged(r, "west", "south")),
    "signed by the coordinator": ("FORGED", lambda r: forged(r, "west", "coordinator")),
    "changed under way": (
        "FORGED",
        lambda r: dataclasses.replace(forged(r, "west", "west"), update=START + np.float32(1)),
    ),
}


@pytest.mark.parametrize(("reason", "make"), UNBELIEVED.values(), ids=UNBELIEVED)
@pytest.mark.parametrize("known", [False, True])
def test_what_a_sites_key_did_not_sign_is_recorded_and_never_counted(round_, reason, make, known):
    if known:
        round_.loop._names.learn(4, "west")
    model, entry = round_.close(*others(round_), round_.reply(4, encode_release(make(round_))))
    assert np.allclose(model, 0.1)
    assert entry.answered == ("north", "south")
    assert entry.refused == {"west": reason if known else rounds.NO_ANSWER}
    assert entry.strays == (() if known else (reason,))


def test_nobody_can_make_a_site_refuse_by_a_forged_refusal(round_):
    bad = Declined(code=Code.INTERNAL, site="north", instruction=round_.instruction.digest)
    _, entry = round_.close(
        round_.reply(4, encode_refusal(bad.signed(round_.tiny.key("west")))),
        round_.reply(4, encode_refusal(bad)),
        *others(round_),
    )
    assert entry.answered == ("north", "south")
    assert entry.strays == ("FORGED", "UNSIGNED")


def test_an_answer_of_an_earlier_round_is_refused_as_a_replay_however_well_it_is_signed(round_):
    old = round_.release("west")
    said = round_.refusal("west", Code.INTERNAL)
    round_.close(*others(round_), round_.reply(4, old))
    round_.ask(2)
    for content in (old, said):
        round_.tally = round_.loop.tally(round_.instruction)
        _, entry = round_.close(*others(round_), round_.reply(4, content))
        assert entry.refused == {"west": "REPLAYED"}


def test_a_node_that_answers_what_another_was_asked_is_not_heard(round_):
    stolen = round_.reply(4, round_.release("west"))
    stolen.metadata.__dict__["_src_node_id"] = 9
    round_.tally.take(4, partial(read, stolen, 4))
    _, entry = round_.close(*others(round_))
    assert entry.strays == ("OTHER_NODE",)
    assert entry.refused == {"west": rounds.NO_ANSWER}


def test_a_node_that_connects_by_a_sites_key_takes_its_place_from_the_node_before(round_):
    round_.close(*others(round_), round_.reply(4, round_.release("west")))
    round_.ask(2)
    round_.loop._names.learn(9, "west")
    round_.messages[9] = Message(RecordDict(), dst_node_id=9, message_type="train")
    _, entry = round_.close(*others(round_), round_.reply(9, round_.release("west")))
    assert entry.complete


def test_a_study_that_nobody_signs_counts_unsigned_answers(tiny, tmp_path):
    study = tiny.study()
    loop = RoundLoop(study, folder=tmp_path, key=None, watch=lambda *_: None)
    order = loop.order(1, START)
    assert order.signature == ""
    tally = loop.tally(order)
    made = Round(tiny, tmp_path / "other")
    made.ask()
    for node, site in enumerate(("north", "south")):
        said = made.unsigned(site, study=study.digest, instruction=order.digest)
        tally.take(node, lambda said=said: said)
    assert set(tally.releases) == {"north", "south"}


def test_every_order_is_signed_and_repeating_it_changes_its_deadline_alone(round_):
    first = round_.instruction
    public = round_.tiny.key("coordinator").public
    later = Clock(now=lambda: first.deadline + 5.0)
    again = RoundLoop(
        round_.study,
        folder=round_.folder,
        key=round_.tiny.key("coordinator"),
        watch=lambda *_: None,
        clock=later,
    ).order(1, START)
    for order in (first, again):
        verify(public, Purpose.INSTRUCTION, order.statement, order.signature)
    assert again.digest == first.digest
    assert again.deadline == first.deadline + 5 + round_.study.participation.deadline_s


def test_a_run_begins_only_with_the_key_that_its_study_names(tiny, tmp_path):
    study = tiny.signed().study
    for key in (None, tiny.key("north")):
        with pytest.raises(EngineError, match="names the coordinator"):
            server_app(study, folder=tmp_path, resume=True, watch=lambda *_: None, key=key)
    with pytest.raises(EngineError, match="names the coordinator"):
        server_app(
            tiny.study(),
            folder=tmp_path,
            resume=True,
            watch=lambda *_: None,
            key=tiny.key("coordinator"),
        )


def test_a_study_that_ended_is_not_run(tiny, tmp_path):
    study = tiny.signed(tiny.study(expires="2026-01-31")).study
    at = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    given = {"folder": tmp_path, "resume": True, "watch": lambda *_: None}
    with pytest.raises(Refusal, match="2026-01-31") as refused:
        server_app(study, key=tiny.key("coordinator"), clock=Clock(now=lambda: at), **given)
    assert refused.value.code is Code.STUDY_EXPIRED
    server_app(study, key=tiny.key("coordinator"), clock=Clock(now=lambda: at - 1), **given)


def test_the_last_round_below_the_quorum_leaves_no_checkpoint_of_a_finished_study(tiny, tmp_path):
    made = Round(tiny, tmp_path / "run", rounds=1)
    made.ask()
    lost = [
        made.reply(node, made.refusal(site, Code.ROUND_ALREADY_CHARGED))
        for site, node in NODES.items()
    ]
    with pytest.raises(EngineError, match="0 contributions"):
        made.close(*lost)
    assert checkpoint.latest(made.folder, digest=made.study.digest) is None


def test_the_round_record_says_in_one_line_who_is_missing_why_and_what_to_do(round_):
    _, entry = round_.close(
        round_.reply(2, round_.release("north")),
        round_.reply(3, round_.release("south")),
        round_.reply(4, round_.refusal("west", Code.BUDGET_EXCEEDED)),
    )
    assert entry.said == (
        "round 1: 2 of 3 sites contributed; "
        "west: SITE_210, its privacy budget is spent (the hospital decides)"
    )


def test_one_update_at_most_is_in_memory_and_none_is_left_on_disk_after_two_rounds(round_):
    everybody = lambda: [  # noqa: E731 - said again for each round
        round_.reply(node, round_.release(site)) for site, node in NODES.items()
    ]
    round_.close(*everybody())
    releases = round_.tally.releases.values()
    assert all(each.stated.update.size == 0 for each in releases)
    assert {each.site for each in releases if each.path in each.fresh} <= {"west"}
    assert all(each.path.is_file() for each in releases if each.site != "west")
    round_.ask(2)
    round_.close(*everybody())
    kept = sorted(path.name for path in (round_.folder / "arrivals").iterdir())
    assert kept == ["00002"], "the last round's releases are compared with the next round's"


def test_a_disk_that_is_full_stops_the_run_by_name(round_, monkeypatch):
    (round_.folder / "arrivals").write_text("in the way")
    reply = round_.reply(2, round_.release("north"))
    with pytest.raises(EngineError, match="could not be kept"):
        round_.tally.take(2, partial(read, reply, 2))


def test_an_update_reads_alike_from_memory_and_from_the_disk(round_, tmp_path, monkeypatch):
    arrivals, update = Arrivals(folder=tmp_path / "a"), np.arange(5000, dtype=np.float32)
    reading, written = threading.Event(), Arrivals._write
    monkeypatch.setattr(Arrivals, "_write", lambda *given: reading.wait(60) and written(*given))
    first = arrivals.take(round_.unsigned("north", update=update))
    assert not first.path.exists()
    pieces = [(0, 5000), (0, 0), (1, 2), (1023, 1025), (4096, 5000)]
    before = [first.stretch(*piece).copy() for piece in pieces]
    reading.set()
    arrivals.take(round_.unsigned("south", update=update[::-1]))
    assert first.path.is_file()
    assert not first.fresh.keys() & {first.path}
    for piece, was in zip(pieces, before, strict=True):
        assert np.array_equal(first.stretch(*piece), was)
    with pytest.raises(ValueError, match="read-only"):
        first.update[0] = 1.0
    assert np.array_equal(first.whole().update, update)


def test_a_disk_that_is_full_while_an_update_is_written_stops_the_run_at_the_next(
    round_, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Arrivals, "_write", full)
    arrivals = Arrivals(folder=tmp_path / "a")
    first = arrivals.take(round_.unsigned("north"))
    with pytest.raises(EngineError, match=r"could not be kept \(No space left on device\)"):
        arrivals.take(round_.unsigned("south"))
    assert first.update.shape == (40,), "what came before is still there, in memory"
    arrivals.drop()
    assert not (tmp_path / "a").exists()
