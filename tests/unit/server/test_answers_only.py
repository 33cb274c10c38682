"""The SuperLink keeps answers of a node to the server, and nothing else that it sends."""

import anyio
import pytest
from anyio import to_thread
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.supercore.error import FlowerError

from septum_server.superlink import AT_ONCE, MOST_OBJECTS, Gate, answers_only


def request(*, node=7, source=7, target=1, answers="asked", messages=1, objects=3, root="root"):
    made = PushMessagesRequest()
    made.node.node_id = node
    for _ in range(messages):
        message = Message()
        message.metadata.message_id = "root"
        message.metadata.src_node_id = source
        message.metadata.dst_node_id = target
        message.metadata.reply_to_message_id = answers
        made.messages_list.append(message)
        tree = ObjectTree(object_id=root)
        tree.children.extend(ObjectTree(object_id=str(at)) for at in range(objects - 1))
        made.message_object_trees.append(tree)
    return made


def test_an_answer_of_the_node_itself_is_passed_on():
    kept = []
    push = answers_only(lambda **given: kept.append(given) or "kept")
    assert push(request=request(), state="state") == "kept"
    assert kept[0]["state"] == "state"


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
        {"objects": MOST_OBJECTS + 1},
    ],
    ids=str,
)
def test_what_is_not_is_refused_before_it_is_stored(wrong):
    kept = []
    with pytest.raises(FlowerError):
        answers_only(lambda **given: kept.append(given))(request=request(**wrong), state=None)
    assert kept == []


def test_flower_works_at_few_calls_at_a_time_as_its_database_has_one_writer():
    tokens = []

    async def inner(scope, receive, send):
        tokens.append(to_thread.current_default_thread_limiter().total_tokens)

    anyio.run(Gate(inner, secret="s"), {"type": "lifespan"}, None, None)
    assert tokens == [AT_ONCE]
    assert AT_ONCE < 16, "more wait for SQLite's one writer than it lets by in its time"
