"""The bench's verbs: ``septum simulate``, ``phantoms``, ``audit``, ``bench``."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console

from septum.errors import Interrupted
from septum_bench.audit.cli import add_audit_verbs
from septum_bench.demo_cli import add_demo_verbs
from septum_bench.plan import Plan

_PANEL = "Simulate"
_DEFAULTS = Plan.model_construct()  # not checked here: the check imports the networks

Opt = typer.Option


def add_verbs(app: typer.Typer) -> None:
    """Add the bench's verbs to the command line."""
    app.command(rich_help_panel=_PANEL)(simulate)
    app.command(rich_help_panel=_PANEL)(phantoms)
    add_demo_verbs(app)
    add_audit_verbs(app)
    bench = typer.Typer(help="Run published benchmarks through the whole platform.")
    bench.command("pneumoniamnist")(pneumoniamnist)
    app.add_typer(bench, name="bench", rich_help_panel=_PANEL)


def simulate(
    out: Annotated[Path, Opt(help="Folder of the run; must be new or empty.")] = Path("septum-run"),
    data: Annotated[
        Path | None, Opt(help="Real DICOM: one sub-folder per hospital, each with a labels CSV.")
    ] = None,
    label: Annotated[
        list[str] | None, Opt(help="Label column to train on; repeat for more. [default: all]")
    ] = None,
    sites: Annotated[int, Opt(help="Phantom hospitals.")] = _DEFAULTS.sites,
    patients: Annotated[int, Opt(help="Phantom patients in all.")] = _DEFAULTS.patients,
    seed: Annotated[int, Opt(help="Seed of everything.")] = _DEFAULTS.seed,
    task: Annotated[
        str, Opt(help="multilabel, classification, regression or segmentation.")
    ] = _DEFAULTS.task,
    image_size: Annotated[int, Opt(help="Pixels a side in training.")] = _DEFAULTS.image_size,
    depth: Annotated[int, Opt(help="Slices of a volume; 1: films.")] = _DEFAULTS.depth,
    model: Annotated[str, Opt(help="small_cnn, resnet18 or densenet121.")] = _DEFAULTS.model,
    strategy: Annotated[str, Opt(help="fedavg or fedprox.")] = _DEFAULTS.strategy,
    proximal_mu: Annotated[
        float, Opt(help="Pull of fedprox towards the global model.")
    ] = _DEFAULTS.proximal_mu,
    rounds: Annotated[int, Opt(help="Rounds.")] = _DEFAULTS.rounds,
    steps_per_round: Annotated[
        int, Opt(help="DP-SGD steps per round and hospital.")
    ] = _DEFAULTS.steps_per_round,
    epsilon: Annotated[
        float, Opt(help="Patient-level epsilon that each hospital allows.")
    ] = _DEFAULTS.epsilon,
    delta: Annotated[float, Opt(help="Delta at which epsilon is stated.")] = _DEFAULTS.delta,
    noise_multiplier: Annotated[
        float | None, Opt(help="Fix the noise instead of spending epsilon.")
    ] = None,
    sampling_rate: Annotated[
        float, Opt(help="Chance of each patient to be drawn in a step.")
    ] = _DEFAULTS.sampling_rate,
    max_grad_norm: Annotated[
        float, Opt(help="Clip norm of a patient's gradient.")
    ] = _DEFAULTS.max_grad_norm,
    images_per_patient: Annotated[
        int, Opt(help="Images of a drawn patient per step, at most.")
    ] = _DEFAULTS.images_per_patient,
    minimum_sites: Annotated[
        int | None, Opt(help="Hospitals that a round needs. [default: half]")
    ] = None,
    learning_rate: Annotated[float, Opt(help="Of local SGD.")] = _DEFAULTS.learning_rate,
    engine: Annotated[
        str, Opt(help="local (one process) or ray (Flower's simulation).")
    ] = _DEFAULTS.engine,
    workers: Annotated[int, Opt(help="Hospitals that train at once.")] = _DEFAULTS.workers,
    baselines: Annotated[bool, Opt(help="Also train alone and without privacy.")] = True,
    attack: Annotated[bool, Opt(help="Also attack the study's own releases.")] = True,
    resume: Annotated[bool, Opt("--resume", help="Go on with the run in --out.")] = False,
    json: Annotated[bool, Opt("--json", help="Print events as JSON lines.")] = False,
) -> None:
    """Run a whole study on this machine, from DICOM to a report with measured leakage.

    [dim]Example:[/dim]  septum simulate --epsilon 3 --rounds 20

    [dim]Your own data:[/dim]  septum simulate --data hospitals/ --out run1
    """
    options: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name in Plan.model_fields and value is not None
    }
    if data is not None:
        options["data"] = data.absolute()
    plan = Plan.check(**options, labels=tuple(label or ()))
    context = click.get_current_context()
    given = {
        {"label": "labels"}.get(name, name)
        for name in context.params
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    _run(plan, out, resume=resume, given=given, as_json=json)


def _run(plan: Plan, out: Path, *, resume: bool, given: set[str], as_json: bool) -> None:
    # Torch, Opacus and Flower take seconds to import; --help must not.
    from septum_bench import simulate  # noqa: PLC0415
    from septum_bench.progress import JsonReporter, RichReporter  # noqa: PLC0415
    from septum_bench.study_run import study_run  # noqa: PLC0415
    from septum_bench.summary import print_summary  # noqa: PLC0415

    started = datetime.now(UTC).isoformat(timespec="seconds")
    console = Console()
    plan = simulate.begin(plan, out, resume=resume, given=given)
    reporter = JsonReporter() if as_json else RichReporter(console)
    command = "septum " + shlex.join(sys.argv[1:])
    try:
        with reporter:
            result = study_run(plan, out, reporter=reporter, command=command, started=started)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what was finished is kept.",
            remedy=f"Go on with: septum simulate --resume --out {shlex.quote(str(out))}",
        ) from None
    if as_json:
        typer.echo(
            result.model_dump_json(
                exclude={"audit": {"findings": {"__all__": {"reconstructions", "curves"}}}}
            )
        )
    else:
        print_summary(result, console=console)
        console.print(
            f"\nReport  {out / 'report.html'}", highlight=False, soft_wrap=True, markup=False
        )


