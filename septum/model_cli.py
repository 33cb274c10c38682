"""``septum model``: the networks of the registry, and weights in and out of MONAI bundles."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

StudyFile = Annotated[Path, typer.Argument(help="The study file.")]
Kept = Annotated[Path, typer.Option("--weights", help="Folder of public weights.")]


def add_model_verbs(app: typer.Typer) -> None:
    """Add ``septum model`` to the command line."""
    model = typer.Typer(help="Networks, and weights in and out of MONAI bundles.")
    model.command("list")(list_networks)
    model.command("import")(keep)
    model.command("export")(export)
    app.add_typer(model, name="model", no_args_is_help=True)


def list_networks() -> None:
    """Show every network that a study may name.

    [dim]Example:[/dim]  septum model list
    """
    from septum.models import MODELS  # noqa: PLC0415 - imports MONAI; --help must not

    table = Table("model.name", "from", "data.task", "dimensions", "sides")
    for name, network in MODELS.items():
        table.add_row(
            name,
            network.source,
            ", ".join(sorted(network.tasks)),
            " or ".join(f"{count}D" for count in network.dims),
            f"at least {network.least}, multiples of {network.multiple}",
        )
    Console(highlight=False).print(table)


def keep(
    source: Annotated[Path, typer.Argument(help="A MONAI bundle's folder or a weights file.")],
    folder: Kept = Path("weights"),
) -> None:
    """Read weights, and nothing else, from a bundle; keep them under their digest.

    [dim]Example:[/dim]  septum model import ./bundle --weights ./weights
    """
    from septum import bundle  # noqa: PLC0415 - imports torch; --help must not

    weights = bundle.read_weights(source)
    digest = bundle.keep(folder, weights)
    count = sum(value.numel() for value in weights.values())
    console = Console(highlight=False)
    console.print(f"{len(weights)} tensors, {count:,} values. Name them in the study:")
    console.print(f'[bold]model.weights = "{digest}"[/]', soft_wrap=True)


def export(
    study_file: StudyFile,
    checkpoint: Annotated[Path, typer.Argument(help="A round-….npz of the study's folder.")],
    out: Annotated[Path, typer.Option(help="New folder of the bundle.")],
    folder: Kept = Path("weights"),
) -> None:
    """Write the global model as a MONAI bundle.

    [dim]Example:[/dim]  septum model export study.toml run/round-00012.npz --out ./bundle
    """
    from septum import bundle  # noqa: PLC0415 - imports torch; --help must not
    from septum.study import load  # noqa: PLC0415 - likewise

    study = load(study_file)
    model = bundle.read_model(checkpoint, study)
    digest = bundle.export(study, model, out, weights=bundle.weights_of(study, folder))
    console = Console(highlight=False)
    console.print(f"{out} holds the model of study {study.digest[:12]}…")
    console.print(f'[bold]model.weights = "{digest}"[/]', soft_wrap=True)
