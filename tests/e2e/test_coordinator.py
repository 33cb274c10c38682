"""The coordinator's real processes on loopback: who is let in, who is not, and what is left."""

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from septum.child_process import environment
from septum.errors import EngineError
from septum.joining import read_card
from septum.study import parse
from septum_client.policy import Policy
from septum_client.site import Site
from septum_server.coordinator import Coordinator, Settings
from septum_server.draft import Wishes, commented, fields_of
from septum_server.launch import desk, listens
from septum_server.studies import begin, halt, look, sign_study

PROGRAM = """
import typer
from septum import cli
from septum_server.cli import add_verbs
app = typer.Typer()
add_verbs(app)
cli.build_app = lambda: app
cli.main()
"""
START_S = 240
WAIT_S = 120


def until(condition, *, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.2)
    return found


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def septum(*arguments, folder, log):
    argv = [sys.executable, "-c", PROGRAM, *arguments, "--folder", str(folder)]
    with log.open("wb") as sink:
        return subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT)


def supernode(folder, place, *, ca):
    """Start Flower's own SuperNode with the site's key."""
    home = folder / "flower"
    home.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    argv = [
        str(Path(sys.executable).with_name("flower-supernode")),
        "--superlink", f"127.0.0.1:{place}",
        "--root-certificates", str(ca),
        "--auth-supernode-private-key", str(folder / "node.key"),
        "--host", "127.0.0.1", "--port", str(port), "--isolation", "process",
    ]  # fmt: skip
    with (folder / "node.log").open("wb") as log:
        return subprocess.Popen(
            argv,
            env=environment({"FLWR_HOME": str(home)}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def end(process, number=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def group_is_gone(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A coordinator that is up, with one signed study of one hospital."""
    root = tmp_path_factory.mktemp("served")
    port, control_port, inner_port = free_ports(3)
    settings = Settings(
        address=f"127.0.0.1:{port}",
        bind="127.0.0.1",
        port=port,
        control_port=control_port,
        inner_port=inner_port,
        least_free_mib=0,
    )
    made = Coordinator.create(root / "coordinator", settings, now=datetime.now(UTC))
    sites = {name: Site.create(root / name, name=name, policy=Policy()) for name in ("in", "out")}
    card = read_card(root / "in" / "site-card.toml")
    wishes = Wishes(
        name="tiny", purpose="A test.", task="multilabel", labels=("sick",), image_size=16,
        epsilon=5.0, rounds=1, model="small_cnn", quorum=1,
    )  # fmt: skip
    fields = fields_of(wishes, [card.model_copy(update={"patients": 10})])
    today = datetime.now(UTC).date()
    signed = sign_study(made, parse(commented(fields)), weights=None, today=today)
    log = root / "up.log"
    up = septum("server", "up", folder=made.folder, log=log)
    served = SimpleNamespace(
        made=made,
        sites=sites,
        digest=signed.study.digest,
        up=up,
        log=log,
        settings=settings,
        today=today,
    )
    try:
        until(lambda: _registered(served) and listens(port), seconds=START_S)
        yield served
    finally:
        end(up)


def _registered(served):
    assert served.up.poll() is None, served.log.read_text()
    try:
        with desk(served.made) as control:
            return [node for node in control.nodes() if node.name == "in"]
    except EngineError:
        return []


def https(server, port, path, **options):
    context = ssl.create_default_context(cafile=str(server.made.ca_path))
    with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
        return client.post(f"https://127.0.0.1:{port}{path}", **options).status_code


def test_a_stranger_at_the_public_port_gets_nothing(server):
    port = server.settings.port
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/health", "/"):
        assert https(server, port, path, content=b"") == 403
    assert https(server, port, "/v1/fleet/pull-messages", content=b"x") == 401
    assert https(server, port, "/v1/fleet/push-object", content=b"x" * (17 << 20)) == 413


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_the_public_port_speaks_tls_1_2_and_later_with_a_certificate_of_the_pinned_ca(server):
    def shake(newest):
        context = ssl.create_default_context(cafile=str(server.made.ca_path))
        context.minimum_version = min(newest, ssl.TLSVersion.TLSv1_2)
        context.maximum_version = newest
        with (
            socket.create_connection(("127.0.0.1", server.settings.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as shaken,
        ):
            return shaken.version()

    assert shake(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert shake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake(ssl.TLSVersion.TLSv1_1)


def test_a_connection_that_only_waits_is_closed(server):
    context = ssl.create_default_context(cafile=str(server.made.ca_path))
    with (
        socket.create_connection(("127.0.0.1", server.settings.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as shaken,
    ):
        shaken.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n")
        assert shaken.recv(1024) == b""


def test_a_user_of_the_machine_cannot_steer_the_superlink_past_the_desk(server):
    inner, control = server.settings.inner_port, server.settings.control_port
    for call in ("start-run", "list-runs", "register-node"):
        assert https(server, inner, f"/v1/control/{call}", content=b"") == 403
        assert https(server, control, f"/v1/control/{call}", content=b"") == 401
    kind = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    assert https(server, inner, "/v1/runtime/acquire-task", content=b"", headers=kind) == 401


def test_state_and_secrets_are_their_owners_alone(server):
    for path in server.made.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert (server.made.folder / "superlink.sqlite").is_file()


def test_each_call_of_an_operator_is_in_the_audit(server):
    before = server.made.audit_path.read_text().splitlines()
    with desk(server.made) as control:
        assert control.runs() == []
    with desk(server.made, token="guessed") as control, pytest.raises(EngineError, match="401"):
        control.runs()
    added = server.made.audit_path.read_text().splitlines()[len(before) :]
    assert ['"who": "local"' in line for line in added] == [True, False]
    assert ["passed on" in line for line in added] == [True, False]
    assert all("list-runs" in line for line in added)


def test_the_hospital_of_a_signed_study_connects_and_any_other_does_not(server):
    ca, port = server.made.ca_path, server.settings.port
    invited = supernode(server.sites["in"].folder, port, ca=ca)
    stranger = supernode(server.sites["out"].folder, port, ca=ca)
    try:
        until(lambda: _online(server) == {"in": True})
        assert stranger.wait(WAIT_S) != 0
        assert invited.poll() is None
        assert look(server.made, server.digest, token=None).sites == {"in": "online"}
    finally:
        end(invited)
        end(stranger)
    until(lambda: _online(server) == {"in": False})


def _online(server):
    with desk(server.made) as control:
        return {node.name: node.online for node in control.nodes()}


def test_a_study_starts_stops_and_says_so(server):
    with desk(server.made) as control:
        begin(server.made, control, server.digest, resume=False, today=server.today)
        with pytest.raises(EngineError, match="runs already"):
            begin(server.made, control, server.digest, resume=False, today=server.today)
        folder = server.made.run_folder(server.digest)
        # The ServerApp found the signed study, and made its first model.
        until((folder / "round-00000.npz").is_file, seconds=START_S)
        assert look(server.made, server.digest, token=None).state == "running"
        assert halt(control, server.digest) == 1
        until(lambda: "stopped" in look(server.made, server.digest, token=None).state)


def test_a_second_server_on_the_same_folder_is_refused(server, tmp_path):
    second = septum("server", "up", folder=server.made.folder, log=tmp_path / "log")
    assert second.wait(START_S) != 0
    assert "another process already runs" in (tmp_path / "log").read_text()
    assert server.up.poll() is None


def test_a_killed_superlink_is_started_again_and_knows_its_hospitals(server):
    path = server.made.folder / "pids" / "superlink.pid"
    first = int(path.read_text())
    os.kill(first, signal.SIGKILL)
    until(lambda: path.is_file() and int(path.read_text() or 0) != first, seconds=START_S)
    until(lambda: _registered(server), seconds=START_S)


def test_a_hospital_whose_keys_are_revoked_is_let_in_no_longer(server):
    assert list(_online(server)) == ["in"]
    server.made.revoke("in")
    until(lambda: not _online(server))


def test_a_stopped_server_leaves_no_process(server):
    pids = [int(path.read_text()) for path in (server.made.folder / "pids").glob("*.pid")]
    assert len(pids) == 4
    end(server.up)
    assert server.up.returncode == 0, server.log.read_text()
    assert all(group_is_gone(pid) for pid in pids)
    assert not list((server.made.folder / "pids").glob("*.pid"))
