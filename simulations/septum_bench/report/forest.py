"""Forest plots: one row per estimate, its interval drawn and written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from septum_bench.report import words
from septum_bench.report.canvas import (
    ALONE,
    FAINT,
    INK,
    MUTED,
    OPEN,
    PRIVATE,
    Picture,
    label,
    picture,
)
from septum_bench.report.canvas import axes as make_axes
from septum_bench.report.verdict import alone_values, best_open
from septum_bench.result import Interval, StudyResult

_ROW: Final = 36
_LEFT: Final = 186
_RIGHT: Final = 128
_WIDTH: Final = 540


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a forest plot; without an estimate it is a heading."""

    text: str
    detail: str = ""
    interval: Interval | None = None
    points: tuple[float, ...] = ()
    colour: str = PRIVATE
    marker: str = "o"
    arm: str = ""


def forest(
    rows: Sequence[Row], *, alt: str, guide: float | None, xlabel: str, pitch: int = _ROW
) -> Picture:
    """Return the rows as one picture, with a vertical guide at a value of interest."""

    def draw(fig: Any) -> None:
        axes = make_axes(fig, left=_LEFT, right=_RIGHT, top=4, bottom=42)
        low = _floor(rows)
        axes.set_xlim(low, 1.005)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        step = 0.1 if low >= 0.3 else 0.2
        axes.set_xticks([round(low + step * k, 1) for k in range(int((1 - low) / step + 1.01))])
        axes.grid(axis="x")
        axes.set_xlabel(xlabel)
        axes.axvline(0.5, color="#aab3be", linewidth=0.8, dashes=(2, 2))
        if guide is not None:
            axes.axvline(guide, color=PRIVATE, linewidth=0.8, alpha=0.45)
        for y, row in enumerate(rows):
            _line(axes, y, row)

    return picture(width=_WIDTH, height=pitch * len(rows) + 46, alt=alt, draw=draw)


def _floor(rows: Sequence[Row]) -> float:
    seen = [0.5]
    for row in rows:
        seen += row.points
        if row.interval is not None and row.interval.value is not None:
            seen.append(row.interval.value if row.interval.low is None else row.interval.low)
    return max(0.0, math.floor(min(filter(math.isfinite, seen)) * 10 - 0.2) / 10)


def _line(axes: Any, y: int, row: Row) -> None:
    beside = axes.get_yaxis_transform()
    inner = _WIDTH - _LEFT - _RIGHT
    start, stop = -_LEFT / inner, 1 + 12 / inner
    name = {"transform": beside, "va": "center_baseline", "fontweight": "normal"}
    if row.interval is None and not row.points:
        axes.text(start, y + 0.16, label(row.text, 40), **(name | {"fontweight": "bold"}))
        return
    shift = -0.2 if row.detail else 0
    axes.text(start, y + shift, label(row.text, 15 if row.arm else 26), **name)
    if row.arm:
        axes.text(-8 / inner, y, row.arm, ha="right", color=row.colour, **name)
        if row.text:
            axes.plot([start, 1.0], [y - 0.5] * 2, transform=beside, c=FAINT, lw=0.7, clip_on=False)
    if row.detail:
        axes.text(start, y + 0.23, label(row.detail, 31), color=MUTED, fontsize=8.2, **name)
    if row.points:
        axes.plot(row.points, [y] * len(row.points), "o", ms=5.5, mec="white", mew=0.8, c=ALONE)
    interval = row.interval
    if interval is None:
        return
    if interval.value is None:
        axes.text(0.02, y, label(words.figure(interval), 52), color=MUTED, style="italic", **name)
        return
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [y, y], c=row.colour, lw=2, zorder=3)
    axes.plot(
        interval.value,
        y,
        row.marker,
        c=row.colour,
        ms=20 if row.marker == "|" else 7,
        mec=row.colour if row.marker == "|" else "white",
        mew=2.4 if row.marker == "|" else 1,
        zorder=4,
        clip_on=False,
    )
    written = (
        words.figure(interval)
        if interval.low is not None
        else words.number(interval.value) + (" median" if row.points else "")
    )
    axes.text(stop, y, written, color=INK, **name)