def phantoms(
    folder: Annotated[Path, typer.Argument(help="New folder for the hospitals.")],
    sites: Annotated[int, Opt(help="Hospitals.")] = _DEFAULTS.sites,
    patients: Annotated[int, Opt(help="Patients in all.")] = _DEFAULTS.patients,
    seed: Annotated[int, Opt(help="Equal seeds give equal bytes.")] = 0,
    matrix: Annotated[int, Opt(help="Pixels a side of each film.")] = 96,
    task: Annotated[
        str, Opt(help="multilabel, classification, regression or segmentation.")
    ] = _DEFAULTS.task,
    depth: Annotated[int, Opt(help="Above 1: a CT of so many slices a patient.")] = _DEFAULTS.depth,
    workers: Annotated[int, Opt(help="Processes.")] = _DEFAULTS.workers,
) -> None:
    """Write synthetic hospitals: chest films as real DICOM, with invented identifiers.

    [dim]Example:[/dim]  septum phantoms hospitals/ --sites 3 --patients 120
    """
    from septum_bench.phantoms import PhantomPlan, write_hospitals  # noqa: PLC0415
    from septum_bench.progress import RichReporter  # noqa: PLC0415

    plan = PhantomPlan(
        sites=sites, patients=patients, seed=seed, matrix=matrix, task=task, depth=depth
    )
    with RichReporter(Console()) as reporter:
        reporter.stage("Phantoms", 1)
        folders = write_hospitals(
            folder,
            plan,
            workers=workers,
            progress=lambda done, total: reporter.advance(
                f"{done}/{total} films", done=done, total=total
            ),
        )
    typer.echo(f"Wrote {len(folders)} hospitals below {folder}.")


def pneumoniamnist(
    npz: Annotated[Path, typer.Argument(help="pneumoniamnist.npz of MedMNIST v2.")],
    out: Annotated[Path, Opt(help="New folder for DICOM, sites and models.")] = Path("pneumonia"),
    sites: Annotated[int, Opt(help="Simulated hospitals.")] = 6,
    epsilon: Annotated[list[float] | None, Opt(help="Repeat for more. [default: 1 3 8]")] = None,
    seeds: Annotated[int, Opt(help="Number of seeds.")] = 3,
    workers: Annotated[int, Opt(help="Hospitals that train at once.")] = _DEFAULTS.workers,
) -> None:
    """Real chest X-rays spread over simulated hospitals, written as DICOM and federated.

    [dim]Example:[/dim]  septum bench pneumoniamnist pneumoniamnist.npz --epsilon 8 --seeds 1
    """
    from septum_bench.pneumonia import run_pneumonia, table  # noqa: PLC0415
    from septum_bench.progress import RichReporter  # noqa: PLC0415

    with RichReporter(Console(stderr=True)) as reporter:
        rows = run_pneumonia(
            npz,
            out,
            sites=sites,
            epsilons=tuple(epsilon or (1.0, 3.0, 8.0)),
            seeds=tuple(range(seeds)),
            workers=workers,
            reporter=reporter,
        )
    typer.echo(table(rows))
