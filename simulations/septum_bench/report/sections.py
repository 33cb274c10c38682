"""What the page's tables and lists say, computed from the record alone."""

from dataclasses import dataclass

from septum_bench.report import words
from septum_bench.report.verdict import silent
from septum_bench.result import Interval, Metrics, RoundRow, SiteRow, StudyResult


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One row of the hospitals' table, ready to print."""

    row: SiteRow
    federated: Metrics | None
    alone: Interval | None
    quarantined: tuple[str, ...]
    refused: tuple[str, ...]
    share: float

    @property
    def left(self) -> float:
        """Epsilon the hospital could still spend."""
        return self.row.epsilon_limit - self.row.epsilon_spent


@dataclass(frozen=True, kw_only=True)
class Course:
    """One row of the round record."""

    row: RoundRow
    silent: tuple[str, ...]
    refused: tuple[str, ...]
    complete: bool


def hospitals(result: StudyResult) -> tuple[Hospital, ...]:
    """Return one row per hospital, in the record's order."""
    rows = []
    for site in result.sites:
        own = result.alone.get(site.name)
        mine = own.per_site.get(site.name) if own else None
        limit = site.epsilon_limit
        rows.append(
            Hospital(
                row=site,
                federated=result.federated.per_site.get(site.name),
                alone=mine.auc if mine else None,
                quarantined=_coded(site.quarantined),
                refused=_coded(site.rounds_refused),
                share=min(100.0, max(0.0, 100 * site.epsilon_spent / limit)) if limit > 0 else 100,
            )
        )
    return tuple(rows)


def _coded(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{n} × {words.code(code)}" for code, n in sorted(counts.items()) if n)


def course(result: StudyResult) -> tuple[Course, ...]:
    """Return one row per round, with every absence named."""
    everyone = {site.name for site in result.sites}
    return tuple(
        Course(
            row=row,
            silent=silent(row),
            refused=tuple(f"{site}: {words.code(code)}" for site, code in row.refused.items()),
            complete=everyone <= set(row.answered),
        )
        for row in result.rounds
    )
