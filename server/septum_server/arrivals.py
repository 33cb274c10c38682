"""Admitted releases of a round, all but one on disk: memory does not grow with their number."""

import mmap
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
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
    """One admitted release, whose update lies in a file, or in memory if it came last.

    Attributes:
      stated: The release without its update.
      path: Where the update is, or will be: its numbers and nothing else.
      count: How many they are.
      fresh: What is not on disk yet, by its path.
    """

    stated: Release
    path: Path
    count: int
    fresh: Mapping[Path, Vector] = field(repr=False)

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
        """The update, float32 (params,), not to be written to; mapped anew from a file."""
        return self.stretch(0, self.count)

    def stretch(self, start: int, stop: int) -> Vector:
        """Return a part of the update, mapped anew: memory holds no other part of it."""
        fresh = self.fresh.get(self.path)
        if fresh is not None:
            return fresh[start:stop]
        if start == stop:
            return _NOTHING
        # By hand: `np.memmap` looks at every folder on the way, each time.
        at, size = start * _NUMBER.itemsize, (stop - start) * _NUMBER.itemsize
        skipped = at % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(), skipped + size, offset=at - skipped, access=mmap.ACCESS_READ
            )
        return np.frombuffer(mapped, _NUMBER, count=stop - start, offset=skipped)

    def whole(self) -> Release:
        """Return the release with its update in memory."""
        return replace(self.stated, update=np.array(self.update))


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """The folder of one round's updates.

    Nothing in it needs to outlast a crash: asked again, a hospital answers with
    the release that it made. An update is written by a thread beside, and read from
    memory until it is: everybody waits for what is done after the last one of all.

    Args:
      folder: Made when the first update comes.
    """

    folder: Path
    _fresh: dict[Path, Vector] = field(default_factory=dict, repr=False)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), repr=False)
    _writing: list[Future[None]] = field(default_factory=list, repr=False)

    def take(self, release: Release) -> Arrived:
        """Keep the release's update and return the release without it.

        Guarantees:
          - Memory holds no update but this one.

        Raises:
          EngineError: The disk is full or the folder cannot be written; said of this
            release or of the one before.
        """
        path = self.folder / f"{release.site}.f32"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            while self._writing:
                self._writing.pop().result()
        except OSError as error:
            raise EngineError(
                f"a release of {4 * len(release.update) >> 20} MiB could not be kept "
                f"({error.strerror}).",
                remedy="Free disk space or correct the folder's permissions, then resume.",
            ) from None
        self._fresh[path] = np.ascontiguousarray(release.update, dtype=_NUMBER)
        self._writing.append(self._writer.submit(self._write, path))
        stated = replace(release, update=_NOTHING)
        return Arrived(stated=stated, path=path, count=len(release.update), fresh=self._fresh)

    def drop(self) -> None:
        """Delete the updates."""
        self._writer.shutdown()
        self._fresh.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(self._fresh[path].data)
        del self._fresh[path]
