"""The coordinator's processes: SuperLink, the two ports before it, and SuperExec."""

import contextlib
import shlex
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

from septum.durable import replace
from septum.errors import EngineError, SeptumError
from septum.processes import Service, Supervisor
from septum.signed_study import in_force
from septum_server import node_keys
from septum_server.certs import RENEW_DAYS
from septum_server.control import Control
from septum_server.coordinator import VARIABLE, Coordinator

SUPERLINK: Final = "superlink"
EDGE: Final = "edge"
DESK: Final = "desk"
SUPEREXEC: Final = "superexec"

_ROUND_S: Final = 3.0
_READY_S: Final = 240.0  # importing Flower takes seconds, and minutes on a machine that is busy
_TASK: Final = """\
#!/bin/sh
exec {python} -P -m septum_server.task
"""


def services(
    coordinator: Coordinator, *, admit: Callable[[], bool] = lambda: True
) -> tuple[Service, ...]:
    """Return the processes in the order of starting, and write the program they find.

    Args:
      coordinator: Whose.
      admit: Lets the hospitals in, once the desk answers; whether that was tried.

    Guarantees:
      - No secret is an argument of any of them.
      - Only the edge's port is open to other machines.
      - It opens after ``admit``: a hospital that asks earlier finds nobody and asks
        again, where a refusal would end its SuperNode.
    """
    folder = coordinator.folder.absolute()
    settings = coordinator.settings
    tls = folder / "tls"
    home = folder / "flower"
    program = home / "bin" / "flwr-serverapp"
    program.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _TASK.format(python=shlex.quote(sys.executable)).encode()
    replace(program, lambda file: file.write(text))
    program.chmod(0o700)
    secret = ("--superexec-auth-secret-file", str(folder / "secret"))
    (home / "cache").mkdir(mode=0o700, exist_ok=True)
    # Matplotlib comes with MONAI and wants a folder; without one each run would build its fonts.
    named = {VARIABLE: str(folder), "FLWR_HOME": str(home), "MPLCONFIGDIR": str(home / "cache")}
    python = (sys.executable, "-P", "-m")
    superlink = Service(
        name=SUPERLINK,
        argv=(
            *python, "septum_server.superlink",
            "--host", "127.0.0.1",
            "--port", str(settings.inner_port),
            "--ssl-ca-certfile", str(tls / "ca.crt"),
            "--ssl-certfile", str(tls / "server.crt"),
            "--ssl-keyfile", str(tls / "server.key"),
            "--enable-supernode-auth",
            "--database", str(folder / "superlink.sqlite"),
            "--isolation", "process",
            "--disable-runtime-dependency-installation",
            *secret,
        ),
        env=named,
        ready=lambda: listens(settings.inner_port),
        ready_s=_READY_S,
    )  # fmt: skip
    return (
        superlink,
        Service(
            name=DESK,
            argv=(*python, "septum_server.serving", "control"),
            env=named,
            ready=lambda: listens(settings.control_port) and admit(),
            ready_s=_READY_S,
        ),
        Service(
            name=EDGE,
            argv=(*python, "septum_server.serving", "public"),
            env=named,
            ready=lambda: listens(settings.port, host=settings.bind),
            ready_s=_READY_S,
        ),
        Service(
            name=SUPEREXEC,
            argv=(
                *python, "septum.superexec",
                "--runtime-api-address", f"127.0.0.1:{settings.inner_port}",
                "--root-certificates", str(tls / "ca.crt"),
                *secret,
            ),
            # Only what the program needs is found: no other program of Flower's can be started.
            env=named | {"PATH": f"{program.parent}:/usr/bin:/bin"},
        ),
    )  # fmt: skip


