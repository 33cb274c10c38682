"""What a hospital's connection really sends, captured, less the manifest: nothing remains."""

import http.server
import json
import logging
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_connection import http_request_response

from septum import egress
from septum.errors import Code, WireError
from septum.wire import METRICS, decode_refusal, decode_release, encode_instruction
from septum_bench.seeded import SeededSource
from septum_client import app as app_module
from septum_client.app import SiteApp, from_node_config
from septum_client.train import Update

CANARY = "Mustermann-Erika-1964-MRN4711"
KINDS = {
    "activate-node": (fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse(node_id=7)),
    "deactivate-node": (fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse()),
    "send-node-heartbeat": (
        heartbeat_pb2.SendNodeHeartbeatRequest,
        heartbeat_pb2.SendNodeHeartbeatResponse(success=True),
    ),
    "pull-messages": (fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse()),
    "push-messages": (
        fleet_pb2.PushMessagesRequest,
        fleet_pb2.PushMessagesResponse(session_id="s"),
    ),
    "push-object": (message_pb2.PushObjectRequest, message_pb2.PushObjectResponse(stored=True)),
    "get-run": (run_pb2.GetRunRequest, run_pb2.GetRunResponse()),
    "get-fab": (fab_pb2.GetFabRequest, fab_pb2.GetFabResponse()),
    "pull-object": (
        message_pb2.PullObjectRequest,
        message_pb2.PullObjectResponse(
            object_found=True, object_available=True, object_content=b"x"
        ),
    ),
    "confirm-message-received": (
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse(),
    ),
}


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Wire:
    """Everything that came over one loopback connection."""

    def __init__(self):
        self.requests = []

    @property
    def raw(self):
        return b"".join(
            path.encode() + repr(sorted(headers.items())).encode() + body
            for path, headers, body in self.requests
        )

    def remainder(self):
        """Return what the manifest does not name."""
        left = []
        for path, headers, body in self.requests:
            kind, _ = KINDS[path.removeprefix("/v1/fleet/")]
            left += egress.surplus(path, headers=headers, request=kind.FromString(body))
        return left

    def message(self):
        """Put the message together again from its parts, and check that there are no others."""
        (push,) = [
            fleet_pb2.PushMessagesRequest.FromString(body)
            for path, _, body in self.requests
            if path.endswith("/push-messages")
        ]
        parts = [
            message_pb2.PushObjectRequest.FromString(body)
            for path, _, body in self.requests
            if path.endswith("/push-object")
        ]
        tree = push.message_object_trees[0]
        named, queue = set(), [tree]
        while queue:
            node = queue.pop()
            named.add(node.object_id)
            queue += node.children
        assert {part.object_id for part in parts} == named
        contents = {part.object_id: part.object_content for part in parts}
        return inflate_object_from_contents(tree.object_id, contents)


@contextmanager
def listening(wire):
    """Answer as a SuperLink does, on a free loopback port, and keep every request."""

    class Fleet(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            wire.requests.append((self.path, dict(self.headers.items()), body))
            answer = KINDS[self.path.removeprefix("/v1/fleet/")][1].SerializeToString()
            self.send_response(200)
            self.send_header("content-type", self.headers["content-type"])
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fleet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(reply):
    """Send ``reply`` through Flower's own client, as a SuperNode does, and return the capture."""
    wire = Wire()
    key = ec.generate_private_key(ec.SECP384R1())
    keys = (key, key.public_key())
    with listening(wire) as address, http_request_response(
        address, True, None, keys, max_retries=0
    ) as (_, receive, push, get_run, get_fab, pull, push_object, confirm):  # fmt: skip
        assert receive() is None
        get_run(1)
        get_fab("h" * 64, 1)
        pull(1, "o" * 64)
        parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        push(reply, get_object_tree(reply), 1.5)
        for name, content in parts.items():
            push_object(1, "s", name, content)
        confirm(1, "o" * 64)
    return wire


@pytest.fixture
def signed(tiny):
    return tiny.signed()


@pytest.fixture
def site(tiny, signed, tmp_path):
    return tiny.site(tmp_path / CANARY, signed)


def answer(tiny, signed, site, *, train=None, round=1):
    given = {"train": train} if train else {}
    app = SiteApp(from_node_config, source=SeededSource(1), **given)
    node = {"site": str(site.folder), "note": CANARY}
    context = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})
    order = encode_instruction(
        tiny.instruction(signed.study, round=round, deadline=int(time.time()) + 600)
    )
    reply = app(Message(order, dst_node_id=2, message_type="train"), context)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def test_a_release_on_the_wire_less_the_manifest_is_nothing(tiny, signed, site):
    wire = send(answer(tiny, signed, site))
    assert wire.remainder() == []
    assert {path for path, _, _ in wire.requests} <= set(egress.PATHS)
    content = wire.message().content
    release = decode_release(content)
    assert release.site == "north"
    found = {
        (record, name)
        for record, fields in content.items()
        for name in fields
    }  # fmt: skip
    named = {(field.record, field.name) for field in egress.release_fields()}
    assert found <= named
    assert named - found == {("metrics", name) for name in METRICS if name not in release.metrics}


