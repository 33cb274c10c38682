"""One hospital's word that it lost a round wastes nobody's charge: real sites, real ledgers."""

import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

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

TRAINER = Path(__file__).with_name("trainer.py")
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
        self.passes, self.asked = lambda: None, ""
        self.app = SiteApp(
            lambda context: folder / NODES[context.node_id], source=SeededSource(1), clock=self.now
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
        self.asked = NODES[node]
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

    def now(self):
        """Return the hospitals' time; what ``passes`` between two looks at it may move it."""
        self.passes()
        return datetime.fromtimestamp(self.at, tz=UTC)

    @contextmanager
    def trains(self, name):
        """Let another process of a hospital train round 1, charged and stopped on the way."""
        command = [sys.executable, str(TRAINER), str(self.folder / name)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as other:
            try:
                assert other.stdout.readline() == "training\n"
                yield other
            finally:
                other.kill()

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


def test_who_still_trains_for_a_run_that_was_killed_says_so_and_never_counts_as_lost(hospitals):
    hospitals = hospitals()
    run = hospitals.folder / "run"
    with hospitals.trains("west") as other:
        # The last to be asked: nobody else is late because of it.
        hospitals.passes = lambda: hospitals.asked == "west" and hospitals.sleep(600)
        for _ in range(2):
            with pytest.raises(EngineError, match=r"\(west: SITE_243\)"):
                hospitals.run()
            (entry,) = rounds.read(run)
            assert entry.lost == frozenset()
            assert "it still trains" in entry.said
        assert hospitals.charged() == [1, 1, 1]
        other.communicate("\n", timeout=120)
    hospitals.passes = lambda: None
    hospitals.run()
    assert [entry.complete for entry in rounds.read(run)] == [True, True]
    assert hospitals.charged() == [2, 2, 2], "what it was charged for a killed run counted"


def test_an_order_repeated_while_it_is_trained_waits_for_the_release_and_counts(hospitals):
    hospitals, looks = hospitals(), []
    with hospitals.trains("south") as other:

        def passes():
            looks.extend([hospitals.asked] * (hospitals.asked == "south"))
            # Some looks on, south was found training and waits.
            if len(looks) == 5:
                other.communicate("\n", timeout=120)

        hospitals.passes = passes
        hospitals.run()
    first, second = rounds.read(hospitals.folder / "run")
    assert first.complete
    assert second.complete
    assert hospitals.charged() == [2, 2, 2]
    kinds = [e.fields["kind"] for e in Site.open(hospitals.folder / "south").ledger.entries()]
    assert kinds == ["genesis", *["debit", "release"] * 2]


def test_who_was_killed_in_mid_training_has_lost_the_round_even_to_who_waits(hospitals):
    hospitals, looks = hospitals(), []
    with hospitals.trains("south") as other:

        def passes():
            looks.extend([hospitals.asked] * (hospitals.asked == "south"))
            if len(looks) == 5:
                other.kill()
                other.wait()

        hospitals.passes = passes
        with pytest.raises(EngineError, match="south: SITE_211"):
            hospitals.run()
    assert hospitals.charged() == [1, 1, 1]
