"""What happened in a round, on disk, one line each: who was asked, who answered, who did not."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from septum.errors import Code, EngineError

NO_ANSWER = "NO_ANSWER"
"""Reason of a site that was asked and said nothing before the deadline: it is late."""

NOT_CONNECTED = "NOT_CONNECTED"
"""Reason of a site that could not be asked, because it was not there while the round lasted."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round.

    ``refused`` maps a site to a closed code, an admission reason or
    :data:`NO_ANSWER`; ``heads`` maps a site to its ledger's head at this
    release, against which that ledger can be checked later. ``scores`` and
    ``alarms`` are what :mod:`septum_server.noise_score` makes of each release: an
    alarm refuses nothing, and no alarm proves nothing. ``said`` is one line for a
    person (:func:`septum_server.remedies.line`).
    """

    round: int
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    seconds: float
    at: str
    said: str = ""

    @property
    def late(self) -> tuple[str, ...]:
        """The sites that were asked and had not answered at the deadline."""
        return tuple(sorted(site for site, why in self.refused.items() if why == NO_ANSWER))

    @property
    def lost(self) -> frozenset[str]:
        """The sites that say that they were charged for the round and cannot answer it."""
        return frozenset(
            site for site, why in self.refused.items() if why == Code.ROUND_ALREADY_CHARGED
        )

    @property
    def complete(self) -> bool:
        """Whether every site that was asked contributed."""
        return not self.refused


def record(folder: Path, entry: RoundRecord) -> None:
    """Append one line to ``rounds.jsonl``, durably.

    Raises:
      EngineError: The disk is full or the file cannot be written.
    """
    line = json.dumps(asdict(entry), sort_keys=True) + "\n"
    try:
        with (folder / "rounds.jsonl").open("a+b") as file:
            # What a crash tore off is not of a finished round; a line after it would join it.
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise EngineError(
            f"the record of round {entry.round} could not be written ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then resume.",
        ) from None


def read(folder: Path) -> list[RoundRecord]:
    """Return the recorded rounds, first to last; the last record of a round counts.

    Raises:
      EngineError: A line other than a torn last one cannot be read.
    """
    path = folder / "rounds.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rounds: dict[int, RoundRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            fields = json.loads(line)
            for name in ("asked", "answered", "strays"):
                fields[name] = tuple(fields[name])
            # Absent from records of before there were scores.
            fields["alarms"] = tuple(fields.get("alarms", ()))
            rounds[fields["round"]] = RoundRecord(**fields)
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # a crash while writing tears the last line only
                break
            raise EngineError(
                f"line {number} of {path.name} cannot be read.",
                remedy="Restore the run folder from a backup.",
            ) from None
    return [rounds[number] for number in sorted(rounds)]
