"""The two small programs of the images, run as plain processes."""

import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from .conftest import ROOT

DOOR = ROOT / "deploy/images/door.py"
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


@pytest.fixture
def door(behind):
    """The door before it, and the port that it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-I", DOOR, "0", f"{behind[0]}:{behind[1]}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(re.search(r"\d+", process.stderr.readline())[0])
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stderr.close()


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


@pytest.mark.parametrize("target", ["fl.example.org:8443", "192.0.2.1", "192.0.2.1:x"])
def test_a_door_to_no_address_does_not_open(target):
    done = subprocess.run(
        [sys.executable, "-I", DOOR, "0", target], capture_output=True, check=False, timeout=30
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
