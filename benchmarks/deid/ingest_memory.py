"""Memory of an ingest, sampled while 10,000 files go through it, and files per second.

    .venv/bin/python benchmarks/deid/ingest_memory.py [--files 10000] [--workers 1 2]

The files are one phantom film of 96 × 96 pixels with other UIDs and another
Patient ID in each (four films a patient). Each number of workers is a process
of its own. Memory is the sum of proportional set sizes over the process and all
its descendants: all of it, and what is not backed by a file. The peak is that
of everything up to the mark, so a column that grows shows memory that grows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path

import pydicom

MARKS = (1_000, 2_000, 5_000, 10_000)
PER_PATIENT = 4
EVERY_S = 0.2
KEY = bytes(range(32))


def write_files(folder: Path, *, count: int) -> None:
    """Write the export: a hundred files a folder, and its labels."""
    septum = Path(sys.executable).with_name("septum")
    with tempfile.TemporaryDirectory() as temporary:
        phantoms = Path(temporary) / "phantoms"
        subprocess.run(
            [
                str(septum),
                "phantoms",
                str(phantoms),
                "--sites",
                "1",
                "--patients",
                "4",
                "--workers",
                "1",
            ],
            check=True,
            capture_output=True,
        )
        film = pydicom.dcmread(min(phantoms.rglob("IM*")))
    film.PatientID = patient = "PATIENT-00000000"
    film.SOPInstanceUID = uid = "2.25.1" + "0" * 20
    film.file_meta.MediaStorageSOPInstanceUID = uid
    out = BytesIO()
    film.save_as(out)
    template = out.getvalue()
    for number in range(count):
        place = folder / f"{number // 100:04d}"
        place.mkdir(parents=True, exist_ok=True)
        content = template.replace(uid.encode(), b"2.25.1%020d" % number)
        content = content.replace(patient.encode(), b"PATIENT-%08d" % (number // PER_PATIENT))
        (place / f"{number:06d}").write_bytes(content)
    rows = (f"PATIENT-{n:08d},{n % 2}" for n in range(-(-count // PER_PATIENT)))
    (folder / "labels.csv").write_text("\n".join(("patient_id,nodule", *rows)) + "\n")


def descendants(root: int) -> list[int]:
    """Return the process and everything it started."""
    found = [root]
    for process in found:
        tasks = Path(f"/proc/{process}/task")
        try:
            found += [
                int(child)
                for task in tasks.iterdir()
                for child in (task / "children").read_text().split()
            ]
        except OSError:
            continue
    return found


def memory_mib(processes: list[int]) -> tuple[float, float]:
    """Return all memory and what no file backs, MiB."""
    sizes = {"Pss:": 0, "Pss_Anon:": 0}
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            name, size, *_ = line.split()
            if name in sizes:
                sizes[name] += int(size)
    return sizes["Pss:"] / 1024, sizes["Pss_Anon:"] / 1024


def child(source: Path, folder: Path, workers: int) -> dict:
    """Ingest once; return the peak before each mark and at the end, and the time."""
    from septum_client.cohort import CohortSpec  # noqa: PLC0415 - only the child reads files
    from septum_client.ingest import Terms, ingest  # noqa: PLC0415 - as above
    from septum_client.rules import Intake  # noqa: PLC0415 - as above

    peaks: dict[str, tuple[float, float]] = {}
    so_far, done, ended = [0.0, 0.0], 0, threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            for which, size in enumerate(memory_mib(descendants(os.getpid()))):
                so_far[which] = max(so_far[which], size)

    def progress(files: int, _: int) -> None:
        nonlocal done
        done = files
        if files in MARKS:
            peaks[f"{files:,} files"] = (so_far[0], so_far[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    try:
        ingest(
            source,
            folder,
            spec=CohortSpec(image_size=64, labels=("nodule",)),
            key=KEY,
            terms=Terms(rules=Intake(burned_in_text="header")),
            workers=workers,
            progress=progress,
        )
    finally:
        spent = time.monotonic() - start
        ended.set()
        watcher.join()
    peaks["end"] = (so_far[0], so_far[1])
    return {"peaks": peaks, "files_per_s": done / spent}


def main(arguments: argparse.Namespace) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "export"
        write_files(source, count=arguments.files)
        for workers in arguments.workers:
            cohort = Path(temporary) / f"cohort-{workers}"
            command = [sys.executable, __file__, "--child", str(source), str(cohort), str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[workers] = json.loads(done.stdout.splitlines()[-1])
    marks = list(next(iter(found.values()))["peaks"])
    print(f"{arguments.files:,} files; load average {os.getloadavg()[0]:.1f} at the end. ", end="")
    print("Peak MiB up to each mark: all; not backed by a file.\n")
    print("| workers | " + " | ".join(marks) + " | files per second |")
    print("|---" * (len(marks) + 2) + "|")
    for workers, each in found.items():
        cells = [f"{whole:.0f}; {own:.0f}" for whole, own in each["peaks"].values()]
        print(f"| {workers} | " + " | ".join(cells) + f" | {each['files_per_s']:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=MARKS[-1])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        where, into, number = options.child
        print(json.dumps(child(Path(where), Path(into), int(number))))
    else:
        main(options)
