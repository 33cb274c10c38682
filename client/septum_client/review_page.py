"""The study card as one HTML page: the very lines of the screen, for a privacy officer's files."""

import base64
import hashlib
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template

from septum_client.review import Card, Section


def page(card: Card, *, site: str, at: datetime) -> str:
    """Return ``card`` as a page that needs no other file and no network, and runs no script.

    Args:
      card: What the screen shows.
      site: The hospital's public name.
      at: When the counts were made, with its zone.

    Guarantees:
      - Its text holds every line of the card, and no line that the card has not.
      - Whatever a study says of itself is text there, never markup.
    """
    here = files(__package__ or "septum_client")
    style = here.joinpath("review_page.css").read_text(encoding="utf-8")
    # The policy of the page names its own style and nothing else.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(here.joinpath("review_page.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        style=style,
        study=escape(card.study),
        site=escape(site),
        at=escape(at.strftime("%Y-%m-%d %H:%M %Z")),
        digest=escape(card.digest),
        sections="\n".join(_section(section) for section in card.sections),
    )


def _section(section: Section) -> str:
    rows = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in section.lines
    )
    return f"<section>\n<h2>{escape(section.title)}</h2>\n<dl>\n{rows}\n</dl>\n</section>"
