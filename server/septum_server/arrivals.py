"""Admitted releases of a round, on disk: memory does not grow with the number of hospitals."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import EngineError
from septum.models import Vector
from septum.wire import Release

_NUMBER: Final = np.dtype(np.float32)
_NOTHING: Final[Vector] = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrived:
    """One admitted release, whose update lies in a file.

    Attributes:
      stated: The release without its update.
      path: Where the update is: its numbers and nothing else.
      count: How many they are.
    """

    stated: Release
    path: Path
    count: int

    @property
    def site(self) -> str:
        """Who released it."""
        return self.stated.site

    @property
    def noise_multiplier(self) -> float:
        """What it says its noise is."""
        return self.stated.noise_multiplier

    @property
    def max_grad_norm(self) -> float:
        """What it says its clip is."""
        return self.stated.max_grad_norm

    @property
    def ledger_head(self) -> str:
        """Its hospital's ledger at this release."""
        return self.stated.ledger_head

    @property
    def update(self) -> Vector:
        """The update, float32 (params,), mapped anew: what nobody holds takes no memory."""
        return self.stretch(0, self.count)

    def stretch(self, start: int, stop: int) -> Vector:
        """Return a part of the update, mapped anew: memory holds no other part of it."""
        at, shape = start * _NUMBER.itemsize, (stop - start,)
        return np.memmap(self.path, _NUMBER, mode="r", offset=at, shape=shape).view(np.ndarray)

    def whole(self) -> Release:
        """Return the release with its update in memory."""
        return replace(self.stated, update=np.array(self.update))


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """The folder of one round's updates.

    Nothing in it needs to outlast a crash: asked again, a hospital answers with
    the release that it made.

    Args:
      folder: Made when the first update comes.
    """

    folder: Path

    def take(self, release: Release) -> Arrived:
        """Write the release's update and return the release without it.

        Raises:
          EngineError: The disk is full or the folder cannot be written.
        """
        path = self.folder / f"{release.site}.f32"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("wb") as file:
                file.write(np.ascontiguousarray(release.update, dtype=_NUMBER).data)
        except OSError as error:
            raise EngineError(
                f"a release of {4 * len(release.update) >> 20} MiB could not be kept "
                f"({error.strerror}).",
                remedy="Free disk space or correct the folder's permissions, then resume.",
            ) from None
        stated = replace(release, update=_NOTHING)
        return Arrived(stated=stated, path=path, count=len(release.update))

    def drop(self) -> None:
        """Delete the updates."""
        shutil.rmtree(self.folder, ignore_errors=True)
