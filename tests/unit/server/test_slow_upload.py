"""One hospital's upload delays and blocks nobody: Flower's own state, handlers and grid."""

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import update

from septum.errors import WireError
from septum.wire import Release, decode_instruction, encode_instruction, encode_release
from septum_server import inflation, rounds
from septum_server.asking import Asking
from septum_server.bridge import RoundLoop
from septum_server.clock import Clock
from septum_server.superlink import answers_only, listed, whole_only

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

WHOLE_ONLY = whole_only(runtime_handlers.pull_messages)
START = np.zeros(40, np.float32)
MIB = 1 << 20


def new_key():
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class SuperLink:
    """Flower's state behind the handlers as the coordinator runs them; a clock that is ours."""

    def __init__(self, path, pull):
        objects = ObjectStoreFactory(str(path))
        self.state = LinkStateFactory(str(path), NoOpFederationManager(), objects).state()
        self.run = self.state.create_run(
            "f", "1", "h", {}, NOOP_FEDERATION_ID, None, "a", TaskType.SERVER_APP
        )
        (task,) = self.state.get_tasks(run_ids=[self.run])
        self.state.claim_task(task.task_id)
        self.state.activate_task(task.task_id)
        self.task = SimpleNamespace(run_id=self.run)
        self.pull, self.answer = pull, answers_only(fleet_handlers.push_messages)
        self.order = listed(runtime_handlers.push_messages)
        self.waited = []

    def client(self):
        """Return what the ServerApp's grid reaches over HTTP."""
        call = {
            "GetNodes": runtime_handlers.get_nodes,
            "PushMessages": self.take_orders,
            "PullMessages": self.pull,
            "PushObject": runtime_handlers.push_object,
            "PullObject": runtime_handlers.pull_object,
            "ConfirmMessageReceived": runtime_handlers.confirm_message_received,
        }
        return SimpleNamespace(
            **{
                name: lambda request, call=call: call(request, self.state, self.task)
                for name, call in call.items()
            }
        )

    def take_orders(self, *given):
        return self.order(*given)

    def given_out(self, asked):
        request = PullAppMessagesRequest(message_ids=[asked])
        return len(self.pull(request, self.state, self.task).messages_list)


class Hospital:
    """A node that uploads an answer part by part."""

    def __init__(self, link, site, tiny):
        self.link, self.site, self.tiny = link, site, tiny
        self.node = link.state.create_node("a", "a", new_key(), 30)
        link.state.activate_node(self.node, 3000)
        self.parts, self.session = {}, ""
        self.own = 0.1 + 0.0001 * ord(site[0])  # nobody's noise is another's

    def hear(self):
        """Return the order that came."""
        state = self.link.state
        told = fleet_handlers.pull_messages(
            PullMessagesRequest(node=Node(node_id=self.node)), state, state.object_store
        )
        (tree,) = told.message_object_trees
        message = pull_and_inflate_object_from_tree(
            tree, partial(state.get_object, self.link.run), lambda name: None, return_type=Message
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def announce(self, asked, *, update=None):
        """Say what is coming; not one part of it has."""
        order = decode_instruction(asked.content)
        release = Release(
            study=order.study, site=self.site, round=order.round, instruction=order.digest,
            noise_multiplier=1.0, max_grad_norm=1.0, ledger_head="0" * 64,
            update=np.full(40, self.own, np.float32) if update is None else update,
        )  # fmt: skip
        said = Message(encode_release(release.signed(self.tiny.key(self.site))), reply_to=asked)
        said.metadata.__dict__["_message_id"] = said.object_id
        self.parts = {n: part.deflate() for n, part in get_all_nested_objects(said).items()}
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(remove_content_from_message(said))],
            message_object_trees=[get_object_tree(said)],
        )
        told = self.link.answer(request=request, state=self.link.state)
        self.session = told.session_id
        # A part that others have as well, such as metrics without a value, is there already.
        self.parts = {name: self.parts[name] for name in told.objects_to_push}

    def lie(self, asked, name, *, root=False):
        """Announce that what has this name is made of a part that nobody has."""
        said = Message(RecordDict({}), reply_to=asked)
        said.metadata.__dict__["_message_id"] = name if root else said.object_id
        tree = ObjectTree(object_id=name, children=[ObjectTree(object_id="0" * 64)])
        if not root:
            (content,) = said.children
            below = ObjectTree(object_id=content, children=[tree])
            tree = ObjectTree(object_id=said.object_id, children=[below])
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(remove_content_from_message(said))],
            message_object_trees=[tree],
        )
        self.link.answer(request=request, state=self.link.state)

    def send(self, parts=99):
        """Send so many of the parts that are missing."""
        for name in list(self.parts)[:parts]:
            assert fleet_handlers.push_object(
                PushObjectRequest(
                    node=Node(node_id=self.node),
                    run_id=self.link.run,
                    object_id=name,
                    object_content=self.parts.pop(name),
                    session_id=self.session,
                ),
                self.link.state,
            ).stored


