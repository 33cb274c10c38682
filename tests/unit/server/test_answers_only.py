"""The SuperLink keeps answers of a node to the server, and nothing else that it sends."""

import time

import anyio
import pytest
from anyio import to_thread
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from septum_server.superlink import AT_ONCE, MOST_OBJECTS, Gate, answers_only, listed


def request(*, node=7, source=7, target=1, answers="asked", messages=1, objects=3, **wrong):
    made = PushMessagesRequest()
    made.node.node_id = node
    about = Metadata(
        run_id=1, message_id="", src_node_id=source, dst_node_id=target, message_type="train",
        reply_to_message_id=answers, group_id="1", created_at=1.0, ttl=60.0,
    )  # fmt: skip
    message = make_message(about, content=RecordDict({}))
    name = message.object_id
    tree = get_object_tree(message)
    tree.children[0].children.extend(ObjectTree(object_id=str(at)) for at in range(objects - 2))
    about.__dict__["_message_id"] = wrong.get("name", name)
    if "ttl" in wrong:
        about.ttl = wrong["ttl"]
    tree.object_id = wrong.get("root", wrong.get("name", name))
    for _ in range(messages):
        made.messages_list.append(message_to_proto(message))
        made.message_object_trees.append(tree)
    return made


def test_an_answer_of_the_node_itself_is_passed_on():
    kept = []
    push = answers_only(lambda *given: kept.append(given) or "kept")
    assert push(request=request(objects=MOST_OBJECTS), state="state") == "kept"
    assert kept[0][1] == "state"


def test_an_error_of_the_node_itself_is_passed_on():
    asked = make_message(message_from_proto(request().messages_list[0]).metadata, RecordDict({}))
    asked.metadata.__dict__.update(_message_id="asked", _src_node_id=1, _dst_node_id=7)
    asked.metadata.__dict__["_created_at"] = time.time()
    said = Message(Error(2, "text"), reply_to=asked)
    said.metadata.__dict__["_message_id"] = said.object_id
    made = PushMessagesRequest(
        messages_list=[message_to_proto(said)], message_object_trees=[get_object_tree(said)]
    )
    made.node.node_id = 7
    assert answers_only(lambda *_: "kept")(request=made, state=None) == "kept"


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": 1},
        {"source": 8},
        {"target": 8},
        {"answers": ""},
        {"messages": 0},
        {"messages": 2},
        {"root": "another"},
        {"name": "another"},
        {"ttl": 61.0},
        {"objects": MOST_OBJECTS + 1},
    ],
    ids=str,
)
def test_what_is_not_is_refused_before_it_is_stored(wrong):
    kept = []
    with pytest.raises(FlowerError):
        answers_only(lambda *given: kept.append(given))(request=request(**wrong), state=None)
    assert kept == []


def test_of_every_part_it_is_stored_that_it_is_made_of_nothing_and_once():
    deep = ObjectTree(object_id="deep")
    half = ObjectTree(object_id="half", children=[deep, ObjectTree(object_id="root")])
    given = ObjectTree(object_id="root", children=[half, deep])
    order = PushAppMessagesRequest(message_object_trees=[given])
    listed(lambda request, *_: None)(order, "state", "task")
    (tree,) = order.message_object_trees
    assert tree.object_id == "root"
    assert sorted(part.object_id for part in tree.children) == ["deep", "half"]
    assert all(not part.children for part in tree.children)


def test_flower_works_at_few_calls_at_a_time_as_its_database_has_one_writer():
    tokens = []

    async def inner(scope, receive, send):
        tokens.append(to_thread.current_default_thread_limiter().total_tokens)

    anyio.run(Gate(inner, secret="s"), {"type": "lifespan"}, None, None)
    assert tokens == [AT_ONCE]
    assert AT_ONCE < 16, "more wait for SQLite's one writer than it lets by in its time"
