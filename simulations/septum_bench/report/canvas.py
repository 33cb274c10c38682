"""The drawing surface: one style, one palette, pictures as data URIs.

Figures are SVG with real text, so that they stay sharp in print and take the
reader's own system font. Equal input gives equal bytes.
"""

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image as Pillow

INK: Final = "#1c2733"
MUTED: Final = "#5a6675"
FAINT: Final = "#d5dbe2"
PRIVATE: Final = "#0b5cad"
OPEN: Final = "#a85800"
ALONE: Final = "#5a6675"
ALARM: Final = "#b3261e"

_FONTS: Final = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_PX_PER_INCH: Final = 96
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "septum",
    "text.parse_math": False,  # a hospital's name may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9.3,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#aab3be",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.7,
    "xtick.color": "#aab3be",
    "ytick.color": "#aab3be",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure ready for the page: its bytes as a data URI, and what it shows in words."""

    uri: str
    alt: str
    width: int
    height: int


def picture(*, width: int, height: int, alt: str, draw: Callable[[Any], None]) -> Picture:
    """Draw on a fresh figure and return it as a picture.

    Args:
      width: Natural width, CSS pixels.
      height: Natural height, CSS pixels.
      alt: The finding in one sentence, for readers who cannot see it.
      draw: Draws on the ``matplotlib.figure.Figure`` it is given.

    Guarantees:
      - Equal drawings give equal bytes: no date, no random identifier.
      - No global state is left changed; pyplot is not used.
    """
    buffer = io.StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        # A glyph that DejaVu lacks is measured as a box and still written as text.
        warnings.filterwarnings("ignore", message="Glyph")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        fig = Figure(figsize=(width / _PX_PER_INCH, height / _PX_PER_INCH))
        fig.patch.set_alpha(0)
        draw(fig)
        FigureCanvasSVG(fig).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    rule = f"text{{font-family:{_FONTS}!important;font-variant-numeric:tabular-nums}}</style>"
    svg = buffer.getvalue().replace("</style>", rule, 1)
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return Picture(uri=uri, alt=alt, width=width, height=height)


def png(image: npt.NDArray[np.uint8]) -> str:
    """Return a grey image as a PNG data URI, pixel for pixel."""
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(image)).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def axes(fig: Any, *, left: float, right: float, top: float, bottom: float) -> Any:
    """Return axes whose four margins are given in CSS pixels."""
    width, height = (float(side) * _PX_PER_INCH for side in fig.get_size_inches())
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return fig.add_axes(box)


def label(text: str, limit: int) -> str:
    """Return ``text`` fit for a figure: printable, and cut with an ellipsis at ``limit``.

    >>> label("Universitätsklinikum", 10)
    'Universit…'
    """
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= limit else clean[: limit - 1].rstrip() + "…"
