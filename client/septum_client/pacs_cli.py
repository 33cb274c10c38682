"""The hospital's verbs for its PACS: ``septum site pull`` and ``receive``."""

import signal
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from septum_client.data_cli import Folder

if TYPE_CHECKING:
    from septum_client.pacs.inbox import Inbox
    from septum_client.pacs.settings import Settings


def add_pacs_verbs(site: typer.Typer) -> None:
    """Add the verbs to ``septum site``."""
    for verb in (pull, receive):
        site.command()(verb)


def pull(
    modality: Annotated[str, typer.Option(help="As DICOM writes it: CR, DX, CT.")],
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])] = None,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])] = None,
    body_part: Annotated[str | None, typer.Option(help="As DICOM writes it: CHEST.")] = None,
    accessions: Annotated[
        Path | None, typer.Option(help="A file of accession numbers, one a line.")
    ] = None,
    folder: Folder = Path("site"),
) -> None:
    """Fetch images from a DICOMweb server into the inbox, de-identified before the first write.

    [dim]Example:[/dim]  septum site pull --modality DX --since 2026-01-01
    """
    from septum_client.pacs import pull as fetching  # noqa: PLC0415 - an extra; --help needs it not
    from septum_client.pacs import settings as pacs  # noqa: PLC0415

    query = fetching.Query(
        modality=modality,
        since=None if since is None else since.date(),
        until=None if until is None else until.date(),
        body_part=body_part,
        accessions=() if accessions is None else fetching.accessions(accessions),
    )
    settings = pacs.load(folder / "pacs.toml")
    inbox = _inbox(folder, settings)
    for line in (*fetching.pull(settings, query, inbox).lines(), *inbox.lines()):
        typer.echo(line)


def receive(folder: Folder = Path("site")) -> None:
    """Let a PACS push images into the inbox until Ctrl-C, de-identified before the first write.

    [dim]Example:[/dim]  septum site receive
    """
    from septum_client.pacs import receive as receiving  # noqa: PLC0415
    from septum_client.pacs import settings as pacs  # noqa: PLC0415

    settings = pacs.load(folder / "pacs.toml")
    inbox = _inbox(folder, settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    done = receiving.receive(
        settings,
        inbox,
        stop=stop,
        announce=lambda at: typer.echo(f"{at.ae_title} listens on {at.address}:{at.port}."),
    )
    for line in (*done.lines(), *inbox.lines()):
        typer.echo(line)


def _inbox(folder: Path, settings: "Settings") -> "Inbox":
    from septum_client import intake, pseudonyms  # noqa: PLC0415
    from septum_client.pacs.inbox import Inbox  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    key = site.key
    return Inbox(
        site.folder / "inbox",
        deidentify=intake.inbox_engine(site),
        alias=lambda uid: pseudonyms.uid(key, uid),
        quota=settings.inbox,
    )
