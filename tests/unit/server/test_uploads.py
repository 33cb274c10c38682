"""What a hospital may leave on the server's disk: Flower's own state, handlers and grid."""

import os

import numpy as np
import pytest
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.linkstate_models import MessageRes
from flwr.supercore.state.schema.objectstore_models import StoredObject
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import func, select

from septum_server import uploads
from septum_server.limits import answer_bytes, answer_parts
from septum_server.superlink import answers_only, listed, whole_only

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

MIB = 1 << 20
MOST = answer_bytes(40)


def noise(mebibytes, seed=0):
    return np.random.default_rng(seed).random(mebibytes * MIB // 4, dtype=np.float32)


def as_flower_is(made):
    """Keep of Septum's handlers those that let one answer with any parts by."""
    made.link.answer = answers_only(fleet_handlers.push_messages)
    made.link.part = fleet_handlers.push_object
    made.link.order = listed(runtime_handlers.push_messages)


def kept(made):
    """Return how many bytes are stored, orders included."""
    with made.link.state.session() as session:
        return session.scalar(select(func.sum(func.length(StoredObject.content)))) or 0


def count(made, table):
    with made.link.state.session() as session:
        return session.scalar(select(func.count()).select_from(table))


def there(made, names):
    """Return which of these objects are stored, whole or announced."""
    with made.link.state.session() as session:
        found = select(StoredObject.object_id).where(StoredObject.object_id.in_(names))
        return set(session.scalars(found))


def part_of(content):
    """Return a part of an answer that holds ``content``, and its name."""
    body = ArrayChunk(content).deflate()
    return get_object_id(body), body


def test_an_answer_that_the_serverapp_cannot_read_is_deleted_when_it_asks_again(world):
    for pull, left in ((whole_only(runtime_handlers.pull_messages), True), (None, False)):
        made = world(pull)
        north, south, west = made.sites.values()
        names = []

        def floods(west=west, names=names):
            west.announce(west.hear(), update=noise(2))
            names.extend(west.parts)
            west.send()

        made.turn = made.once(
            floods, lambda made=made, north=north, south=south: made.answers(north, south)
        )
        done = made.gather()
        assert set(done.releases) == {"north", "south"}
        assert done.strays == ["FORM"]
        # The first is the control: until now it stayed until the run's end.
        assert bool(there(made, names)) is left


def test_what_is_larger_than_a_release_is_refused_at_that_part_and_deleted(world):
    made = world()
    made.ask("west")
    west, before = made.sites["west"], kept(made)
    asked = west.hear()
    for _ in range(3):  # each time in a session of its own
        west.announce(asked, update=noise(12))
        names = list(west.parts)
        with pytest.raises(FlowerError, match="larger than a release"):
            west.send()
        assert there(made, names) == set()
        assert kept(made) == before
        assert count(made, MessageRes) == count(made, ObjectPushSession) == 0
    made = world()
    as_flower_is(made)
    made.ask("west")
    west = made.sites["west"]
    west.announce(west.hear(), update=noise(12))
    west.send()
    assert kept(made) > 12 * MIB, "the control: Flower itself keeps it"


def test_a_release_of_the_orders_size_is_taken_whatever_that_is(world):
    made = world()
    model = noise(24)
    made.ask("west", model)
    west = made.sites["west"]
    west.announce(west.hear(), update=noise(24, seed=1))
    parts = len(west.parts)
    west.send()
    assert parts < answer_parts(answer_bytes(len(model)))
    assert west.parts == {}


@pytest.mark.parametrize("wrong", ["parts", "message", "digest"])
def test_what_no_release_is_made_of_is_refused_before_anything_is_stored(world, wrong):
    made = world()
    west = made.sites["west"]
    made.ask("west")
    first = west.claim(west.hear())
    made.ask("west")
    asked = west.hear()
    before = kept(made), count(made, StoredObject), count(made, ObjectPushSession)
    names = {
        "parts": [f"{number:064x}" for number in range(answer_parts(MOST))],
        "message": [asked.metadata.message_id],
        "digest": ["not a digest"],
    }[wrong]
    with pytest.raises(FlowerError):
        west.claim(asked, *(ObjectTree(object_id=name) for name in names))
    assert (kept(made), count(made, StoredObject), count(made, ObjectPushSession)) == before
    assert there(made, [first]) == set()


def test_who_never_finishes_keeps_one_answer_whatever_it_is_asked(world):
    made = world()
    west = made.sites["west"]
    for seed in range(5):
        made.ask("west")
        assert count(made, MessageRes) == 0, "a new order ends the wait for the last answer"
        before = kept(made)
        west.announce(west.hear(), update=noise(5, seed))
        west.send(len(west.parts) - 1)
        assert count(made, MessageRes) == 1
        assert kept(made) - before <= MOST
    # Five orders that nobody confirmed, and what one answer may take.
    assert kept(made) < MOST + 5 * 4096


def test_who_answers_a_later_order_leaves_nothing_of_the_answers_before(world):
    made = world()
    west = made.sites["west"]
    asked = []
    for _ in range(3):
        made.ask("west")
        asked.append(west.hear())
    for seed, order in enumerate(asked):
        west.announce(order, update=noise(5, seed))
        west.send()
    assert count(made, MessageRes) == 1
    assert kept(made) < MOST + 3 * 4096


def test_no_answer_keeps_an_earlier_one_by_being_made_of_it(world):
    made = world()
    west = made.sites["west"]
    made.ask("west")
    first = west.hear()
    made.ask("west")
    second = west.hear()
    west.announce(first, update=noise(5))
    names = set(west.parts)
    (root,) = (n for n in names if west.parts[n].startswith(b"Message"))
    west.send()
    with pytest.raises(FlowerError, match="made of another message"):
        west.claim(second, ObjectTree(object_id=root))
    west.claim(second)
    assert there(made, names) == set()


def test_who_announces_anothers_parts_neither_deletes_nor_blocks_them(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()
    orders, names = {}, []
    big, body = part_of(os.urandom(7 * MIB))

    def announce():
        orders.update(north=north.hear(), west=west.hear())
        north.announce(orders["north"])
        names.extend(name for name in north.parts if not north.parts[name].startswith(b"Message"))
        west.claim(orders["west"], *(ObjectTree(object_id=name) for name in (*names, big)))
        north.send(2)

    def spoils():
        with pytest.raises(FlowerError, match="larger than a release"):
            west.push(big, body)
        assert there(made, [big]) == set()
        assert there(made, names) == set(names)

    made.turn = made.once(announce, spoils, north.send, lambda: made.answers(south))
    done = made.gather()
    assert set(done.releases) == {"north", "south"}
    assert there(made, names) == set(), "and when north was read, they went"


def test_what_two_answers_share_goes_with_the_last_of_them(world):
    made = world()
    north, _, west = made.sites.values()
    for site in ("north", "west"):
        made.ask(site)
    north.announce(north.hear(), update=noise(2))
    west.announce(west.hear(), update=noise(2))
    shared = set(north.parts) & set(west.parts)
    assert shared
    north.send()
    made.ask("north")
    assert there(made, shared) == shared
    made.ask("west")
    assert there(made, shared) == set()


def test_a_part_that_names_no_session_is_not_taken(world):
    made = world()
    made.ask("north")
    made.ask("west")
    north, west = made.sites["north"], made.sites["west"]
    north.announce(north.hear())
    west.claim(west.hear())
    west.session = ""
    name, body = next(iter(north.parts.items()))
    assert not west.push(name, body)
    north.send()


def test_an_order_that_states_no_size_gets_no_answer(world):
    made = world()
    made.ask("west", group="1-0f")
    west = made.sites["west"]
    west.announce(west.hear())
    with pytest.raises(FlowerError, match="larger than a release"):
        west.send()


def test_nobody_announces_between_the_look_at_who_has_and_its_use(world):
    locked = []

    def noted(handler):
        return lambda *given: locked.append(uploads.ANNOUNCING.locked()) or handler(*given)

    made = world(whole_only(noted(runtime_handlers.pull_messages)))
    made.link.answer = answers_only(uploads.announced(noted(fleet_handlers.push_messages)))
    asked = made.ask("west")
    west = made.sites["west"]
    west.announce(west.hear())
    assert made.link.given_out(asked) == 0
    assert locked == [True, True]
    assert not uploads.ANNOUNCING.locked()


def test_no_part_is_larger_than_flowers_own_however_large_the_release(world):
    made = world()
    made.ask("west", noise(12))
    west = made.sites["west"]
    name, body = part_of(os.urandom(7 * MIB))
    west.claim(west.hear(), ObjectTree(object_id=name))
    with pytest.raises(FlowerError, match="larger than a release"):
        west.push(name, body)


def test_an_announcement_that_is_not_taken_leaves_no_session(world):
    made = world()
    made.ask("west")
    west = made.sites["west"]
    asked = west.hear()
    west.announce(asked)
    west.send()
    west.claim(asked)  # a second answer to the same order
    assert count(made, MessageRes) == 1
    assert count(made, ObjectPushSession) == 0


def test_nothing_is_kept_of_an_answer_in_whose_place_flower_told_of_an_error(world):
    made = world(participation={"deadline_s": 600})
    west = made.sites["west"]
    before = None
    for seed in range(3):
        asked = made.ask("west")
        before = before or kept(made)
        west.announce(west.hear(), update=noise(5, seed))
        west.send(len(west.parts) - 1)
        assert made.link.state.deactivate_node(west.node)
        west.send()
        assert made.link.given_out(asked) == 1, "the control: an error, and the answer is gone"
        assert count(made, MessageRes) == 0
        made.link.given_out(asked)
        assert kept(made) < before + 8192
        made.link.state.activate_node(west.node, 3000)


def test_who_sends_a_part_again_hears_that_it_is_there(world):
    for handler, heard in ((fleet_handlers.push_object, False), (None, True)):
        made = world()
        made.link.part = handler or made.link.part
        west = made.sites["west"]
        made.ask("west")
        west.announce(west.hear(), update=noise(5))
        name, body = next(iter(west.parts.items()))
        assert west.push(name, body)
        assert west.push(name, body) is heard, "the control: Flower's own says no"
