import asyncio
import base64
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from septum_server import node_keys
from septum_server.edge import Edge
from septum_server.limits import MOST_PEERS, Buckets, Limits
from septum_server.node_keys import NodeKeys
from septum_server.relay import GATE

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Inside:
    """A tiny upstream that remembers what reached it."""

    def __init__(self, *, error=None):
        self.requests = []
        self.begun = 0
        self.error = error

    async def __call__(self, request):
        self.begun += 1
        if self.error is not None:
            raise self.error
        body = await request.aread()
        self.requests.append((request.url.path, dict(request.headers), body))
        headers = {"content-type": "application/protobuf", "x-inner": "secret", "server": "inner"}

        async def parts():
            yield b"answer "
            yield body

        return httpx.Response(200, headers=headers, content=parts())


class Straight(httpx.AsyncBaseTransport):
    """Hands a request on before its body is read, as a connection does and a mock does not."""

    def __init__(self, handler):
        self.handle_async_request = handler


class Asked:
    """What came back, and how many parts of the body were read."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.body = b""
        self.read = 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def edge(inside, *, limits=None, free=1 << 40, known=lambda _: True, clock=None):
    client = httpx.AsyncClient(transport=Straight(inside), base_url="https://127.0.0.1:1")
    return Edge(
        client,
        gate="gate",
        limits=limits or Limits(),
        free_bytes=lambda: free,
        known=known,
        clock=clock or Clock(),
    )


def ask(
    app,
    path="/v1/fleet/pull-messages",
    *,
    body=b"",
    parts=None,
    declared=None,
    method="POST",
    query=b"",
    headers=(),
    peer="10.0.0.1",
    gone=False,
    silent=False,
    took=None,
):
    parts = [body] if parts is None else parts
    size = len(b"".join(parts)) if declared is None else declared
    said = [(b"content-length", str(size).encode())] if size != "absent" else []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [*said, *headers],
        "client": (peer, 1),
    }
    asked = Asked()

    async def receive():
        asked.read += 1
        if took is not None:
            took()
        if silent:
            await asyncio.Event().wait()
        if gone:
            return {"type": "http.disconnect"}
        left = parts[asked.read - 1 :]
        return {"type": "http.request", "body": left[0], "more_body": len(left) > 1}

    async def send(message):
        if message["type"] == "http.response.start":
            asked.status = message["status"]
            asked.headers = dict(message["headers"])
        else:
            asked.body += message["body"]

    asyncio.run(app(scope, receive, send))
    return asked


def test_a_fleet_call_passes_both_ways_unchanged():
    inside = Inside()
    asked = ask(edge(inside), parts=[b"one ", b"two"], headers=[(b"flwr-timestamp", b"now")])
    assert (asked.status, asked.body) == (200, b"answer one two")
    ((path, headers, body),) = inside.requests
    assert (path, body) == ("/v1/fleet/pull-messages", b"one two")
    assert headers["flwr-timestamp"] == "now"
    assert headers[GATE] == "gate"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
        "/v1/fleet/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/%2e%2e/control/start-run",
        "//v1/fleet/pull-messages",
        "/V1/fleet/pull-messages",
        "/v1/fleet/pull-messages\n",
    ],
)
def test_any_other_path_is_refused_before_its_body_is_read(path):
    inside = Inside()
    asked = ask(edge(inside), path, body=b"x")
    assert (asked.status, asked.read, inside.requests) == (403, 0, [])


def test_what_the_caller_says_of_itself_does_not_reach_the_superlink():
    inside = Inside()
    forged = [(GATE.encode(), b"forged"), (b"x-forwarded-for", b"::1"), (b"authorization", b"me")]
    assert ask(edge(inside), headers=forged).status == 200
    headers = inside.requests[0][1]
    assert headers[GATE] == "gate"
    assert not {"x-forwarded-for", "authorization"} & set(headers)


def test_what_the_superlink_says_of_itself_stays_inside():
    asked = ask(edge(Inside()))
    assert not {b"server", b"x-inner"} & set(asked.headers)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"declared": (16 << 20) + 1}, 413),
        ({"declared": "absent"}, 411),
        ({"declared": "1e3"}, 411),
        ({"headers": [(b"transfer-encoding", b"chunked")]}, 411),
        ({"headers": [(b"content-length", b"0")]}, 411),
        ({"method": "GET"}, 405),
        ({"query": b"a=1"}, 403),
        ({"headers": [(b"flwr-x", b"x" * (17 << 10))]}, 431),
    ],
)
def test_what_is_not_of_the_form_is_refused_before_its_body_is_read(how, status):
    inside = Inside()
    asked = ask(edge(inside), body=b"", **how)
    assert (asked.status, asked.read, inside.requests) == (status, 0, [])


def test_a_body_longer_than_it_said_is_cut_off():
    asked = ask(edge(Inside()), parts=[b"1234", b"5678"], declared=4)
    assert asked.status == 413


@pytest.mark.parametrize("size", [4, 70 << 10])
def test_a_body_that_stops_coming_is_given_up(size):
    limits = Limits(body_s=0.05, small_s=0.05)
    asked = ask(edge(Inside(), limits=limits), declared=size, silent=True)
    assert asked.status == 503


class Slow(Clock):
    """Each part of a body takes so many seconds to come."""

    def __init__(self, seconds):
        self.seconds = seconds

    def pass_on(self):
        self.now += self.seconds


@pytest.mark.parametrize("size", [2, 4096, 64 << 10])
def test_a_small_body_that_trickles_takes_no_connection_to_the_superlink(size):
    clock, inside = Slow(2.0), Inside()
    parts = [b"x"] * size
    app = edge(inside, known=lambda _: size > 4096, clock=clock)
    asked = ask(app, "/v1/fleet/activate-node", parts=parts, took=clock.pass_on)
    assert (asked.status, inside.begun) == ((200, 1) if size == 2 else (503, 0))
    assert asked.read == min(size, 3)


def test_a_large_body_below_the_least_rate_is_given_up():
    # 16 KiB/s, after 30 s in which the rate does not matter.
    clock, inside = Slow(2.0), Inside()
    parts = [b"x" * (8 << 10)] * 100
    asked = ask(edge(inside, clock=clock), parts=parts, took=clock.pass_on)
    assert (asked.status, asked.read, inside.requests) == (503, 20, [])


def test_a_large_body_at_the_least_rate_passes():
    clock, inside = Slow(2.0), Inside()
    parts = [b"x" * (32 << 10)] * 100
    assert ask(edge(inside, clock=clock), parts=parts, took=clock.pass_on).status == 200


def test_a_superlink_that_reads_slowly_is_not_the_peers_fault():
    clock = Clock()

    async def slowly(request):
        async for _ in request.stream:
            clock.now += 60.0
        return httpx.Response(200, stream=httpx.ByteStream(b""))

    parts = [b"x" * (8 << 10)] * 10
    assert ask(edge(slowly, clock=clock), parts=parts).status == 200


def test_a_peer_that_goes_away_in_mid_body_gets_no_answer():
    inside = Inside()
    asked = ask(edge(inside), declared=4, gone=True)
    assert (asked.status, inside.begun) == (None, 0)


@pytest.mark.parametrize(
    ("error", "status"), [(httpx.ConnectError("down"), 502), (httpx.ReadTimeout("slow"), 504)]
)
def test_a_superlink_that_is_down_makes_hospitals_ask_again(error, status):
    asked = ask(edge(Inside(error=error)))
    assert asked.status == status
    assert asked.headers[b"retry-after"] == b"5"
    assert b"down" not in asked.body


def test_a_peer_that_asks_too_often_waits_and_others_do_not():
    clock = Clock()
    app = edge(Inside(), limits=Limits(requests_per_s=1.0, burst=3.0), clock=clock)
    assert [ask(app).status for _ in range(4)] == [200, 200, 200, 503]
    assert ask(app, peer="10.0.0.2").status == 200
    clock.now = 1.0
    assert [ask(app).status for _ in range(2)] == [200, 503]


def test_a_peer_that_sends_too_much_waits():
    clock = Clock()
    app = edge(Inside(), limits=Limits(bytes_per_s=10, burst_bytes=20), clock=clock)
    assert [ask(app, body=b"x" * 15).status for _ in range(2)] == [200, 503]
    clock.now = 1.0
    assert ask(app, body=b"x" * 15).status == 200


@pytest.mark.parametrize("name", ["push-object", "push-messages"])
@pytest.mark.parametrize("size", [0, 1, 64 << 10, 65 << 10])
def test_an_upload_of_any_size_waits_for_disk(name, size):
    inside = Inside()
    app = edge(inside, free=(1 << 30) - 1)
    asked = ask(app, f"/v1/fleet/{name}", body=b"x" * size)
    assert (asked.status, asked.read, inside.begun) == (503, 0, 0)


def test_a_question_does_not_wait_for_disk():
    app = edge(Inside(), free=(1 << 30) - 1)
    assert ask(app, body=b"x" * (64 << 10)).status == 200
    assert ask(app, body=b"x" * (65 << 10)).status == 503


def test_a_stranger_may_ask_to_be_let_in_and_nothing_else():
    inside = Inside()
    app = edge(inside, known=lambda _: False)
    asked = ask(app, body=b"x")
    assert (asked.status, asked.read) == (401, 0)
    assert ask(app, "/v1/fleet/activate-node", body=b"x" * 4096).status == 200
    assert ask(app, "/v1/fleet/activate-node", body=b"x" * 4097).status == 401
    assert len(inside.requests) == 1


def test_however_many_peers_ask_few_are_remembered():
    buckets = Buckets(rate=1.0, most=1.0)
    for number in range(MOST_PEERS + 5):
        assert buckets.take(str(number), 1.0, now=0.0)
    assert len(buckets._of) == MOST_PEERS


def test_a_websocket_is_closed():
    said = []

    async def send(message):
        said.append(message["type"])

    asyncio.run(edge(Inside())({"type": "websocket"}, None, send))
    assert said == ["websocket.close"]


@pytest.fixture
def node():
    return ec.generate_private_key(ec.SECP384R1())


def signed(key, *, at=NOW, over=None):
    said = at.isoformat().encode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(over or said, ec.ECDSA(SHA256()))
    return [
        (b"flwr-public-key", base64.b64encode(public)),
        (b"flwr-timestamp", said),
        (b"flwr-signature", base64.b64encode(signature)),
    ]


def openssh(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_node_is_known_by_its_signature_of_the_time(node, tmp_path):
    keys = NodeKeys(tmp_path)
    assert not keys.signed(signed(node), now=NOW)
    node_keys.save(tmp_path, {openssh(node): "north"})
    assert keys.signed(signed(node), now=NOW)
    assert keys.signed(signed(node, at=NOW - timedelta(seconds=299)), now=NOW)


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_or_a_future_signature_is_worth_nothing(node, tmp_path, seconds):
    node_keys.save(tmp_path, {openssh(node): "north"})
    at = NOW + timedelta(seconds=seconds)
    assert not NodeKeys(tmp_path).signed(signed(node, at=at), now=NOW)


def test_a_forged_or_damaged_signature_is_worth_nothing(node, tmp_path):
    node_keys.save(tmp_path, {openssh(node): "north"})
    keys = NodeKeys(tmp_path)
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert not keys.signed(signed(stranger), now=NOW)
    assert not keys.signed(signed(node, over=b"other"), now=NOW)
    whole = signed(node)
    for place in range(3):
        assert not keys.signed(whole[:place] + whole[place + 1 :], now=NOW)
        assert not keys.signed([*whole, (whole[place][0], b"\xff")], now=NOW)
    mixed = [signed(stranger)[2], *whole[:2]]
    assert not keys.signed(mixed, now=NOW)


def test_a_node_that_is_let_in_no_longer_is_unknown_at_once(node, tmp_path):
    node_keys.save(tmp_path, {openssh(node): "north"})
    keys = NodeKeys(tmp_path)
    assert keys.signed(signed(node), now=NOW)
    node_keys.save(tmp_path, {})
    assert not keys.signed(signed(node), now=NOW)


def test_a_key_has_one_form_in_each_notation(node):
    assert node_keys.openssh_of(node_keys.pem_of(openssh(node))) == openssh(node)


def test_one_bad_key_in_the_list_locks_nobody_else_out(tmp_path):
    node = ec.generate_private_key(ec.SECP384R1())
    bad = "ecdsa-sha2-nistp384 " + "A" * 120
    node_keys.save(tmp_path, {bad: "south", openssh(node): "north"})
    assert NodeKeys(tmp_path).signed(signed(node), now=NOW)
