"""What an earlier ingest of the same site already read: rows to copy instead of decoding."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_client import storage
from septum_client.cohort import Cohort, CohortSpec
from septum_client.rows import Row

# Where one of these differs, what was let in then must be looked at again.
_SAME: Final = ("rules", "key", "version")


@dataclass(frozen=True, kw_only=True, eq=False)
class Previous:
    """The images of an earlier cohort, by the keyed hash of the file they came from.

    Args:
      images: float16 memory map, ``(images, *shape)``; ``None`` where nothing can be reused.
      masks: uint8, likewise, or ``None``.
      rows_of: Rows of ``images`` with what is known of each, by file.
    """

    images: NDArray[np.float16] | None = field(default=None, repr=False)
    masks: NDArray[np.uint8] | None = field(default=None, repr=False)
    rows_of: Mapping[str, Sequence[Row]] = field(default_factory=dict, repr=False)

    @property
    def sources(self) -> frozenset[str]:
        """Keyed hashes of the files that need not be read again."""
        return frozenset(self.rows_of)

    def unchanged(self, mask_of: Callable[[str, str], str]) -> frozenset[str]:
        """Return those of :attr:`sources` whose masks are what they were.

        Args:
          mask_of: Told a patient and a SOP Instance UID, says the digest of its masks now.
        """
        return frozenset(
            source
            for source, rows in self.rows_of.items()
            if all(mask_of(row.patient, row.instance) == row.mask for row in rows)
        )

    @classmethod
    def of(cls, folder: Path, *, spec: CohortSpec, lineage: Mapping[str, str]) -> Self:
        """Return what can be taken over; nothing, where anything that decides has changed.

        Labels, split and order are made anew, so a changed labels table, test
        fraction or day reuses everything.
        """
        try:
            cohort, stored = Cohort.open(folder), storage.load(folder)
            # A changed byte must not be carried on under a new digest.
            cohort.verify()
        except DataError:
            return cls()
        same = all(cohort.lineage.get(name) == lineage[name] for name in _SAME)
        # The values of a mask are places in the list of labels.
        alike = cohort.spec.row == spec.row and (
            not spec.masked or cohort.spec.labels == spec.labels
        )
        if not alike or not same:
            return cls()
        arrays = stored.arrays
        masks_of = arrays.get("origin_mask")
        rows_of: dict[str, list[Row]] = defaultdict(list)
        for place, owner in enumerate(cohort.patient_of_image.tolist()):
            row = Row(
                source=arrays["origin_source"][place].decode("ascii"),
                patient=cohort.pseudonyms[owner],
                instance=arrays["origin_instance"][place].decode("ascii"),
                frame=int(arrays["origin_frame"][place]),
                sex=int(arrays["origin_sex"][place]),
                age_band=int(arrays["origin_age_band"][place]),
                declared=int(arrays["origin_declared"][place]),
                mask="" if masks_of is None else masks_of[place].decode("ascii"),
                place=place,
            )
            if row.source:
                rows_of[row.source].append(row)
        ordered = {
            source: sorted(rows, key=lambda row: row.frame) for source, rows in rows_of.items()
        }
        return cls(images=cohort.images, masks=cohort.masks, rows_of=ordered)

    def taken(self, source: str) -> list[tuple[Row, bytes]]:
        """Return each row that ``source`` gave, and its image and mask as a child sends them."""
        return [(replace(row, place=-1), self._pixels(row.place)) for row in self.rows_of[source]]

    def _pixels(self, place: int) -> bytes:
        if self.images is None:
            return b""
        image: bytes = self.images[place].astype("<f2", copy=False).tobytes()
        return image if self.masks is None else image + self.masks[place].tobytes()
