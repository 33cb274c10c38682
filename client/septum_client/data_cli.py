"""The hospital's verbs for its images: from an export, or a PACS, to a cohort and its end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from septum.errors import ConfigError, Quarantine

Folder = Annotated[Path, typer.Option("--site", help="The site directory.")]
Source = Annotated[Path, typer.Argument(help="A folder or zip archive, as exported.")]
Workers = Annotated[int, typer.Option(help="Processes that read.", min=1)]
Labels = Annotated[list[str], typer.Option(help="Label column; repeat for more.")]


def add_data_verbs(site: typer.Typer) -> None:
    """Add the verbs to ``septum site``."""
    for verb in (ingest, deidentify, withdraw, purge):
        site.command()(verb)
    site.command("review-pixels")(review_pixels)


def ingest(
    source: Source,
    label: Annotated[
        list[str] | None, typer.Option(help="Label column; repeat for more. Not with --study.")
    ] = None,
    study: Annotated[
        str,
        typer.Option(help="Make what this study, a digest or a file, needs: its task and sizes."),
    ] = "",
    folder: Folder = Path("site"),
    image_size: Annotated[int, typer.Option(help="Pixels a side in training.")] = 64,
    depth: Annotated[int, typer.Option(help="Slices of a volume; 1: each frame alone.")] = 1,
    test_fraction: Annotated[float, typer.Option(help="Share of patients held out.")] = 0.25,
    workers: Workers = 2,
) -> None:
    """Turn an export into this site's cohort; say what was refused and why.

    A second run reads only what is new or changed. What is gone from the
    export goes from the cohort.

    [dim]Example:[/dim]  septum site ingest /export --study study.toml

    [dim]Before there is a study:[/dim]  septum site ingest /export --label nodule
    """
    if bool(label) == bool(study):
        raise ConfigError(
            "ingest needs either a study or labels.",
            remedy="Give --study, or --label once for each label column.",
        )
    from septum_client import intake  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.cohort import CohortSpec, Split  # noqa: PLC0415
    from septum_client.ingest import ingest as make  # noqa: PLC0415
    from septum_client.join import study_of  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    if study:
        spec = CohortSpec.of(study_of(site, study).data)
    else:
        spec = CohortSpec(
            image_size=image_size,
            labels=tuple(label or ()),
            test_fraction=test_fraction,
            depth=depth,
        )
    with _bar("reading") as progress:
        cohort = make(
            source,
            site.cohort_path,
            spec=spec,
            key=site.key,
            terms=intake.terms(site, today=_today()),
            workers=workers,
            progress=progress,
        )
    typer.echo(
        f"{len(cohort.images)} images of {len(cohort.split)} patients, "
        f"{len(cohort.patients(Split.TEST))} of them held out for testing; "
        f"{cohort.lineage['reused']} of {cohort.lineage['files']} files were known already. "
        f"It may train until {cohort.expires}."
    )
    if cohort.lineage["missing"]:
        typer.echo(f"The DICOMDIR names {cohort.lineage['missing']} files that are not there.")
    _say_refused(cohort.quarantined, site_folder=folder)


def deidentify(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Where the de-identified files go.")],
    folder: Folder = Path("site"),
    workers: Workers = 2,
) -> None:
    """Write de-identified DICOM files, each proved, for any use but a cohort.

    [dim]Example:[/dim]  septum site deidentify /export /deidentified
    """
    from septum_client import consent, intake  # noqa: PLC0415
    from septum_client.deidentification import deidentify as run  # noqa: PLC0415
    from septum_client.review_pixels import queue_of  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    rules = site.policy.intake
    intake.require(rules)
    with _bar("reading") as progress:
        done = run(
            source,
            out,
            key=site.key,
            rules=rules,
            decisions=intake.decisions(site),
            withdrawn=consent.withdrawn(site.folder / consent.FOLDER, site.key),
            queue=queue_of(site.folder),
            workers=workers,
            progress=progress,
        )
    typer.echo(
        f"{done.written} of {done.files} files written, de-identified and proved; "
        f"{done.duplicates} were there already."
    )
    _say_refused(done.quarantined, site_folder=folder)


def review_pixels(
    folder: Folder = Path("site"),
    browser: Annotated[bool, typer.Option(help="Open the page in this machine's browser.")] = True,
) -> None:
    """Look at the images that were held back, on a page of this machine alone.

    [dim]Example:[/dim]  septum site review-pixels
    """
    from septum_client.review_pixels import run  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    done = run(Site.open(folder).folder, open_browser=browser, announce=typer.echo)
    typer.echo(
        f"{done.accepted} accepted, {done.blanked} blanked, {done.rejected} rejected, "
        f"{done.waiting} still wait. Run the ingest again to let the accepted in."
    )


def withdraw(folder: Folder = Path("site")) -> None:
    """Take a patient out for good; say which studies used the patient, within which ε.

    The Patient ID is asked for, because a command line is kept in a history.

    [dim]Example:[/dim]  septum site withdraw
    """
    from septum_client.site import Site  # noqa: PLC0415
    from septum_client.withdrawal import withdraw as run  # noqa: PLC0415

    site = Site.open(folder)
    patient = typer.prompt("Patient ID", hide_input=True)
    for line in run(site, patient, at=datetime.now(UTC)).lines():
        typer.echo(line)


def purge(
    folder: Folder = Path("site"),
    due: Annotated[bool, typer.Option("--due", help="Only if the last day has passed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete cohort, inbox and pictures for review, and see that they are gone.

    [dim]Example:[/dim]  septum site purge --due --yes
    """
    from septum_client import retention  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    if due and not retention.due(site, _today()):
        typer.echo("Nothing is due.")
        return
    if not yes:
        typer.confirm("Delete cohort, inbox and the pictures that wait for review?", abort=True)
    for line in retention.purge(site, at=datetime.now(UTC)).lines():
        typer.echo(line)


def _say_refused(quarantined: Mapping[Quarantine, int], *, site_folder: Path) -> None:
    for code, count in sorted(quarantined.items()):
        typer.echo(f"  quarantined {count:>6}  {code.value}  {code.name.lower().replace('_', ' ')}")
    if {Quarantine.BURNED_IN_TEXT, Quarantine.SECONDARY_CAPTURE} & set(quarantined):
        typer.echo(
            f"A person can look at some of these: septum site review-pixels --site {site_folder}"
        )


def _today() -> date:
    return datetime.now(UTC).date()


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
