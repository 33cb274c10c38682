"""The seccomp profile lets Septum work, and little else: tried on plain processes."""

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CONFINED = Path(__file__).with_name("confined.py")

# What a process that got out of hand would reach for.
FORBIDDEN = {
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    *("mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "chroot"),
    *("unshare", "setns", "bpf", "perf_event_open", "userfaultfd", "kexec_load", "reboot"),
    *("io_uring_setup", "io_uring_enter", "keyctl", "add_key", "request_key", "personality"),
    *("init_module", "finit_module", "delete_module", "mknod", "mknodat", "swapon", "acct"),
    *("open_by_handle_at", "name_to_handle_at", "settimeofday", "clock_settime", "adjtimex"),
    *("sethostname", "iopl", "ioperm", "syslog", "quotactl", "fanotify_init", "memfd_secret"),
}


@pytest.fixture(scope="module")
def profile(root):
    return json.loads((root / "deploy/images/seccomp.json").read_text(encoding="utf-8"))


@pytest.fixture
def confined(root, tmp_path):
    """Run Python under the profile."""
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's")
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed")

    def run(code):
        return subprocess.run(
            [
                *(sys.executable, str(CONFINED), str(root / "deploy/images/seccomp.json")),
                *(sys.executable, "-c", code),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    return run


def test_what_is_not_named_is_refused_and_nothing_dangerous_is_named(profile):
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for rule in profile["syscalls"]
        for name in rule["names"]
        if rule["action"] == "SCMP_ACT_ALLOW"
    }
    assert not allowed & FORBIDDEN
    # These are allowed by their arguments only.
    for rule in profile["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW" and {"clone", "socket"} & set(rule["names"]):
            assert rule["args"]


def test_a_network_trains_and_a_loopback_server_answers_under_the_profile(confined):
    done = confined("""
import socket, sqlite3, subprocess, sys, threading
import torch
from opacus import PrivacyEngine
net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(4 * 36, 2))
net(torch.randn(8, 1, 8, 8)).sum().backward()
server = socket.create_server(("127.0.0.1", 0))
answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"yes"))
answer.start()
print(socket.create_connection(server.getsockname()).recv(3))
answer.join()
print(socket.getaddrinfo("localhost", 80)[0][4][1])
sqlite3.connect("ledger.sqlite").execute("create table t (a)")
print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["b'yes'", "80", "b'1\\n'"]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a namespace", "os.unshare(os.CLONE_NEWUSER)"),
        ("a raw packet", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
        ("a mount", "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)"),
        ("another process", "call(101, 16, os.getppid(), 0, 0)"),
        ("io_uring", "call(425, 1, 0)"),
        ("a new namespace by clone", "call(56, 0x10000000 | 17, 0, 0, 0, 0)"),
    ],
)
def test_what_leads_out_of_the_container_is_refused(what, code, confined):
    if platform.machine() != "x86_64":
        pytest.skip("the numbers are those of x86-64")
    start = """
import ctypes, os
if not hasattr(os, "unshare"):
    os.CLONE_NEWUSER = 0x10000000
    os.unshare = lambda flags: call(272, flags)
def call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*arguments) == -1:
        raise PermissionError(ctypes.get_errno(), "refused")
try:
    {code}
except PermissionError as error:
    print(error.errno)
"""
    done = confined(start.format(code=code))
    assert done.stdout.split() == ["1"], (what, done.stdout, done.stderr)
