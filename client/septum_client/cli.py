"""The hospital's verbs: ``septum site …``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from septum_client.data_cli import Folder, add_data_verbs
from septum_client.ledger_cli import ledger
from septum_client.pacs_cli import add_pacs_verbs
from septum_client.policy_cli import policy


def add_verbs(app: typer.Typer) -> None:
    """Add ``septum site`` to the command line."""
    site = typer.Typer(help="A hospital's own directory: cohort, policy, approvals, ledger.")
    site.command()(init)
    add_data_verbs(site)
    add_pacs_verbs(site)
    site.command()(policy)
    site.command()(review)
    site.command()(approve)
    site.command()(ledger)
    app.add_typer(site, name="site", rich_help_panel="Hospital")


def init(
    name: Annotated[str, typer.Argument(help="Public name: lower-case letters, digits, hyphens.")],
    folder: Folder = Path("site"),
) -> None:
    """Make a site: a fresh key, and the strictest policy that still trains.

    [dim]Example:[/dim]  septum site init st-elsewhere --site /srv/septum
    """
    from septum_client.policy import Policy  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.create(folder, name=name, policy=Policy())
    typer.echo(f"Made site {site.name} in {folder}. Read and edit {folder / 'policy.toml'}.")


def review(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    folder: Folder = Path("site"),
) -> None:
    """Show what a study would do here and cost, and the digest to approve it by.

    [dim]Example:[/dim]  septum site review study.toml
    """
    from septum.study import load  # noqa: PLC0415
    from septum_client.review import card  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in card(Site.open(folder), load(study)):
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)


def approve(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    digest: Annotated[str, typer.Option(help="The digest that the review showed, in full.")],
    folder: Folder = Path("site"),
) -> None:
    """Let a study train here, by its digest, if the policy allows it.

    [dim]Example:[/dim]  septum site approve study.toml --digest 3f9c…
    """
    from septum.errors import BudgetExceeded, ConfigError  # noqa: PLC0415
    from septum.study import load  # noqa: PLC0415
    from septum_client.review import rounds_left  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site, text = Site.open(folder), load(study)
    if digest != text.digest:
        raise ConfigError(
            "the digest given is not this file's.",
            remedy="Run `septum site review` on this file, and approve what it shows.",
        )
    site.policy.mechanism(text, site=site.name)
    pays = rounds_left(site, text)
    if not pays:
        raise BudgetExceeded(
            "the limits do not pay for one round of this study.",
            remedy="Run `septum site review` on it: it shows what was spent of which limit.",
        )
    site.approve(text)
    typer.echo(f"Approved {text.name} ({text.digest}).")
    if pays < text.rounds:
        typer.echo(f"The limits pay for {pays} of its {text.rounds} rounds; the rest is refused.")
