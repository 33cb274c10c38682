"""``septum server …``: the coordinator's machine."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from septum_server.coordinator import Coordinator

Folder = Annotated[
    Path,
    typer.Option("--folder", help="The coordinator's own folder.", envvar="SEPTUM_COORDINATOR"),
]


def add_server_verbs(app: typer.Typer) -> None:
    """Add ``septum server`` to the command line."""
    server = typer.Typer(help="The coordinator's server: keys, certificates, operators, processes.")
    for verb in (init, show, up, renew, revoke):
        server.command()(verb)
    server.command("operator")(operator)
    server.command("operators")(operators)
    app.add_typer(server, name="server", rich_help_panel="Coordinator")


def opened(folder: Path) -> "Coordinator":
    """Return the coordinator at ``folder``; ConfigError if there is none."""
    from septum_server.coordinator import Coordinator  # noqa: PLC0415 - --help must be quick

    return Coordinator.open(folder)


def init(
    address: Annotated[
        str, typer.Argument(help="HOST:PORT as hospitals will reach it.", metavar="ADDRESS")
    ],
    folder: Folder = Path("coordinator"),
    bind: Annotated[str, typer.Option(help="Interface of the public port.")] = "0.0.0.0",  # noqa: S104 - hospitals must reach it
    port: Annotated[
        int | None, typer.Option(help="Public port; the address's own if left out.")
    ] = None,
    control_port: Annotated[int, typer.Option(help="Loopback port for operators.")] = 8444,
    inner_port: Annotated[int, typer.Option(help="Loopback port of the SuperLink.")] = 8445,
) -> None:
    """Make a coordinator: signing key, certificate authority, secrets, first operator.

    [dim]Example:[/dim]  septum server init fl.example.org:8443 --folder /srv/septum
    """
    from septum.joining import port_of  # noqa: PLC0415
    from septum.signing import fingerprint  # noqa: PLC0415
    from septum_server.coordinator import Coordinator, settings_of  # noqa: PLC0415

    settings = settings_of(
        address=address,
        bind=bind,
        port=port_of(address) if port is None and ":" in address else port,
        control_port=control_port,
        inner_port=inner_port,
    )
    made = Coordinator.create(folder, settings, now=datetime.now(UTC))
    typer.echo(f"Made a coordinator in {folder}, for hospitals at {address}.")
    typer.echo(f"Fingerprint, to be read out to each hospital: {fingerprint(made.public)}")


def show(folder: Folder = Path("coordinator")) -> None:
    """Show the fingerprint that hospitals compare, the address, and how long the certificate lasts.

    [dim]Example:[/dim]  septum server show --folder /srv/septum
    """
    from septum.signing import fingerprint  # noqa: PLC0415

    coordinator = opened(folder)
    typer.echo(f"Fingerprint, to be read out to each hospital: {fingerprint(coordinator.public)}")
    typer.echo(f"Address, as hospitals reach it: {coordinator.settings.address}")
    typer.echo(f"Days left of its certificate: {coordinator.days_left(now=datetime.now(UTC))}")


def up(folder: Folder = Path("coordinator")) -> None:
    """Serve hospitals until stopped; starts again what ends, and leaves nothing behind.

    [dim]Example:[/dim]  septum server up --folder /srv/septum
    """
    from septum_server.launch import serve  # noqa: PLC0415

    coordinator = opened(folder)
    console = Console(highlight=False, markup=False)

    def notice(sentence: str) -> None:
        console.print(f"{datetime.now(UTC):%H:%M:%S} {sentence}")

    serve(coordinator, notice=notice, wait=until_stopped())
    notice("stopped")


def until_stopped() -> Callable[[float], bool]:
    """Return a wait that is over once this process gets SIGTERM or SIGINT."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped.wait


def renew(folder: Folder = Path("coordinator")) -> None:
    """Give the server a fresh certificate of the same CA now; hospitals need do nothing.

    [dim]Example:[/dim]  septum server renew
    """
    coordinator = opened(folder)
    now = datetime.now(UTC)
    coordinator.renew(now=now)
    typer.echo(
        f"The certificate has {coordinator.days_left(now=now)} days left. A running server "
        "takes it at its next start."
    )


def revoke(
    site: Annotated[str, typer.Argument(help="The hospital whose keys were lost or stolen.")],
    folder: Folder = Path("coordinator"),
) -> None:
    """Let a hospital's present keys in no longer; a running server drops it within seconds.

    [dim]Example:[/dim]  septum server revoke st-elsewhere
    """
    from septum_server.operators import audit  # noqa: PLC0415

    coordinator = opened(folder)
    did = [("call", "revoke"), ("about", site)]
    audit(coordinator.audit_path, at=datetime.now(UTC), who=f"uid {os.getuid()}", did=did)
    keys = coordinator.revoke(site)
    typer.echo(f"{len(keys)} keys of {site} are believed no longer. It needs new keys, and a study")
    typer.echo("that names them.")


def operator(
    name: Annotated[str, typer.Argument(help="As the audit will show it.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "operator",
    remove: Annotated[bool, typer.Option("--remove", help="Take the access away.")] = False,
    folder: Folder = Path("coordinator"),
) -> None:
    """Give a person access to steer the server, or take it away; works at once.

    [dim]Example:[/dim]  septum server operator alice --role operator
    """
    from septum_server.operators import audit, load  # noqa: PLC0415

    coordinator = opened(folder)
    path = coordinator.operators_path
    did = [("call", "remove-operator" if remove else "add-operator"), ("about", name)]
    audit(coordinator.audit_path, at=datetime.now(UTC), who=f"uid {os.getuid()}", did=did)
    if remove:
        load(path).without(name).save(path)
        typer.echo(f"{name} has no access any more.")
        return
    added, token = load(path).add(name, role)
    added.save(path)
    typer.echo(f"{name} is {role}. The token, shown this once: {token}")
    typer.echo("They set it as SEPTUM_TOKEN.")


def operators(folder: Folder = Path("coordinator")) -> None:
    """Show who may steer the server, and as what.

    [dim]Example:[/dim]  septum server operators
    """
    from septum_server.operators import ROLES, load  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in ("name", "role", "may call"):
        table.add_column(column, overflow="fold")
    for each in load(opened(folder).operators_path).operators:
        table.add_row(each.name, each.role, ", ".join(sorted(ROLES[each.role])))
    Console(highlight=False, markup=False).print(table)
