"""The relay that is a container's door, and the health check, run as plain processes."""

import os
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from .conftest import ROOT

DOOR = (sys.executable, "-P", "-m", "septum_client.relay")
HEALTHY = ROOT / "deploy/images/healthy"


@pytest.fixture
def behind():
    """A server that answers every connection by what it was sent, in capitals."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while part := connection.recv(1 << 16):
                    connection.sendall(part.upper())

    thread = threading.Thread(target=answer)
    thread.start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


@contextmanager
def relay(listen, target):
    """Run one, and give what it says that it listens on."""
    process = subprocess.Popen([*DOOR, listen, target], stderr=subprocess.PIPE, text=True)
    try:
        yield process.stderr.readline().split()[-1]
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stderr.close()


@pytest.fixture(params=["a port", "a socket in the file system"])
def door(request, behind, tmp_path):
    """The port that the door listens on: one relay, or two with a socket between them."""
    target = f"{behind[0]}:{behind[1]}"
    if request.param == "a port":
        with relay("127.0.0.1:0", target) as port:
            yield int(port)
        return
    link = str(tmp_path / "link")
    with relay(link, target) as there, relay("127.0.0.1:0", there) as port:
        yield int(port)


def test_a_socket_that_was_left_behind_is_made_anew_and_both_users_may_connect(tmp_path):
    link = tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(link))
    with relay(str(link), "127.0.0.1:1") as there:
        assert there == str(link)
        assert stat.S_IMODE(link.stat().st_mode) == 0o666


def test_the_door_passes_every_byte_both_ways(door):
    sent = bytes(range(97, 123)) * 40_000
    with socket.create_connection(("127.0.0.1", door), timeout=20) as connection:
        writer = threading.Thread(
            target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR))
        )
        writer.start()
        received = b""
        while part := connection.recv(1 << 16):
            received += part
        writer.join()
    assert received == sent.upper()


def test_whoever_asks_the_door_for_another_address_still_gets_the_one(door):
    with socket.create_connection(("127.0.0.1", door), timeout=20) as connection:
        connection.sendall(b"connect 203.0.113.9:80 http/1.1\r\n\r\n")
        assert connection.recv(200) == b"CONNECT 203.0.113.9:80 HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("target", ["fl.example.org:8443", "192.0.2.1", "192.0.2.1:x", "link"])
def test_a_door_to_no_address_does_not_open(target):
    done = subprocess.run(
        [*DOOR, "127.0.0.1:0", target], capture_output=True, check=False, timeout=30
    )
    assert done.returncode != 0


def health(folder, count):
    return subprocess.run(
        [HEALTHY, folder, str(count)], capture_output=True, text=True, check=False
    )


def test_health_counts_the_processes_that_a_supervisor_wrote_down(tmp_path):
    (tmp_path / "pids").mkdir()
    assert health(tmp_path, 1).returncode == 1
    (tmp_path / "pids/one.pid").write_text(f"{os.getpid()}\n")
    assert health(tmp_path, 1).returncode == 0
    done = health(tmp_path, 2)
    assert (done.returncode, done.stdout) == (1, "1 of 2 processes run\n")


def test_health_notices_a_process_that_ended(tmp_path):
    (tmp_path / "pids").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "pids/superlink.pid").write_text(f"{ended.pid}\n")
    done = health(tmp_path, 1)
    assert (done.returncode, done.stdout) == (1, "superlink has ended\n")
