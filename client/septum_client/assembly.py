"""Gather prepared images, check that they make a cohort, and put them in order."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, Quarantine
from septum_client import intake
from septum_client.cohort import CohortSpec, Split
from septum_client.demographics import agreed_sex, youngest_band
from septum_client.dicom import Refused
from septum_client.labels import LabelTable
from septum_client.pseudonyms import image_pseudonym, is_held_out, pseudonym
from septum_client.storage import META

# A file refused for one of these may be the image of a label row nobody else matches.
_HIDES_ITS_OWNER: Final = frozenset(
    {
        Quarantine.TRUNCATED,
        Quarantine.CANNOT_DECODE,
        Quarantine.TOO_LARGE,
        Quarantine.UNREADABLE,
    }
)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Row:
    """One accepted image, by its place in the file of raw rows."""

    patient_id: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    sex: int
    age_band: int
    label_row: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Draft:
    """Every accepted image in the order of writing, and why the others are not among them."""

    rows: list[Row]
    quarantined: Counter[Quarantine]


def collect(
    paths: Sequence[Path],
    *,
    spec: CohortSpec,
    table: LabelTable,
    out: IO[bytes],
    progress: Callable[[int, int], None] | None,
) -> Draft:
    """Read all files and write each accepted image as one raw float16 row.

    Args:
      paths: Files, sorted; of one patient's images with one SOP Instance UID the
        first is kept.
      spec: What the cohort is made to be.
      table: The labels.
      out: Receives little-endian float16, one image after the other.
      progress: Called with files done and files in all after each file.

    Raises:
      DataError: A label row names an unknown patient or image, or another
        patient than its image; or no file could be used.
    """
    rows: list[Row] = []
    quarantined: Counter[Quarantine] = Counter()
    patients: set[str] = set()
    instances: set[str] = set()
    accepted: set[tuple[str, str]] = set()
    unidentified = 0
    for done, path in enumerate(paths, start=1):
        item = intake.prepare(path, size=spec.image_size)
        patients.add(item.patient_id)
        instances.add(item.sop_instance_uid)
        label_row = table.row_of(item.patient_id, item.sop_instance_uid)
        if isinstance(item, Refused):
            quarantined[item.code] += 1
            unidentified += item.code in _HIDES_ITS_OWNER and not item.patient_id
        elif label_row is None:
            quarantined[Quarantine.NO_LABEL] += 1
        elif (item.patient_id, item.sop_instance_uid) in accepted:
            quarantined[Quarantine.DUPLICATE] += 1
        else:
            # Per patient: were it per image alone, what one patient keeps would depend on
            # whether another, who has a copy, is there.
            accepted.add((item.patient_id, item.sop_instance_uid))
            out.write(item.values.astype("<f2").tobytes())
            rows.append(
                Row(
                    patient_id=item.patient_id,
                    sop_instance_uid=item.sop_instance_uid,
                    sex=item.sex,
                    age_band=item.age_band,
                    label_row=label_row,
                )
            )
        if progress is not None:
            progress(done, len(paths))
    if not rows:
        counts = ", ".join(f"{n} {code.name} ({code})" for code, n in sorted(quarantined.items()))
        raise DataError(
            f"None of the {len(paths)} files of the source can be used"
            + (f": {counts}." if counts else "."),
            remedy="Name the folder of the DICOM export; docs/codes.md explains each code.",
        )
    table.require_known(patients, instances, unidentified=unidentified)
    return Draft(rows=rows, quarantined=quarantined)


def arrange(
    rows: Sequence[Row], *, spec: CohortSpec, table: LabelTable, key: bytes
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], list[str]]:
    """Order the images by patient and build every array of the index.

    Returns:
      The raw row of each image, the arrays by name, and each patient's
      Patient ID (for :func:`septum_client.pseudonyms.linkage` only). Patients
      are ordered by pseudonym and images by keyed hash, so that the order
      tells nothing and never depends on file names.

    Raises:
      DataError: Fewer than two patients, a split without any, or a label with
        one class only among the train patients.
    """
    images_of: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        images_of[row.patient_id].append(place)
    if len(images_of) < 2:
        raise DataError(
            f"The source has {len(images_of)} patient with a usable, labelled image; "
            "at least 2 are needed.",
            remedy="Add patients; quarantine counts say what stayed out.",
        )
    patients = sorted(images_of, key=lambda patient: pseudonym(key, patient))
    order: list[int] = []
    for patient in patients:
        places = images_of[patient]
        order += sorted(places, key=lambda at: image_pseudonym(key, rows[at].sop_instance_uid))
    held_out = [is_held_out(key, patient, spec.test_fraction) for patient in patients]
    label_rows = np.array([rows[place].label_row for place in order])
    arrays: dict[str, NDArray[Any]] = {
        "labels": table.values[label_rows],
        "patient_of_image": np.repeat(
            np.arange(len(patients), dtype=np.int32), [len(images_of[p]) for p in patients]
        ),
        "split": np.where(held_out, Split.TEST, Split.TRAIN).astype(np.uint8),
        "sex": np.array(
            [agreed_sex(rows[at].sex for at in images_of[p]) for p in patients], dtype=np.uint8
        ),
        "age_band": np.array(
            [youngest_band(rows[at].age_band for at in images_of[p]) for p in patients],
            dtype=np.uint8,
        ),
        "pseudonyms": np.array([pseudonym(key, patient) for patient in patients], dtype="S32"),
        **{META + name: values[label_rows] for name, values in table.meta.items()},
    }
    _require_learnable(arrays, spec)
    return np.array(order, dtype=np.int64), arrays, patients


def _require_learnable(arrays: dict[str, NDArray[Any]], spec: CohortSpec) -> None:
    split = arrays["split"]
    for side in Split:
        if not (split == side).any():
            raise DataError(
                f"None of the {len(split)} patients is in the {side.name.lower()} split "
                f"(test_fraction {spec.test_fraction}).",
                remedy="Add patients, or move test_fraction towards 0.5.",
            )
    train = arrays["labels"][split[arrays["patient_of_image"]] == Split.TRAIN]
    for column, name in enumerate(spec.labels):
        classes = np.unique(train[:, column])
        if len(classes) < 2:
            raise DataError(
                f"Label {name} is {classes[0]:.0f} for all {len(train)} train images.",
                remedy="Add patients of the other class, or leave this label out.",
            )
