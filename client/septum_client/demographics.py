"""What a cohort keeps of a person: a sex and an age band, each from a closed list.

A value outside the lists becomes ``unknown``; no header text is ever carried.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

SEXES: Final = ("unknown", "F", "M")
AGE_BANDS: Final = ("unknown", "0-17", "18-39", "40-59", "60-79", "80+")

_AGE: Final = re.compile(r"(\d{3})([DWMY])", re.ASCII)
_UNITS_PER_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_BAND_STARTS: Final = (18, 40, 60, 80)
_OLDEST_YEARS: Final = 130


def sex_index(patient_sex: str | None) -> int:
    """Return the index into :data:`SEXES` of a Patient's Sex (DICOM PS3.3 C.7.1.1).

    >>> sex_index("F"), sex_index("O"), sex_index(None)
    (1, 0, 0)
    """
    return SEXES.index(patient_sex) if patient_sex in {"F", "M"} else 0


def age_band_index(patient_age: str | None) -> int:
    """Return the index into :data:`AGE_BANDS` of a Patient's Age.

    Args:
      patient_age: Four characters, ``nnnD``, ``nnnW``, ``nnnM`` or ``nnnY``
        (DICOM PS3.5 6.2, VR AS); anything else, and ages above 130 years,
        are unknown.

    >>> [AGE_BANDS[age_band_index(age)] for age in ("006M", "045Y", "080Y", "45")]
    ['0-17', '40-59', '80+', 'unknown']
    """
    found = _AGE.fullmatch(patient_age or "")
    if found is None:
        return 0
    years = int(found[1]) / _UNITS_PER_YEAR[found[2]]
    return 0 if years > _OLDEST_YEARS else 1 + bisect_right(_BAND_STARTS, years)


def agreed_sex(indices: Iterable[int]) -> int:
    """Return the sex on which a patient's images agree; unknown where they differ."""
    known = {index for index in indices if index}
    return known.pop() if len(known) == 1 else 0


def youngest_band(indices: Iterable[int]) -> int:
    """Return the youngest known band: a patient is counted once, at the first image's age."""
    return min((index for index in indices if index), default=0)
