"""Gather prepared images and count, by reason, what stays out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, EngineError, Quarantine
from septum_client.cohort import CohortSpec
from septum_client.consent.decisions import Declared
from septum_client.consent.declared import of_patient
from septum_client.label_table import LabelTable, rows_text
from septum_client.owner import Owner
from septum_client.previous import Previous
from septum_client.rows import NO_ROW, Row
from septum_client.sandbox.pool import Answer
from septum_client.screening.boxes import Box

# A file refused for one of these may be the image of a label row nobody else matches.
_HIDES_ITS_OWNER: Final = frozenset(
    {
        Quarantine.TRUNCATED,
        Quarantine.CANNOT_DECODE,
        Quarantine.TOO_LARGE,
        Quarantine.UNREADABLE,
        Quarantine.EXPANDS,
        Quarantine.WORKER_STOPPED,
        Quarantine.BAD_ARCHIVE,
    }
)

Admits = Callable[[str, int], bool]


class Queue(Protocol):
    """Where refused images wait for a person."""

    def put(
        self,
        name: str,
        image: NDArray[np.uint8],
        code: Quarantine,
        boxes: Sequence[Box],
        *,
        scale: int,
    ) -> None:
        """Keep one image; the same name again changes nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gathering:
    """What one ingest needs on its way through the files.

    Args:
      spec: What the cohort is made to be.
      table: The labels, by pseudonym.
      previous: What need not be read again.
      admits: Told a pseudonym and a declared consent, says whether the patient may enter.
      queue: Told of refused images that a person could let in.
      out: Receives one row after the other (:attr:`CohortSpec.row`).
      total: Files in all, as far as known.
      progress: Called with files done and files in all after each file.
    """

    spec: CohortSpec
    table: LabelTable
    previous: Previous
    admits: Admits = field(repr=False)
    queue: Queue | None = field(repr=False)
    out: IO[bytes] = field(repr=False)
    total: int
    progress: Callable[[int, int], None] | None = field(repr=False)


@dataclass(kw_only=True, eq=False)
class Draft:
    """Every accepted image in the order of writing, and why the others are not among them.

    ``declared`` is what each patient's files say of consent together, and
    ``written`` how many images lie in the file, accepted or not.
    """

    rows: list[Row] = field(default_factory=list, repr=False)
    declared: dict[str, int] = field(default_factory=dict, repr=False)
    written: int = 0
    quarantined: Counter[Quarantine] = field(default_factory=Counter)
    files: int = 0
    reused: int = 0


def collect(answers: Iterable[tuple[str, Answer]], gathering: Gathering) -> Draft:
    """Write each accepted image, with its mask if any, as one raw row, and count the rest.

    Args:
      answers: What became of each file or series, by its key, in their order;
        of one patient's images with one SOP Instance UID the first is kept.
      gathering: What the way needs and fills.

    Raises:
      DataError: A label row names an unknown patient or image, or another
        patient than its image; or no file could be used.
    """
    table, draft = gathering.table, Draft()
    seen = _Seen()
    for key, answer in answers:
        draft.files += len(answer.fields.get("instances", "1"))
        if answer.fields.get("known"):
            rows = gathering.previous.taken(answer.fields["source"])
            draft.reused += 1
        else:
            rows = _rows(answer, gathering.spec)
        owner = _owner(rows, answer)
        instances = answer.fields.get("instances") or [owner.instance]
        seen.note(key, owner, instances)
        if "mask" in answer.fields:
            continue  # kept for its image, which comes later
        label_row = _label_row(table, owner.patient, instances, key)
        code = _fault(answer, owner, label_row, seen=seen, gathering=gathering)
        if code in {None, Quarantine.NO_CONSENT}:
            seen.declared[owner.patient].append(owner.declared)
        if code is not None:
            draft.quarantined[code] += 1
            seen.unidentified += code in _HIDES_ITS_OWNER and not owner.patient
            enqueue(answer, code, gathering.queue)
        else:
            seen.accepted.add((owner.patient, owner.instance))
            draft.quarantined[Quarantine.BAD_VALUES] += answer.fields.get("spoilt", 0)
            draft.quarantined[Quarantine.LOCALISER] += answer.fields.get("localisers", 0)
            for row, content in rows:
                gathering.out.write(content)
                at = NO_ROW if label_row is None else label_row
                draft.rows.append(replace(row, label_row=at, place=draft.written))
                draft.written += 1
        if gathering.progress is not None:
            gathering.progress(draft.files, max(draft.files, gathering.total))
    _settle(draft, seen, gathering.admits)
    draft.quarantined = +draft.quarantined
    if not draft.rows:
        counts = ", ".join(
            f"{n} {code.name} ({code})" for code, n in sorted(draft.quarantined.items())
        )
        raise DataError(
            f"None of the {draft.files} files of the source can be used"
            + (f": {counts}." if counts else "."),
            remedy="Name the folder of the DICOM export; docs/codes.md explains each code.",
        )
    table.require_known(
        seen.patients, seen.instances, unidentified=seen.unidentified, files=seen.files
    )
    return draft


