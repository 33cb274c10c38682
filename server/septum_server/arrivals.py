"""Admitted releases of a round, on disk: memory does not grow with the number of hospitals."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import EngineError
from septum.models import Vector
from septum.wire import Release

_NOTHING: Final[Vector] = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrived:
    """One admitted release, whose update lies in a file.

    Attributes:
      stated: The release without its update.
      path: Where the update is.
    """

    stated: Release
    path: Path

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
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))

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
        path = self.folder / f"{release.site}.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("wb") as file:
                np.save(file, release.update, allow_pickle=False)
        except OSError as error:
            raise EngineError(
                f"a release of {4 * len(release.update) >> 20} MiB could not be kept "
                f"({error.strerror}).",
                remedy="Free disk space or correct the folder's permissions, then resume.",
            ) from None
        return Arrived(stated=replace(release, update=_NOTHING), path=path)

    def drop(self) -> None:
        """Delete the updates."""
        shutil.rmtree(self.folder, ignore_errors=True)
