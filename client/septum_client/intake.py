"""From a folder of unknown files to prepared images, one at a time.

Order, content and refusals are the same whatever order the folder lists its
files in.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, Quarantine
from septum_client import dicom, pixels
from septum_client.dicom import Refused


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Prepared:
    """One image ready to store, float16 of shape ``(size, size)``, and whose it is."""

    patient_id: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    sex: int
    age_band: int
    values: NDArray[np.float16] = field(repr=False)


def files_below(source: Path) -> list[Path]:
    """Return everything below ``source`` that is not a folder, sorted by path.

    A link to a folder is returned, not followed: it will be counted as
    unreadable, so that what lies behind it is not left out in silence.

    Raises:
      DataError: ``source`` is missing or not a folder, or a folder cannot be listed.
    """
    # Unlike Path.is_dir, this is False where a parent folder may not be entered.
    if not os.path.isdir(source):  # noqa: PTH112 - see above
        raise DataError(
            "The source folder does not exist or cannot be entered.",
            remedy="Name the folder of the DICOM export and give this account permission.",
        )
    faults: list[OSError] = []
    found: list[Path] = []
    for folder, subfolders, files in os.walk(source, onerror=faults.append):
        here = Path(folder)
        found += [here / name for name in files]
        found += [here / name for name in subfolders if (here / name).is_symlink()]
    if faults:
        raise DataError(
            f"{len(faults)} folder(s) of the source cannot be listed.",
            remedy="Give this account read permission for all of the source.",
        )
    return sorted(found)


def prepare(path: Path, *, size: int) -> Prepared | Refused:
    """Read one file and bring it to training values; raises nothing."""
    scan = dicom.read(path)
    if isinstance(scan, Refused):
        return scan
    try:
        values = pixels.to_training(
            scan.stored,
            size=size,
            slope=scan.slope,
            intercept=scan.intercept,
            inverted=scan.inverted,
            padding=scan.padding,
        )
    except pixels.UnusableValuesError:
        return Refused(
            code=Quarantine.BAD_VALUES,
            patient_id=scan.patient_id,
            sop_instance_uid=scan.sop_instance_uid,
        )
    return Prepared(
        patient_id=scan.patient_id,
        sop_instance_uid=scan.sop_instance_uid,
        sex=scan.sex,
        age_band=scan.age_band,
        values=values.astype(np.float16),
    )
