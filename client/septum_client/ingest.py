"""DICOM in, cohort out."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from septum import __version__
from septum.errors import ConfigError
from septum_client import assembly, labels, pseudonyms, storage, tasks
from septum_client.arrangement import arrange
from septum_client.cohort import Cohort, CohortSpec
from septum_client.previous import Previous
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Answer, Task
from septum_client.sandbox.settings import settings
from septum_client.screening.verdict import Decision
from septum_client.sources import count, walk
from septum_client.sources.dicomdir import Roll
from septum_client.stacking import stacked

_ROWS: Final = "rows.partial"
_SPOOL: Final = "files.partial"


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
        top, one labels CSV (:mod:`septum_client.labels`).
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
    table = labels.parse(labels.text_of(source), spec.labels).pseudonymised(key)
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
                # The labels table is none of the images.
                total=count(source) - 1,
                progress=progress,
            )

            def ask(tasks: Iterable[Task | Answer]) -> Iterator[Answer]:
                return pool.shared(workers).map(tasks, settings=told)

            if spec.depth == 1:
                answers = tasks.read(roll.watch(walk(source)), table, ask=ask)
            else:
                spool = work / _SPOOL
                spool.mkdir(mode=0o700)
                answers = stacked(roll.watch(walk(source)), table, ask=ask, folder=spool)
            draft = assembly.collect(answers, gathering)
            shutil.rmtree(work / _SPOOL, ignore_errors=True)
        order, arrays, linkage = arrange(
            draft.rows, declared=draft.declared, spec=spec, table=table, key=key
        )
        rows = np.memmap(work / _ROWS, dtype="<f2", mode="r", shape=(draft.written, *spec.shape))
        images_digest = storage.write_images(work, rows, order)
        del rows
        (work / _ROWS).unlink()
        manifest: dict[str, Any] = {
            "spec": asdict(spec),
            "images_digest": images_digest,
            "images": len(order),
            "patients": len(arrays["pseudonyms"]),
            "quarantined": {code.value: n for code, n in sorted(draft.quarantined.items())},
            "lineage": lineage
            | {"files": draft.files, "reused": draft.reused, "missing": roll.missing},
        }
        storage.write_index(work, manifest=manifest, arrays=arrays, linkage=linkage)
    return Cohort.open(folder)
