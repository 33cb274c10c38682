"""Unix time and waiting, handed in."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Unix time and waiting, so that a test needs neither."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


SYSTEM: Final = Clock()
"""The machine's own."""
