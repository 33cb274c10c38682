"""A hospital's two halves as two users: what trains has no network but its own loopback.

The half that trains runs in a network namespace without any other interface, so
that nothing it does can leave but by the one socket to the other half.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from septum.processes import Service
from septum_bench import deployment as deploy
from septum_client.halves import split

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's"),
    pytest.mark.timeout(900),
]

# Where a folder on the way is root's alone, it is covered by an empty one that holds the part
# that the two users need: they may pass then, and read what belongs to them.
ENTER = """\
set -eu
umask 022
[ "$1" != alone ] || ip link set lo up
shift
while [ "$1" != -- ]; do
  stage=$(mktemp -d)
  mount --bind "$2" "$stage"
  mount -t tmpfs -o mode=755 none "$1"
  mkdir -p "$2"
  mount --move "$stage" "$2"
  rmdir "$stage"
  shift 2
done
shift
exec "$@"
"""
MAIN = (sys.executable, "-P", "-c", "from septum.cli import main; main()")


class Users:
    """How the halves are started, and under whom."""

    def __init__(self, folder: Path) -> None:
        self.node, self.client = pwd.getpwnam("daemon"), pwd.getpwnam("nobody")
        needed = {folder, Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]}
        self._covered = []
        for path in sorted(needed):
            shut = [up for up in path.parents if not up.stat().st_mode & 0o001]
            if shut:
                self._covered += [str(shut[-1]), str(path)]

    def enter(self, *command, alone=False):
        """Return ``command`` where both users find their files; ``alone``: without a network."""
        words = ("alone", "--net") if alone else ("beside", "--mount")
        return (
            *("unshare", "--mount", words[1], "sh", "-c", ENTER, "sh", words[0]),
            *(*self._covered, "--", *command),
        )

    def reads(self, user, path):
        """Whether ``user`` can read ``path``."""
        done = subprocess.run(
            self.enter("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                       "--clear-groups", "cat", str(path)),
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode in {0, 1}, done.stderr
        assert done.returncode == 0 or b"Permission denied" in done.stderr, done.stderr
        return done.returncode == 0


class Watch:
    """Looks at the arguments of every process, over and over."""

    def __init__(self):
        self.looks, self.found = 0, set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(0.01):
            for home in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    said = (home / "cmdline").read_bytes()
                    if b"\0--token\0" in said:
                        self.found.add(said)
            self.looks += 1


@pytest.fixture
def users(tmp_path):
    tools = [tool for tool in ("unshare", "ip", "setpriv") if shutil.which(tool) is None]
    if tools or os.geteuid() != 0:
        pytest.skip(f"two users need root, unshare, ip and setpriv; missing: {tools or 'root'}")
    made = Users(tmp_path)
    tried = subprocess.run(
        made.enter(sys.executable, "-c", "", alone=True),
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"this machine lets nobody make such namespaces: {tried.stderr}")
    return made


def given(folder, user):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def status(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))


def test_what_trains_is_another_user_without_the_node_key_and_without_a_way_out(
    world, users, tmp_path, monkeypatch
):
    hospital = world("north")
    site, node = tmp_path / "sites/north", tmp_path / "node"
    # A socket's path is short, and both users pass through its folder, and nobody else.
    run = Path(tempfile.mkdtemp(prefix="septum-"))
    tmp_path.chmod(0o711)
    node.mkdir(mode=0o700)
    given(site, users.client)
    given(node, users.node)
    run.chmod(0o710)
    os.chown(run, users.node.pw_uid, users.client.pw_gid)
    split(site, node)
    up = (*MAIN, "site", "up", "--link", str(run / "link"))

    services = deploy.services

    def halves(made):
        server, _ = services(made)
        yield server
        # The half that trains comes first: it waits for the other one.
        words = ("--only", "client", "--site", str(site), "--user", users.client.pw_name)
        yield Service(name="client", argv=users.enter(*up, *words, alone=True))
        words = ("--only", "node", "--site", str(node), "--user", users.node.pw_name)
        yield Service(name="node", argv=users.enter(*up, *words))

    monkeypatch.setattr(deploy, "services", halves)

    def pid(folder, name):
        hospital.until((folder / f"pids/{name}.pid").exists, what=f"{name} of {folder}")
        return int((folder / f"pids/{name}.pid").read_text())

    try:
        with hospital.up(), Watch() as watch:
            control = [sys.executable, "-c", "import sys; sys.stdin.read()", "--token", "control"]
            with subprocess.Popen(control, stdin=subprocess.PIPE):
                hospital.until(lambda: watch.found, what="the watch sees a token")
            hospital.connected()
            deploy.start(hospital.made)
            task = hospital.task("north")
            for number in (pid(site, "superexec"), pid(site, "link"), task):
                assert set(status(number, "Uid")) == {str(users.client.pw_uid)}
                assert status(number, "Groups") == []
                devices = Path(f"/proc/{number}/net/dev").read_text().splitlines()[2:]
                assert [line.split(":")[0].strip() for line in devices] == ["lo"]
            for name in ("supernode", "link"):
                assert set(status(pid(node, name), "Uid")) == {str(users.node.pw_uid)}
            hospital.recorded(1)
            assert "north" in hospital.entry(1).answered
            assert watch.looks > 100
            assert not [said for said in watch.found if b"\0control\0" not in said]
    finally:
        shutil.rmtree(run)
    # Each half has its own files, and none of the other's.
    assert not (site / "node.key").exists()
    private = [*site.glob("*.key"), site / "key", site / "ledger.sqlite", site / "link.secret"]
    for path in (*private, *(site / "cohort").iterdir()):
        assert users.reads(users.client, path)
        assert not users.reads(users.node, path)
    for name in ("node.key", "link.secret"):
        assert users.reads(users.node, node / name)
        assert not users.reads(users.client, node / name)
