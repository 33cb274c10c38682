"""The relay that is a container's door, and the health check, run as plain processes."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .conftest import ROOT

DOOR = (sys.executable, "-P", "-m", "septum_client.relay")
CONNECTS, TRAINS, STRANGER = 64_001, 64_002, 64_003
"""Users and groups of no name."""
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
def relay(listen, target, *, program=DOOR):
    """Run one, and give what it says that it listens on."""
    words = [*program, listen, target]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
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


@pytest.fixture
def between():
    """The folder of a socket as deploy/ makes it: one user's, and another one's group's."""
    if os.geteuid() != 0:
        pytest.skip("other users need root")
    # Not below tmp_path, where nobody but root comes.
    folder = Path(tempfile.mkdtemp(prefix="septum-"))
    os.chown(folder, CONNECTS, TRAINS)
    folder.chmod(0o710)
    yield folder
    shutil.rmtree(folder)


def reached(user, groups, path, *, takes=1):
    """What ``user`` hears of the server behind ``path`` over the last of so many connections."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            taken = [socket.socket(socket.AF_UNIX) for _ in range(takes)]
            for one in taken:
                one.settimeout(20)
                one.connect(str(path))
            taken[-1].sendall(b"heard")
            os.write(writer, taken[-1].recv(9))
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        heard = said.read().decode()
    os.waitpid(child, 0)
    return heard


def test_no_other_user_of_the_machine_can_take_the_places_of_the_half_that_trains(behind, between):
    link = between / "socket"
    with relay(str(link), f"{behind[0]}:{behind[1]}") as there:
        assert reached(STRANGER, [], there, takes=64) == "PermissionError"
        # By its own group where a person or compose made the folder, by one more under systemd.
        assert reached(TRAINS, [], there) == "HEARD"
        os.chown(between, CONNECTS, CONNECTS)
        assert reached(TRAINS, [], there) == "PermissionError"
        assert reached(TRAINS, [CONNECTS], there) == "HEARD"
        # The control: what the folder keeps out is the stranger, not the test's own process.
        between.chmod(0o711)
        assert reached(STRANGER, [], there) == "HEARD"


SOON = (
    "import asyncio, sys; from septum_client import relay; relay.IDLE_S = 1.0;"
    "asyncio.run(relay.serve(*map(relay.place_of, sys.argv[1:])))"
)


def test_a_connection_over_which_nothing_goes_gives_its_place_up_and_one_in_use_does_not(behind):
    target = f"{behind[0]}:{behind[1]}"
    with relay("127.0.0.1:0", target, program=(sys.executable, "-P", "-c", SOON)) as port:
        place = ("127.0.0.1", int(port))
        with (
            socket.create_connection(place, timeout=20) as used,
            socket.create_connection(place, timeout=20) as silent,
        ):
            silent.setblocking(False)
            begun, given_up = time.monotonic(), False
            while not given_up and time.monotonic() < begun + 30:
                used.sendall(b"x")
                assert used.recv(1) == b"X"
                with suppress(BlockingIOError):
                    given_up = silent.recv(1) == b""
            assert given_up
            assert time.monotonic() > begun + 0.9
            used.sendall(b"y")
            assert used.recv(1) == b"Y"


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
