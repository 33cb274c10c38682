"""The files that every tool gets: what pydicom bundles, and Septum's phantoms."""

import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import pydicom

PHANTOMS = ("--sites", "3", "--patients", "30", "--matrix", "256", "--workers", "1")


def corpus(work: Path, *, limit: int) -> Iterator[tuple[Path, bytes]]:
    """Give up to ``limit`` files and their bytes, always in the same order."""
    phantoms = work / "phantoms"
    septum = Path(sys.executable).with_name("septum")
    subprocess.run(
        [str(septum), "phantoms", str(phantoms), *PHANTOMS], check=True, capture_output=True
    )
    bundled = Path(pydicom.__file__).parent / "data" / "test_files"
    return islice(readable((bundled, phantoms)), limit)


def readable(folders: tuple[Path, ...]) -> Iterator[tuple[Path, bytes]]:
    """Give every file below the folders that pydicom can read and write."""
    for folder in folders:
        for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            data = path.read_bytes()
            try:
                pydicom.dcmread(BytesIO(data)).save_as(BytesIO())
            except Exception:  # noqa: BLE001, S112 - test files are damaged in every way
                continue
            yield path, data
