"""One accepted image: whose it is, by pseudonym, and where it came from, by keyed hash."""

from dataclasses import dataclass, field
from typing import Final

NO_ROW: Final = -1
"""In a segmentation, the label row of an image that the table does not name: it needs none."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Row:
    """One image.

    Args:
      source: Keyed hash of the bytes of its file; empty where that must be read
        again each time.
      patient: The patient's pseudonym.
      instance: The de-identified SOP Instance UID.
      frame: Which frame of its file.
      sex: Index into :data:`septum_client.demographics.SEXES`.
      age_band: Index into :data:`septum_client.demographics.AGE_BANDS`.
      declared: What the file says of consent.
      linkage: The patient's hash for simulations, or nothing.
      label_row: Row of the labels table; -1 until it is known.
      mask: Digest of a DICOM image's masks; empty for other files, whose ``source`` covers it.
      place: Row of the array that holds its pixels; -1 until it is known.
    """

    source: str = field(repr=False)
    patient: str = field(repr=False)
    instance: str = field(repr=False)
    frame: int
    sex: int
    age_band: int
    declared: int
    linkage: str = field(default="", repr=False)
    mask: str = field(default="", repr=False)
    label_row: int = -1
    place: int = -1
