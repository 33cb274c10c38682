"""The round loop on a grid whose nodes come, go, fall silent and answer by a clock of its own."""

import dataclasses
import gc
import weakref

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code, EngineError
from septum.signed_study import sign
from septum.wire import (
    Declined,
    Release,
    decode_instruction,
    encode_refusal,
    encode_release,
    unread,
)
from septum_server import checkpoint, rounds
from septum_server.bridge import RoundLoop
from septum_server.clock import Clock

START = np.zeros(40, np.float32)
NODES = {2: "north", 3: "south", 4: "west"}
HOUR = 3600


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class World:
    """A grid and its time: each node has a script of what it answers, and when."""

    def __init__(self, tiny, *, online=lambda node, at: True, keys=None):
        self.tiny, self.online, self.keys = tiny, online, keys or {}
        self.at = 1_000_000.0
        self.begun = self.at
        self.waiting = {}
        self.asked = []
        self.after = dict.fromkeys(NODES, 10.0)
        self.script = {}
        self.named = {}
        self.back = {}

    @property
    def clock(self):
        return Clock(now=lambda: self.at, sleep=self.sleep)

    def sleep(self, seconds):
        assert seconds > 0
        self.at += seconds

    def get_nodes(self):
        return [
            NodeInfo(
                node_id=node,
                public_key=self.keys.get(node, b""),
                last_activated_at=self.activated(node),
            )
            for node in (*NODES, *(set(self.keys) - set(NODES)))
            if self.online(node, self.at - self.begun)
        ]

    def activated(self, node):
        """Return when ``node`` connected last, as Flower writes it."""
        past = [at for at in self.back.get(node, ()) if at <= self.at - self.begun]
        return f"+{max(past, default=0)}"

    def get_node_ids(self):
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages):
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            name = f"{node}-{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = name
            self.asked.append((node, message))
            ready = self.at + self.after.get(node, 10.0)
            self.waiting[name] = (ready, node, message)
            names.append(name)
        return names

    def pull_messages(self, names):
        ready = [n for n in names if n in self.waiting and self.waiting[n][0] <= self.at]
        return [self.answer(*self.waiting.pop(name)[1:]) for name in ready]

    def answer(self, node, message):
        order = decode_instruction(message.content)
        self.named[NODES.get(node)] = message.metadata.message_id
        tries = sum(asked == node for asked, _ in self.asked)
        said = self.script.get(node, honest)(self, NODES.get(node, "elsewhere"), order, tries)
        if isinstance(said, Error):
            reply = Message(said, reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = 1
            return reply
        return Message(said, reply_to=message)

    def times(self, node):
        return sum(asked == node for asked, _ in self.asked)


def honest(world, site, order, tries):
    release = Release(
        study=order.study, site=site, round=order.round, instruction=order.digest,
        noise_multiplier=1.0, max_grad_norm=1.0, ledger_head="0" * 64,
        update=np.full(40, 0.1, np.float32),
    )  # fmt: skip
    return encode_release(release.signed(world.tiny.key(site)))


def declines(code):
    def say(world, site, order, tries):
        said = Declined(code=code, site=site, instruction=order.digest)
        return encode_refusal(said.signed(world.tiny.key(site)))

    return say


def cannot_read(world, site, order, tries):
    """Refuse the message itself, as a hospital does that finds no order in it."""
    said = Declined(code=Code.FIELD_NOT_ALLOWED, site=site, instruction=unread(world.named[site]))
    return encode_refusal(said.signed(world.tiny.key(site)))


def crashes(times):
    def say(world, site, order, tries):
        if tries <= times:
            return Error(code=5, reason="Mustermann^Erika")
        return honest(world, site, order, tries)

    return say


def loop(world, tiny, folder, *, signed=None, **study):
    made = (signed or tiny.signed(tiny.study(**study))).study
    folder.mkdir(exist_ok=True)
    return RoundLoop(
        made, folder=folder, key=tiny.key("coordinator"), watch=lambda *_: None, clock=world.clock
    )


def run(world, tiny, folder, *, signed=None, **study):
    study = {"rounds": 1, **study}
    model = loop(world, tiny, folder, signed=signed, **study).run(world, model=START, done=0)
    return model, rounds.read(folder)


def test_a_round_ends_as_soon_as_everybody_has_answered(tiny, tmp_path):
    world = World(tiny)
    model, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.complete
    assert np.allclose(model, 0.1)
    assert 10 <= world.at - world.begun < 15
    assert [world.times(node) for node in NODES] == [1, 1, 1]


def test_a_slow_site_is_late_and_the_round_ends_at_its_deadline_without_it(tiny, tmp_path):
    world = World(tiny)
    world.after[4] = 2 * HOUR
    _, (entry,) = run(world, tiny, tmp_path / "run", participation={"deadline_s": 600})
    assert entry.answered == ("north", "south")
    assert entry.late == ("west",)
    assert 600 <= world.at - world.begun < 605
    assert "west: NO_ANSWER" in entry.said


def test_messages_expire_with_their_round(tiny, tmp_path):
    world = World(tiny)
    run(world, tiny, tmp_path / "run", participation={"deadline_s": 600})
    for _, message in world.asked:
        order = decode_instruction(message.content)
        assert order.deadline == int(world.begun) + 600
        assert 0 < message.metadata.ttl <= 601


def test_a_site_that_connects_in_mid_round_is_asked_in_it(tiny, tmp_path):
    world = World(tiny, online=lambda node, at: node != 4 or at > 60)
    world.after[3] = 200
    _, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.complete


def test_a_round_waits_for_its_quorum_to_connect_and_not_for_more(tiny, tmp_path):
    world = World(tiny, online=lambda node, at: node == 2 or (node == 3 and at > 900))
    _, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.answered == ("north", "south")
    assert 910 <= world.at - world.begun < 930


def test_a_site_that_flower_lost_is_asked_again_when_it_is_back(tiny, tmp_path):
    world = World(tiny, online=lambda node, at: node != 4 or not 5 < at < 70)
    world.script[4] = crashes(1)
    world.after[3] = 300
    _, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.complete
    assert world.times(4) == 2


def test_a_site_that_keeps_crashing_is_given_up_and_named(tiny, tmp_path):
    world = World(tiny)
    world.script[4] = crashes(99)
    made = {"participation": {"retries": 2}}
    _, (entry,) = run(world, tiny, tmp_path / "run", **made)
    assert entry.answered == ("north", "south")
    assert world.times(4) == 3
    assert set(entry.strays) == {"FLOWER_5"}
    assert "Mustermann" not in (tmp_path / "run" / "rounds.jsonl").read_text()


@pytest.mark.parametrize("code", [3, 4])
def test_an_order_that_flower_no_longer_has_is_asked_again_and_at_last_unanswered(
    tiny, tmp_path, code
):
    def gone(times):
        def say(world, site, order, tries):
            return Error(code=code, reason="") if tries <= times else honest(world, site, order, 0)

        return say

    for times, refused in ((1, {}), (99, {"west": rounds.NO_ANSWER})):
        world = World(tiny)
        world.script[4] = gone(times)
        world.after[3] = 300
        made = {"participation": {"retries": 2}}
        _, (entry,) = run(world, tiny, tmp_path / f"run{times}", **made)
        assert entry.refused == refused
        assert world.times(4) == min(times + 1, 3)
        assert not entry.strays
        assert world.at - world.begun < 400


def test_a_round_that_cannot_reach_its_quorum_ends_at_once(tiny, tmp_path):
    world = World(tiny)
    world.script = {2: declines(Code.NO_POLICY), 3: declines(Code.NO_POLICY)}
    with pytest.raises(EngineError, match="north: SITE_201, south: SITE_201"):
        run(world, tiny, tmp_path / "run")
    assert world.at - world.begun < 15


def test_retrying_asks_the_same_order_again_and_stopping_does_not(tiny, tmp_path):
    for dropout, times in (("stop", 1), ("retry", 3)):
        world = World(tiny, online=lambda node, at: node == 2)
        policy = {"dropout": dropout, "retries": 2, "deadline_s": 100}
        with pytest.raises(EngineError, match="1 contributions"):
            run(world, tiny, tmp_path / dropout, participation=policy)
        assert world.times(2) == times
        orders = [decode_instruction(message.content) for _, message in world.asked]
        assert len({order.digest for order in orders}) == 1
        assert len({order.deadline for order in orders}) == times


def test_a_round_that_is_retried_into_its_quorum_counts_once(tiny, tmp_path):
    world = World(tiny, online=lambda node, at: node == 2 or at > 150)
    policy = {"dropout": "retry", "retries": 2, "deadline_s": 100}
    model, entries = run(world, tiny, tmp_path / "run", participation=policy)
    (entry,) = entries
    assert entry.complete
    assert np.allclose(model, 0.1)
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert len(lines) == 2, "the try that failed is on record too"
    assert "SAME_NOISE" not in "".join(entry.alarms), "a release is not compared with itself"
    assert not (tmp_path / "run" / "arrivals").exists()


def test_a_study_below_its_quorum_is_never_written_as_finished(tiny, tmp_path):
    world = World(tiny, online=lambda node, at: node == 2 or at < 5)
    with pytest.raises(EngineError, match="round 2"):
        run(world, tiny, tmp_path / "run", rounds=2, participation={"deadline_s": 60})
    digest = tiny.signed(tiny.study(rounds=2, participation={"deadline_s": 60})).study.digest
    assert checkpoint.latest(tmp_path / "run", digest=digest).round == 1


@pytest.fixture(scope="module")
def keys():
    """Return three hospitals' node keys and a stranger's, as Flower keeps them."""
    return {node: ec.generate_private_key(ec.SECP384R1()).public_key() for node in (2, 3, 4, 9)}


def pem(key):
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def keyed(tiny, keys):
    """Return a world whose nodes show their keys."""
    return World(tiny, keys={node: pem(key) for node, key in keys.items()})


def known(tiny, keys, **study):
    """Return the study with its hospitals' node keys, signed."""
    plain = tiny.signed(tiny.study(rounds=1, **study)).study
    by_name = {name: keys[node] for node, name in NODES.items()}
    sites = tuple(
        site.model_copy(
            update={
                "node_key": by_name[site.name]
                .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
                .decode()
            }
        )
        for site in plain.sites
    )
    return sign(plain.model_copy(update={"sites": sites}), tiny.key("coordinator"))


def forgets(world, node, at):
    """Lose what ``node`` was asked before it connected again, ``at`` seconds after the start."""
    world.back[node] = [at]
    pull = world.pull_messages

    def later(names):
        for name, (_, other, message) in list(world.waiting.items()):
            asked = message.metadata.created_at - world.begun
            if other == node and asked < at <= world.at - world.begun:
                del world.waiting[name]
        return pull(names)

    world.pull_messages = later


def stamps(world):
    """Note in each message when it was sent, by the world's clock."""
    push = world.push_messages

    def stamped(messages):
        for message in messages:
            message.metadata.created_at = world.at
        return push(messages)

    world.push_messages = stamped


def test_a_node_that_was_started_again_between_two_looks_is_asked_again_at_once(
    tiny, keys, tmp_path
):
    world = keyed(tiny, keys)
    stamps(world)
    forgets(world, 4, 4)
    world.after[4] = 20
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert entry.complete
    assert not entry.strays
    assert world.times(4) == 2
    assert world.at - world.begun < 40


def test_a_node_that_comes_back_with_its_order_is_heard_once_and_waited_for_no_longer(
    tiny, keys, tmp_path
):
    world = keyed(tiny, keys)
    world.back[4] = [4]
    world.after[4] = 20
    push = world.push_messages

    def slower(messages):  # what is asked again would be answered in an hour
        world.after[4] = 20 if not world.times(4) else HOUR
        return push(messages)

    world.push_messages = slower
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert world.times(4) == 2
    assert entry.complete
    assert not entry.strays
    assert world.at - world.begun < 30


def test_a_refusal_of_one_order_does_not_outdo_the_release_that_another_brings(
    tiny, keys, tmp_path
):
    world = keyed(tiny, keys)
    world.back[4] = [4]
    world.after[4] = 20
    still = declines(Code.STILL_TRAINING)
    heard = []

    def first_refuses(world, site, order, tries):
        heard.append(site)
        said = still if len(heard) == 1 else honest
        return said(world, site, order, tries)

    world.script[4] = first_refuses
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert len(heard) == 2
    assert entry.complete, entry.refused


def test_an_answer_that_cannot_be_built_beside_one_that_counts_ends_nothing(tiny, keys, tmp_path):
    world = keyed(tiny, keys)
    world.back[4] = [4]
    world.after[3] = HOUR
    pull, looked = world.pull_messages, []

    def together(names):
        """Hand out both answers of west in one look, the second of them broken."""
        mine = [n for n in world.waiting if world.waiting[n][1] == 4]
        if set(names) & set(mine) and len(looked) < 2 and world.times(4) == 2:
            looked.append(names)
            if len(looked) == 2:
                raise ValueError("an object of a hospital's bytes")
            world.waiting[names[0]] = (world.at, *world.waiting[names[0]][1:])
        return pull(names)

    world.pull_messages = together
    world.after[4] = 100
    signed = known(tiny, keys, participation={"deadline_s": 600})
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=signed)
    assert entry.answered == ("north", "west")


