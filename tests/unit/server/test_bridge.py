import dataclasses

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code, EngineError
from septum.wire import (
    Release,
    decode_instruction,
    encode_refusal,
    encode_release,
)
from septum_server import checkpoint, rounds
from septum_server.app import server_app
from septum_server.bridge import SeptumStrategy, pack, unpack

PATIENT = "Mustermann^Erika"
NODES = {"north": 2, "south": 3, "west": 4}
START = np.zeros(40, np.float32)


class Nodes:
    """The part of a grid that configuring a round needs."""

    def __init__(self, nodes):
        self.nodes = nodes

    def get_node_ids(self):
        return self.nodes


class Round:
    """One strategy, driven by hand."""

    def __init__(self, study, folder, *, done=0):
        self.watched = []
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.strategy = SeptumStrategy(
            study, folder=folder, done=done, watch=lambda *seen: self.watched.append(seen)
        )

    def ask(self, number=1, model=START):
        grid = Nodes(list(NODES.values()))
        self.messages = {
            m.metadata.dst_node_id: m
            for m in self.strategy.configure_train(number, pack(model), ConfigRecord(), grid)
        }
        self.instruction = decode_instruction(self.messages[2].content)

    def release(self, site, **changes):
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
        return encode_release(dataclasses.replace(honest, **changes))

    def reply(self, node, content):
        return Message(content, reply_to=self.messages[node])

    def close(self, *replies, number=1):
        model, _ = self.strategy.aggregate_train(number, replies)
        return unpack(model), rounds.read(self.folder)[-1]


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def round_(tiny, tmp_path):
    made = Round(tiny.study(), tmp_path / "run")
    made.ask()
    return made


def test_every_hospital_gets_the_same_instruction_and_no_run_config(tiny, tmp_path):
    made = Round(tiny.study(), tmp_path / "run", done=1)
    config = ConfigRecord({"noise_multiplier": 0.0})
    grid = Nodes([4, 2, 3])
    messages = list(made.strategy.configure_train(1, pack(START), config, grid))
    assert [m.metadata.dst_node_id for m in messages] == [2, 3, 4]
    for message in messages:
        assert set(message.content) == {"model", "instruction"}
        assert decode_instruction(message.content).round == 2


def test_no_hospital_is_asked_to_evaluate(tiny, tmp_path):
    strategy = Round(tiny.study(), tmp_path / "run").strategy
    assert list(strategy.configure_evaluate(1, pack(START), ConfigRecord(), Nodes([2]))) == []
    assert strategy.aggregate_evaluate(1, []) is None


def test_a_full_round_is_averaged_recorded_saved_and_watched(round_, tiny):
    model, entry = round_.close(
        *(round_.reply(node, round_.release(site)) for site, node in NODES.items())
    )
    assert np.allclose(model, 0.1)
    assert entry.complete
    assert entry.answered == ("north", "south", "west")
    assert entry.heads == dict.fromkeys(NODES, "0" * 64)
    saved = checkpoint.latest(round_.folder, digest=tiny.study().digest)
    assert (saved.round, saved.model.tobytes()) == (1, model.tobytes())
    assert len(round_.watched) == 1


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
            round_.reply(3, encode_refusal(Code.BUDGET_EXCEEDED, site="south")),
        )
    assert checkpoint.latest(round_.folder, digest=tiny.study().digest) is None
    assert round_.watched == []
    (entry,) = rounds.read(round_.folder)
    assert entry.refused == {"south": "SITE_210", "west": "NO_ANSWER"}


def test_a_round_that_no_retry_can_complete_is_skipped_with_its_model_unchanged(round_, tiny):
    lost = [
        round_.reply(node, encode_refusal(Code.ROUND_ALREADY_CHARGED, site=site))
        for site, node in list(NODES.items())[:2]
    ]
    with pytest.raises(EngineError, match="SITE_211"):
        round_.close(*lost, round_.reply(4, round_.release("west")))
    saved = checkpoint.latest(round_.folder, digest=tiny.study().digest)
    assert (saved.round, saved.model.tobytes()) == (1, START.tobytes())


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
        round_.reply(4, encode_refusal(Code.INTERNAL, site="west")),
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
        number=2,
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
    text = RecordDict({"refusal": ConfigRecord({"code": PATIENT, "site": "west"})})
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
        made = Round(tiny.study(), tmp_path / name)
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


def test_a_round_cannot_be_aggregated_before_it_is_configured(tiny, tmp_path):
    with pytest.raises(EngineError, match="before it was configured"):
        Round(tiny.study(), tmp_path / "run").strategy.aggregate_train(1, [])


def test_an_existing_run_is_not_overwritten_without_resume(tiny, tmp_path):
    study = tiny.study()
    checkpoint.save(tmp_path, checkpoint.Checkpoint(digest=study.digest, round=2, model=START))
    with pytest.raises(EngineError, match="already holds 2 rounds"):
        server_app(study, folder=tmp_path, resume=False, watch=lambda *_: None)
    with pytest.raises(EngineError, match="another study"):
        server_app(tiny.study(rounds=9), folder=tmp_path, resume=True, watch=lambda *_: None)
