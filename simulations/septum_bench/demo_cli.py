"""``septum demo …``: the whole platform on one machine, with real processes."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_PANEL = "Simulate"


def add_demo_verbs(app: typer.Typer) -> None:
    """Add ``septum demo`` to the command line."""
    demo = typer.Typer(help="Show the whole platform on this machine, with real processes.")
    demo.callback()(_demo)
    demo.command()(hospitals)
    app.add_typer(demo, name="demo", rich_help_panel=_PANEL)


def _demo() -> None:
    # With a callback, a group of one verb stays a group: `septum demo hospitals`.
    pass


def hospitals(
    out: Annotated[Path, typer.Option(help="Folder for both sides; must be new or empty.")] = Path(
        "septum-demo"
    ),
    sites: Annotated[int, typer.Option(help="Hospitals.")] = 3,
    patients: Annotated[int, typer.Option(help="Phantom patients in all.")] = 120,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=1)] = 3,
    epsilon: Annotated[float, typer.Option(help="What the study may cost a patient.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the phantoms; keys and noise are fresh.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that write and read images.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines.")] = False,
) -> None:
    """Run a coordinator and its hospitals, with their own keys and processes.

    CA, server, edge and two processes for each hospital, over TLS on the
    loopback interface; phantoms, no patient. Ends every process it started.

    [dim]Example:[/dim]  septum demo hospitals --rounds 2
    """
    # Torch, Opacus and Flower take seconds to import; --help must not.
    from septum.errors import Interrupted  # noqa: PLC0415
    from septum_bench.demo import DemoPlan, demonstrate  # noqa: PLC0415
    from septum_bench.progress import JsonReporter, RichReporter  # noqa: PLC0415

    console = Console(highlight=False)
    plan = DemoPlan(
        sites=sites, patients=patients, rounds=rounds, epsilon=epsilon, seed=seed, workers=workers
    )
    try:
        with JsonReporter() if as_json else RichReporter(console) as reporter:
            result = demonstrate(plan, out, reporter=reporter)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; every process has ended.") from None
    if as_json:
        return
    for line in result.rounds:
        console.print(line, markup=False)
    charged = ", ".join(f"{name} {count}" for name, count in sorted(result.charged.items()))
    console.print(f"\nEvery ledger verifies; rounds charged: {charged}.", markup=False)
    console.print(f"Trained in {result.seconds:.0f} s between processes that have all ended.")
    console.print(f"Model   {result.model}", soft_wrap=True, markup=False)
    folder = shlex.quote(str(out / "sites"))
    console.print(f"Look    septum site ledger --site {folder}/…", soft_wrap=True, markup=False)