def answers_second(said):
    """Answer the second order so, and any other honestly."""

    def say(world, site, order, tries):
        return (said if tries == 2 else honest)(world, site, order, tries)

    return say


@pytest.mark.parametrize(
    ("second", "times", "refused"),
    [
        (lambda *_: Error(code=6, reason=""), 3, {}),
        (declines(Code.NO_POLICY), 2, {"west": Code.NO_POLICY}),
    ],
)
def test_an_order_that_died_with_its_supernode_holds_nobody_to_the_deadline(
    tiny, keys, tmp_path, second, times, refused
):
    world = keyed(tiny, keys)
    stamps(world)
    forgets(world, 4, 4)
    world.after[4] = 20
    world.script[4] = answers_second(second)
    signed = known(tiny, keys, participation={"retries": 3, "deadline_s": 600})
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=signed)
    assert world.times(4) == times
    assert entry.refused == refused
    assert world.at - world.begun < 60


def test_a_node_that_connects_again_and_again_is_asked_no_oftener_than_the_study_says(
    tiny, keys, tmp_path
):
    world = keyed(tiny, keys)
    world.back[4] = list(range(1, 500))
    world.after[4] = 2 * HOUR
    signed = known(tiny, keys, participation={"retries": 2, "deadline_s": 600})
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=signed)
    assert world.times(4) == 3
    assert entry.refused == {"west": rounds.NO_ANSWER}


