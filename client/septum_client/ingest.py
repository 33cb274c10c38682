"""DICOM in, cohort out."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum import __version__
from septum.errors import ConfigError, DataError
from septum_client import assembly, labels, pseudonyms, storage, tasks
from septum_client.arrangement import arrange, require_foreground
from septum_client.cohort import Cohort, CohortSpec
from septum_client.label_table import LabelTable
from septum_client.masks.gathering import Index, gather
from septum_client.masks.segments import Segments
from septum_client.previous import Previous
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Answer
from septum_client.sandbox.settings import settings
from septum_client.screening.verdict import Decision
from septum_client.sources import count, walk
from septum_client.sources.dicomdir import Roll
from septum_client.stacking import stacked

_ROWS: Final = "rows.partial"
_SPOOL: Final = "files.partial"
_MASKS: Final = "masks.partial"


def everybody(_pseudonym: str, _declared: int) -> bool:
    """Admit every patient: for data that no person has to consent to."""
    return True


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under which terms images enter.

    Args:
      rules: The hospital's rules for images.
      admits: Told a pseudonym and what the patient's file declares of consent,
        says whether the patient may be in a cohort at all. Asked again, study
        by study, at each round.
      decisions: What a person decided on the review page, by name of the pixels.
      queue: Told of each refused image that a person could still let in:
        name, code, uint8 pixels, boxes ``(top, left, bottom, right)``.
      today: The day on which the cohort is made.
    """

    rules: Intake
    admits: assembly.Admits = field(default=everybody, repr=False)
    decisions: Mapping[str, Decision] = field(default_factory=dict, repr=False)
    queue: assembly.Queue | None = field(default=None, repr=False)
    today: date = field(default_factory=lambda: datetime.now(UTC).date())


def ingest(
    source: Path,
    folder: Path,
    *,
    spec: CohortSpec,
    key: bytes,
    terms: Terms,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    linkage_key: bytes | None = None,
) -> Cohort:
    """Make a cohort from whatever a hospital exports, and its labels.

    Args:
      source: Folder or archive (:mod:`septum_client.sources`) with, at its
        top, one labels CSV (:mod:`septum_client.labels`), which a segmentation of
        DICOM files does not need; it needs ``segments.csv`` instead
        (:mod:`septum_client.masks.segments`).
      folder: The cohort; replaced on success if it is one already. What an
        unchanged file gave is taken from there, if spec, key and rules are the
        same; what is gone from the source goes from the cohort.
      spec: What to make.
      key: The site's key, at least 16 bytes: pseudonyms, split and order.
      terms: Under which images enter.
      workers: Child processes that read, at least 1.
      progress: Called with files done and files in all.
      linkage_key: Simulations only; see :attr:`Cohort.linkage`.

    Guarantees:
      - The same files, key, spec, terms and day give the same digest, whatever
        the order in which folders list their files, whatever ``workers``, and
        whether or not an earlier cohort was there.
      - No image is parsed in this process; archives are opened here, within
        limits. From a header, only a sex, an age
        band, what it declares of consent and keyed hashes reach the disk; file
        names and other fields reach neither disk nor message.
      - Training values come from the de-identified file, after its proof.
      - On any error or interrupt, ``folder`` is what it was.

    Raises:
      ConfigError: ``key`` or ``workers`` cannot be used.
      DataError: The source, its labels, or the disk cannot be used.
    """
    pseudonyms.require_key(key)
    if linkage_key is not None:
        pseudonyms.require_key(linkage_key)
    if workers < 1:
        raise ConfigError(f"workers is {workers} and must be at least 1.")
    storage.require_apart(source, folder)
    table = _table(source, spec).pseudonymised(key)
    segments = _segments(source, spec)
    lineage = {
        "rules": terms.rules.digest,
        "key": pseudonyms.key_check(key),
        "version": __version__,
        "made": terms.today.isoformat(),
        "expires": (terms.today + timedelta(days=terms.rules.keep_days)).isoformat(),
    }
    # A simulation is made once; its linkage is not among what can be taken over.
    previous = Previous() if linkage_key else Previous.of(folder, spec=spec, lineage=lineage)
    told = settings(
        key,
        rules=terms.rules,
        decisions=terms.decisions,
        image_size=spec.image_size,
        depth=spec.depth,
        known=previous.sources,
        linkage_key=linkage_key,
    )
    roll = Roll()
    with storage.replacing(folder) as work:
        with storage.private(work / _ROWS) as out:
            gathering = assembly.Gathering(
                spec=spec,
                table=table,
                previous=previous,
                admits=terms.admits,
                queue=terms.queue,
                out=out,
                # The tables are none of the images.
                total=count(source) - 1 - int(spec.masked and labels.has_labels(source)),
                progress=progress,
            )
            draft = assembly.collect(
                _answers(
                    source,
                    work,
                    spec=spec,
                    table=table,
                    segments=segments,
                    previous=previous,
                    roll=roll,
                    told=told,
                    workers=workers,
                ),
                gathering,
            )
            for spool in (_SPOOL, _MASKS):
                shutil.rmtree(work / spool, ignore_errors=True)
        order, arrays, linkage = arrange(
            draft.rows, declared=draft.declared, spec=spec, table=table, key=key
        )
        digests = _write_pixels(work, spec=spec, written=draft.written, order=order)
        if spec.masked:
            require_foreground(
                np.load(work / storage.MASKS, mmap_mode="r", allow_pickle=False), arrays
            )
        manifest: dict[str, Any] = {
            "spec": spec.written(),
            **digests,
            "images": len(order),
            "patients": len(arrays["pseudonyms"]),
            "quarantined": {code.value: n for code, n in sorted(draft.quarantined.items())},
            "lineage": lineage
            | {"files": draft.files, "reused": draft.reused, "missing": roll.missing},
        }
        storage.write_index(work, manifest=manifest, arrays=arrays, linkage=linkage)
    return Cohort.open(folder)


