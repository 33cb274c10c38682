"""Whole hospitals: who lies where, and the folders a PACS export would leave behind.

Chance is a tree of :class:`numpy.random.SeedSequence`: the plan's roster, each
patient and each public phantom own a branch, so neither the number of workers
nor the order of work changes a byte.
"""

import csv
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Final

from septum.errors import DataError
from septum_bench.phantoms.exports import Row, write_patient
from septum_bench.phantoms.roster import Enrolled, PhantomPlan, enrol, require
from septum_bench.phantoms.segmentations import SEGMENTS_FILE, write_segments

__all__ = ["LABELS_FILE", "LABEL_COLUMNS", "PhantomPlan", "enrol", "write_hospitals"]

LABELS_FILE: Final = "labels.csv"
LABEL_COLUMNS: Final = ("sop_instance_uid", "nodule", "meta_lesion_mm")
# By task: the columns of the target, and a row's cells.
_TARGETS: Final[
    Mapping[str, tuple[tuple[str, ...], Callable[[int, float], tuple[object, ...]]]]
] = {
    "multilabel": ((LABEL_COLUMNS[1],), lambda label, _: (label,)),
    "classification": (("class",), lambda label, _: (("clear", "nodule")[label],)),
    "regression": (("diameter_mm",), lambda _, size: (f"{size:.1f}",)),
    "segmentation": ((), lambda *_: ()),
}
_PATIENTS_PER_JOB: Final = 12


def write_hospitals(
    folder: Path,
    plan: PhantomPlan,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one folder per hospital: nested DICOM files and ``labels.csv``.

    Args:
      folder: Where ``hospital-1``, ``hospital-2``, … go; absent or empty.
      plan: What to build.
      workers: Processes; 1 stays in this one. More than 1 spawns, so a script
        that calls this needs the usual ``if __name__ == "__main__"`` guard.
      progress: Called with (films or scans written, those in all) after each batch.

    Returns:
      The hospitals' folders, in order.

    Guarantees:
      - The same plan gives the same files, byte for byte, whatever ``workers``.
      - All or nothing: the work is done in a hidden sibling and renamed.
      - ``labels.csv`` has one row per film or scan, columns :data:`LABEL_COLUMNS`,
        the second by the plan's task; beside masks lies a ``segments.csv``.

    Raises:
      DataError: ``folder`` is a file or not empty, or a worker could not run.
    """
    require("workers", workers, 1, 256)
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is not an empty folder.",
            remedy="Name a new folder, or remove this one first.",
        )
    roster = enrol(plan)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        rows: list[list[Row]] = [[] for _ in range(plan.sites)]
        total = sum(each.films for each in roster) if plan.depth == 1 else len(roster)
        done = 0
        with closing(_batches(partial, plan, roster, workers)) as batches:
            for site, batch in batches:
                rows[site].extend(batch)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        for site, table in enumerate(rows):
            _write_tables(partial / _site_name(site), plan, table)
        partial.replace(folder)
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process ended before its films were written (workers={workers}).",
            remedy='Use workers=1, or guard the script with if __name__ == "__main__".',
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / _site_name(site) for site in range(plan.sites)]


def _batches(
    root: Path, plan: PhantomPlan, roster: list[Enrolled], workers: int
) -> Generator[tuple[int, list[Row]], None, None]:
    """Yield (site, label rows) as jobs finish; order is not promised."""
    jobs = [
        (site, chunk)
        for site in range(plan.sites)
        for members in [[each for each in roster if each.site == site]]
        for chunk in (
            members[i : i + _PATIENTS_PER_JOB] for i in range(0, len(members), _PATIENTS_PER_JOB)
        )
    ]
    if workers == 1:
        for site, chunk in jobs:
            yield site, _write_patients(root, plan, chunk)
        return
    # Forking a process that runs threads (torch, Ray, rich) can deadlock; spawning cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_write_patients, root, plan, chunk): site for site, chunk in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_patients(root: Path, plan: PhantomPlan, members: list[Enrolled]) -> list[Row]:
    return [
        row for each in members for row in write_patient(root / _site_name(each.site), plan, each)
    ]


def _write_tables(folder: Path, plan: PhantomPlan, rows: list[Row]) -> None:
    target, cell = _TARGETS[plan.task]
    with (folder / LABELS_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        instance, _, size_of = LABEL_COLUMNS
        table.writerow((instance, *target, size_of))
        # By UID: neither patients nor the order of work show.
        table.writerows(
            (uid, *cell(label, size), f"{size:.1f}") for uid, label, size in sorted(rows)
        )
    if plan.task == "segmentation":
        write_segments(folder / SEGMENTS_FILE, plan.classes)


def _site_name(site: int) -> str:
    return f"hospital-{site + 1}"
