"""A hospital's processes in a network of their own: every packet that leaves it is looked at.

The namespace has one way out, a pair of virtual interfaces. A listener at the
other end sees each packet whatever its destination, since the default route
leads there, for IPv4 and IPv6.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from septum_bench import deployment as deploy
from septum_client.node import free_port
from septum_server.coordinator import Coordinator, settings_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
    pytest.mark.timeout(900),
]

EVERY_PROTOCOL = 0x0003
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, ICMPV6 = 6, 17, 58
NAMES = {TCP: "tcp", UDP: "udp"}
MARK = 9


class Wire:
    """A namespace, the interface at its other end, and what came out of it."""

    def __init__(self, ip):
        number = os.getpid() & 0x3FFF
        self.ip, self.name, self.here = ip, f"septum{number}", f"sv{number}"
        net = f"10.213.{number >> 6}.{(number & 63) << 2}".rpartition(".")
        self.host = f"{net[0]}.{int(net[2]) + 1}"
        self.guest = f"{net[0]}.{int(net[2]) + 2}"
        self.seen = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def run(self, *words):
        subprocess.run([self.ip, *words], check=True, capture_output=True)

    def inside(self, *command):
        return (self.ip, "netns", "exec", self.name, *command)

    def make(self):
        self.run("netns", "add", self.name)
        self.run("link", "add", self.here, "type", "veth", "peer", "out", "netns", self.name)
        self.run("addr", "add", f"{self.host}/30", "dev", self.here)
        self.run("link", "set", self.here, "up")
        inside = ("-n", self.name)
        self.run(*inside, "addr", "add", f"{self.guest}/30", "dev", "out")
        self.run(*inside, "link", "set", "lo", "up")
        self.run(*inside, "link", "set", "out", "up")
        self.run(*inside, "route", "add", "default", "via", self.host)
        with suppress(subprocess.CalledProcessError):  # a kernel without IPv6 has nothing to see
            self.run(*inside, "addr", "add", "fd00:213::2/64", "dev", "out", "nodad")
            self.run(*inside, "-6", "route", "add", "default", "dev", "out")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
        self._socket.bind((self.here, EVERY_PROTOCOL))
        self._socket.settimeout(0.2)
        self._thread.start()

    def unmake(self):
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._socket.close()
        subprocess.run([self.ip, "netns", "del", self.name], check=False, capture_output=True)

    def destinations(self):
        """Return where packets went, once all that were sent until now have been looked at."""
        mark = ("udp", self.host, MARK)
        self.seen.discard(mark)
        deadline = time.monotonic() + 30
        code = f"import socket; socket.socket(2, 2).sendto(b'', ({self.host!r}, {MARK}))"
        subprocess.run(self.inside(sys.executable, "-I", "-c", code), check=True)
        while mark not in self.seen:
            assert time.monotonic() < deadline, "the listener sees nothing"
            time.sleep(0.02)
        return self.seen - {mark}

    def _listen(self):
        while not self._over.is_set():
            try:
                frame, (_, _, direction, *_) = self._socket.recvfrom(1 << 16)
            except TimeoutError:
                continue
            if direction != socket.PACKET_OUTGOING:
                self._look(frame)

    def _look(self, frame):
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == IPV4:
            protocol = frame[23]
            to = socket.inet_ntop(socket.AF_INET, frame[30:34])
            start = 14 + 4 * (frame[14] & 15)
        elif kind == IPV6:
            protocol = frame[20]
            to = socket.inet_ntop(socket.AF_INET6, frame[38:54])
            start = 54
            # Kernels announce themselves to neighbours; no process asks for that.
            if protocol == ICMPV6 or to.startswith("ff02::"):
                return
        else:
            return  # ARP: who has the address at the other end
        port = struct.unpack_from("!H", frame, start + 2)[0] if protocol in NAMES else 0
        self.seen.add((NAMES.get(protocol, protocol), to, port))


@pytest.fixture
def wire():
    """Make the namespace; skip where this user may not."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    made = Wire(ip)
    try:
        try:
            made.make()
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"this machine lets nobody make a network namespace: {error}")
        yield made
    finally:
        made.unmake()


def test_a_process_that_asks_a_second_address_is_seen(wire):
    program = f"""
import socket, sys
for family, kind, where in (
    (socket.AF_INET, socket.SOCK_STREAM, ({wire.host!r}, 1)),
    (socket.AF_INET, socket.SOCK_STREAM, ("198.51.100.7", 443)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.53", 53)),
):
    with socket.socket(family, kind) as asked:
        asked.settimeout(0.5)
        try:
            asked.connect(where)
            asked.send(b"hello")
        except OSError:
            pass
"""
    subprocess.run(wire.inside(sys.executable, "-I", "-c", program), check=True)
    assert wire.destinations() == {
        ("tcp", wire.host, 1),
        ("tcp", "198.51.100.7", 443),
        ("udp", "192.0.2.53", 53),
    }


def test_a_hospital_that_joins_trains_and_releases_speaks_to_one_address_and_port(
    wire, world, monkeypatch
):
    port = free_port()
    ports = {"port": port, "control_port": free_port(), "inner_port": free_port()}

    def make_coordinator(folder):
        settings = settings_of(
            address=f"{wire.host}:{port}", bind="0.0.0.0", least_free_mib=64, **ports
        )
        return Coordinator.create(folder, settings, now=datetime.now(UTC))

    services = deploy.services

    def in_the_namespace(made):
        for service in services(made):
            if service.name == "north":
                yield replace(service, argv=wire.inside(*service.argv))
            else:
                yield replace(service, ready_s=300.0)

    monkeypatch.setattr(deploy, "make_coordinator", make_coordinator)
    monkeypatch.setattr(deploy, "services", in_the_namespace)
    hospital = world("north")
    with hospital.up():
        hospital.connected()
        deploy.start(hospital.made)
        hospital.recorded(1)
        assert "north" in hospital.entry(1).answered
    assert wire.destinations() == {("tcp", wire.host, port)}
