"""The hospital's verbs: ``septum site …``."""

from pathlib import Path
from typing import Annotated

import typer

from septum_client.check_cli import check
from septum_client.data_cli import Folder, add_data_verbs
from septum_client.join_cli import add_join_verbs
from septum_client.ledger_cli import ledger
from septum_client.pacs_cli import add_pacs_verbs
from septum_client.policy_cli import policy
from septum_client.up import up

Patients = Annotated[
    int,
    typer.Option(
        help="Training patients to declare on the card: a round number below the true one, "
        "which fixes this site's weight. 0: not yet.",
        min=0,
    ),
]


def add_verbs(app: typer.Typer) -> None:
    """Add ``septum site`` to the command line."""
    site = typer.Typer(help="A hospital's own directory: cohort, policy, approvals, ledger.")
    site.command()(init)
    site.command()(card)
    site.command()(check)
    add_data_verbs(site)
    add_pacs_verbs(site)
    site.command()(policy)
    add_join_verbs(site)
    site.command()(split)
    site.command()(up)
    site.command()(ledger)
    app.add_typer(site, name="site", rich_help_panel="Hospital")


def init(
    name: Annotated[str, typer.Argument(help="Public name: lower-case letters, digits, hyphens.")],
    folder: Folder = Path("site"),
    patients: Patients = 0,
) -> None:
    """Make a site: fresh keys that never leave, and the strictest policy that still trains.

    Sends nothing. The card that it writes is what the coordinator needs.

    [dim]Example:[/dim]  septum site init st-elsewhere --site /srv/septum --patients 800
    """
    from septum_client.card import CARD, write_card  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.policy import Policy  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.create(folder, name=name, policy=Policy())
    made = write_card(folder, name=site.name, patients=patients)
    typer.echo(f"Made site {site.name} in {folder}. Read and edit {folder / 'policy.toml'}.")
    _say_card(folder / CARD, made.key)


def split(
    node: Annotated[Path, typer.Argument(help="The directory of the half that connects.")],
    folder: Folder = Path("site"),
) -> None:
    """Move what connects into a directory of its own, for another user than the one that trains.

    Run again after joining another coordinator. Run by root, each file goes to its folder's owner.

    [dim]Example:[/dim]  septum site split /var/lib/septum-node --site /var/lib/septum/site
    """
    from septum_client.halves import split as run  # noqa: PLC0415 - imports torch

    run(folder, node)
    typer.echo(f"The node's key is in {node} alone. Start each half by its own `septum site up`:")
    typer.echo(f"  --only node --site {node} --link SOCKET")
    typer.echo(f"  --only client --site {folder} --link SOCKET")


def card(
    folder: Folder = Path("site"),
    patients: Annotated[
        int | None, typer.Option(help="Declare another number of training patients.", min=0)
    ] = None,
) -> None:
    """Write the site's card again, and show the fingerprint to read out to the coordinator.

    Makes the keys that a site of an older Septum lacks; a key that exists is kept.

    [dim]Example:[/dim]  septum site card --patients 800
    """
    from septum_client.card import CARD, declared, make_keys, write_card  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    if patients is None:
        patients = declared(folder)
    make_keys(folder)
    _say_card(folder / CARD, write_card(folder, name=site.name, patients=patients).key)


def _say_card(path: Path, key: str) -> None:
    from septum.signing import fingerprint  # noqa: PLC0415

    typer.echo(f"Send {path} to the coordinator; nothing in it is secret.")
    typer.echo(f"Read this fingerprint out when the coordinator calls: {fingerprint(key)}")
