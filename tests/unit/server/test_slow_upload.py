"""One hospital's upload delays and blocks nobody: Flower's own state, handlers and grid."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
)
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.superlink.grid import http_grid
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import update

from septum.errors import WireError
from septum.wire import encode_instruction
from septum_server import inflation, rounds
from septum_server.asking import Asking

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

START = np.zeros(40, np.float32)
MIB = 1 << 20


def test_an_upload_that_never_comes_delays_nobody_and_is_late_at_the_deadline(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()
    begun, heard = made.now, {}

    def look():
        heard.update({name: made.now for name in made.tally.releases if name not in heard})

    tally = made.loop.tally
    made.loop.tally = lambda order: setattr(made, "tally", tally(order)) or made.tally
    made.turn = made.once(
        lambda: west.announce(west.hear()),
        lambda: made.answers(north),
        look,
        lambda: made.answers(south),
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
        asked = made.ask("west")
        west.announce(west.hear())
        assert made.link.given_out(asked) == given_out


def test_a_slow_upload_that_ends_in_time_counts(world):
    made = world()
    north, south, west = made.sites.values()
    made.turn = made.once(
        lambda: west.announce(west.hear()),
        lambda: made.answers(north, south),
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

    made.turn = made.once(
        lambda: made.answers(north, south),
        lambda: west.announce(west.hear()),
        lambda: west.send(2),
        expires,
        lambda: None,
        lambda: made.answers(west),
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

    made.turn = made.once(promise, lambda: (north.send(), west.send()), lambda: made.answers(south))
    assert set(made.gather().releases) == {"north", "south", "west"}


def test_a_reply_of_more_bytes_than_a_release_is_not_taken_into_memory(world):
    made = world()
    north, south, west = made.sites.values()

    def floods():
        west.announce(west.hear(), update=np.ones(MIB, np.float32))
        west.send()

    made.turn = made.once(lambda: made.answers(north, south), floods)
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
    made.link.part = fleet_handlers.push_object
    made.link.order = runtime_handlers.push_messages


def asked_for_another_study(made):
    """Return an order that west alone has."""
    made.ask("west", np.ones(40, np.float32))
    return made.sites["west"].hear()


def test_what_one_hospital_says_of_a_part_of_anothers_answer_blocks_nobody(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()
    made.turn = made.once(
        lambda: west.lie(west.hear(), METRICS), lambda: made.answers(north, south)
    )
    assert set(made.gather().releases) == {"north", "south"}


def test_nobody_names_a_message_like_a_part_of_anothers_answer(world):
    made = world(participation={"deadline_s": 600})
    north, south, west = made.sites.values()

    def lies():
        with pytest.raises(FlowerError, match="the parts of another"):
            west.lie(west.hear(), METRICS, root=True)

    made.turn = made.once(lies, lambda: made.answers(north, south))
    assert set(made.gather().releases) == {"north", "south"}


def test_what_a_hospital_says_of_another_studys_first_model_stops_no_order_of_it(world):
    made = world()
    west = made.sites["west"]
    model = encode_instruction(made.loop.order(1, START))["model"].object_id
    west.lie(asked_for_another_study(made), model)
    made.turn = made.once(lambda: made.answers(*made.sites.values()))
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
    made.turn = made.once(
        lambda: west.lie(west.hear(), METRICS, root=root), lambda: made.answers(north)
    )
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
        asking.ask({made.sites["west"].node: ""}, seconds=60)
    one, other = sent
    other.metadata.created_at = one.metadata.created_at
    assert one.object_id != other.object_id
