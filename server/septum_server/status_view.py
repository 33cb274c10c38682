"""A study's standing as a person reads it."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from septum_server.status import Standing


def shown(standing: Standing) -> Group:
    """Return the standing as text and a table; a missing site is never left out."""
    head = Text.assemble(
        (standing.study, "bold"),
        f"  {standing.digest[:12]}  {standing.state}, "
        f"{standing.rounds} of {standing.of} rounds finished",
    )
    sites = "  ".join(f"{name}: {state}" for name, state in standing.sites.items())
    table = Table(box=None, pad_edge=False)
    for column in ("round", "answered", "seconds", "did not contribute"):
        table.add_column(column, overflow="fold")
    for row in standing.table:
        missing = ", ".join(f"{site} {why}" for site, why in row.missing) or "none"
        short = "" if row.counted else "  BELOW THE QUORUM: no model was made"
        table.add_row(
            str(row.round),
            f"{row.answered} of {row.asked}",
            f"{row.seconds:.0f}",
            Text(missing + short, style="" if row.counted and not row.missing else "yellow"),
        )
    parts: list[Text | Table] = [head, Text(sites or "the server does not answer", style="dim")]
    if standing.table:
        parts.append(table)
        last = standing.table[-1]
        if last.missing and last.said:
            parts.append(Text(last.said, style="yellow"))
    if standing.remedy:
        parts.append(Text(f"Next: {standing.remedy}", style="bold"))
    return Group(*parts)
