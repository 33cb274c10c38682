"""The review page: its files, and the list of images that it asks for."""

import json
from functools import cache
from importlib.resources import files
from typing import Final

from septum.errors import Quarantine
from septum_client.review_pixels.queue import Queue
from septum_client.screening.boxes import Box

# What each file is; the page asks for no other.
FILES: Final = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "mark.svg": ("mark.svg", "image/svg+xml"),
}
# No source but this server, and nothing inline: whatever got into a picture cannot act.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_WHY: Final = {
    Quarantine.BURNED_IN_TEXT: "May show text",
    Quarantine.SECONDARY_CAPTURE: "A capture of a screen or a film",
    Quarantine.FACE: "May show a face",
}


@cache
def file(name: str) -> tuple[bytes, str]:
    """Return a file of the page and its media type.

    Raises:
      KeyError: The page has no such file.
    """
    stored, media_type = FILES[name]
    return files(__package__).joinpath(stored).read_bytes(), media_type


def listing(queue: Queue) -> bytes:
    """Return the images as JSON: hash, reason, size, boxes, decision; no header value at all."""
    decisions = queue.decisions()
    images = []
    for item in queue.items():
        decision = decisions.get(item.name)
        images.append(
            {
                "name": item.name,
                "code": item.code.value,
                "why": _WHY.get(item.code, "Held back"),
                "rows": item.rows,
                "columns": item.columns,
                "boxes": item.boxes,
                "verdict": decision.verdict if decision else None,
                "blanked": _shown(decision.boxes, item.scale) if decision else (),
            }
        )
    return json.dumps(images, separators=(",", ":")).encode()


def _shown(boxes: tuple[Box, ...], scale: int) -> list[list[int]]:
    return [[side // scale for side in box] for box in boxes]
