"""The result in the terminal: what the report says, in twelve lines."""

from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from septum_bench.result import Interval, StudyResult


def print_summary(result: StudyResult, *, console: Console) -> None:
    """Show each hospital's figures, the comparison and the leakage verdict."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("hospital", min_width=10, overflow="fold")
    for name in ("patients", "images", "ε / limit", "AUC federated", "AUC alone"):
        table.add_column(name, justify="right", no_wrap=True)
    for site in result.sites:
        alone = result.alone.get(site.name)
        table.add_row(
            site.name,
            str(site.patients_train + site.patients_test),
            str(site.images),
            f"{site.epsilon_spent:.2f} / {site.epsilon_limit:g}",
            _shown(result.federated.per_site[site.name].auc),
            _shown(alone.per_site[site.name].auc) if alone else "–",
        )
    console.print()
    console.print(table)
    console.print()
    for name, text in _lines(result):
        console.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)


def _lines(result: StudyResult) -> list[tuple[str, str]]:
    tested = result.federated.pooled
    accuracy = f"AUC {_shown(tested.auc)} on {tested.patients} test patients of all hospitals"
    for who, values in (
        ("on all hospitals' patients", [score.pooled.auc for score in result.alone.values()]),
        ("on its own", [score.per_site[name].auc for name, score in result.alone.items()]),
    ):
        known = [auc.value for auc in values if auc.value is not None]
        if known:
            accuracy += f"; median hospital alone, {who}, {median(known):.3f}"
    for score in result.baselines:
        accuracy += f"; {score.name} {_shown(score.pooled.auc)}"
    if tested.figures:
        accuracy = f"On {tested.patients} test patients of all hospitals: " + "; ".join(
            f"{figure.name} {_shown(figure.interval)}" for figure in tested.figures
        )
    privacy = (
        f"patient-level ε = {max(site.epsilon_spent for site in result.sites):.2f} at "
        f"δ = {result.delta:g} per hospital ({result.accountant} accountant, Poisson sampling, "
        f"{result.adjacency})"
    )
    if result.seeded:
        privacy += ". The noise was seeded: this run protects nobody"
    leakage = result.audit.sentence if result.audit else "not measured"
    lines = [("Accuracy", accuracy + "."), ("Privacy", privacy + "."), ("Leakage", leakage)]
    partial = [row.round for row in result.rounds if row.refused]
    if partial:
        lines.append(("Partial", f"{len(partial)} of {len(result.rounds)} rounds lack a hospital."))
    return lines + [("Note", text) for text in result.warnings]


def _shown(interval: Interval) -> str:
    if interval.value is None:
        return f"not resolvable ({interval.reason})"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.2f}, {interval.high:.2f}]"
