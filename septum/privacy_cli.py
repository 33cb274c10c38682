"""``septum privacy …``: what training costs a patient, before anybody joins."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Noise = Annotated[
    float,
    typer.Option(
        metavar="MULTIPLE", help="Noise multiplier: standard deviation over the clip.", min=0.1
    ),
]
Rate = Annotated[
    float,
    typer.Option(
        metavar="PROBABILITY", help="Chance of each patient in each step, 0 to 1.", min=1e-6, max=1
    ),
]
Steps = Annotated[int, typer.Option(metavar="STEPS", help="Steps of a round.", min=1)]
Rounds = Annotated[int, typer.Option(metavar="ROUNDS", help="Rounds of the study.", min=1)]
Delta = Annotated[
    float,
    typer.Option(metavar="PROBABILITY", help="Delta: well below 1 / patients.", min=1e-15, max=0.1),
]


def add_privacy_verbs(app: typer.Typer) -> None:
    """Add ``septum privacy`` to the command line."""
    privacy = typer.Typer(
        help="What training costs one patient, in epsilon: plan, convert, put on record. Reads "
        "no image and spends no budget."
    )
    for verb in (plan, epsilon, noise, record):
        privacy.command()(verb)
    app.add_typer(privacy, name="privacy", rich_help_panel="Anyone")


def epsilon(
    noise_multiplier: Noise,
    sampling_rate: Rate,
    steps_per_round: Steps = 1,
    rounds: Rounds = 1,
    delta: Delta = 1e-5,
) -> None:
    """Say what so much noise costs: noise to epsilon, by two accountants.

    [dim]Example:[/dim]  septum privacy epsilon --noise-multiplier 1.2 --sampling-rate 0.08
    --steps-per-round 10 --rounds 40 --delta 1e-5
    """
    from septum.accounting import ACCOUNTANT, renyi_epsilon  # noqa: PLC0415 - --help must be quick
    from septum.plan import Setup  # noqa: PLC0415
    from septum.privacy_filter import cap_for  # noqa: PLC0415

    setup = Setup(
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        steps=steps_per_round,
        rounds=rounds,
        delta=delta,
    )
    every = [setup.charge] * rounds
    _lines(
        [
            ("epsilon", f"{setup.epsilon:.3f} at delta {delta:g} ({ACCOUNTANT}: of record)"),
            ("check", f"{renyi_epsilon(every, delta=delta):.3f} (Rényi: an upper bound)"),
            ("filter", f"fits under a cap of {cap_for(every, delta=delta):g} over all studies"),
            ("unit", "one patient with all images at one hospital, added or removed"),
        ]
    )


def noise(
    epsilon: Annotated[float, typer.Option(metavar="EPSILON", help="Epsilon to keep to.")],
    sampling_rate: Rate,
    steps_per_round: Steps = 1,
    rounds: Rounds = 1,
    delta: Delta = 1e-5,
) -> None:
    """Say how much noise keeps to an epsilon: epsilon to noise.

    [dim]Example:[/dim]  septum privacy noise --epsilon 3 --sampling-rate 0.08
    --steps-per-round 10 --rounds 40 --delta 1e-5
    """
    from septum.accounting import noise_for  # noqa: PLC0415

    needed = noise_for(
        target=epsilon, delta=delta, sampling_rate=sampling_rate, steps=steps_per_round * rounds
    )
    # Alone on its line, for scripts.
    typer.echo(f"{needed:.3f}")


def plan(
    study: Annotated[
        Path | None, typer.Option(help="Plan this study's TOML file; its numbers are used.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this hospital of the study.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A hospital's policy.toml; the default limits if absent.")
    ] = None,
    noise_multiplier: Noise = 1.0,
    patients: Annotated[
        int, typer.Option(metavar="PATIENTS", help="Training patients of the hospital.", min=1)
    ] = 500,
    batch: Annotated[
        float,
        typer.Option(metavar="PATIENTS", help="Patients drawn in a step, on average.", min=1e-3),
    ] = 25,
    steps_per_round: Steps = 10,
    rounds: Rounds = 30,
    delta: Delta = 1e-5,
    figure: Annotated[
        Path | None,
        typer.Option(help="Also draw epsilon against rounds, noise, batch, patients: .svg, .png."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a study costs a patient, and how many rounds a hospital's limits pay for.

    Of a study file, or of numbers. Nothing is spent: what a site already spent is
    in `septum site review`.

    [dim]Examples:[/dim]  septum privacy plan --study study.toml --policy policy.toml

      septum privacy plan --patients 600 --batch 48 --noise-multiplier 1.2 --figure plan.svg
    """
    from septum.caps import Caps, load_caps  # noqa: PLC0415
    from septum.errors import ConfigError  # noqa: PLC0415
    from septum.plan import Setup, afford, of_study  # noqa: PLC0415
    from septum.plan_picture import draw  # noqa: PLC0415
    from septum.plan_table import fields, show  # noqa: PLC0415
    from septum.study import load  # noqa: PLC0415

    caps = Caps() if policy is None else load_caps(policy)
    if site is not None and study is None:
        raise ConfigError("--site names a hospital of no study.", remedy="Give --study too.")
    if batch > patients:
        raise ConfigError(
            f"--batch is {batch:g} patients and --patients {patients}.",
            remedy="Draw at most all patients.",
        )
    if study is None:
        setups = {
            "plan": Setup(
                noise_multiplier=noise_multiplier,
                sampling_rate=batch / patients,
                steps=steps_per_round,
                rounds=rounds,
                delta=delta,
                patients=patients,
            )
        }
        clip = None
    else:
        wanted = load(study)
        names = [part.name for part in wanted.sites] if site is None else [site]
        setups = {name: of_study(wanted, site=name) for name in names}
        clip = wanted.privacy.max_grad_norm
    found = {name: afford(each, caps, max_grad_norm=clip) for name, each in setups.items()}
    if as_json:
        typer.echo(json.dumps({name: fields(each) for name, each in found.items()}))
    else:
        show(setups, found, caps, of=None if policy is None else policy.name)
    if figure is not None:
        draw(next(iter(found.values())).setup, limit=caps.epsilon_per_study, path=figure)
        if not as_json:
            typer.echo(f"Drawn: {figure}")


def record(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    organisation: Annotated[
        str, typer.Option(metavar="NAME", help="Who is responsible for the deployment.")
    ] = "",
    url: Annotated[str, typer.Option(metavar="URL", help="Where more is published.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the record to this file.")] = None,
) -> None:
    """Print the study's entry for a registry of differential privacy deployments, as JSON.

    Of the study as it was agreed; what a site was really charged is in
    `septum site ledger --registry`.

    [dim]Example:[/dim]  septum privacy record study.toml --organisation "St Elsewhere"
    """
    from septum.durable import replace  # noqa: PLC0415
    from septum.registry import of_study  # noqa: PLC0415
    from septum.study import load  # noqa: PLC0415

    text = of_study(load(study), organisation=organisation, url=url).to_json()
    typer.echo(text)
    if out is not None:
        replace(out, lambda file: file.write(f"{text}\n".encode()))


def _lines(lines: list[tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)
