"""``septum site check``: can this export, and can this machine, take part?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from septum.errors import ConfigError, DataError, EngineError
from septum.plain_text import visible
from septum_client.data_cli import Folder, Workers

if TYPE_CHECKING:
    from septum_client.preflight_findings import Finding
    from septum_client.site import Site

_MARKS = {"ok": ("✓", "green"), "look": ("?", "yellow"), "stop": ("✗", "red")}


def check(
    source: Annotated[
        Path | None, typer.Argument(help="A folder or zip archive, as exported; to look at it.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label column; repeat for more. With a source.")
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            help="A study's digest or file. With a source: compare with the ranges it states. "
            "Alone: check this machine and this site against it."
        ),
    ] = "",
    folder: Folder = Path("site"),
    files: Annotated[int, typer.Option(help="Files to look at.", min=1)] = 400,
    workers: Workers = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object. Without a source.")
    ] = False,
) -> None:
    """Say whether an export can take part; or, with a study alone, whether this machine can.

    Shows nothing that identifies anyone. Exits with 0 only if nothing is marked ✗.

    [dim]Examples:[/dim]  septum site check /export --label nodule

      septum site check --study 3f9c… --json
    """
    from septum_client.site import Site  # noqa: PLC0415 - imports torch; --help must not

    site = Site.open(folder)
    if source is not None:
        _export(site, source, label or [], study, files=files, workers=workers)
    elif study and not label:
        _machine(site, study, as_json=as_json)
    else:
        raise ConfigError(
            "check needs an export with its labels, or a study.",
            remedy="Give a folder and --label for each label column; or --study alone.",
        )


def show(findings: "Sequence[Finding]") -> None:
    """Print one line for each finding, and below it the remedy of each that is not green."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(width=1)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, colour = _MARKS[finding.state]
        text = Text(visible(finding.text))
        if finding.remedy:
            text.append(f"\n→ {visible(finding.remedy)}", style=colour)
        table.add_row(Text(mark, style=colour), finding.name, text)
    Console(highlight=False).print(table)


def _machine(site: "Site", study: str, *, as_json: bool) -> None:
    from septum_client.join import find  # noqa: PLC0415
    from septum_client.preflight import as_json as written  # noqa: PLC0415
    from septum_client.preflight import preflight  # noqa: PLC0415
    from septum_client.preflight_findings import passed  # noqa: PLC0415

    signed = find(site, study)
    findings = preflight(site, signed, now=datetime.now(UTC))
    if as_json:
        typer.echo(written(findings, study=signed.study.digest))
    else:
        show(findings)
    if not passed(findings):
        wrong = [finding.name for finding in findings if finding.state == "stop"]
        raise EngineError(
            f"this site cannot take part yet: {', '.join(wrong)}.",
            remedy="Follow what stands beside each ✗, then check again.",
        )


def _export(
    site: "Site", source: Path, labels: list[str], study: str, *, files: int, workers: int
) -> None:
    from septum_client import intake  # noqa: PLC0415
    from septum_client.check import check as look  # noqa: PLC0415
    from septum_client.join import study_of  # noqa: PLC0415

    if not labels:
        raise ConfigError(
            "an export is checked for its labels, and none is named.",
            remedy="Give --label once for each label column.",
        )
    rules = site.policy.intake
    intake.require(rules)
    lines = look(
        source,
        key=site.key,
        rules=rules,
        decisions=intake.decisions(site),
        wanted=labels,
        reference=study_of(site, study).data.reference if study else None,
        most=files,
        workers=workers,
    )
    console = Console(highlight=False)
    for line in lines:
        mark, colour = _MARKS[line.state]
        console.print(f" [{colour}]{mark}[/] [bold]{line.name:<16}[/] {line.text}")
    if any(line.state == "stop" for line in lines):
        raise DataError(
            "This export cannot take part as it is.",
            remedy="Mend what is marked ✗, then check again.",
        )
