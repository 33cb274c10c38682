"""``septum site ledger``: verify the chain, and read from it what was spent, and by whom."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from septum_client.data_cli import Folder

if TYPE_CHECKING:
    from septum.accounting import Charge
    from septum.ledger import Value
    from septum.privacy_filter import Filter
    from septum_client.site import Site


def ledger(
    folder: Folder = Path("site"),
    patient: Annotated[
        bool,
        typer.Option(
            "--patient",
            help="Ask for a Patient ID, and show what this patient took part in. It is asked for, "
            "because a command line is kept in a history.",
        ),
    ] = False,
    registry: Annotated[
        bool,
        typer.Option(
            "--registry", help="Print an entry of a public registry for each study, as JSON."
        ),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also write the chain as JSON lines to this file. It holds the secret nonce that "
            "keeps released ledger heads from being guessed: for auditors only."
        ),
    ] = None,
) -> None:
    """Verify the ledger and show what was spent.

    [dim]Examples:[/dim]  septum site ledger --export ledger.jsonl

      septum site ledger --patient
    """
    from septum import ledger as chain  # noqa: PLC0415
    from septum_client.site import Site, write_durably  # noqa: PLC0415 - imports torch

    site = Site.open(folder)
    book = site.ledger
    head = book.verify()
    entries = book.entries()
    said = [entry.fields for entry in entries]
    if registry:
        _registry(site, said)
    elif patient:
        _patient(site, typer.prompt("Patient ID", hide_input=True))
    else:
        _spent(site, said)
        typer.echo(f"{len(entries)} entries, chain verified, head {head.digest}")
    if export is not None:
        write_durably(export, chain.export(entries).encode())


def _spent(site: "Site", said: "Sequence[dict[str, Value]]") -> None:
    from septum.accounting import epsilon  # noqa: PLC0415
    from septum_client import spending  # noqa: PLC0415

    limits = site.policy
    table = _table("study", "rounds charged", "spent", "limit", "at δ")
    for study in _studies(said):
        charges = spending.charges(said, study=study)
        delta = _charged_delta(said, study)
        spent = f"ε {epsilon(charges, delta=delta):.3f}"
        table.add_row(
            study[:16], str(len(charges)), spent, f"ε {limits.epsilon_per_study:g}", f"{delta:g}"
        )
    for name, cap, charges in (
        ("365 days", limits.year, spending.last_year(said, now=datetime.now(UTC))),
        ("all studies", limits.total, spending.charges(said)),
    ):
        table.add_row(
            name, str(len(charges)), _share(cap, charges), f"ε {cap.epsilon:g}", f"{cap.delta:g}"
        )
    Console().print(table)


def _patient(site: "Site", patient_id: str) -> None:
    from septum_client import lineage  # noqa: PLC0415
    from septum_client.exposure import exposures  # noqa: PLC0415
    from septum_client.pseudonyms import pseudonym  # noqa: PLC0415

    rounds = lineage.rounds_of(site, pseudonym(site.key, patient_id.strip()))
    found, limits = exposures(rounds), site.policy
    if not found.studies:
        typer.echo("No round of any study was charged with this patient in it.")
        return
    table = _table("study", "rounds in its cohort", "released", "ε of this patient", "at δ")
    for each in found.studies:
        unsure = f" ({len(each.uncertain)} uncertain)" if each.uncertain else ""
        table.add_row(
            each.study[:16],
            f"{len(each.rounds)}{unsure}",
            str(each.released),
            f"{each.epsilon:.3f}",
            f"{each.delta:g}",
        )
    Console().print(table)
    typer.echo(
        f"All studies: ε {found.epsilon:.3f} at δ {found.delta:g} if none was chosen by what "
        f"another released; whatever they were chosen by, at most ε {limits.epsilon_total:g} at "
        f"δ {limits.delta:g}, of whose filter this patient's rounds used "
        f"{_share(limits.total, found.charges)}."
    )


def _registry(site: "Site", said: "Sequence[dict[str, Value]]") -> None:
    from septum.registry import of_charges  # noqa: PLC0415
    from septum_client import spending  # noqa: PLC0415

    records = []
    for digest in _studies(said):
        mine = [f for f in said if f["kind"] == "debit" and f["study"] == digest]
        record = of_charges(
            site.approved(digest),
            charges=spending.charges(said, study=digest),
            delta=_charged_delta(said, digest),
            organisation=site.name,
            seeded=any(fields["randomness"] == "seeded" for fields in mine),
        )
        records.append(record.model_dump(mode="json"))
    typer.echo(json.dumps(records, indent=2))


def _studies(said: "Sequence[dict[str, Value]]") -> list[str]:
    return sorted({str(fields["study"]) for fields in said if fields["kind"] == "debit"})


def _charged_delta(said: "Sequence[dict[str, Value]]", study: str) -> float:
    # As charged: the study may have been withdrawn since; what it spent was not.
    return min(
        float(str(fields["delta"]))
        for fields in said
        if fields["kind"] == "debit" and fields["study"] == study
    )


def _share(cap: "Filter", charges: "Sequence[Charge]") -> str:
    return f"{100 * cap.share(charges):.0f} %"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
