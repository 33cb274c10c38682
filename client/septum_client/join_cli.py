"""The hospital's three decisions about a study: join a coordinator, review, approve."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from septum_client.data_cli import Folder

if TYPE_CHECKING:
    from septum.study import Study
    from septum_client.review import Card
    from septum_client.site import Site

Html = Annotated[
    Path | None, typer.Option(help="Also write the card as an HTML page, for the files.")
]


def add_join_verbs(site: typer.Typer) -> None:
    """Add the verbs to ``septum site``."""
    for verb in (join, review, approve):
        site.command()(verb)


def join(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator sent.")],
    fingerprint: Annotated[
        str, typer.Option(help="The coordinator's, as heard at a number you know; not by mail.")
    ] = "",
    folder: Folder = Path("site"),
    instead: Annotated[
        bool,
        typer.Option("--instead", help="Leave the coordinator joined before; revoke its key."),
    ] = False,
    html: Html = None,
    check: Annotated[
        bool, typer.Option(help="Run the pre-flight: reach the address, train a made-up batch.")
    ] = True,
) -> None:
    """Believe a coordinator by its fingerprint, check this machine, and show the study card.

    Approves nothing: no study trains before `septum site approve`.

    [dim]Example:[/dim]  septum site join invite-north.toml --fingerprint CV4A-PT2Q-ZCX7-Q5AY-M3K0
    """
    from septum.joining import read_invitation  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.check_cli import show  # noqa: PLC0415
    from septum_client.coordinator import joined, load  # noqa: PLC0415
    from septum_client.join import join as run  # noqa: PLC0415
    from septum_client.preflight import preflight  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site, read = Site.open(folder), read_invitation(invitation)
    known = load(folder)
    if not fingerprint and (known is None or known.key != read.coordinator):
        fingerprint = typer.prompt("The coordinator's fingerprint, as heard over another way")
    now = datetime.now(UTC)
    signed = run(site, read, heard=fingerprint, now=now, instead=instead)
    typer.echo(f"Joined the coordinator at {joined(folder).address}; the fingerprint is right.")
    pace = ""
    if check:
        findings = preflight(site, signed, now=now)
        show(findings)
        pace = next((each.text for each in findings if each.name == "pace"), "")
    _show(site, signed.study, html=html, pace=pace)
    typer.echo(f"\nIf you agree:  septum site approve {signed.study.digest} --site {folder}")


def review(
    study: Annotated[str, typer.Argument(help="An offered study's digest, or its file.")] = "",
    folder: Folder = Path("site"),
    html: Html = None,
) -> None:
    """Show what a study would do here, what leaves and what it costs; the digest to approve it by.

    Without a study: lists what was offered and what is approved.

    [dim]Example:[/dim]  septum site review study.toml --html card.html
    """
    from septum_client.join import study_of  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    if not study:
        _list(site)
        return
    _show(site, study_of(site, study), html=html)


def approve(
    digest: Annotated[str, typer.Argument(help="The digest that the review showed, in full.")],
    by: Annotated[
        str,
        typer.Option(prompt="Who approves (name and role; stays on site)", help="Who says yes."),
    ],
    folder: Folder = Path("site"),
) -> None:
    """Let an offered study train here: sign its digest with this site's own key.

    [dim]Example:[/dim]  septum site approve 3f9c… --by 'J. Doe, privacy officer'
    """
    from septum_client.approve import approve as run  # noqa: PLC0415
    from septum_client.join import offered  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    signed = offered(site, digest)
    pays = run(site, signed, by=by, now=datetime.now(UTC))
    rounds = signed.study.rounds
    typer.echo(f"Approved {signed.study.name} ({digest}), signed with this site's key.")
    if pays < rounds:
        typer.echo(f"The limits pay for {pays} of its {rounds} rounds; the rest is refused.")


def _show(site: "Site", study: "Study", *, html: Path | None, pace: str = "") -> None:
    from septum_client.review import card  # noqa: PLC0415
    from septum_client.review_page import page  # noqa: PLC0415
    from septum_client.site import write_durably  # noqa: PLC0415

    now = datetime.now(UTC)
    made = card(site, study, now=now, pace=pace)
    _print(made)
    if html is not None:
        write_durably(html, page(made, site=site.name, at=now).encode())
        typer.echo(f"\nThe same as a page: {html}")


def _print(card: "Card") -> None:
    console = Console(highlight=False)
    for section in card.sections:
        console.print(f"\n[bold]{section.title}[/]")
        table = Table(box=None, pad_edge=False, show_header=False)
        # One width for all sections, so that the eye finds the texts in one column.
        table.add_column(style="dim", width=max(len(name) for name, _ in card.lines))
        table.add_column(overflow="fold")
        for name, text in section.lines:
            table.add_row(name, Text(text))
        console.print(table)


def _list(site: "Site") -> None:
    from septum_client.join import digests, offered  # noqa: PLC0415

    found = digests(site)
    if not found:
        typer.echo("No study was offered yet: `septum site join INVITE` brings one.")
    for digest in found:
        approved = (site.folder / "approved" / f"{digest}.approval").is_file()
        state = "approved" if approved else "offered"
        typer.echo(f"{digest}  {state}  {offered(site, digest).study.name}")
