"""A folder of DICOM in, a folder of de-identified DICOM out: the engine without a cohort."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from septum import __version__
from septum.durable import replace
from septum.errors import DataError, EngineError, Quarantine
from septum_client import pseudonyms, storage
from septum_client.assembly import Queue, enqueue
from septum_client.consent.decisions import Declared
from septum_client.owner import Owner
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Answer, Task
from septum_client.sandbox.settings import settings
from septum_client.screening.verdict import Decision
from septum_client.sources import count, walk

REPORT: Final = "septum-report.json"
_PATIENT: Final = re.compile(r"[0-9a-f]{32}")
_INSTANCE: Final = re.compile(r"2\.25\.[0-9]{1,39}")


@dataclass(kw_only=True)
class Summary:
    """What one run did. It shows counts only; by whose files they are, it keeps to itself."""

    files: int = 0
    written_of: Counter[str] = field(default_factory=Counter, repr=False)
    duplicates_of: Counter[str] = field(default_factory=Counter, repr=False)
    quarantined: Counter[Quarantine] = field(default_factory=Counter)
    denied: set[str] = field(default_factory=set, repr=False)

    @property
    def written(self) -> int:
        """Files written, and still there."""
        return self.written_of.total()

    @property
    def duplicates(self) -> int:
        """Files that were there already."""
        return self.duplicates_of.total()

    def to_json(self, rules: Intake) -> str:
        """Return the report that lies beside the files: counts, rules and versions, no names."""
        said = {
            "septum": __version__,
            "rules": rules.model_dump(mode="json", exclude={"consent", "keep_days"}),
            "files": self.files,
            "written": self.written,
            "duplicates": self.duplicates,
            "quarantined": {code.value: n for code, n in sorted(self.quarantined.items())},
        }
        return json.dumps(said, indent=2) + "\n"


def deidentify(
    source: Path,
    folder: Path,
    *,
    key: bytes,
    rules: Intake,
    decisions: Mapping[str, Decision],
    withdrawn: Collection[str],
    queue: Queue | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write every DICOM image of ``source`` de-identified and proved to ``folder``.

    Args:
      source: Folder or archive.
      folder: New, empty, or the result of an earlier run: files that are
        there already are counted as duplicates and left as they are, but for
        those of a patient of whom a file denies consent, which are deleted.
      key: The site's key.
      rules: What may pass.
      decisions: What a person decided on the review page.
      withdrawn: Pseudonyms of patients who were withdrawn here: counted as NO_CONSENT,
        as are all files of a patient of whom one file denies consent.
      queue: Told of each refused image that a person could still let through.
      workers: Child processes that read.
      progress: Called with files done and files in all.

    Guarantees:
      - Names of files and folders are made of keyed hashes alone.
      - A file appears whole, after its proof, or not at all.
      - Pictures, NIfTI and tables are counted as NOT_DICOM: without a header
        to rebuild, there is nothing to prove.

    Raises:
      ConfigError: ``key`` is too short.
      DataError: The source cannot be read or the folder not written.
    """
    pseudonyms.require_key(key)
    storage.require_apart(source, folder)
    summary = Summary()
    total = count(source)
    told = settings(key, rules=rules, decisions=decisions)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for answer in pool.shared(workers).map(_tasks(source), settings=told):
            summary.files += 1
            _keep(answer, folder, summary, queue=queue, withdrawn=withdrawn)
            if progress is not None:
                progress(summary.files, max(summary.files, total))
        _take_back(folder, summary)
        report = summary.to_json(rules).encode()
        replace(folder / REPORT, lambda file: file.write(report))
    except OSError as error:
        raise DataError(
            f"The folder of de-identified files cannot be written ({error.strerror}).",
            remedy="Free disk space or choose another folder, then run again.",
        ) from None
    return summary


def _tasks(source: Path) -> Iterator[Task | Answer]:
    for item in walk(source):
        if item.code is not None:
            yield Answer(fields={"code": item.code.value})
        elif item.kind == "index":
            yield Answer(fields={"code": Quarantine.NOT_AN_IMAGE.value})
        elif item.kind != "dicom":
            yield Answer(fields={"code": Quarantine.NOT_DICOM.value})
        else:
            path = {} if item.path is None else {"path": os.fspath(item.path)}
            yield Task(verb="deidentify", fields=path, body=item.content or b"")


def _keep(
    answer: Answer,
    folder: Path,
    summary: Summary,
    *,
    queue: Queue | None,
    withdrawn: Collection[str],
) -> None:
    said = answer.fields.get("owner") or {}
    if said.get("declared") == Declared.DENIED:
        summary.denied.add(str(said.get("patient")))
    if "code" in answer.fields:
        code = Quarantine(answer.fields["code"])
        summary.quarantined[code] += 1
        enqueue(answer, code, queue)
        return
    owner = Owner(**answer.fields["owner"])
    patient, instance = str(owner.patient), str(owner.instance)
    # A child that a file took over must not choose where its answer is written.
    if not (_PATIENT.fullmatch(patient) and _INSTANCE.fullmatch(instance)):
        raise EngineError(
            "the process that reads images answered with a name that is not keyed.",
            remedy="Look for the file that does this with `septum site check`; do not use it.",
        )
    out = _kept_out(answer, patient in withdrawn or patient in summary.denied)
    if out is not None:
        summary.quarantined[out] += 1
        return
    home = folder / patient
    path = home / f"{instance}.dcm"
    if path.exists():
        summary.duplicates_of[patient] += 1
        return
    home.mkdir(mode=0o700, exist_ok=True)
    replace(path, lambda file: file.write(answer.body))
    summary.written_of[patient] += 1


def _kept_out(answer: Answer, denied: bool) -> Quarantine | None:
    if denied:
        return Quarantine.NO_CONSENT
    # One file cannot be defaced; with its neighbours it would show the face.
    return Quarantine.FACE if answer.fields.get("face") else None


def _take_back(folder: Path, summary: Summary) -> None:
    """Delete all there is of patients of whom a file denied consent, earlier runs' files too.

    Counted are the files of this run alone.
    """
    for patient in filter(_PATIENT.fullmatch, summary.denied):
        for path in sorted((folder / patient).glob("*.dcm")):
            path.unlink()
        counted = summary.written_of.pop(patient, 0) + summary.duplicates_of.pop(patient, 0)
        if counted:
            summary.quarantined[Quarantine.NO_CONSENT] += counted