def test_a_node_of_another_study_is_sent_nothing(tiny, keys, tmp_path):
    world = keyed(tiny, keys)
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert entry.complete
    assert {node for node, _ in world.asked} == {2, 3, 4}


def test_a_site_that_was_not_there_is_told_from_one_that_was_slow(tiny, keys, tmp_path):
    shown = {node: pem(key) for node, key in keys.items()}
    world = World(tiny, online=lambda node, at: node != 4, keys=shown)
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert entry.refused == {"west": rounds.NOT_CONNECTED}
    assert entry.late == ()
    world = World(tiny, keys=shown)
    world.after[4] = 2 * HOUR
    _, (entry,) = run(world, tiny, tmp_path / "slow", signed=known(tiny, keys))
    assert entry.refused == {"west": rounds.NO_ANSWER}


def test_an_order_that_expires_as_answers_are_fetched_is_unanswered_and_no_failure(
    tiny, keys, tmp_path
):
    world = keyed(tiny, keys)
    world.after[4] = 2 * HOUR
    stamps(world)
    pull, expired = world.pull_messages, []

    def slowly(names):
        """Fetch as from a slow disk; like Flower, make an error of what has expired."""
        world.at += 0.7
        for name in set(names) & set(world.waiting):
            _, node, message = world.waiting[name]
            if world.at > message.metadata.created_at + message.metadata.ttl:
                expired.append(node)
                world.script[node] = lambda *_: Error(code=3, reason="expired")
                return [world.answer(*world.waiting.pop(name)[1:])]
        return pull(names)

    world.pull_messages = slowly
    signed = known(tiny, keys, participation={"deadline_s": 600})
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=signed)
    assert expired == [4], "the control: an error was made of it"
    assert entry.answered == ("north", "south")
    assert entry.refused == {"west": rounds.NO_ANSWER}