class World:
    """A round at a coordinator, whose every wait is ``turn``."""

    def __init__(self, tiny, folder, monkeypatch, *, pull, **study):
        self.link = SuperLink(folder / "superlink.sqlite", pull)
        monkeypatch.setattr(TaskIdentity, "_run_id", self.link.run)
        monkeypatch.setattr(HttpGrid, "_runtime_client", self.link.client())
        self.grid = HttpGrid(token="x")
        self.grid._run = SimpleNamespace(run_id=self.link.run)
        self.sites = {name: Hospital(self.link, name, tiny) for name in ("north", "south", "west")}
        self.now = datetime.now(UTC).timestamp()
        self.turn = lambda: None
        self.loop = RoundLoop(
            tiny.signed(tiny.study(rounds=1, **study)).study,
            folder=folder / "run",
            key=tiny.key("coordinator"),
            watch=lambda *_: None,
            clock=Clock(now=lambda: self.now, sleep=self.sleep),
        )
        (folder / "run").mkdir()

    def sleep(self, seconds):
        self.now += seconds
        self.turn()

    def gather(self):
        with inflation.at_most(MIB):
            return self.loop.gather(self.grid, self.loop.order(1, START))


@pytest.fixture
def world(tiny, tmp_path, monkeypatch):
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    for name in ("_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def make(pull=WHOLE_ONLY, **study):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return World(tiny, folder, monkeypatch, pull=pull, **study)

    return make


def once(*steps):
    left = list(steps)
    return lambda: left and left.pop(0)()


def answers(*sites):
    for site in sites:
        site.announce(site.hear())
        site.send()


def test_an_upload_that_never_comes_delays_nobody_and_is_late_at_the_deadline(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()
    begun, heard = made.now, {}

    def look():
        heard.update({name: made.now for name in made.tally.releases if name not in heard})

    tally = made.loop.tally
    made.loop.tally = lambda order: setattr(made, "tally", tally(order)) or made.tally
    made.turn = once(
        lambda: west.announce(west.hear()),
        lambda: answers(north),
        look,
        lambda: answers(south),
        look,
    )
    done = made.gather()
    assert set(done.releases) == {"north", "south"}
    assert heard["north"] < heard["south"] < begun + 10, "counted as they came"
    # An order's deadline is a whole second.
    assert begun + 599 < made.now < begun + 610, "and the round ended at its deadline"
    model = made.loop.close(done, START)
    (entry,) = rounds.read(made.loop._folder)
    assert entry.late == ("west",)
    assert np.all(model > 0)


def test_flower_itself_hands_out_an_answer_of_which_no_part_has_come(world):
    # The control: what the ServerApp would then wait for, in front of everybody's answers.
    for pull, given_out in ((runtime_handlers.pull_messages, 1), (None, 0)):
        made = world(pull) if pull else world()
        west = made.sites["west"]
        order = encode_instruction(made.loop.order(1, START))
        (asked,) = made.grid.push_messages(
            [Message(order, dst_node_id=west.node, message_type="train", ttl=60.0)]
        )
        west.announce(west.hear())
        assert made.link.given_out(asked) == given_out


def test_a_slow_upload_that_ends_in_time_counts(world):
    made = world()
    north, south, west = made.sites.values()
    made.turn = once(
        lambda: west.announce(west.hear()),
        lambda: answers(north, south),
        lambda: west.send(1),
        lambda: west.send(1),
        west.send,
    )
    begun = made.now
    assert set(made.gather().releases) == {"north", "south", "west"}
    assert made.now < begun + 10


def test_a_hospital_that_was_lost_in_mid_upload_is_asked_again(world):
    made = world()
    north, south, west = made.sites.values()

    def expires():
        past = datetime.now(UTC) - timedelta(seconds=1)
        with made.link.state.session() as session:
            session.execute(
                update(ObjectPushSession)
                .where(ObjectPushSession.session_id == west.session)
                .values(expires_at=past)
            )

    made.turn = once(
        lambda: answers(north, south),
        lambda: west.announce(west.hear()),
        lambda: west.send(2),
        expires,
        lambda: None,
        lambda: answers(west),
    )
    begun = made.now
    assert set(made.gather().releases) == {"north", "south", "west"}
    assert made.now < begun + 60


def test_a_part_that_somebody_else_promised_too_is_not_waited_for(world):
    made = world()
    north, south, west = made.sites.values()
    orders = {}

    def promise():
        orders.update(north=north.hear(), west=west.hear())
        north.announce(orders["north"])
        west.announce(orders["west"])
        shared = ObjectTree(object_id=next(iter(north.parts)))
        with made.link.state.session():
            session = made.link.state.start_session(made.link.run)
            made.link.state.preregister_object_tree(shared, session)

    made.turn = once(promise, lambda: (north.send(), west.send()), lambda: answers(south))
    assert set(made.gather().releases) == {"north", "south", "west"}


def test_a_reply_of_more_bytes_than_a_release_is_not_taken_into_memory(world):
    made = world()
    north, south, west = made.sites.values()

    def floods():
        west.announce(west.hear(), update=np.ones(MIB, np.float32))
        west.send()

    made.turn = once(lambda: answers(north, south), floods)
    done = made.gather()
    assert set(done.releases) == {"north", "south"}
    assert done.strays == ["FORM"]


def test_each_part_is_asked_for_once_whatever_flower_would_do():
    asked = []

    def missing(name):
        asked.append(name)
        raise ObjectUnavailableError(name)

    stock = http_grid.pull_objects
    with inflation.at_most(10):
        with pytest.raises(ObjectPullError):
            http_grid.pull_objects(object_ids=["a"], pull_object_fn=missing)
        with pytest.raises(WireError, match="more than 10 bytes"):
            http_grid.pull_objects(object_ids=["a"], pull_object_fn=lambda name: b"x" * 11)
    assert asked == ["a"]
    assert http_grid.pull_objects is stock


METRICS = ConfigRecord({}).object_id  # a part of everybody's answer, known to everybody


def as_flower_is(made):
    made.link.answer = fleet_handlers.push_messages
    made.link.order = runtime_handlers.push_messages


def asked_for_another_study(made):
    """Return an order that west alone has."""
    west, other = made.sites["west"], np.ones(40, np.float32)
    order = encode_instruction(made.loop.order(1, other))
    made.grid.push_messages([Message(order, dst_node_id=west.node, message_type="train", ttl=60.0)])
    return west.hear()


def test_what_one_hospital_says_of_a_part_of_anothers_answer_blocks_nobody(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()
    made.turn = once(lambda: west.lie(west.hear(), METRICS), lambda: answers(north, south))
    assert set(made.gather().releases) == {"north", "south"}


def test_nobody_names_a_message_like_a_part_of_anothers_answer(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()

    def lies():
        with pytest.raises(FlowerError, match="the parts of another"):
            west.lie(west.hear(), METRICS, root=True)

    made.turn = once(lies, lambda: answers(north, south))
    assert set(made.gather().releases) == {"north", "south"}


def test_what_a_hospital_says_of_another_studys_first_model_stops_no_order_of_it(world):
    made = world()
    west = made.sites["west"]
    model = encode_instruction(made.loop.order(1, START))["model"].object_id
    west.lie(asked_for_another_study(made), model)
    made.turn = once(lambda: answers(*made.sites.values()))
    assert set(made.gather().releases) == {"north", "south", "west"}


@pytest.mark.parametrize("root", [False, True])
def test_flower_itself_believes_who_comes_first_and_fails_the_others(world, root):
    # The control: what any hospital could do to every other, and to another study's order.
    made = world()
    as_flower_is(made)
    west = made.sites["west"]
    model = encode_instruction(made.loop.order(1, START))["model"].object_id
    asked = asked_for_another_study(made)
    west.lie(asked, model, root=root)
    with pytest.raises(ValueError, match="different children"):
        made.gather()
    made = world()
    as_flower_is(made)
    north, _, west = made.sites.values()
    made.turn = once(lambda: west.lie(west.hear(), METRICS, root=root), lambda: answers(north))
    with pytest.raises(ValueError, match="different children"):
        made.gather()


def test_no_name_of_an_order_can_be_foretold_from_its_content_and_time(world):
    made, sent = world(), []
    order = made.loop.order(1, START)

    class Grid:
        def push_messages(self, messages):
            sent.extend(messages)
            return [str(at) for at, _ in enumerate(messages)]

    for _ in range(2):
        asking = Asking(Grid(), order, made.loop.tally(order), tries=1, allowance=None)
        asking.ask([made.sites["west"].node], seconds=60)
    one, other = sent
    other.metadata.created_at = one.metadata.created_at
    assert one.object_id != other.object_id