def test_a_refusal_on_the_wire_less_the_manifest_is_nothing(tiny, signed, site):
    wire = send(answer(tiny, signed, site, round=99))
    assert wire.remainder() == []
    content = wire.message().content
    assert decode_refusal(content).code is Code.ROUND_OUT_OF_RANGE
    found = {(record, name) for record, fields in content.items() for name in fields}
    assert found == {(field.record, field.name) for field in egress.refusal_fields()}


def _raises(study, **given):
    raise RuntimeError(f"cannot open /data/{CANARY}/IM0001")


def _logs(study, **given):
    logging.getLogger("flwr").error("patient %s", CANARY)
    logging.getLogger().warning("patient %s", CANARY)
    return Update(vector=np.zeros_like(given["model"]), drawn=())


def _names_a_class(study, **given):
    raise type(CANARY, (ExceptionGroup,), {})(CANARY, [KeyError(CANARY)])


@pytest.mark.parametrize("train", [_raises, _logs, _names_a_class])
def test_a_canary_in_exception_log_or_path_never_arrives(tiny, signed, site, train):
    wire = send(answer(tiny, signed, site, train=train))
    assert wire.remainder() == []
    assert CANARY.encode() not in wire.raw
    assert str(site.folder).encode() not in wire.raw


def _extra_record(content):
    content[CANARY] = ConfigRecord({"x": 1})


def _config_value(content):
    content["release"]["note"] = CANARY


def _metric_name(content):
    content["metrics"][CANARY] = 1


def _metric_value(content):
    content["metrics"]["steps"] = CANARY


def _extra_tensor(content):
    content["tensors"] = ArrayRecord([np.ones(3)])


def _array_name(content):
    content["update"][CANARY] = content["update"]["vector"]


def _metric_record(content):
    content["metrics"] = MetricRecord({CANARY: 1.0})


PLANTED = [
    _extra_record, _config_value, _metric_name, _metric_value, _extra_tensor, _array_name,
    _metric_record,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_a_field_that_somebody_adds_to_a_release_is_found_by_the_subtraction(
    tiny, signed, site, monkeypatch, plant
):
    # The control of the tests above: were the encoder to leak, they would see it.
    real = app_module.encode_release

    def leaky(release):
        content = real(release)
        plant(content)
        return content

    monkeypatch.setattr(app_module, "encode_release", leaky)
    wire = send(answer(tiny, signed, site))
    with pytest.raises(WireError):
        decode_release(wire.message().content)


def test_what_the_table_does_not_name_is_named_by_the_subtraction():
    request = fleet_pb2.PushMessagesRequest()
    request.messages_list.add().error.reason = CANARY
    left = egress.surplus("/v1/fleet/push-messages", headers=["Host", "X-Patient"], request=request)
    assert left == [
        "/v1/fleet/push-messages header x-patient",
        "/v1/fleet/push-messages messages_list.error.reason",
    ]
    assert egress.surplus("/v1/telemetry", headers=[], request=request) == ["/v1/telemetry"]
    content = fleet_pb2.PushMessagesRequest()
    content.messages_list.add().content.items.add().key = CANARY
    (found,) = egress.surplus("/v1/fleet/push-messages", headers=[], request=content)
    assert found.endswith("messages_list.content.items.key")
    unknown = fleet_pb2.PullMessagesRequest.FromString(b"\xfa\x3f\x03abc")
    assert egress.surplus("/v1/fleet/pull-messages", headers=[], request=unknown) == [
        "/v1/fleet/pull-messages fields without a name"
    ]


def test_the_manifest_is_json_and_has_one_destination():
    made = egress.manifest(address="fl.example.org:8443", metrics=("steps",), parameters=1000)
    assert json.loads(json.dumps(made)) == made
    (destination,) = made["destinations"]
    assert destination["address"] == "fl.example.org:8443"
    assert destination["direction"] == "outbound"
    release = {field["name"]: field for field in made["messages"]["release"]}
    assert release["vector"]["most_bytes"] == 4000
    assert "steps" in release
    assert "update_norm" not in release
    assert all(field["most_bytes"] > 0 for field in release.values())
