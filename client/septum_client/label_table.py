"""The labels of a cohort, found by image, file or patient.

Messages name rows as a spreadsheet numbers them (the header is row 1); they
never show a cell, because a cell may be an identifier.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_client import pseudonyms


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTable:
    """The rows of the CSV, found by image first, by file second and by patient last.

    Args:
      values: Labels, float32 of shape ``(rows, labels)``, by their task: 0 or 1, one 1
        a row, or numbers; no columns for a segmentation.
      meta: Evaluation-only strata, each float32 of shape ``(rows,)``, NaN where empty.
      numbers: Row numbers as a spreadsheet shows them, int64 of shape ``(rows,)``.
      patients: Patient ID of each row; empty where the row names an image only.
      by_patient: Row of each patient whose row names no image.
      by_instance: Row of each SOP Instance UID.
      by_file: Row of each file, by its path below the source; see :func:`file_key`.
      sexes: Index into :data:`septum_client.demographics.SEXES` of each row;
        unknown but in rows that name a file, because other files say it themselves.
      age_bands: Index into :data:`septum_client.demographics.AGE_BANDS`, likewise.
      masks: Key of the file that holds each row's mask; empty for none.
      out_of_range: Rows with a number outside of the study's range.
    """

    values: NDArray[np.float32]
    meta: Mapping[str, NDArray[np.float32]]
    numbers: NDArray[np.int64]
    patients: tuple[str, ...] = field(repr=False)
    by_patient: Mapping[str, int] = field(repr=False)
    by_instance: Mapping[str, int] = field(repr=False)
    by_file: Mapping[str, int] = field(default_factory=dict, repr=False)
    sexes: tuple[int, ...] = field(default=(), repr=False)
    age_bands: tuple[int, ...] = field(default=(), repr=False)
    masks: tuple[str, ...] = field(default=(), repr=False)
    out_of_range: frozenset[int] = field(default=frozenset(), repr=False)

    def row_of(self, patient_id: str, sop_instance_uid: str, *, file: str = "") -> int | None:
        """Return the row that labels an image; ``None`` where there is none.

        Args:
          patient_id: Empty where the file names no patient: NIfTI and pictures.
          sop_instance_uid: Empty likewise.
          file: Its :attr:`septum_client.sources.Item.key`.

        Raises:
          DataError: The image's row names another patient.
        """
        row = self.by_instance.get(sop_instance_uid)
        if row is None:
            row = self.by_file.get(file_key(file)) if file else None
        if row is None:
            return self.by_patient.get(patient_id)
        if patient_id and self.patients[row] not in {"", patient_id}:
            raise DataError(
                f"Row {self.numbers[row]} of the labels CSV names another patient than its image.",
                remedy="Correct patient_id or sop_instance_uid in that row.",
            )
        return row

    def require_known(
        self,
        patients: Iterable[str],
        instances: Iterable[str],
        *,
        unidentified: int,
        files: Iterable[str] = (),
    ) -> None:
        """Pass when every row belongs to an image of the folder.

        Args:
          patients: Patient IDs of all files, refused ones included.
          instances: SOP Instance UIDs of all files, refused ones included.
          unidentified: How many broken files may hide the owner of a row.
          files: Keys of all files, refused ones included.

        Raises:
          DataError: More rows than that name an unknown patient or image.
        """
        known_patients, known_instances = set(patients), set(instances)
        unknown = [row for key, row in self.by_patient.items() if key not in known_patients]
        unknown += [row for key, row in self.by_instance.items() if key not in known_instances]
        known_files = {file_key(file) for file in files}
        unknown += [row for key, row in self.by_file.items() if key not in known_files]
        if len(unknown) > unidentified:
            raise DataError(
                f"{len(unknown)} label row(s) name a patient or image that is not in the folder: "
                f"{rows_text(self.numbers[sorted(unknown)].tolist())} of the labels CSV.",
                remedy="Add the missing files, correct the identifiers, or delete the rows.",
            )

    def pseudonymised(self, key: bytes) -> Self:
        """Return the table under pseudonyms, so that nobody who matches needs an identifier.

        Paths of files stay: they are compared with the paths of the source
        only, and a process that reads files knows those.

        Args:
          key: The site's key.

        Raises:
          DataError: Two rows that have one key then: one names a patient or
            image, the other what this site calls it.
        """
        return replace(
            self,
            patients=tuple(p and pseudonyms.pseudonym(key, p) for p in self.patients),
            by_patient=self._renamed(
                self.by_patient, partial(pseudonyms.pseudonym, key), kind="patient"
            ),
            by_instance=self._renamed(self.by_instance, partial(pseudonyms.uid, key), kind="image"),
        )

    def _renamed(
        self, rows: Mapping[str, int], rename: Callable[[str], str], *, kind: str
    ) -> dict[str, int]:
        renamed: dict[str, int] = {}
        for name, row in rows.items():
            new = rename(name)
            if new in renamed:
                raise one_row_each(int(self.numbers[renamed[new]]), int(self.numbers[row]), kind)
            renamed[new] = row
        return renamed


def file_key(path: str) -> str:
    r"""Return a path in the form in which a table and a source can be compared.

    Separators of Windows and a leading ``./`` do not count, nor whether a
    letter and its accent are one character (as Linux tools write) or two (macOS).

    >>> file_key(".\\scans\\1.nii"), file_key("e\u0301") == file_key("\u00e9")
    ('scans/1.nii', True)
    """
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/")).removeprefix("./")


def one_row_each(first: int, second: int, kind: str) -> DataError:
    """Return the error for two rows with one key, by their numbers in a spreadsheet."""
    return DataError(
        f"Rows {first} and {second} of the labels CSV label the same {kind}.",
        remedy=f"Keep one row per {kind}.",
    )


def rows_text(numbers: Sequence[int], shown: int = 5) -> str:
    """Return the first row numbers as words.

    >>> rows_text([2]), rows_text([2, 3, 9], shown=2)
    ('row 2', 'rows 2, 3 and 1 more')
    """
    first = ", ".join(str(number) for number in numbers[:shown])
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"
