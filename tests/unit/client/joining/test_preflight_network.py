"""What a pre-flight says of the way to the coordinator, on real sockets of the loopback."""

import contextlib
import http.server
import ssl
import threading
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from septum_client.preflight_network import ASKED, check_network, proxy_for
from septum_server.certs import Issued, issue, make_ca

TODAY = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority():
    return make_ca("tests", now=TODAY - timedelta(days=10))


@contextlib.contextmanager
def serving(issued: Issued | None, folder, *, date=None, host="127.0.0.1"):
    """Serve nothing but a status and a date; yield host:port and the requests that came."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            self.send_response_only(404)
            if date != "":
                self.send_header("Date", date or format_datetime(datetime.now(UTC), usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass  # a client that hangs up at a wrong certificate is what is tested

    with Quiet((host, 0), Handler) as server:
        if issued is not None:
            (folder / "chain.pem").write_bytes(issued.certificate + issued.key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "chain.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{host}:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def look_at(address, authority, environment=None):
    found = check_network(
        address,
        authority.certificate.decode(),
        now=datetime.now(UTC),
        environment=environment or {},
    )
    return {finding.name: finding for finding in found}


def states(found):
    return {name: finding.state for name, finding in found.items()}


def test_a_server_under_the_agreed_ca_is_green_and_hears_nothing_of_the_site(authority, tmp_path):
    with serving(issue(authority, [], now=TODAY), tmp_path) as (address, asked):
        found = look_at(address, authority)
    assert states(found) == {"reach": "ok", "certificate": "ok", "clock": "ok"}
    assert "TLSv1." in found["certificate"].text
    assert "days left" in found["certificate"].text
    ((path, headers),) = asked
    assert path == ASKED
    assert set(headers) == {"Host", "Accept-Encoding"}


def test_a_server_under_another_ca_is_stopped_before_anything_is_asked(authority, tmp_path):
    other = make_ca("tests", now=TODAY)
    with serving(issue(other, [], now=TODAY), tmp_path) as (address, asked):
        found = look_at(address, authority)
    assert states(found) == {"reach": "ok", "certificate": "stop"}
    assert "another CA" in found["certificate"].text
    assert asked == []


def test_an_expired_certificate_says_so_and_one_that_ends_soon_is_looked_at(authority, tmp_path):
    ended = issue(authority, [], now=TODAY - timedelta(days=5), days=3)
    with serving(ended, tmp_path) as (address, _):
        found = look_at(address, authority)
    assert found["certificate"].state == "stop"
    assert "has expired" in found["certificate"].text
    assert "renew" in found["certificate"].remedy
    with serving(issue(authority, [], now=TODAY, days=5), tmp_path) as (address, _):
        found = look_at(address, authority)
    assert found["certificate"].state == "look"
    assert "4 days left" in found["certificate"].text


def test_a_certificate_of_another_host_is_stopped(authority, tmp_path):
    # Another address of the same machine, which the certificate does not hold.
    issued = issue(authority, [], now=TODAY)
    try:
        with serving(issued, tmp_path, host="127.0.0.2") as (address, asked):
            found = look_at(address, authority)
    except OSError:
        pytest.skip("this system has one loopback address")
    assert asked == []
    assert found["certificate"].state == "stop"
    assert "another address" in found["certificate"].text


def test_a_port_without_tls_is_stopped(authority, tmp_path):
    with serving(None, tmp_path) as (address, _):
        found = look_at(address, authority)
    assert found["certificate"].state == "stop"
    assert "TLS 1.2" in found["certificate"].text


def test_a_closed_port_and_an_unknown_name_each_have_a_remedy(authority):
    found = look_at("127.0.0.1:1", authority)
    assert states(found) == {"reach": "stop"}
    assert "refused" in found["reach"].text
    found = look_at("no-such-host.invalid:443", authority)
    assert states(found) == {"reach": "stop"}
    assert "name resolution" in found["reach"].remedy


@pytest.mark.parametrize(("seconds", "state"), [(5, "ok"), (90, "look"), (900, "stop")])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_is_compared_with_the_coordinators(authority, tmp_path, seconds, state, sign):
    date = format_datetime(datetime.now(UTC) + sign * timedelta(seconds=seconds), usegmt=True)
    with serving(issue(authority, [], now=TODAY), tmp_path, date=date) as (address, _):
        found = look_at(address, authority)
    assert found["clock"].state == state
    if state != "ok":
        assert ("behind" if sign == 1 else "ahead") in found["clock"].text


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_that_states_no_time_is_looked_at(authority, tmp_path, date):
    with serving(issue(authority, [], now=TODAY), tmp_path, date=date) as (address, _):
        assert look_at(address, authority)["clock"].state == "look"


def test_the_way_through_a_proxy_is_the_way_that_is_tried(authority, tmp_path):
    tunnels = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            tunnels.append((self.path, self.headers.get("Proxy-Authorization")))
            self.send_error(403, "not here")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        there = f"http://user:word@127.0.0.1:{proxy.server_address[1]}"
        found = look_at("fl.example.org:443", authority, {"HTTPS_PROXY": there})
        proxy.shutdown()
        thread.join()
    assert tunnels == [("fl.example.org:443", "Basic " + b64encode(b"user:word").decode())]
    assert states(found) == {"reach": "stop"}
    assert "through the proxy 127.0.0.1:" in found["reach"].text
    assert "403" in found["reach"].text
    assert "word" not in found["reach"].text


@pytest.mark.parametrize(
    ("host", "environment", "proxy"),
    [
        ("fl.example.org", {}, None),
        ("fl.example.org", {"HTTPS_PROXY": "http://p:3128"}, ("p", 3128)),
        ("fl.example.org", {"https_proxy": "http://p:3128/"}, ("p", 3128)),
        ("fl.example.org", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x, .example.org"}, None),
        ("fl.example.org", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("fl.example.org", {"HTTPS_PROXY": "http://p:1", "no_proxy": "ample.org"}, ("p", 1)),
    ],
)
def test_the_proxy_is_read_from_the_usual_variables(host, environment, proxy):
    assert proxy_for(host, environment) == proxy
