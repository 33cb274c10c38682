"""The auditor's verbs: ``septum audit`` and ``septum site rehearse``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from septum.errors import ConfigError
from septum_bench.audit import audit as run_audit

if TYPE_CHECKING:
    from septum.models import Weights
    from septum.study import Study
    from septum_client.cohort import Cohort

_UNFIT = 1

Opt = typer.Option
Attacks = Annotated[
    list[str] | None,
    Opt("--attack", help="Attack to run; repeat for more, or all. [default: the default suite]"),
]
Json = Annotated[bool, Opt("--json", help="Print events as JSON lines.")]


def add_audit_verbs(app: typer.Typer) -> None:
    """Add ``septum audit``, and ``rehearse`` to ``septum site`` where a hospital has the bench."""
    app.command(rich_help_panel="Audit")(audit)
    for group in app.registered_groups:
        if group.name == "site" and group.typer_instance is not None:
            group.typer_instance.command()(rehearse)


def audit(
    target: Annotated[
        Path,
        typer.Argument(help="A run's folder, one release (.npy), or one model (round-….npz)."),
    ],
    out: Annotated[Path, Opt(help="Folder for audit.html and audit.json.")] = Path("septum-audit"),
    attack: Attacks = None,
    study: Annotated[
        Path | None, Opt(help="For a release or a model: the study's TOML file.")
    ] = None,
    site: Annotated[
        list[Path] | None, Opt(help="For a release or a model: a site directory; repeat for more.")
    ] = None,
    before: Annotated[
        Path | None, Opt(help="For a release: the model that its round started from.")
    ] = None,
    of: Annotated[str | None, Opt(help="For a release: the hospital that made it.")] = None,
    round: Annotated[int, Opt(help="For a release: its round.", min=1)] = 1,
    weights: Annotated[
        Path | None,
        Opt(
            help="For a study that starts from public weights: the folder that holds them. "
            "[default: weights/ of the first --site]"
        ),
    ] = None,
    seed: Annotated[int, Opt(help="Of the audit; of a run, its own.", min=0)] = 0,
    today: Annotated[str, Opt("--date", help="Date to print, YYYY-MM-DD. [default: today]")] = "",
    strict: Annotated[bool, Opt("--strict", help="Fail on a refuted or void claim.")] = False,
    json: Json = False,
) -> None:
    """Attack a study, a release or a model, and write what it gives away: page and record.

    Each claim ends as refuted, as not refuted at a stated power, or as void.

    [dim]Example:[/dim]  septum audit septum-run --attack identification

    [dim]One model:[/dim]  septum audit round-00012.npz --study study.toml --site /srv/septum
    """
    from septum_bench.audit.finding import Verdict  # noqa: PLC0415 - torch; --help must not
    from septum_bench.audit.loading import open_part, open_run  # noqa: PLC0415
    from septum_bench.report.audit_page import render_audit  # noqa: PLC0415
    from septum_bench.report.page import write_page  # noqa: PLC0415
    from septum_client.site import write_durably  # noqa: PLC0415

    day = _day(today)
    if target.suffix in {".npy", ".npz"}:
        contract = _study(study)
        subject = open_part(
            target,
            study=contract,
            cohorts=_cohorts(site or []),
            before=before,
            site=of,
            round=round,
            seed=seed,
            weights=_weights(contract, weights, site or []),
        )
    else:
        subject = open_run(target)
    with _shown(as_json=json) as watch:
        report = run_audit(subject, attacks=attack, name=target.name, today=day, watch=watch)
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / "audit.json", report.to_json())
    write_page(render_audit(report), out / "audit.html")
    if json:
        typer.echo(report.to_json().decode(), nl=False)
    else:
        console = Console(highlight=False)
        table = Table("claim", "score", "verdict", "CPU s", box=None, padding=(0, 2, 0, 0))
        for found in report.findings:
            scored = f"{found.release.value:.3g} {found.unit}, blind guess {found.chance:.3g}"
            table.add_row(found.claim, scored, found.verdict.value, f"{found.seconds:.1f}")
        console.print(table)
        console.print(f"\n{report.sentence}", markup=False)
        console.print(f"\nReport  {out / 'audit.html'}", soft_wrap=True, markup=False)
    if strict and (report.verdict is not Verdict.NOT_REFUTED or report.of(Verdict.VOID)):
        raise typer.Exit(_UNFIT)


def rehearse(
    study: Annotated[Path, typer.Argument(help="The study's TOML file, approved or not.")],
    folder: Annotated[Path, Opt("--site", help="The site directory.")] = Path("site"),
    rounds: Annotated[int, Opt(help="Rounds to train here.", min=1)] = 2,
    attack: Attacks = None,
    seed: Annotated[int, Opt(help="Of the rehearsal.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Say what a study would cost and give away here, before it is approved; nothing leaves.

    [dim]Example:[/dim]  septum site rehearse study.toml --site /srv/septum
    """
    from septum_bench.audit import rehearse as stage  # noqa: PLC0415 - torch; --help must not
    from septum_bench.report.audit_page import render_audit  # noqa: PLC0415
    from septum_client.site import Site  # noqa: PLC0415

    site = Site.open(folder)
    with _shown(as_json=json) as watch:
        done = stage.rehearse(
            site,
            _study(study),
            rounds=rounds,
            seed=seed,
            now=datetime.now(UTC),
            attacks=attack,
            watch=watch,
        )
    kept = stage.keep(done, render_audit(done.audit), site=site)
    if json:
        typer.echo(done.forecast.model_dump_json())
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in done.lines():
        table.add_row(name, text)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"\nReport  {kept / 'audit.html'}", soft_wrap=True)


def _day(text: str) -> date:
    if not text:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--date is {text!r} and must be a day.", remedy="Write it as 2026-01-15."
        ) from None


def _study(path: Path | None) -> "Study":
    from septum.study import load  # noqa: PLC0415 - imports torch; --help must not

    if path is None:
        raise ConfigError(
            "a release or a model is attacked with its study.", remedy="Add --study study.toml."
        )
    return load(path)


def _weights(study: "Study", folder: Path | None, sites: list[Path]) -> "Weights | None":
    from septum.bundle import weights_of  # noqa: PLC0415 - imports torch; --help must not

    if not study.model.weights:
        return None
    if folder is None and not sites:
        raise ConfigError(
            f"the study starts from weights {study.model.weights[:12]}….",
            remedy="Add --weights FOLDER, or a --site that has them.",
        )
    return weights_of(study, folder or sites[0] / "weights")


def _cohorts(folders: list[Path]) -> dict[str, "Cohort"]:
    from septum_client.cohort import Cohort  # noqa: PLC0415 - imports torch; --help must not
    from septum_client.site import Site  # noqa: PLC0415

    sites = [Site.open(folder) for folder in folders]
    return {site.name: Cohort.open(site.cohort_path) for site in sites}


@contextmanager
def _shown(*, as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows the progress of each attack under its own bar."""
    from septum_bench.progress import JsonReporter, RichReporter  # noqa: PLC0415 - as above

    reporter = JsonReporter() if as_json else RichReporter(Console(file=sys.stderr))
    current = ""
    with reporter:

        def watch(title: str, done: int, total: int) -> None:
            nonlocal current
            if title != current:
                reporter.stage(title, total)
                current = title
            reporter.advance(done=done, total=total)

        yield watch
