"""A finding drawn: control, null and release on one axis with chance, and its curves."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

from septum_bench.audit.finding import Curve, Finding, Measured, Verdict
from septum_bench.report import words
from septum_bench.report.canvas import (
    ALARM,
    INK,
    MUTED,
    OPEN,
    PRIVATE,
    Picture,
    axes,
    label,
    picture,
)

_STRIP: Final = (540, 148)
_CURVE: Final = (540, 330)
_LEFT: Final = 126
_RIGHT: Final = 118
_NAMES: Final = {
    "control": "positive control",
    "null": "null run",
    "release": "this release",
}
_LINES: Final = (PRIVATE, OPEN, INK, ALARM)


def strip(finding: Finding) -> Picture:
    """Return the finding's scores on one axis, each with its 95 % interval, and chance."""
    shown = [m for m in (finding.control, finding.null, finding.release) if m is not None]
    colours = {
        "control": INK,
        "null": MUTED,
        "release": ALARM if finding.verdict is Verdict.REFUTED else PRIVATE,
    }
    width, height = _STRIP

    def draw(fig: Any) -> None:
        panel = axes(fig, left=_LEFT, right=_RIGHT, top=6, bottom=44)
        low, high = _span([finding.chance, *(v for m in shown for v in _ends(m))])
        if finding.unit == "share":
            low, high = 0.0, max(high, 0.05)
            panel.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        panel.set_xlim(low, high)
        panel.set_ylim(2.5, -0.5)
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        panel.grid(axis="x")
        panel.xaxis.get_major_locator().set_params(nbins=5)
        panel.axvline(finding.chance, c="#aab3be", lw=1, dashes=(2, 2))
        panel.set_xlabel(label(f"{finding.unit}; dotted: best blind guess", 74))
        inner = width - _LEFT - _RIGHT
        for measured in shown:
            y = list(_NAMES).index(measured.role)
            colour = colours[measured.role]
            beside = {"transform": panel.get_yaxis_transform(), "va": "center_baseline"}
            panel.text(-_LEFT / inner, y, _NAMES[measured.role], color=colour, **beside)
            said = words.score(measured.value, finding.unit)
            panel.text(1 + 8 / inner, y, said, color=colour, **beside)
            if measured.low is not None and measured.high is not None:
                panel.plot([measured.low, measured.high], [y, y], c=colour, lw=2)
            panel.plot(measured.value, y, "o", c=colour, ms=6.5, clip_on=False, zorder=3)

    said = "; ".join(f"{_NAMES[m.role]} {words.measured(m, finding.unit)}" for m in shown)
    guess = words.score(finding.chance, finding.unit)
    return picture(
        width=width,
        height=height,
        alt=f"{finding.score}: {said}; best blind guess {guess}.",
        draw=draw,
    )


def curves(finding: Finding) -> tuple[Picture, ...]:
    """Return one picture per figure of the finding's curves, in their order."""
    groups: dict[str, list[Curve]] = {}
    for curve in finding.curves:
        groups.setdefault(curve.figure, []).append(curve)
    return tuple(_drawn(name, lines) for name, lines in groups.items())


def _drawn(name: str, lines: Sequence[Curve]) -> Picture:
    width, height = _CURVE

    def draw(fig: Any) -> None:
        panel = axes(fig, left=48, right=16, top=12 + 18 * len(lines), bottom=46)
        first = lines[0]
        if first.log_x:
            panel.set_xscale("log")
            # As plain numbers: the style writes no mathematical text.
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid()
        panel.set_xlabel(first.x_label)
        panel.set_ylabel(first.y_label)
        if first.chance:
            panel.plot(first.x, first.chance, c="#aab3be", lw=1.2, dashes=(2, 2))
        for index, line in enumerate(lines):
            colour = _LINES[index % len(_LINES)]
            if line.low and line.high:
                panel.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, lw=0)
            panel.plot(line.x, line.y, c=colour, lw=1.8)
            panel.text(
                0,
                1 + (8 + 18 * (len(lines) - 1 - index)) / (height - 58 - 18 * len(lines)),
                f"\N{EM DASH} {label(line.name, 66)}",
                color=colour,
                transform=panel.transAxes,
                va="bottom",
            )

    said = "; ".join(f"{line.name} from {line.y[0]:.2g} to {line.y[-1]:.2g}" for line in lines)
    return picture(width=width, height=height, alt=f"{name or 'Curves'}: {said}.", draw=draw)


def _ends(measured: Measured) -> list[float]:
    return [v for v in (measured.value, measured.low, measured.high) if v is not None]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that shows every finite value with some air."""
    known = [value for value in values if np.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    return low - air, high + air
