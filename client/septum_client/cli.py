"""The hospital's verbs: ``septum site …``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from septum_client.data_cli import Folder, add_data_verbs
from septum_client.pacs_cli import add_pacs_verbs

if TYPE_CHECKING:
    from septum.ledger import Entry


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


def policy(folder: Folder = Path("site")) -> None:
    """Show the limits in force; edit policy.toml to change them.

    [dim]Example:[/dim]  septum site policy --site /srv/septum
    """
    from septum_client.site import Site  # noqa: PLC0415

    typer.echo(Site.open(folder).policy.to_toml().rstrip())


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
    from septum.errors import ConfigError  # noqa: PLC0415
    from septum.study import load  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site, text = Site.open(folder), load(study)
    if digest != text.digest:
        raise ConfigError(
            "the digest given is not this file's.",
            remedy="Run `septum site review` on this file, and approve what it shows.",
        )
    site.policy.mechanism(text, site=site.name)
    site.approve(text)
    typer.echo(f"Approved {text.name} ({text.digest}).")


def ledger(
    folder: Folder = Path("site"),
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also write the chain as JSON lines to this file. It holds the secret nonce that "
            "keeps released ledger heads from being guessed: for auditors only."
        ),
    ] = None,
) -> None:
    """Verify the ledger and show what was spent.

    [dim]Example:[/dim]  septum site ledger --export ledger.jsonl
    """
    from septum import ledger as chain  # noqa: PLC0415
    from septum.accounting import epsilon  # noqa: PLC0415
    from septum_client.site import Site, write_durably  # noqa: PLC0415

    site = Site.open(folder)
    book = site.ledger
    head = book.verify()
    limits = site.policy
    entries = book.entries()
    studies = sorted({str(e.fields["study"]) for e in entries if e.fields["kind"] == "debit"})
    table = Table(box=None, pad_edge=False)
    for column in ("study", "rounds charged", "ε spent", "limit", "at δ"):
        table.add_column(column, justify="left" if column == "study" else "right")
    for study in studies:
        charges = book.charges(study)
        delta = _charged_delta(entries, study)
        spent = epsilon(charges, delta=delta)
        limit = f"{limits.epsilon_per_study:g}"
        table.add_row(study[:16], str(len(charges)), f"{spent:.3f}", limit, f"{delta:g}")
    every = book.charges()
    table.add_row(
        "all studies",
        str(len(every)),
        f"{epsilon(every, delta=limits.delta):.3f}",
        f"{limits.epsilon_total:g}",
        f"{limits.delta:g}",
    )
    Console().print(table)
    typer.echo(f"{len(entries)} entries, chain verified, head {head.digest}")
    if export is not None:
        write_durably(export, chain.export(entries).encode())


def _charged_delta(entries: list["Entry"], study: str) -> float:
    # As charged: the study may have been withdrawn since; what it spent was not.
    return min(
        float(str(entry.fields["delta"]))
        for entry in entries
        if entry.fields["kind"] == "debit" and entry.fields["study"] == study
    )
