"""A coordinator's round on Flower's own state, handlers and grid; hospitals send by parts."""

import logging
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from septum.wire import Release, decode_instruction, encode_instruction, encode_release
from septum_server import inflation, uploads
from septum_server.bridge import RoundLoop
from septum_server.clock import Clock
from septum_server.limits import order_group
from septum_server.superlink import answers_only, listed, whole_only

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
        # As in the SuperLink's own main.
        self.answer = answers_only(uploads.announced(fleet_handlers.push_messages))
        self.part = uploads.part(fleet_handlers.push_object)
        self.order = listed(uploads.ordered(runtime_handlers.push_messages))
        self.pull = pull or whole_only(uploads.handed_out(runtime_handlers.pull_messages))
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
        tree = ObjectTree(object_id=name, children=[ObjectTree(object_id="0" * 64)])
        self.claim(asked, tree, root=root)

    def claim(self, asked, *trees, root=False):
        """Announce an answer that is made of these parts, or the first of them in its place."""
        said = Message(RecordDict({}), reply_to=asked)
        said.metadata.__dict__["_message_id"] = trees[0].object_id if root else said.object_id
        (content,) = said.children
        below = ObjectTree(object_id=content, children=trees)
        tree = trees[0] if root else ObjectTree(object_id=said.object_id, children=[below])
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(remove_content_from_message(said))],
            message_object_trees=[tree],
        )
        self.session = self.link.answer(request=request, state=self.link.state).session_id
        return tree.object_id

    def push(self, name, body):
        """Send one part; return whether it was taken."""
        request = PushObjectRequest(
            node=Node(node_id=self.node),
            run_id=self.link.run,
            object_id=name,
            object_content=body,
            session_id=self.session,
        )
        return self.link.part(request, self.link.state).stored

    def send(self, parts=99):
        """Send so many of the parts that are missing."""
        for name in list(self.parts)[:parts]:
            assert self.push(name, self.parts.pop(name))


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

    @staticmethod
    def once(*steps):
        """Return a turn that does one step at each wait, then nothing."""
        left = list(steps)
        return lambda: left and left.pop(0)()

    @staticmethod
    def answers(*sites):
        """Let sites answer whole."""
        for site in sites:
            site.announce(site.hear())
            site.send()

    def ask(self, site, model=START, **order):
        """Order a round of one site alone, past the loop; return the order's name."""
        instruction = self.loop.order(1, model)
        group = order.get("group", order_group(1, parameters=len(model), token="0f"))
        (asked,) = self.grid.push_messages(
            [
                Message(
                    encode_instruction(instruction),
                    dst_node_id=self.sites[site].node,
                    message_type="train",
                    group_id=group,
                    ttl=60.0,
                )
            ]
        )
        return asked

    def gather(self):
        with inflation.at_most(MIB) as self.loop._allowance:
            return self.loop.gather(self.grid, self.loop.order(1, START))


@pytest.fixture
def world(tiny, tmp_path, monkeypatch):
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    for name in ("_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def make(pull=None, **study):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return World(tiny, folder, monkeypatch, pull=pull, **study)

    return make
