"""``septum egress``: the list of everything that can leave a hospital, for people and machines."""

import json
from typing import Annotated

import typer

from septum.errors import ConfigError


def add_egress_verbs(app: typer.Typer) -> None:
    """Add ``septum egress`` to the command line."""
    app.command("egress")(show)


def show(
    address: Annotated[str, typer.Argument(help="The coordinator's HOST:PORT.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="A metric that the policy lets out; give each. None if none."
        ),
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(min=1, help="Numbers of the network that are trained.")
    ] = None,
) -> None:
    """Print the egress manifest as JSON: one destination, its paths, headers and every field.

    It is made from the tables that the gate and the wire enforce. A field, path
    or header that is not in it does not leave.

    [dim]Example:[/dim]  septum egress fl.example.org:8443 --metric steps > egress.json
    """
    from septum.egress import manifest  # noqa: PLC0415 - imports torch; --help must not
    from septum.wire import MAX_PARAMETERS, METRICS  # noqa: PLC0415 - likewise

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{address!r} is not HOST:PORT.", remedy="Write it as example.org:8443.")
    unknown = sorted(set(metric or ()) - set(METRICS))
    if unknown:
        raise ConfigError(
            f"{unknown[0]!r} is no metric; {', '.join(METRICS)} are.",
            remedy="Name those of the policy, or none.",
        )
    made = manifest(
        address=address, metrics=tuple(metric or ()), parameters=parameters or MAX_PARAMETERS
    )
    typer.echo(json.dumps(made, indent=2))
