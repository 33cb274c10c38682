import asyncio
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import uvicorn

from septum_server import serving
from septum_server.coordinator import VARIABLE, Coordinator, settings_of
from septum_server.listening import BACKLOG, PatientLoop, Seldom, listen

PATIENCE_S = 40
"""Longer than the edge may wait for a handshake, shorter than asyncio does."""

FEW = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (96, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sys.argv = ["serving", "public"]
runpy.run_module("septum_server.serving", run_name="__main__")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    port = free_port()
    settings = settings_of(
        address=f"localhost:{port}", port=port, control_port=free_port(), inner_port=free_port()
    )
    return Coordinator.create(
        tmp_path_factory.mktemp("coordinator") / "c", settings, now=datetime.now(UTC)
    )


@pytest.fixture
def listener():
    with listen("127.0.0.1", 0, each=2, most=3) as made:
        made.listen(BACKLOG)
        made.setblocking(False)
        yield made


def connect(listener, peer):
    return socket.create_connection(
        listener.getsockname(), timeout=PATIENCE_S, source_address=(peer, 0)
    )


def closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_connection_too_many_of_one_address_is_closed_before_a_byte_of_it_is_read(listener):
    asking = [connect(listener, "127.0.0.2") for _ in range(3)]
    taken = [listener.accept()[0] for _ in range(2)]
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert closed(asking[2])
    other = connect(listener, "127.0.0.3")
    taken.append(listener.accept()[0])
    for each in (*asking, *taken, other):
        each.close()


def test_a_place_is_free_again_when_its_connection_is_closed_or_lost(listener):
    asking = [connect(listener, "127.0.0.2") for _ in range(4)]
    first, second = (listener.accept()[0] for _ in range(2))
    first.close()
    first.close()
    third = listener.accept()[0]
    second.detach()
    del second
    fourth = listener.accept()[0]
    with pytest.raises(BlockingIOError):
        listener.accept()
    for each in (*asking, third, fourth):
        each.close()


def test_all_addresses_together_have_so_many_connections_and_no_more(listener):
    asking = [connect(listener, f"127.0.0.{last}") for last in range(2, 6)]
    taken = [listener.accept()[0] for _ in range(3)]
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert closed(asking[3])
    for each in (*asking, *taken):
        each.close()


def test_who_begins_no_handshake_is_hung_up_on(coordinator, monkeypatch):
    monkeypatch.setattr(PatientLoop, "handshake_s", 0.1)
    config = serving.public(coordinator)
    assert config.get_loop_factory() is PatientLoop
    assert config.backlog == BACKLOG

    async def held():
        listener = listen("127.0.0.1", 0, each=2, most=3)
        at = listener.getsockname()
        server = uvicorn.Server(config)
        serve = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*at)
        got = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        server.should_exit = True
        await serve
        return got, listener.places

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        got, places = runner.run(held())
    assert got == b""
    assert places.take("127.0.0.1")


def test_the_served_port_answers_others_while_strangers_hold_more_than_the_usual_descriptors(
    coordinator,
):
    at = ("127.0.0.1", coordinator.settings.port)
    context = ssl.create_default_context(cafile=coordinator.ca_path)
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", FEW],
        env={**os.environ, VARIABLE: str(coordinator.folder)},
        stderr=subprocess.PIPE,
    )
    strangers = []

    def ask():
        with (
            socket.create_connection(at, PATIENCE_S, ("127.0.0.9", 0)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as asking,
        ):
            asking.sendall(b"POST /docs HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            return asking.recv(12)

    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                assert ask() == b"HTTP/1.1 403"
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until
                assert server.poll() is None
                threading.Event().wait(0.05)
        for last in (2, 3):
            for _ in range(70):
                made = socket.create_connection(at, PATIENCE_S, (f"127.0.0.{last}", 0))
                strangers.append(made)
        assert ask() == b"HTTP/1.1 403"
        # Those above the limit at once, the others when their handshake did not come.
        assert all(closed(each) for each in strangers)
    finally:
        for each in strangers:
            each.close()
        server.terminate()
        _, said = server.communicate(timeout=PATIENCE_S)
    assert said == b""


def test_what_any_stranger_can_cause_is_logged_once_a_minute_and_all_else_always():
    now = [0.0]
    seldom = Seldom(clock=lambda: now[0])

    def written(text):
        return seldom.filter(logging.makeLogRecord({"msg": text}))

    flood = "socket.accept() out of system resource\nsocket: <asyncio.TransportSocket fd=6>"
    assert [written(flood) for _ in range(3)] == [True, False, False]
    assert [written("Invalid HTTP request received.") for _ in range(2)] == [True, False]
    assert [written("Exception in ASGI application\n") for _ in range(2)] == [True, True]
    now[0] = 60.0
    assert [written(flood) for _ in range(2)] == [True, False]
