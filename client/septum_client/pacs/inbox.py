"""De-identified in memory, then written; of a refused image not a byte is kept."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import dcmread

from septum.durable import replace
from septum.errors import ConfigError, Quarantine
from septum_client.pacs.settings import Quota

# UUID-derived UIDs (PS3.5 B.2) are what a keyed pseudonym of a UID looks like.
_OURS: Final = re.compile(r"2\.25\.(?:0|[1-9][0-9]{0,38})")


class Arrival(StrEnum):
    """What became of an instance that was not refused for what it holds."""

    STORED = "stored"
    HELD = "held"
    FULL = "full"
    FAILED = "failed"


Outcome = Arrival | Quarantine

_WORDS: Final = {
    Arrival.STORED: "written to the inbox, de-identified",
    Arrival.HELD: "already in the inbox",
    Arrival.FULL: "refused: the inbox is full",
    Arrival.FAILED: "failed on our side; not kept",
}


class Inbox:
    """A folder of de-identified DICOM files; only it ever writes what a PACS sent.

    Args:
      folder: Made at mode 0700 where absent.
      deidentify: Raw Part 10 bytes to proved de-identified ones, or the reason
        why not. Called by several threads at once.
      alias: The site's keyed pseudonym of a SOP Instance UID: tells what is held
        before it is fetched again.
      quota: The most it holds. Counted when opened and from then on; another
        process that writes to the same folder meanwhile is not seen.

    Guarantees:
      - Safe to use from any thread.
      - A file is named by the keyed SOP Instance UID in it and by nothing else.
      - The same instance is written once; the first one stays.
      - Raw bytes are never written, logged or kept.

    Raises:
      ConfigError: The folder cannot be made or read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deidentify: Callable[[bytes], bytes | Quarantine],
        alias: Callable[[str], str],
        quota: Quota,
    ) -> None:
        self._folder = folder
        self._deidentify = deidentify
        self._alias = alias
        self._quota = quota
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            with os.scandir(folder) as entries:
                held = {
                    entry.name.removesuffix(".dcm"): entry.stat().st_size
                    for entry in entries
                    if entry.name.endswith(".dcm")
                }
        except OSError as error:
            raise ConfigError(
                f"the inbox cannot be opened ({error.strerror}).",
                remedy="Correct the folder's permissions.",
            ) from None
        self._held = set(held)
        self._bytes = sum(held.values())

    def add(self, data: bytes) -> Outcome:
        """De-identify one DICOM file and write it durably, or keep nothing of it.

        Guarantees:
          - ``STORED`` means that it is on the disk, folder entry included.
          - Raises nothing; what fails on our side is ``FAILED``.
        """
        outcome = self._add(data)
        with self._lock:
            self._counts[outcome] += 1
        return outcome

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether the instance with this original UID is here already."""
        name = self._alias(sop_instance_uid)
        with self._lock:
            return name in self._held

    def counts(self) -> dict[Outcome, int]:
        """Return how often each thing happened since this inbox was opened."""
        with self._lock:
            return dict(self._counts)

    def lines(self) -> tuple[str, ...]:
        """Return the counts in words, most frequent first; no identifier is in them."""
        counts = sorted(self.counts().items(), key=lambda item: (-item[1], item[0]))
        return tuple(f"{count:>7} {_in_words(outcome)}" for outcome, count in counts)

    def _add(self, data: bytes) -> Outcome:
        if self._is_full(0):
            return Arrival.FULL
        try:
            clean = self._deidentify(data)
            if isinstance(clean, Quarantine):
                return clean
            name = _name(clean)
        except Exception:  # noqa: BLE001 - its text could quote the file, so only the fact is kept
            return Arrival.FAILED
        if not _OURS.fullmatch(name):
            return Quarantine.IDENTIFIER_LEFT
        return self._write(name, clean)

    def _write(self, name: str, clean: bytes) -> Outcome:
        # One at a time: who is told "held" must find it held, whatever the disk does.
        with self._lock:
            if name in self._held:
                return Arrival.HELD
            if self._is_full(len(clean)):
                return Arrival.FULL
            try:
                replace(self._folder / f"{name}.dcm", lambda file: file.write(clean))
            except OSError:
                return Arrival.FULL
            self._held.add(name)
            self._bytes += len(clean)
            return Arrival.STORED

    def _is_full(self, more: int) -> bool:
        quota = self._quota
        return self._bytes + max(more, 1) > quota.maximum_bytes or (
            len(self._held) >= quota.maximum_files
        )


def remove(folder: Path, patient: str) -> int:
    """Delete a patient's files from an inbox, and return how many there were.

    Args:
      folder: The inbox; may be absent.
      patient: The pseudonym.

    Raises:
      OSError: A file cannot be read or deleted.
    """
    doomed = [path for path in sorted(folder.glob("*.dcm")) if _patient(path) == patient]
    for path in doomed:
        path.unlink()
    return len(doomed)


def _patient(path: Path) -> str:
    """Return whose file this is; only our own engine's output lies in an inbox."""
    header = dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
    return str(header.get("PatientID", ""))


def _name(clean: bytes) -> str:
    """Return the SOP Instance UID of a file that our own engine wrote."""
    header = dcmread(BytesIO(clean), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
    # The bytes as they stand: converting a UID makes pydicom log the ones it dislikes.
    value: bytes = header.get_item("SOPInstanceUID").value
    return value.decode("ascii").rstrip("\0")


def _in_words(outcome: Outcome) -> str:
    if isinstance(outcome, Quarantine):
        return f"refused: {outcome} {outcome.name.lower().replace('_', ' ')}"
    return _WORDS[outcome]
