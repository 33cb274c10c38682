"""Images fetched from a DICOMweb server: one at a time, de-identified in memory, resumable."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol

from septum.errors import ConfigError
from septum_client.pacs import missing_extra, silent
from septum_client.pacs.inbox import Arrival, Inbox
from septum_client.pacs.settings import Pull, Settings

# PS3.5 9.1; also what keeps an answer from steering the next request's path.
_UID: Final = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_CODE: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
# PS3.5 6.2, value representation SH, without the characters that QIDO-RS matches with.
_ACCESSION: Final = re.compile(r"[A-Za-z0-9 ._/+:#-]{1,16}")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITY, _BODY_PART = "00080060", "00180015"


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which images to fetch. A query that names neither dates nor accessions is refused.

    Args:
      modality: (0008,0060), such as ``CR``.
      since: First study date, included.
      until: Last study date, included.
      body_part: (0018,0015), such as ``CHEST``; a series that does not say is left out.
      accessions: Accession numbers; each names one study or few.
    """

    modality: str
    since: date | None = None
    until: date | None = None
    body_part: str | None = None
    accessions: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name, value in (("modality", self.modality), ("body part", self.body_part or "X")):
            if not _CODE.fullmatch(value):
                raise ConfigError(
                    f"the {name} is not a code of 1 to 16 capitals and digits.",
                    remedy="Write it as DICOM does: CR, CHEST.",
                )
        if not (self.since or self.until or self.accessions):
            raise ConfigError(
                "the query would fetch the whole archive.",
                remedy="Name dates or a file of accession numbers.",
            )


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull brought. The inbox counts what became of the instances.

    Args:
      found: Instances that match.
      held: Of these, already in the inbox.
      fetched: Of these, given to the inbox.
      not_delivered: Of these, not to be had: absent, too long, or malformed.
      complete: Whether the end of the query was reached.
    """

    found: int = 0
    held: int = 0
    fetched: int = 0
    not_delivered: int = 0
    complete: bool = False

    def lines(self) -> tuple[str, ...]:
        """Return the counts in words; no identifier is in them."""
        counts = (
            (self.found, "instances match"),
            (self.held, "already in the inbox, not fetched"),
            (self.fetched, "fetched"),
            (self.not_delivered, "not delivered: absent, too long or malformed"),
        )
        end = () if self.complete else ("stopped before the end of the query",)
        return (*(f"{count:>7} {what}" for count, what in counts), *end)


class Source(Protocol):
    """What a pull needs of a server; see :class:`septum_client.pacs.archive.Archive`."""

    def search(self, path: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return one page of matches."""

    def instance(self, path: str) -> bytes | None:
        """Return one instance, or None where it cannot be had."""