def _table(source: Path, spec: CohortSpec) -> LabelTable:
    if spec.masked and not labels.has_labels(source):
        # Segmentation objects say themselves whose they are, and of which image.
        return labels.parse(b"patient_id\n", spec.labels, task=spec.task)
    return labels.parse(labels.text_of(source), spec.labels, task=spec.task, ranges=spec.ranges)


def _segments(source: Path, spec: CohortSpec) -> Segments | None:
    if not spec.masked:
        return None
    content = labels.segments_of(source)
    if content is None:
        raise DataError(
            "The source holds no segments.csv at its top.",
            remedy="Put one there: which segment or value of a mask is which class of the study.",
        )
    return Segments.parse(content, spec.labels)


def _answers(
    source: Path,
    work: Path,
    *,
    spec: CohortSpec,
    table: LabelTable,
    segments: Segments | None,
    previous: Previous,
    roll: Roll,
    told: Mapping[str, Any],
    workers: int,
) -> Iterator[tuple[str, Answer]]:
    """Yield what became of each file or series: masks first, where any are asked for."""

    def asking(told: Mapping[str, Any]) -> tasks.Ask:
        return lambda asked: pool.shared(workers).map(asked, settings=told)

    ask, index = asking(told), None
    if segments is not None:
        (work / _MASKS).mkdir(mode=0o700)
        index = Index(segments=segments, folder=work / _MASKS)
        yield from gather(
            walk(source), table, ask=asking({**told, "masks": index.told()}), index=index
        )
        known = sorted(previous.unchanged(index.digest))
        ask = asking({**told, "masks": index.told(), "known": known})
    mask_of = None if index is None else index.of_file
    taken: frozenset[str] = frozenset() if index is None else frozenset(index.keys)
    items = (item for item in roll.watch(walk(source)) if item.key not in taken)
    if spec.depth == 1:
        yield from tasks.read(items, table, ask=ask, mask_of=mask_of)
        return
    spool = work / _SPOOL
    spool.mkdir(mode=0o700)
    yield from stacked(items, table, ask=ask, folder=spool, mask_of=mask_of)


def _write_pixels(
    work: Path, *, spec: CohortSpec, written: int, order: NDArray[np.int64]
) -> dict[str, str]:
    """Write images and masks in their order, delete the rows, and return the digests."""
    rows = np.memmap(work / _ROWS, dtype=spec.row, mode="r", shape=(written,))
    digests = {"images_digest": storage.write_images(work, rows["image"], order)}
    if spec.masked:
        digests["masks_digest"] = storage.write_images(
            work, rows["mask"], order, name=storage.MASKS
        )
    del rows
    (work / _ROWS).unlink()
    return digests
