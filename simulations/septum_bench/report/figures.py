"""The study's course and its calibration, drawn."""

from typing import Any, Final

import numpy as np

from septum_bench.report import words
from septum_bench.report.canvas import (
    ALARM,
    FAINT,
    INK,
    MUTED,
    OPEN,
    PRIVATE,
    Picture,
    axes,
    label,
    picture,
)
from septum_bench.report.verdict import best_open, silent
from septum_bench.result import StudyResult

_WIDTH: Final = 540


def course(result: StudyResult) -> Picture | None:
    """Return AUC and epsilon against the round, in aligned panels; None without rounds."""
    if not result.rounds:
        return None
    rounds = [row.round for row in result.rounds]
    scores = np.array([np.nan if row.auc is None else row.auc for row in result.rounds])
    budget = [row.epsilon for row in result.rounds]
    limit = min((site.epsilon_limit for site in result.sites), default=result.epsilon)
    best = best_open(result)

    def draw(fig: Any) -> None:
        upper = axes(fig, left=40, right=120, top=24, bottom=190)
        lower = axes(fig, left=40, right=120, top=254, bottom=42)
        for panel in (upper, lower):
            panel.set_xlim(min(rounds) - 0.4, max(rounds) + 0.4)
            panel.grid(axis="y")
            panel.xaxis.get_major_locator().set_params(integer=True, nbins=12, steps=[1, 2, 5, 10])
        upper.tick_params(labelbottom=False)
        _scores(upper, rounds, scores, best.pooled.auc.value if best else None)
        lower.set_title("ε spent so far", loc="left", fontsize=9.6, color=INK)
        lower.plot(rounds, budget, "-o", c=INK, ms=4, lw=1.6, clip_on=False)
        lower.set_ylim(0, max(filter(np.isfinite, [limit, *budget, 0.1])) * 1.12)
        lower.yaxis.get_major_locator().set_params(nbins=5, steps=[1, 2, 4, 5, 10])
        lower.set_xlabel("round")
        if np.isfinite(limit):
            lower.axhline(limit, c=ALARM, lw=1, dashes=(4, 2))
            _beside(lower, limit, f"limit {words.number(limit)}", ALARM)
        # Spent and limit often meet at the end; their labels must not.
        lift = 0.22 * max(limit, 0.1)
        end = budget[-1] if abs(budget[-1] - limit) > lift else limit - lift
        if np.isfinite(end):
            _beside(lower, end, f"spent {words.spent(budget[-1])}", INK)

    known = scores[~np.isnan(scores)]
    alt = f"After {words.plural(len(rounds), 'round')}, ε is {words.spent(budget[-1])}"
    alt += f" of a limit of {words.number(limit)}"
    alt += (
        f" while AUC went from {known[0]:.2f} to {known[-1]:.2f}."
        if known.size
        else "; no AUC was recorded."
    )
    return picture(width=_WIDTH, height=400, alt=alt, draw=draw)


def _beside(panel: Any, y: float, text: str, colour: str) -> None:
    panel.text(
        1.02, y, text, transform=panel.get_yaxis_transform(), color=colour, va="center_baseline"
    )


def _scores(panel: Any, rounds: list[int], scores: Any, best: float | None) -> None:
    panel.set_title("AUC on the test patients", loc="left", fontsize=9.6, color=INK)
    known = scores[~np.isnan(scores)]
    panel.set_ylim(np.floor(min([0.5, *known]) * 10) / 10, 1.0)
    panel.axhline(0.5, c="#aab3be", lw=0.8, dashes=(2, 2))
    _beside(panel, 0.5, "chance", MUTED)
    panel.plot(rounds, scores, "-o", c=PRIVATE, ms=4.5, lw=1.8, clip_on=False)
    if not known.size:
        panel.text(0.5, 0.5, "not resolvable", transform=panel.transAxes, ha="center", color=MUTED)
        return
    last = float(known[-1])
    _beside(panel, last, f"private {words.number(last)}", PRIVATE)
    if best is not None:
        panel.axhline(best, c=OPEN, lw=1, dashes=(4, 2))
        apart = 0.045 if best >= last else -0.045
        _beside(
            panel,
            best if abs(best - last) > 0.045 else last + apart,
            f"non-private {words.number(best)}",
            OPEN,
        )


