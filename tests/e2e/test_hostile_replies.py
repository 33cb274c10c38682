"""Hospitals that answer what no hospital should, through the real port; no torch on their side."""

import sys
import time
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Error, Message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from septum.signing import SigningKey
from septum.wire import Release, decode_instruction, encode_release
from septum_bench import deployment as deploy
from septum_server import checkpoint, rounds

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.timeout(900),
]

SECRET = "Mrs-Canary-born-1931"

# What each hospital, named by what it does, is recorded with.
REASONS = {
    "nan": "NOT_FINITE",
    "shape": "SHAPE",
    "broadcast": "SHAPE",
    "empty": "FORM",
    "long": "NORM",
    "weight": "WEAKER_PRIVACY",
    "old": "OTHER_INSTRUCTION",
    "other": "FORGED",
    "forged": "FORGED",
    "unsigned": "UNSIGNED",
    "text": "FORM",
    "error": "FLOWER_2",
    "huge": "FORM",
}

# A hospital that says the same, well signed, twice.
TWICE = "twice"
HUGE = 1_550_000  # numbers: no release, and in no more bytes than the SuperLink takes of one
FLOOD = 12_000_000  # in more, and in parts that the edge passes one by one


def answer(kind, asked, site):
    """Return what the hospital that is named ``kind`` answers."""
    if kind == "error":
        return Message(Error(2, SECRET), reply_to=asked)
    order = decode_instruction(asked.content)
    size = len(order.model)
    update = {
        "nan": np.full(size, np.nan),
        "shape": np.zeros(size + 1),
        "broadcast": np.zeros(1),
        "empty": np.zeros(0),
        "huge": np.zeros(HUGE, np.float32),
        "flood": np.zeros(FLOOD, np.float32),
        "long": np.full(size, 1e6),
    }.get(kind, np.zeros(size))
    release = Release(
        study=order.study,
        site="north" if kind == "other" else kind,
        round=order.round,
        instruction="0" * 64 if kind == "old" else order.digest,
        noise_multiplier=-100_000.0 if kind == "weight" else 8.0,
        max_grad_norm=1.0,
        ledger_head="0" * 64,
        update=update.astype(np.float32, copy=False),
    )
    key = SigningKey.create() if kind == "forged" else site.signing
    content = encode_release(release if kind == "unsigned" else release.signed(key))
    if kind == "text":
        content["note"] = ConfigRecord({"text": SECRET})
    return Message(content, reply_to=asked)


class Hospital:
    """A small client of Flower's fleet protocol, with a site's real node key."""

    def __init__(self, stack, coordinator, site):
        private = load_ssh_private_key((site.folder / "node.key").read_bytes(), None)
        names = (
            "node_id", "receive", "send", "get_run", "get_fab",
            "pull_object", "push_object", "confirm",
        )  # fmt: skip
        connection = http_request_response(
            coordinator.settings.address,
            insecure=False,
            root_certificates=coordinator.ca_path.read_bytes(),
            authentication_keys=(private, private.public_key()),
        )
        self.flower = SimpleNamespace(
            **dict(zip(names, stack.enter_context(connection), strict=True))
        )
        self.site = site

    def turn(self, parts: int | None = None) -> bool:
        """Answer what has come, if anything has: with so many of the answer's parts, or all."""
        got = self.flower.receive()
        if got is None:
            return False
        head, tree = got
        run = head.metadata.run_id
        asked = pull_and_inflate_object_from_tree(
            tree,
            lambda name: self.flower.pull_object(run, name),
            lambda name: self.flower.confirm(run, name),
            return_type=Message,
        )
        asked.metadata.__dict__["_message_id"] = tree.object_id
        for _ in range(2 if self.site.name == TWICE else 1):
            self.say(run, answer(self.site.name, asked, self.site), parts)
        return True

    def say(self, run, said, parts) -> None:
        """Send an answer, and as many of its parts."""
        said.metadata.__dict__["_message_id"] = said.object_id
        objects = get_all_nested_objects(said)
        missing, session = self.flower.send(said, get_object_tree(said), 0.0)
        for name in list(missing)[:parts]:
            self.flower.push_object(run, session, name, objects[name].deflate())


def test_no_reply_poisons_or_stops_a_round_and_each_is_named_with_its_reason(world):
    small = (*REASONS, TWICE)
    there = world("north", *small, rounds=1, quorum=2, privacy={"noise_multiplier": 2.0})
    with there.up(without=small), ExitStack() as stack:
        there.connected("north")
        hostile = [
            Hospital(stack, there.made.coordinator, there.made.sites[name]) for name in small
        ]
        there.connected()
        deploy.start(there.made)
        deadline = time.monotonic() + 600
        while not there.made.rounds():
            assert time.monotonic() < deadline, there.logs()
            for hospital in hostile:
                hospital.turn()
        assert there.finished().startswith("finished:completed"), there.logs()
    entry = there.entry(1)
    assert entry.answered == ("north", TWICE)
    assert entry.refused == REASONS
    assert all(name in entry.said for name in REASONS)
    assert not entry.strays
    last = checkpoint.latest(there.made.folder, digest=there.made.digest)
    assert last is not None
    assert np.isfinite(last.model).all()
    # Two hospitals of as many patients, one of which released zeros: each counts once.
    first = checkpoint.load(there.made.folder / "round-00000.npz")
    (released,) = (there.made.sites["north"].folder / "outbox").glob("*.npy")
    assert np.allclose(last.model - first.model, np.load(released) / 2, atol=1e-6)
    written = [*there.made.folder.rglob("*"), *(there.folder / "coordinator/logs").glob("*")]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_an_upload_that_never_ends_costs_nobody_else_the_round(world, deadline_s):
    hostile = ("endless", "flood")
    there = world("north", *hostile, rounds=1, participation={"deadline_s": deadline_s})
    with there.up(without=hostile), ExitStack() as stack:
        there.connected("north")
        endless, flood = (
            Hospital(stack, there.made.coordinator, there.made.sites[name]) for name in hostile
        )
        there.connected()
        deploy.start(there.made)
        there.until(lambda: endless.turn(parts=1), what="the order")
        # Not a byte more than a release is kept of it.
        with pytest.raises(RunNotRunningException):
            there.until(flood.turn, what="the order")
        assert "is dropped" in (there.folder / "coordinator/logs/superlink.log").read_text()
        # Before Septum's own limit, the ServerApp waited here until after the deadline.
        assert there.finished().startswith("finished:completed"), there.logs()
    entry = there.entry(1)
    assert entry.answered == ("north",)
    assert entry.refused == dict.fromkeys(hostile, rounds.NO_ANSWER), entry