def accessions(path: Path) -> tuple[str, ...]:
    """Read accession numbers, one a line; they are identifiers and are never shown.

    Raises:
      ConfigError: The file cannot be read, or a line is not an accession number;
        the line is given by its place only.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "the file of accession numbers cannot be read.", remedy="Check its path."
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip() and not _ACCESSION.fullmatch(line.strip()):
            raise ConfigError(
                f"line {number} of the accession numbers is not one of 1 to 16 characters.",
                remedy="Write one a line, without headings, quotes or wildcards.",
            )
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def pull(
    settings: Settings,
    query: Query,
    inbox: Inbox,
    progress: Callable[[Pulled], None] = lambda _: None,
) -> Pulled:
    """Fetch what matches ``query`` into ``inbox``.

    Start it again after an interruption: what is in the inbox is not fetched
    twice. A refused image is fetched again, because nothing of it was kept.

    Args:
      settings: Its part ``pull``.
      query: What to fetch.
      inbox: Where to; the pull ends when it is full or fails on our side.
      progress: Called with the counts so far after each instance.

    Raises:
      ConfigError: No part ``pull``, no extra ``pacs``, or the server does not
        accept who we are.
      EngineError: The server cannot be reached, or answers nonsense.
    """
    if settings.pull is None:
        raise ConfigError(
            "pacs.toml has no [pull] part, so there is nowhere to pull from.",
            remedy="Add one with the url.",
        )
    with silent():
        try:
            from septum_client.pacs.archive import Archive  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise missing_extra() from None
        archive = Archive(settings.pull)
        pulled = Pulled()
        try:
            for pulled in _fetched(archive, query, inbox, settings.pull):
                progress(pulled)
        finally:
            archive.close()
    return pulled


def _fetched(source: Source, query: Query, inbox: Inbox, limits: Pull) -> Iterator[Pulled]:
    """Fetch one instance after another and yield the counts after each."""
    pulled = Pulled()
    for study, series, instance in matches(source, query, page=limits.page):
        if pulled.found == limits.maximum_instances:
            return
        if inbox.holds(instance):
            pulled = replace(pulled, found=pulled.found + 1, held=pulled.held + 1)
        else:
            raw = source.instance(f"studies/{study}/series/{series}/instances/{instance}")
            missing = raw is None
            pulled = replace(
                pulled,
                found=pulled.found + 1,
                fetched=pulled.fetched + (not missing),
                not_delivered=pulled.not_delivered + missing,
            )
            if raw is not None and inbox.add(raw) in {Arrival.FULL, Arrival.FAILED}:
                yield pulled
                return
        yield pulled
    yield replace(pulled, complete=True)


def matches(source: Source, query: Query, *, page: int) -> Iterator[tuple[str, str, str]]:
    """Yield study, series and instance UID of each match, each instance once.

    Modality and body part are checked in the answer too: a server may ignore a
    key that it does not match on (PS3.18 8.3.4.1).
    """
    seen: set[str] = set()
    for filters in _filters(query):
        for study in _listed(source, "studies", filters, _STUDY, page):
            path = f"studies/{study[_STUDY]}/series"
            asked = {"Modality": query.modality, "includefield": _BODY_PART}
            for series in _listed(source, path, asked, _SERIES, page):
                if series.get(_MODALITY) != query.modality:
                    continue
                if query.body_part and series.get(_BODY_PART) != query.body_part:
                    continue
                inside = f"{path}/{series[_SERIES]}/instances"
                for instance in _listed(source, inside, {}, _INSTANCE, page):
                    if instance[_INSTANCE] not in seen:
                        seen.add(instance[_INSTANCE])
                        yield study[_STUDY], series[_SERIES], instance[_INSTANCE]


def _filters(query: Query) -> Iterator[dict[str, str]]:
    filters = {"ModalitiesInStudy": query.modality}
    if query.since or query.until:
        first, last = (f"{day:%Y%m%d}" if day else "" for day in (query.since, query.until))
        filters["StudyDate"] = f"{first}-{last}"
    if not query.accessions:
        yield filters
    for accession in query.accessions:
        yield filters | {"AccessionNumber": accession}


def _listed(
    source: Source, path: str, filters: Mapping[str, str], key: str, page: int
) -> Iterator[dict[str, str]]:
    """Yield all matches, page by page, until a page brings nothing new.

    A short page is no end: a server may give fewer than it was asked for.
    """
    seen: set[str] = set()
    offset = 0
    while True:
        answer = source.search(path, {**filters, "limit": str(page), "offset": str(offset)})
        fresh = [
            match
            for match in map(_first_values, answer)
            if _UID.fullmatch(match.get(key, "")) and match[key] not in seen
        ]
        if not fresh:
            return
        for match in fresh:
            if match[key] not in seen:
                seen.add(match[key])
                yield match
        offset += len(answer)


def _first_values(match: Mapping[str, Any]) -> dict[str, str]:
    """Return the first value of each attribute that holds text (PS3.18 F.2)."""
    values = {}
    for tag, attribute in match.items():
        value = attribute.get("Value") if isinstance(attribute, dict) else None
        if isinstance(value, list) and value and isinstance(value[0], str):
            values[tag] = value[0]
    return values
