"""What a curious coordinator keeps: every release of every round, as it crossed the wire.

One file a hospital and round: ``observed/round-00001/north.npy``.
"""

import io
import re
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import DataError
from septum.models import Vector
from septum.wire import Release
from septum_client.site import write_durably

LARGEST: Final = 4_000_000
"""Parameters above which only round 1 is kept: later rounds would fill the disk unread."""

_FOLDER: Final = "observed"
_ROUND: Final = re.compile(r"round-(\d{5})")


def file_of(run: Path, site: str, round: int) -> Path:
    """Return where the release of ``site`` in ``round`` is kept."""
    return run / _FOLDER / f"round-{round:05d}" / f"{site}.npy"


def keep(run: Path, release: Release) -> None:
    """Keep one release, whole or not at all."""
    if release.round > 1 and release.update.size > LARGEST:
        return
    path = file_of(run, release.site, release.round)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, release.update, allow_pickle=False)
    write_durably(path, buffer.getvalue())


def files(run: Path) -> dict[tuple[str, int], Path]:
    """Return the file of every release kept, by (site, round), in ascending order."""
    found = {}
    for path in sorted((run / _FOLDER).glob("*/*.npy")):
        if number := _ROUND.fullmatch(path.parent.name):
            found[path.stem, int(number[1])] = path
    return found


def read(path: Path) -> Vector:
    """Read one release, float32 ``(params,)``; never unpickles.

    Raises:
      DataError: It is missing, or no vector.
    """
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        vector = np.empty((0, 0))
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype != np.float32:
        raise DataError(
            f"{path} cannot be read as a release.",
            remedy="Give a .npy file of one float32 vector.",
        )
    return vector
