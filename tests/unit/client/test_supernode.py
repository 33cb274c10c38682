import http.server
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.nodestate_factory import NodeStateFactory

from septum_client import supernode
from septum_client.supernode import Held, State


@pytest.fixture
def answering():
    """Serve one answer on a free port of the loopback interface, and keep what was asked."""
    servers = []

    def serve(status, headers=()):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_leads_a_hospital_to_another_address(answering, status):
    elsewhere, asked = answering(200)
    address, _ = answering(status, [("location", f"http://{elsewhere}/v1/fleet/pull-messages")])
    client = Held.from_server_address(address, True, None, [])
    with client, pytest.raises(httpx.HTTPStatusError):
        client.PullMessages(PullMessagesRequest())
    assert not asked


def test_how_long_training_took_does_not_leave(answering):
    address, asked = answering(200)
    with Held.from_server_address(address, True, None, []) as client:
        client.PushMessages(PushMessagesRequest(clientapp_runtime_list=[81.5, 3.25]))
    (sent,) = asked
    assert list(PushMessagesRequest.FromString(sent).clientapp_runtime_list) == [0.0, 0.0]


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out"),
        httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"),
        httpx.ReadError("tls connection was reset"),
    ],
)
def test_an_outage_is_waited_out_whatever_the_handshake_says(error, monkeypatch):
    tries = []

    def fail_twice(self, context, **_):
        tries.append(1)
        if len(tries) < 3:
            raise error
        return httpx.Response(200, request=context.request)

    monkeypatch.setattr(FleetHttpClient, "_send", fail_twice)
    retry = make_simple_http_retry_invoker()
    monkeypatch.setattr("time.sleep", lambda _: None)
    with Held.from_server_address("127.0.0.1:1", True, None, []) as client:
        retry.invoke(client.PullMessages, PullMessagesRequest())
    assert len(tries) == 3


def test_a_certificate_that_is_not_the_pinned_cas_is_not_tried_again(monkeypatch):
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer")

    def fail(self, context, **_):
        raise error

    monkeypatch.setattr(FleetHttpClient, "_send", fail)
    client = Held.from_server_address("127.0.0.1:1", True, None, [])
    with client, pytest.raises(httpx.ConnectError, match=supernode._UNTRUSTED):
        make_simple_http_retry_invoker().invoke(client.PullMessages, PullMessagesRequest())


def test_a_supernode_whose_connection_failed_ends_although_a_thread_of_flowers_goes_on():
    program = (
        "import threading, time\n"
        "from septum_client import supernode\n"
        "def flower(): threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "supernode.flower_supernode = flower\n"
        "supernode.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=100)
    assert done.returncode == 1


def test_flower_makes_its_connection_and_its_list_of_orders_with_ours(monkeypatch):
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", object)
    monkeypatch.setattr(nodestate_factory, "InMemoryNodeState", object)
    made = []

    def flower():
        made.append(fleet_http_connection.FleetHttpClient)
        made.append(type(NodeStateFactory(ObjectStoreFactory()).state()))

    monkeypatch.setattr(supernode, "flower_supernode", flower)
    monkeypatch.setattr(supernode, "os", SimpleNamespace(_exit=made.append))
    supernode.main()
    assert made == [Held, State, 1]


@pytest.fixture
def letting_in(monkeypatch):
    """Refuse to let a SuperNode in with Flower's error codes, then do; time is made to pass."""
    times = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: times[0])
    monkeypatch.setattr("time.sleep", lambda seconds: times.append(times.pop() + seconds))

    def after(*codes):
        left = list(codes)

        def send(self, context, **_):
            if not left:
                body = ActivateNodeResponse(node_id=7).SerializeToString()
                return httpx.Response(200, content=body, request=context.request)
            told = httpx.Response(
                409, json={"code": left.pop(0), "detail": "no"}, request=context.request
            )
            raise httpx.HTTPStatusError("refused", request=context.request, response=told)

        monkeypatch.setattr(FleetHttpClient, "_send", send)
        with Held.from_server_address("127.0.0.1:1", True, None, []) as client:
            return client.ActivateNode(ActivateNodeRequest()).node_id, times[0]

    return after


def test_after_a_crash_a_hospital_asks_until_it_is_taken_for_gone(letting_in):
    assert letting_in() == (7, 0.0)
    node, waited = letting_in(*[2004] * 12)
    assert node == 7
    assert waited == 60.0  # within which Flower takes it for gone


@pytest.mark.parametrize("codes", [[2001], [2004, 2001], [2004] * 50])
def test_a_hospital_that_is_not_let_in_at_all_does_not_ask_for_ever(letting_in, codes):
    with pytest.raises(httpx.HTTPStatusError):
        letting_in(*codes)


RUN = 5


@pytest.fixture
def state(monkeypatch):
    """Flower's list of orders as ours, with a clock that is made to pass."""
    made = State(ObjectStoreFactory().store())
    passed = [timedelta()]
    monkeypatch.setattr(in_memory_corestate, "now", lambda: datetime.now(UTC) + passed[0])

    def come(name):
        """Take an order, as Flower's client does; return its task."""
        message = Message(RecordDict(), dst_node_id=2, message_type="train")
        message.metadata.__dict__.update(_run_id=RUN, _message_id=name)
        task = made.create_task(TaskType.CLIENT_APP, RUN, fab_hash="")
        made.store_message(message)
        return task

    def begin(task):
        made.claim_task(task)
        assert made.activate_task(task)

    def answers():
        """Let a task that says nothing be given up; return what is answered for it."""
        passed[0] += timedelta(hours=1)
        made.get_tasks()
        found = made.get_messages_legacy(run_ids=[RUN], is_reply=True)
        return {reply.metadata.reply_to_message_id: reply.error.code for reply in found}

    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_run_id", RUN)
    monkeypatch.setattr(TaskIdentity, "_node_id", 2)
    return SimpleNamespace(
        come=come, begin=begin, answers=answers, flower=made,
        read=lambda: made.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1),
    )  # fmt: skip


def test_an_order_whose_process_ended_before_reading_it_is_answered_for(state):
    state.begin(state.come("one"))
    assert state.answers() == {"one": ErrorCode.CLIENT_APP_CRASHED}


def test_flowers_own_list_would_have_kept_it(state, monkeypatch):
    monkeypatch.delattr(State, "_on_task_tokens_expired")
    state.begin(state.come("one"))
    assert state.answers() == {}
    state.begin(state.come("two"))
    state.read()
    assert state.answers() == {"one": ErrorCode.CLIENT_APP_CRASHED}, "what was read, it answers"


def test_an_order_that_still_has_a_task_to_read_it_waits_for_that(state):
    state.begin(state.come("one"))
    state.come("two")
    assert state.answers() == {"one": ErrorCode.CLIENT_APP_CRASHED}
    (left,) = state.read()
    assert left.metadata.message_id == "two"


def test_an_order_that_was_read_is_answered_for_once(state):
    state.begin(state.come("one"))
    state.read()
    assert state.answers() == {"one": ErrorCode.CLIENT_APP_CRASHED}
    assert state.answers() == {}


@pytest.mark.parametrize("reads", [True, False])
def test_flower_answers_for_no_order_whose_task_said_that_it_failed(state, reads):
    """Why the guard says nothing of a task that sent no answer."""
    task = state.come("one")
    state.begin(task)
    if reads:
        state.read()
    assert state.flower.finish_task(task, SubStatus.FAILED, "")
    assert state.answers() == {}
