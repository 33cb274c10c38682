"""A person's look at the images that screening held back: a local page, and what was decided."""

import getpass
import webbrowser
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from septum_client.review_pixels.queue import Queue
from septum_client.review_pixels.server import serve

FOLDER: Final = "review"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How many images each decision was for, and how many still wait."""

    accepted: int
    blanked: int
    rejected: int
    waiting: int


def queue_of(site_folder: Path) -> Queue:
    """Return the queue of the site at ``site_folder``."""
    return Queue(folder=site_folder / FOLDER)


def run(site_folder: Path, *, open_browser: bool, announce: Callable[[str], None]) -> Outcome:
    """Show the images that wait, until the person finishes or interrupts.

    Args:
      site_folder: The site's directory.
      open_browser: Whether to open the page in this machine's browser.
      announce: Told the link, and what to do with it.

    Returns:
      What was decided in this sitting. The decided pictures are deleted.
    """
    queue = queue_of(site_folder)
    before = {item.name for item in queue.pending()}
    if not before:
        announce("No image waits for review.")
        return Outcome(accepted=0, blanked=0, rejected=0, waiting=0)
    with serve(queue, by=getpass.getuser(), now=lambda: datetime.now(UTC)) as server:
        announce(f"{len(before)} images wait. This link works once, on this machine: {server.url}")
        announce("Finish on the page, or press Ctrl-C; decisions are kept either way.")
        if open_browser:
            webbrowser.open(server.url)
        try:
            server.finished.wait()
        except KeyboardInterrupt:
            announce("Stopped.")
    decided = (queue.decision(name) for name in before)
    found = Counter(decision.verdict for decision in decided if decision is not None)
    queue.forget_decided()
    return Outcome(
        accepted=found["accept"],
        blanked=found["blank"],
        rejected=found["reject"],
        waiting=len(queue.pending()),
    )