def listens(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections on this machine's port."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        with socket.create_connection((loopback, port), timeout=1.0):
            return True
    except OSError:
        return False


def desk(coordinator: Coordinator, *, token: str | None = None) -> Control:
    """Return a client of the operators' port, in the name of ``token``'s operator.

    Args:
      coordinator: Whose.
      token: An operator's; None for the commands of this machine's own user.

    Raises:
      EngineError: No token is given and the folder's own cannot be read.
    """
    if token is None:
        try:
            token = (coordinator.folder / "operator.token").read_text(encoding="ascii").strip()
        except OSError:
            raise EngineError(
                "no operator's token is given, and operator.token cannot be read.",
                remedy="Set SEPTUM_TOKEN to an operator's token.",
            ) from None
    return Control(coordinator.settings.control_port, ca=str(coordinator.ca_path), token=token)


def fit(coordinator: Coordinator, *, now: datetime) -> str:
    """Renew the server's certificate if that is due; return what was done, or nothing.

    Due is one with fewer than :data:`RENEW_DAYS` days left, and one that its key
    does not fit, as an interrupted renewal leaves it.

    Raises:
      ConfigError: It is due, and the CA's key is kept elsewhere.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(coordinator.certificate_path, coordinator.certificate_key_path)
        left = coordinator.days_left(now=now)
    except (OSError, SeptumError):
        left = -1
    # Where the CA's key is elsewhere, a certificate is used to its last day, and a person renews.
    if left >= (RENEW_DAYS if (coordinator.folder / "tls" / "ca.key").exists() else 0):
        return ""
    coordinator.renew(now=now)
    return f"renewed the server's certificate, which now has {coordinator.days_left(now=now)} days"


def serve(
    coordinator: Coordinator,
    *,
    notice: Callable[[str], None],
    wait: Callable[[float], bool],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Run the coordinator's processes until ``wait`` says that it is over.

    Args:
      coordinator: Whose.
      notice: Told what happens, one sentence each.
      wait: Waits for so many seconds, or less; true when it is over.
      now: The time.

    Guarantees:
      - The node keys of the sites of all signed studies in force, and no others,
        are let in.
      - Every process has ended when this returns.

    Raises:
      EngineError: A process did not become ready, or the folder is served already.
    """
    if said := fit(coordinator, now=now()):
        notice(said)
    admitted: tuple[object, ...] | None = None

    def admit() -> bool:
        nonlocal admitted
        due = (now().date(), coordinator.digests(), coordinator.revoked())
        if due != admitted:
            with contextlib.suppress(SeptumError):  # a SuperLink that is being started again
                admit_sites(coordinator, notice=notice, today=due[0])
                admitted = due
        return True

    made = services(coordinator, admit=admit)
    with Supervisor(made, coordinator.folder, notice=notice, cancelled=lambda: wait(0)) as running:
        notice(f"serving hospitals on {coordinator.settings.address}")
        renewed = now().date()
        while not wait(_ROUND_S):
            admit()
            if now().date() != renewed:
                renewed = now().date()
                if said := fit(coordinator, now=now()):
                    notice(said)
                    for name in (SUPERLINK, EDGE, DESK):
                        running.restart(name)


def admit_sites(coordinator: Coordinator, *, notice: Callable[[str], None], today: date) -> None:
    """Register the node keys of the signed studies' sites, and unregister the revoked ones.

    The edge learns them as well, and lets in those alone whose study is in force.
    Those of an ended study stay registered: Flower never takes a key again that
    was unregistered, and the hospital may join another study.

    Raises:
      EngineError: The server does not answer.
    """
    wanted: dict[str, str] = {}
    ended: set[str] = set()
    used: set[str] = set()
    revoked = coordinator.revoked()
    for digest in coordinator.digests():
        # One study that has ended, or is damaged, must not lock the others' sites out.
        with contextlib.suppress(SeptumError):
            study = coordinator.study(digest).study
            ended |= {site.node_key for site in study.sites if site.key in revoked}
            # Another's node key can be copied into a card: revoking the copy spares its owner.
            used |= {site.node_key for site in study.sites if site.key not in revoked}
            in_force(study, today=today)
            wanted |= {
                site.node_key: site.name
                for site in study.sites
                if site.node_key and site.key not in revoked
            }
    ended -= used
    node_keys.save(coordinator.folder, wanted)
    with desk(coordinator) as control:
        known = {node.key: node for node in control.nodes()}
        for key, name in wanted.items():
            if key not in known:
                control.register(name=name, key=key)
                notice(f"{name} may connect")
        for key, node in known.items():
            if key in ended:
                control.unregister(node.number)
                notice(f"{node.name} may no longer connect")
