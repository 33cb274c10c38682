"""The tables of a plan, for eyes and for programs."""

from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from septum.accounting import ACCOUNTANT, renyi_epsilon
from septum.caps import Caps
from septum.plan import Affordable, Setup, noise_needed


def fields(found: Affordable) -> dict[str, float | int]:
    """Return what was found for one hospital, for a program to read."""
    setup = found.setup
    return {
        "patients": setup.patients,
        "patients_per_step": setup.batch,
        "noise_multiplier": setup.noise_multiplier,
        "rounds": setup.rounds,
        "epsilon": setup.epsilon,
        "delta": setup.delta,
        "filter_epsilon": found.needs,
        "rounds_within_study": found.by_study,
        "rounds_within_year": found.by_year,
        "rounds_within_total": found.by_total,
        "rounds_affordable": found.rounds,
    }


def show(
    setups: Mapping[str, Setup], found: Mapping[str, Affordable], caps: Caps, *, of: str | None
) -> None:
    """Print what the plan costs, and how many rounds each hospital's limits pay for."""
    first = next(iter(found.values())).setup
    console = Console(highlight=False)
    _cost(console, first)
    table = _table("hospital", "patients", "drawn", "noise", "ε", "filter ε")
    for column in ("study", "year", "total", "affords"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in found.items():
        setup = each.setup
        raised = "↑" if setup.noise_multiplier > setups[name].noise_multiplier else ""
        table.add_row(
            name,
            str(setup.patients),
            f"{setup.batch:.3g}",
            f"{setup.noise_multiplier:g}{raised}",
            f"{setup.epsilon:.2f}",
            f"{each.needs:g}",
            str(each.by_study),
            str(each.by_year),
            str(each.by_total),
            f"{each.rounds} of {setup.rounds}",
        )
    console.print(
        f"\nRounds that the limits of {of or 'a default policy'} pay for: "
        f"ε {caps.epsilon_per_study:g} a study, {caps.epsilon_per_year:g} a year, "
        f"{caps.epsilon_total:g} in all, at δ {caps.delta:g} or the study's. Filter ε is the cap "
        "over a year, or in all, that every round needs, at the policy's δ."
    )
    console.print(table)
    for name, each in found.items():
        if each.weak_delta:
            console.print(
                f"{name}: δ x patients is {each.setup.delta * each.setup.patients:.2g}; "
                "take a δ below 1 / (10 x patients)."
            )


def _cost(console: Console, setup: Setup) -> None:
    table = _table("rounds", "ε", "Rényi check")
    for quarter in (1, 2, 3, 4):
        part = replace(setup, rounds=max(1, setup.rounds * quarter // 4))
        check = renyi_epsilon([part.charge] * part.rounds, delta=part.delta)
        table.add_row(str(part.rounds), f"{part.epsilon:.2f}", f"{check:.2f}")
    with console.status("Looking for the noise of ε 1, 3 and 8"):
        needed = [noise_needed(setup, target) for target in (1.0, 3.0, 8.0)]
    console.print(
        f"Cost for one patient with all images, added or removed, at one hospital; {ACCOUNTANT} "
        f"accountant, δ {setup.delta:g}.\nNoise {setup.noise_multiplier:g}, every patient with "
        f"probability {setup.sampling_rate:g} in each of {setup.steps} steps a round."
    )
    console.print(table)
    console.print(
        f"All {setup.rounds} rounds cost ε 1, 3 or 8 at noise {needed[0]:g}, {needed[1]:g} or "
        f"{needed[2]:g}."
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