def test_a_hospitals_node_cannot_speak_for_another_from_the_very_first_answer(tiny, keys, tmp_path):
    world = keyed(tiny, keys)
    world.script[4] = lambda world, site, order, tries: honest(world, "south", order, tries)
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert entry.answered == ("north", "south")
    assert entry.refused == {"west": "OTHER_SITE"}


def test_two_processes_cannot_run_one_study(tmp_path):
    folder = tmp_path / "run"
    with (
        checkpoint.held(folder),
        pytest.raises(EngineError, match="another process"),
        checkpoint.held(folder),
    ):
        pass
    with checkpoint.held(folder):
        pass  # whoever came second can start once the first has ended


def test_every_release_that_is_counted_was_pulled_in_small_parts(tiny, tmp_path):
    world = World(tiny)
    parts = []
    pull = world.pull_messages
    world.pull_messages = lambda names: parts.append(len(names)) or pull(names)
    run(world, tiny, tmp_path / "run")
    assert max(parts) <= 4


def test_the_release_that_counts_is_the_one_that_was_signed_for_this_order(tiny, tmp_path):
    world = World(tiny)

    def other(world, site, order, tries):
        return honest(world, site, dataclasses.replace(order, round=order.round + 1), tries)

    world.script[4] = other
    _, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.refused == {"west": "OTHER_INSTRUCTION"}