@dataclass(kw_only=True, eq=False)
class _Seen:
    """Everything that went by, refused files included."""

    patients: set[str] = field(default_factory=set)
    instances: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    accepted: set[tuple[str, str]] = field(default_factory=set)
    # Of images that nothing else keeps out; and who denies in any file at all.
    declared: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    denied: set[str] = field(default_factory=set)
    unidentified: int = 0

    def note(self, key: str, owner: Owner, instances: Iterable[str]) -> None:
        self.files.add(key)
        self.patients.add(owner.patient)
        self.instances.update(instances)
        if of_patient([owner.declared]) == Declared.DENIED:
            self.denied.add(owner.patient)


def _settle(draft: Draft, seen: "_Seen", admits: Admits) -> None:
    """Leave out every patient whose files together do not declare enough.

    One file that denies, though it be refused itself, speaks for all of them.
    """
    for patient in {row.patient for row in draft.rows}:
        said = of_patient(seen.declared[patient])
        draft.declared[patient] = Declared.DENIED if patient in seen.denied else said
    stays = {patient for patient, whole in draft.declared.items() if admits(patient, whole)}
    left = {(row.patient, row.instance) for row in draft.rows if row.patient not in stays}
    draft.quarantined[Quarantine.NO_CONSENT] += len(left)
    draft.rows = [row for row in draft.rows if row.patient in stays]


def _label_row(table: LabelTable, patient: str, instances: Iterable[str], key: str) -> int | None:
    """Return the row of an instance that has one, else the file's or the patient's.

    Raises:
      DataError: Two slices of one volume are labelled otherwise.
    """
    named = sorted(set(instances) & table.by_instance.keys()) or [""]
    rows = [table.row_of(patient, one, file=key) for one in named]
    said = {tuple(table.values[row]) for row in rows if row is not None}
    if len(said) > 1:
        raise DataError(
            "Two slices of one volume have different labels: "
            f"{rows_text(sorted(int(table.numbers[row]) for row in rows if row is not None))} "
            "of the labels CSV.",
            remedy="Label a volume by its patient, or by one of its slices.",
        )
    return rows[0]


def _owner(rows: list[tuple[Row, bytes]], answer: Answer) -> Owner:
    if rows:
        row, _ = rows[0]
        return Owner(patient=row.patient, instance=row.instance, declared=row.declared)
    return Owner(**answer.fields.get("owner") or {})


def _fault(
    answer: Answer, owner: Owner, label_row: int | None, *, seen: _Seen, gathering: Gathering
) -> Quarantine | None:
    """Return why a file stays out, if it does."""
    if "code" in answer.fields:
        return Quarantine(answer.fields["code"])
    if label_row is None and not gathering.spec.masked:
        return Quarantine.NO_LABEL
    if label_row in gathering.table.out_of_range:
        return Quarantine.OUT_OF_RANGE
    if not gathering.admits(owner.patient, owner.declared):
        return Quarantine.NO_CONSENT
    # Per patient: were it per image alone, what one patient keeps would depend on
    # whether another, who has a copy, is there.
    if (owner.patient, owner.instance) in seen.accepted:
        return Quarantine.DUPLICATE
    return None


def _rows(answer: Answer, spec: CohortSpec) -> list[tuple[Row, bytes]]:
    """Return each image of an answer with its pixels; none of a mask or a refused file."""
    found = answer.fields
    if "code" in found or "mask" in found:
        return []
    size = spec.row.itemsize
    sound = len(answer.body) == size * len(found["frames"]) and bool(found["frames"])
    if sound and spec.masked:
        masks = np.frombuffer(answer.body, dtype=spec.row)["mask"]
        sound = int(masks.max()) <= len(spec.labels)
    if not sound:
        raise EngineError(
            "the process that reads images gave an answer of another size.",
            remedy="Ingest again; if it happens twice, report it.",
        )
    owner = Owner(**found["owner"])
    return [
        (
            Row(
                source=found["source"],
                patient=owner.patient,
                instance=owner.instance,
                frame=frame,
                sex=owner.sex,
                age_band=owner.age_band,
                declared=owner.declared,
                linkage=owner.linkage,
                mask=found.get("mask_digest", ""),
            ),
            answer.body[place * size : (place + 1) * size],
        )
        for place, frame in enumerate(found["frames"])
    ]


def enqueue(answer: Answer, code: Quarantine, queue: Queue | None) -> None:
    """Hand the preview of a refused image, if there is one, to the review queue."""
    preview = answer.fields.get("preview")
    if preview is None or queue is None:
        return
    image = np.frombuffer(answer.body, dtype=np.uint8).reshape(preview["shape"])
    boxes = [Box(*box) for box in preview["boxes"]]
    queue.put(preview["name"], image, code, boxes, scale=preview["scale"])