def participation(result: StudyResult) -> Picture | None:
    """Return who answered in which round; None without rounds."""
    if not result.rounds:
        return None
    sites = [site.name for site in result.sites]
    sites += sorted({s for row in result.rounds for s in row.asked if s not in sites})
    rounds = [row.round for row in result.rounds]
    height = 84 + 30 * len(sites)
    kinds = {
        "answered": ("s", PRIVATE, PRIVATE),
        "refused": ("X", ALARM, "white"),
        "no answer": ("s", "white", OPEN),
        "not asked": (".", FAINT, FAINT),
    }

    def draw(fig: Any) -> None:
        panel = axes(fig, left=178, right=46, top=34, bottom=42)
        panel.set_xlim(min(rounds) - 0.7, max(rounds) + 0.7)
        panel.set_ylim(len(sites) - 0.5, -0.5)
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        panel.set_xlabel("round")
        panel.xaxis.get_major_locator().set_params(integer=True, nbins=12, steps=[1, 2, 5, 10])
        size = max(2.0, min(9.0, 210 / (len(rounds) + 1)))
        inner = _WIDTH - 178 - 46
        for y, site in enumerate(sites):
            beside = {"transform": panel.get_yaxis_transform(), "va": "center_baseline"}
            panel.text(-178 / inner, y, label(site, 25), **beside)
            count = sum(site in row.answered for row in result.rounds)
            colour = INK if count == len(rounds) else ALARM
            panel.text(1 + 6 / inner, y, f"{count}/{len(rounds)}", color=colour, **beside)
            states = [_state(row, site) for row in result.rounds]
            for kind, (marker, face, edge) in kinds.items():
                xs = [r for r, state in zip(rounds, states, strict=True) if state == kind]
                panel.plot(
                    xs, [y] * len(xs), marker, ms=size, mfc=face, mec=edge, mew=1.2, ls="none"
                )
        _key(fig, kinds, height)

    partial = sum(set(sites) != set(row.answered) for row in result.rounds)
    alt = (
        f"Every hospital answered in all {len(rounds)} rounds."
        if not partial
        else f"In {partial} of {words.plural(len(rounds), 'round')} a hospital is missing."
    )
    return picture(width=_WIDTH, height=height, alt=alt, draw=draw)


def _state(row: Any, site: str) -> str:
    if site in row.answered:
        return "answered"
    if site in row.refused:
        return "refused"
    return "no answer" if site in silent(row) else "not asked"


def _key(fig: Any, kinds: dict[str, tuple[str, str, str]], height: int) -> None:
    key = axes(fig, left=178, right=0, top=4, bottom=height - 24)
    key.set_axis_off()
    key.set_xlim(0, 362)
    key.set_ylim(-1, 1)
    x = 6.0
    for kind, (marker, face, edge) in kinds.items():
        key.plot(x, 0, marker, ms=7, mfc=face, mec=edge, mew=1.2)
        key.text(x + 11, 0, kind, va="center_baseline", color=MUTED)
        x += 34 + 6.2 * len(kind)


def calibration(result: StudyResult) -> Picture | None:
    """Return predicted against observed share of positives; None without bins."""
    bins = result.federated.pooled.reliability
    if not bins:
        return None
    most = max(b.patients for b in bins) or 1

    def draw(fig: Any) -> None:
        panel = axes(fig, left=46, right=14, top=10, bottom=118)
        count = axes(fig, left=46, right=14, top=338, bottom=44)
        panel.plot([0, 1], [0, 1], c="#aab3be", lw=1, dashes=(3, 2))
        panel.plot([b.predicted for b in bins], [b.observed for b in bins], c=PRIVATE, lw=1.6)
        for b in bins:
            panel.plot(
                b.predicted,
                b.observed,
                "o",
                c=PRIVATE,
                mec="white",
                mew=1,
                ms=5 + 8 * (b.patients / most) ** 0.5,
                clip_on=False,
                zorder=3,
            )
        panel.set_ylabel("observed share with the finding")
        panel.grid()
        for part in (panel, count):
            part.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.tick_params(labelbottom=False)
        count.bar([b.predicted for b in bins], [b.patients for b in bins], width=0.035, color=FAINT)
        for b in bins:
            count.text(b.predicted, b.patients, str(b.patients), ha="center", va="bottom",
                       color=MUTED, fontsize=8.2)  # fmt: skip
        count.set_ylim(0, most * 1.35)
        count.set_yticks([])
        count.spines["left"].set_visible(False)
        count.set_xlabel("predicted probability (bars: patients in each bin)")

    gap = max(bins, key=lambda b: abs(b.predicted - b.observed))
    return picture(
        width=470,
        height=440,
        alt=f"The largest gap is at a predicted {words.percent(gap.predicted)}, where "
        f"{words.percent(gap.observed)} of {words.plural(gap.patients, 'patient')} had it.",
        draw=draw,
    )
