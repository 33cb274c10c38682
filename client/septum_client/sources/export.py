"""Walk a source: a folder of anything, or one archive of it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from septum.errors import DataError, Quarantine
from septum_client.sources import archives
from septum_client.sources.items import HEAD_BYTES, LIMITS, Item, Limits, is_archive, kind_of


def walk(source: Path, limits: Limits = LIMITS) -> Iterator[Item]:
    """Return everything in ``source``, one item at a time.

    Args:
      source: A folder, or a zip archive.
      limits: What unpacking may cost, per archive.

    Guarantees:
      - Sorted by path, folder by folder; the order in which a disk or an
        archive lists its files changes nothing.
      - Nothing is left out in silence: what cannot be read, what is neither
        file nor folder, and links to folders (which are not followed) come as
        items with the code UNREADABLE, and opening never blocks.
      - Nothing is written; one member of an archive is in memory at a time,
        and the archive around it where that lies in another.

    Raises:
      DataError: At once, when ``source`` is missing, is neither, or has a
        folder that cannot be listed.
    """
    if _is_folder(source):
        return _files(_listed(source), limits)
    return _source_archive(source, limits)


def count(source: Path, limits: Limits = LIMITS) -> int:
    """Return how many items :func:`walk` will give, for a progress bar.

    Archives inside archives count as one, because counting would unpack them.

    Raises:
      DataError: As :func:`walk` does.
    """
    found = 0
    paths = [path for _, path in _listed(source)] if _is_folder(source) else [source]
    for path in paths:
        try:
            with _opened(path) as file:
                archive = is_archive(file.read(HEAD_BYTES))
                file.seek(0)
                found += archives.size(file, limits) if archive else 1
        except OSError:
            found += 1
    return found


def tables(source: Path, limits: Limits = LIMITS) -> list[tuple[str, bytes]]:
    """Return the name and bytes of each CSV at the top of a source that is an archive.

    Raises:
      DataError: ``source`` is missing or no archive.
    """
    _require_archive(source)
    with _opened(source) as file:
        found = archives.members(
            file,
            key="",
            limits=limits,
            allowance=archives.Allowance.of(limits),
            wanted=lambda key: "/" not in key and key.lower().endswith(".csv"),
        )
        return [(item.key, item.content) for item in found if item.content is not None]


def _is_folder(source: Path) -> bool:
    # Unlike Path.is_dir, this is False where a parent folder may not be entered.
    return os.path.isdir(source)  # noqa: PTH112 - see above


def _listed(source: Path) -> list[tuple[str, Path]]:
    """Return key and path of all that is no folder, sorted."""
    faults: list[OSError] = []
    found: list[Path] = []
    for folder, subfolders, files in os.walk(source, onerror=faults.append):
        here = Path(folder)
        found += [here / name for name in files]
        found += [here / name for name in subfolders if (here / name).is_symlink()]
    if faults:
        raise DataError(
            f"{len(faults)} folder(s) of the source cannot be listed.",
            remedy="Give this account read permission for all of the source.",
        )
    return [(path.relative_to(source).as_posix(), path) for path in sorted(found)]


def _files(listed: list[tuple[str, Path]], limits: Limits) -> Iterator[Item]:
    for key, path in listed:
        try:
            with _opened(path) as file:
                head = file.read(HEAD_BYTES)
                if is_archive(head):
                    file.seek(0)
                    allowance = archives.Allowance.of(limits)
                    yield from archives.members(file, key=key, limits=limits, allowance=allowance)
                    continue
        except OSError:
            yield Item(key=key, code=Quarantine.UNREADABLE)
            continue
        yield Item(key=key, kind=kind_of(head, path.name, at_top="/" not in key), path=path)


def _source_archive(source: Path, limits: Limits) -> Iterator[Item]:
    _require_archive(source)

    def opened() -> Iterator[Item]:
        with _opened(source) as file:
            allowance = archives.Allowance.of(limits)
            yield from archives.members(file, key="", limits=limits, allowance=allowance)

    return opened()


def _require_archive(source: Path) -> None:
    try:
        with _opened(source) as file:
            archive = is_archive(file.read(HEAD_BYTES))
    except OSError:
        archive = False
    if not archive:
        raise DataError(
            "The source is neither a folder that can be entered nor a zip archive.",
            remedy="Name the folder of the export, or its archive, and give this account "
            "permission.",
        )


def _opened(path: Path) -> IO[bytes]:
    """Open a regular file.

    Raises:
      OSError: Anything else; a pipe or a device is not waited for.
    """
    place = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(place).st_mode):
        os.close(place)
        raise OSError
    return os.fdopen(place, "rb")
