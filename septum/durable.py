"""A file that is written whole or not at all: ledgers' neighbours and checkpoints rely on it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a new file at mode 0600, then put it in the place of ``path``.

    Guarantees:
      - ``path`` holds the old bytes or the new ones, never a part, and the new
        ones are on the disk, folder entry included, when this returns.
      - On any error nothing is left beside ``path``.

    Raises:
      OSError: The disk is full or the folder cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