def comparison(result: StudyResult) -> Picture:
    """Return the ways of training side by side, all on the same test patients."""
    federated = result.federated.pooled.auc
    rows = [
        Row(
            text=row.name,
            detail="private (DP)" if row.private else "not private",
            interval=row.pooled.auc,
            colour=PRIVATE if row.private else OPEN,
            marker="o" if row.private else "D",
        )
        for row in (result.federated, *result.baselines)
    ]
    values = sorted(alone_values(result))
    if values:
        private = "private" if all(a.private for a in result.alone.values()) else "not private"
        rows.append(
            Row(
                text="each hospital alone",
                detail=f"{private}, {words.plural(len(values), 'model')}",
                interval=Interval(value=median(values)),
                points=tuple(values),
                colour=INK,
                marker="|",
            )
        )
    best = best_open(result)
    alt = f"Federated training with differential privacy reaches AUC {words.figure(federated)}"
    alt += f"; the best non-private training, {best.name}, {_auc(best.pooled.auc)}" if best else ""
    alt += f"; the median hospital alone {words.number(median(values))}" if values else ""
    return forest(rows, alt=alt + ".", guide=federated.value, xlabel="AUC, all test patients")


def _auc(interval: Interval) -> str:
    return words.figure(interval)


def subgroups(result: StudyResult) -> Picture | None:
    """Return the federated model's AUC in each stratum, with counts; None without strata."""
    if not result.subgroups:
        return None
    overall = result.federated.pooled
    rows = [Row(text="all test patients", detail=_counts(overall), interval=overall.auc)]
    seen = ""
    for stratum in result.subgroups:
        if stratum.group != seen:
            rows.append(Row(text=stratum.group))
            seen = stratum.group
        metrics = stratum.metrics
        rows.append(Row(text=stratum.level, detail=_counts(metrics), interval=metrics.auc))
    solved = [s for s in result.subgroups if s.metrics.auc.value is not None]
    alt = "No subgroup has a resolvable AUC."
    if solved:
        worst = min(solved, key=lambda s: s.metrics.auc.value or 0.0)
        best = max(solved, key=lambda s: s.metrics.auc.value or 0.0)
        alt = (
            f"The weakest subgroup is {worst.group} {worst.level}, AUC "
            f"{words.figure(worst.metrics.auc)}; the strongest is {best.group} {best.level}, "
            f"AUC {words.figure(best.metrics.auc)}."
        )
    return forest(rows, alt=alt, guide=overall.auc.value, xlabel="AUC, federated model")


def _counts(metrics: Any) -> str:
    return f"{words.plural(metrics.patients, 'patient')}, {metrics.positives} positive"


def by_hospital(result: StudyResult) -> Picture | None:
    """Return each hospital's gain: its own model against the federated one, on its own patients."""
    if not result.alone:
        return None
    rows = []
    gains = losses = 0
    for site in result.sites:
        joint = result.federated.per_site.get(site.name)
        own = result.alone.get(site.name)
        mine = own.per_site.get(site.name) if own else None
        for arm, metrics, colour in (("federated", joint, PRIVATE), ("alone", mine, ALONE)):
            interval = metrics.auc if metrics else Interval(value=None, reason="not trained")
            text = site.name if arm == "federated" else ""
            rows.append(Row(text=text, arm=arm, interval=interval, colour=colour))
        if joint and mine and joint.auc.value is not None and mine.auc.value is not None:
            gains += joint.auc.value > mine.auc.value
            losses += joint.auc.value < mine.auc.value
    alt = (
        f"On its own test patients, joining beats training alone at {gains} of "
        f"{words.plural(len(result.sites), 'hospital')} and does worse at {losses}."
    )
    return forest(rows, alt=alt, guide=None, xlabel="AUC, own test patients", pitch=24)
