"""How long a cohort may train, and a purge that is seen to have happened.

Purged are the cohort, whatever an interrupted run left beside it, the inbox and
the images that wait for a person's review. Kept are what people decided there,
releases, the ledger and the lineage: keyed hashes, pseudonyms and noised
vectors that the hospital answers for.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from septum.errors import DataError
from septum_client import storage
from septum_client.cohort import Cohort
from septum_client.site import Site, write_durably

RECORDS: Final = "purged"
QUEUE: Final = "review"
"""Where images wait for a person's review."""
INBOX: Final = "inbox"
"""Where de-identified files lie that a PACS sent."""
_DECISIONS: Final = "decisions.jsonl"

CANNOT_PROMISE: Final = (
    "blocks of an SSD that wear levelling has set aside, until the drive reuses them;",
    "snapshots and copies that the file system, a backup or an administrator keeps;",
    "memory and swap of a round that is training now, until it ends;",
    "the export that the images came from.",
)
"""Where bytes of a deleted file can live on, out of a program's reach."""


@dataclass(frozen=True, kw_only=True)
class Purge:
    """What was deleted: files and bytes, as counted before; the paths are gone."""

    at: str
    files: int
    bytes: int
    cohort: str | None

    def lines(self) -> list[str]:
        """Return the purge in words."""
        return [
            f"Deleted {self.files} files ({self.bytes:,} bytes) and found their paths gone.",
            "Releases, the ledger and the record of rounds are kept.",
            "Not promised, for no program can see it:",
            *(f"  - {line}" for line in CANNOT_PROMISE),
        ]


def expires(cohort: Cohort, *, keep_days: int) -> date:
    """Return the last day on which ``cohort`` may train.

    Guarantees:
      - A policy that was tightened since the ingest counts at once; one that was
        relaxed does not lengthen what the cohort was made for.
    """
    made = date.fromisoformat(str(cohort.lineage["made"]))
    return min(cohort.expires, made + timedelta(days=keep_days))


def due(site: Site, today: date) -> bool:
    """Return whether the site holds a cohort whose last day has passed.

    Raises:
      DataError: The cohort cannot be read, so that its last day is unknown.
      Refusal: The site has no policy.
    """
    if not (site.cohort_path / storage.MANIFEST).is_file():
        return False
    cohort = Cohort.open(site.cohort_path)
    return expires(cohort, keep_days=site.policy.intake.keep_days) < today


def sweep(site: Site) -> None:
    """Delete what an ingest left, or is making, beside the cohort; one under way fails.

    Raises:
      DataError: Something is still there.
    """
    for path in _beside(site):
        shutil.rmtree(path, ignore_errors=True)
    _sync(site.folder)
    _require_gone(_beside(site))


def purge(site: Site, *, at: datetime) -> Purge:
    """Delete the cohort, the inbox and the pictures for review, see it done, and record it.

    Guarantees:
      - When this returns, no path of theirs exists and the folder is on the disk
        (fsync) without them. Asked again after a crash, it finishes.

    Raises:
      DataError: Something is still there.
    """
    doomed = _left(site)
    sizes = [path.lstat().st_size for place in doomed for path in _files(place)]
    digest = _digest(site.cohort_path)
    storage.purge(site.cohort_path)
    shutil.rmtree(site.folder / INBOX, ignore_errors=True)
    for path in _pictures(site):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        (site.folder / QUEUE).rmdir()  # unless it holds decisions
    _sync(site.folder)
    _require_gone(_left(site))
    done = Purge(
        at=at.isoformat(timespec="seconds"), files=len(sizes), bytes=sum(sizes), cohort=digest
    )
    folder = site.folder / RECORDS
    folder.mkdir(mode=0o700, exist_ok=True)
    record = {"at": done.at, "files": done.files, "bytes": done.bytes, "cohort": done.cohort}
    name = at.strftime("%Y%m%dT%H%M%S.%f")
    write_durably(folder / f"{name}.json", json.dumps(record, sort_keys=True).encode() + b"\n")
    return done


def _left(site: Site) -> list[Path]:
    """Return what is there of all that a purge deletes."""
    own = (site.cohort_path, site.folder / INBOX)
    there = [path for path in own if os.path.lexists(path)]
    return [*there, *_beside(site), *_pictures(site)]


def _pictures(site: Site) -> list[Path]:
    queue = site.folder / QUEUE
    return [path for path in sorted(queue.glob("*")) if path.name != _DECISIONS]


def _beside(site: Site) -> list[Path]:
    cohort = site.cohort_path
    return sorted(cohort.parent.glob(f".{cohort.name}-*"))


def _require_gone(left: list[Path]) -> None:
    if left:
        raise DataError(
            f"{sum(len(_files(place)) for place in left)} files could not be deleted.",
            remedy="Give this account write permission for the site directory, then run again.",
        )


def _files(place: Path) -> list[Path]:
    below = [Path(folder) / name for folder, _, names in os.walk(place) for name in names]
    return below if place.is_dir() else [place]


def _digest(folder: Path) -> str | None:
    """Return the digest that the manifest states; a cohort too broken to say is purged too."""
    try:
        return str(json.loads((folder / storage.MANIFEST).read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
