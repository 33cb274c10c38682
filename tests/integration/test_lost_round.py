"""One hospital's word that it lost a round wastes nobody's charge: real sites, real ledgers."""

from datetime import UTC, datetime

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code, EngineError
from septum.models import network_of, to_vector
from septum.wire import Declined, decode_instruction, encode_refusal
from septum_bench.seeded import SeededSource
from septum_client.app import SiteApp
from septum_client.site import Site
from septum_server import checkpoint, rounds
from septum_server.bridge import RoundLoop
from septum_server.clock import Clock

NODES = {2: "north", 3: "south", 4: "west"}
LIAR = 3


class Hospitals:
    """Three sites behind a grid; ``lies`` says whether the liar claims to have lost a round."""

    def __init__(self, folder, signed, tiny):
        for name in NODES.values():
            tiny.site(folder / name, signed, name=name)
        self.folder, self.study, self.tiny = folder, signed.study, tiny
        self.lies = lambda order: False
        self.at = datetime.now(UTC).timestamp()
        now = lambda: datetime.fromtimestamp(self.at, tz=UTC)  # noqa: E731 - one line
        self.app = SiteApp(
            lambda context: folder / NODES[context.node_id], source=SeededSource(1), clock=now
        )
        self.answers, self.orders = {}, []

    def get_node_ids(self):
        return list(NODES)

    def push_messages(self, messages):
        for message in messages:
            name = f"order-{len(self.orders)}"
            message.metadata.__dict__["_message_id"] = name
            self.orders.append(name)
            self.answers[name] = self.answer(message)
        return self.orders[-len(messages) :]

    def pull_messages(self, names):
        return [self.answers.pop(name) for name in names if name in self.answers]

    def answer(self, message):
        node, order = message.metadata.dst_node_id, decode_instruction(message.content)
        if node == LIAR and self.lies(order):
            code, site = Code.ROUND_ALREADY_CHARGED, NODES[node]
            said = Declined(code=code, site=site, instruction=order.digest)
            return Message(encode_refusal(said.signed(self.tiny.key(site))), reply_to=message)
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        return self.app(message, context)

    def run(self):
        """Run what is left, as `septum study start` and `resume` do."""
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        last = checkpoint.latest(run, digest=self.study.digest)
        loop = RoundLoop(
            self.study,
            folder=run,
            key=self.tiny.key("coordinator"),
            watch=lambda *_: None,
            clock=Clock(now=lambda: self.at, sleep=self.sleep),
        )
        start = to_vector(network_of(self.study)) if last is None else last.model
        return loop.run(self, model=start, done=0 if last is None else last.round)

    def sleep(self, seconds):
        self.at += seconds

    def charged(self):
        return [len(Site.open(self.folder / name).ledger.charges()) for name in NODES.values()]


@pytest.fixture
def hospitals(tiny, tmp_path, monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    parts = {"rounds": 2, "strategy": {"minimum_sites": 3}}
    return lambda **more: Hospitals(tmp_path, tiny.signed(tiny.study(**parts, **more)), tiny)


def test_a_round_that_one_hospital_says_is_lost_is_asked_again_and_everybody_charged_once(
    hospitals,
):
    hospitals, said = hospitals(), []
    hospitals.lies = lambda order: order.round == 1 and not said and said.append(order) is None
    with pytest.raises(EngineError, match="south: SITE_211") as ended:
        hospitals.run()
    assert "Ask south" in ended.value.remedy
    assert hospitals.charged() == [1, 0, 1]
    hospitals.run()
    assert [entry.answered for entry in rounds.read(hospitals.folder / "run")] == [
        tuple(NODES.values())
    ] * 2
    assert hospitals.charged() == [2, 2, 2], "once a round, however often it was asked"


def test_who_says_so_again_is_named_each_time_and_costs_the_others_that_round_alone(hospitals):
    hospitals = hospitals()
    hospitals.lies = lambda order: order.round == 1
    model = to_vector(network_of(hospitals.study))
    for remedy in ("Ask south", "given up"):
        with pytest.raises(EngineError, match="south: SITE_211") as ended:
            hospitals.run()
        assert remedy in ended.value.remedy
        assert hospitals.charged() == [1, 0, 1]
    hospitals.run()
    first, second = rounds.read(hospitals.folder / "run")
    assert "south: SITE_211" in first.said
    assert second.complete
    assert hospitals.charged() == [2, 1, 2]
    kept = checkpoint.load(hospitals.folder / "run" / "round-00001.npz")
    assert np.array_equal(kept.model, model)


def test_retries_within_one_run_give_no_round_up(hospitals):
    hospitals = hospitals(participation={"dropout": "retry", "retries": 2})
    run = []  # a hospital that still trains for the run before says it to every try of this one
    hospitals.lies = lambda order: len(run) == 1
    run.append(1)
    with pytest.raises(EngineError, match="south: SITE_211"):
        hospitals.run()
    assert len(hospitals.orders) == 3 * len(NODES)
    run.append(2)
    hospitals.run()
    assert [entry.complete for entry in rounds.read(hospitals.folder / "run")] == [True, True]
    assert hospitals.charged() == [2, 2, 2]
