import http.server
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from septum_client import supernode
from septum_client.supernode import Held


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


def test_flower_makes_its_connection_with_ours(monkeypatch):
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", object)
    made = []
    monkeypatch.setattr(
        supernode, "flower_supernode", lambda: made.append(fleet_http_connection.FleetHttpClient)
    )
    monkeypatch.setattr(supernode, "os", SimpleNamespace(_exit=made.append))
    supernode.main()
    assert made == [Held, 1]


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


def test_after_a_crash_a_hospital_waits_until_it_is_taken_for_gone(letting_in):
    assert letting_in() == (7, 0.0)
    # Flower takes it for gone after 60 s at most; the rest is for the ServerApp to see it.
    assert letting_in(2004) == (7, 70.0)


@pytest.mark.parametrize("codes", [[2001], [2004, 2001], [2004, 2004]])
def test_a_hospital_that_is_not_let_in_at_all_does_not_ask_for_ever(letting_in, codes):
    with pytest.raises(httpx.HTTPStatusError):
        letting_in(*codes)