def test_orders_that_flower_does_not_take_end_the_run_by_name(tiny, tmp_path):
    world = World(tiny)
    world.push_messages = lambda messages: []
    with pytest.raises(EngineError, match="took 0 of 3 orders of round 1"):
        run(world, tiny, tmp_path / "run")


def test_an_order_that_flower_could_not_store_is_sent_again(tiny, tmp_path):
    world = World(tiny)
    push, first = world.push_messages, []

    def forgetful(messages):
        names = push(messages)
        if not first:
            first.append(names[2])
            world.waiting.pop(names[2])
            names[2] = None
        return names

    world.push_messages = forgetful
    _, (entry,) = run(world, tiny, tmp_path / "run")
    assert entry.complete
    assert world.times(4) == 2


@pytest.mark.parametrize(
    "error",
    [ValueError("Mustermann^Erika"), AttributeError("x"), RecursionError(), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_a_reply_that_flower_cannot_even_build_costs_its_sender_alone(tiny, keys, tmp_path, error):
    def unreadable(world, site, order, tries):
        raise error  # while Flower makes objects of the bytes, before anything of ours sees them

    world = keyed(tiny, keys)
    world.script[3] = unreadable
    _, (entry,) = run(world, tiny, tmp_path / "run", signed=known(tiny, keys))
    assert entry.answered == ("north", "west")
    assert entry.refused == {"south": "FORM"}
    assert "Mustermann" not in (tmp_path / "run" / "rounds.jsonl").read_text()


def test_a_server_that_does_not_answer_is_nobodys_bad_answer(tiny, tmp_path):
    world = World(tiny)

    def down(world, site, order, tries):
        raise httpx.ConnectError("down")

    world.script[3] = down
    with pytest.raises(httpx.ConnectError):
        run(world, tiny, tmp_path / "run")


def test_a_refusal_of_an_order_that_could_not_be_read_is_an_answer_to_that_message_alone(
    tiny, tmp_path
):
    world = World(tiny)
    world.script[4] = cannot_read
    _, (entry,) = run(world, tiny, tmp_path / "first")
    assert entry.refused == {"west": Code.FIELD_NOT_ALLOWED}
    # Whoever kept it says it again, in the next round: its message was answered already.
    world.named["west"] = "4-2"
    kept = cannot_read(world, "west", None, 0)
    world = World(tiny)
    tries = []

    def replays(world, site, order, times):
        tries.append(order.round)
        return kept if order.round == 2 else honest(world, site, order, times)

    world.script[4] = replays
    _, entries = run(world, tiny, tmp_path / "second", rounds=2)
    assert [entry.refused for entry in entries] == [{}, {"west": "REPLAYED"}]
    assert tries == [1, 2]


def test_nobody_waits_once_the_last_answer_was_heard(tiny, tmp_path):
    world = World(tiny)
    heard, answer = [], world.answer

    def late(node, message):
        heard.append(world.at)
        return answer(node, message)

    world.answer = late
    rounds_ = loop(world, tiny, tmp_path / "run")
    rounds_.gather(world, rounds_.order(1, START))
    assert (len(heard), world.at) == (len(NODES), heard[-1])


def test_no_answer_stays_in_memory_once_it_was_counted(tiny, tmp_path):
    world, arrays, answer = World(tiny), [], World.answer

    def noted(node, message):
        reply = answer(world, node, message)
        arrays.append(weakref.ref(reply.content.array_records["update"]["vector"]))
        return reply

    world.answer = noted
    rounds_ = loop(world, tiny, tmp_path / "run")
    gc.disable()  # which would let go of it now and then
    try:
        tally = rounds_.gather(world, rounds_.order(1, START))
        assert [each() for each in arrays] == [None] * len(NODES)
    finally:
        gc.enable()
    assert set(tally.releases) == set(NODES.values())
