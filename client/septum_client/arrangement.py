"""Put accepted images in an order that tells nothing, and build the arrays of the index."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_client.cohort import CohortSpec, Split
from septum_client.demographics import agreed_sex, youngest_band
from septum_client.label_table import LabelTable
from septum_client.pseudonyms import image_pseudonym, is_held_out
from septum_client.rows import Row
from septum_client.storage import META


def arrange(
    rows: Sequence[Row],
    *,
    declared: Mapping[str, int],
    spec: CohortSpec,
    table: LabelTable,
    key: bytes,
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], tuple[str, ...]]:
    """Order the images by patient and build every array of the index.

    Args:
      rows: Every accepted image.
      declared: What each patient's files say of consent together.
      spec: What the cohort is made to be.
      table: The labels.
      key: The site's key.

    Returns:
      The place of each image in the file of pixels, the arrays by name
      (:meth:`CohortSpec.promised`), and each patient's linkage, if
      there is any. Patients are ordered by pseudonym and images by keyed hash
      and frame, so that the order tells nothing and never depends on file names.

    Raises:
      DataError: Fewer than two patients, a split without any, or a label with
        one class only among the train patients.
    """
    images_of: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        images_of[row.patient].append(place)
    if len(images_of) < 2:
        raise DataError(
            f"The source has {len(images_of)} patient with a usable, labelled image; "
            "at least 2 are needed.",
            remedy="Add patients; quarantine counts say what stayed out.",
        )
    patients = sorted(images_of)
    order: list[int] = []
    for patient in patients:
        order += sorted(
            images_of[patient],
            key=lambda at: (image_pseudonym(key, rows[at].instance), rows[at].frame),
        )
    ordered = [rows[place] for place in order]
    of_patient = [[rows[place] for place in images_of[patient]] for patient in patients]
    held_out = [is_held_out(key, patient, spec.test_fraction) for patient in patients]
    label_rows = np.array([row.label_row for row in ordered])
    arrays: dict[str, NDArray[Any]] = {
        "labels": _labels(table, label_rows, spec),
        "patient_of_image": np.repeat(
            np.arange(len(patients), dtype=np.int32), [len(images) for images in of_patient]
        ),
        "split": np.where(held_out, Split.TEST, Split.TRAIN).astype(np.uint8),
        "sex": _bytes(agreed_sex(row.sex for row in images) for images in of_patient),
        "age_band": _bytes(youngest_band(row.age_band for row in images) for images in of_patient),
        "declared": _bytes(declared[patient] for patient in patients),
        "pseudonyms": np.array(patients, dtype="S32"),
        # The last one is for an image without a row.
        **{
            META + name: np.append(values, np.float32(np.nan))[label_rows]
            for name, values in table.meta.items()
        },
        **_origins(ordered, masked=spec.masked),
    }
    _require_learnable(arrays, spec)
    linkage = tuple(images[0].linkage for images in of_patient)
    return (
        np.array([row.place for row in ordered], dtype=np.int64),
        arrays,
        linkage if all(linkage) else (),
    )


def _labels(table: LabelTable, rows: NDArray[np.int64], spec: CohortSpec) -> NDArray[np.float32]:
    if spec.masked:
        return np.empty((len(rows), 0), dtype=np.float32)
    return table.values[rows]


def _origins(ordered: Sequence[Row], *, masked: bool) -> Mapping[str, NDArray[Any]]:
    of_masks = {"origin_mask": np.array([row.mask for row in ordered], dtype="S32")}
    return (of_masks if masked else {}) | {
        "origin_source": np.array([row.source for row in ordered], dtype="S32"),
        "origin_instance": np.array([row.instance for row in ordered], dtype="S44"),
        "origin_frame": np.array([row.frame for row in ordered], dtype=np.int32),
        "origin_sex": _bytes(row.sex for row in ordered),
        "origin_age_band": _bytes(row.age_band for row in ordered),
        "origin_declared": _bytes(row.declared for row in ordered),
    }


def _bytes(numbers: Any) -> NDArray[np.uint8]:
    return np.array(list(numbers), dtype=np.uint8)


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
    if spec.task == "classification":
        if len(np.unique(train, axis=0)) < 2:
            # Another hospital may have the other classes, but one alone teaches nothing here.
            only = spec.labels[int(train[0].argmax())]
            raise DataError(
                f"All {len(train)} train images are of class {only}.",
                remedy="Add patients of another class.",
            )
        return
    for column, name in enumerate(spec.labels if not spec.masked else ()):
        values = np.unique(train[:, column])
        if len(values) < 2:
            raise DataError(
                f"Label {name} is {values[0]:g} for all {len(train)} train images.",
                remedy="Add patients of the other class, or leave this label out."
                if spec.task == "multilabel"
                else "Add patients with other values, or leave this label out.",
            )


def require_foreground(masks: NDArray[np.uint8], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Pass when a class is seen in any mask of the train patients; one empty mask is fine.

    Args:
      masks: uint8, in the order of the arrays.
      arrays: Of :func:`arrange`.

    Raises:
      DataError: All of them are empty.
    """
    train = np.flatnonzero(arrays["split"][arrays["patient_of_image"]] == Split.TRAIN)
    if not any(masks[row].any() for row in train):
        raise DataError(
            f"The masks of all {len(train)} train images are background.",
            remedy="Compare segments.csv with the segments of the masks.",
        )
