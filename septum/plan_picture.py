"""The picture of a plan: epsilon against what a study's author can still change."""

from pathlib import Path
from typing import Any, Final

from septum.errors import ConfigError
from septum.plan import Setup, curves

_KINDS: Final = (".svg", ".png", ".pdf")
_BLUE, _RED, _GREY = "#20639b", "#c0392b", "#7f8c8d"


def draw(setup: Setup, *, limit: float, path: Path) -> None:
    """Write epsilon against rounds, noise, batch and patients to ``path``.

    The dot is the plan; the dashed line is ``limit``, the cap of one study.

    Raises:
      ConfigError: matplotlib is not installed, or ``path`` is of another kind.
    """
    if path.suffix.lower() not in _KINDS:
        raise ConfigError(
            f"{path.name} is not a kind of picture that can be drawn.",
            remedy=f"Name a file that ends in {', '.join(_KINDS)}.",
        )
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only the bench's extra installs it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigError(
            "the picture needs matplotlib, which is not installed.",
            remedy="pip install 'septum[bench]', or leave out --figure: the table says the same.",
        ) from None
    found = curves(setup)
    # The text of an SVG stays text, and two runs give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "septum", "font.size": 9}):
        figure = Figure(figsize=(9, 2.6 + 2.8 * (len(found) // 2 - 1)), layout="constrained")
        places = figure.subplots(len(found) // 2, 2, squeeze=False).flat
        at = {
            "rounds": setup.rounds,
            "noise multiplier": setup.noise_multiplier,
            "patients drawn in a step": setup.batch,
            "training patients, same batch": setup.patients,
        }
        for axes, (name, curve) in zip(places, found.items(), strict=True):
            _panel(axes, name, curve, here=(at[name], setup.epsilon), limit=limit)
        figure.suptitle(
            f"Patient-level ε at δ = {setup.delta:g} (add or remove one patient; PLD accountant)",
            fontsize=10,
        )
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def _panel(axes: Any, name: str, curve: Any, *, here: tuple[float, float], limit: float) -> None:
    x, y = zip(*curve, strict=True)
    axes.plot(x, y, color=_BLUE, linewidth=1.6)
    axes.plot(*here, "o", color=_RED, markersize=5)
    beside = (7, -11) if y[-1] > y[0] else (6, 6)  # off the curve, whether it rises or falls
    axes.annotate(f"ε {here[1]:.2f}", here, xytext=beside, textcoords="offset points")
    axes.axhline(limit, color=_GREY, linestyle="--", linewidth=0.9)
    axes.annotate(
        f"limit {limit:g}",
        (1, limit),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=_GREY,
        fontsize=8,
    )
    axes.set_xlabel(name)
    axes.set_ylabel("ε")
    axes.set_ylim(0, min(1.05 * max(*y, limit), 4 * max(here[1], limit)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
