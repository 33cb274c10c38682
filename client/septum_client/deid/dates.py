"""Dates and times moved back by one keyed amount per patient: intervals stay, the calendar goes.

A shift is 1 to 3650 whole days and a time of day, drawn from the site's key
and the patient's pseudonym. The time moves too, because an exam's second
in the day, which a hospital's schedule shows, would give the days away.
Fractions of a second and the offset from UTC are not carried.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from septum import __version__
from septum_client import pseudonyms
from septum_client.deid import method

MOST_DAYS: Final = 3650
_DAY_S: Final = 86_400
# Written for want of a date; moved, it would give the days away.
_NO_DATE: Final = "19000101"
# The version between them is that of whoever wrote the file.
_MAKER, _WORK = method.METHOD[0].split(__version__)

_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME: Final = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.\d{1,6})?", re.ASCII)
_DATETIME: Final = re.compile(r"(\d{8})(\d{2,6})?(?:\.\d{1,6})?(?:[+-]\d{4})?", re.ASCII)

TIME_OF_DATE: Final[Mapping[str, str]] = {
    f"{what}Date": f"{what}Time" for what in ("Study", "Series", "Acquisition", "Content")
}
"""Which time belongs to which date: the pair is one moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How far one patient's past is moved. Secret: it undoes itself.

    Args:
      days: Whole days back.
      seconds: Seconds back, below one day.
    """

    days: int = field(repr=False)
    seconds: int = field(repr=False)

    def date(self, date: str, time: str = "") -> str | None:
        """Return a DA moved back, with the TM of the same moment where there is one.

        Returns:
          Eight digits; None where the input is no date, stands for none
          (1 January 1900), or ends before year 1.

        >>> shift = Shift(days=10, seconds=3600)
        >>> shift.date("20200115", "120000"), shift.date("20200115", "003000")
        ('20200105', '20200104')
        """
        found = _DATE.fullmatch(date)
        if found is None or (self.days and "".join(found.groups()) == _NO_DATE):
            return None
        clock = _seconds(time)
        try:
            day = datetime(int(found[1]), int(found[2]), int(found[3]))
            earlier = clock is not None and clock < self.seconds
            return _day(day - timedelta(days=self.days + earlier))
        except (ValueError, OverflowError):
            return None

    def time(self, time: str) -> str | None:
        """Return a TM moved back around the clock, in whole seconds; None where it is no time."""
        clock = _seconds(time)
        return None if clock is None else _clock((clock - self.seconds) % _DAY_S)

    def datetime(self, moment: str) -> str | None:
        """Return a DT moved back, in whole seconds; None where it is no moment."""
        found = _DATETIME.fullmatch(moment)
        if found is None:
            return None
        time = found[2] or ""
        day = self.date(found[1], time)
        if day is None or not time:
            return day
        clock = self.time(time)
        return None if clock is None else day + clock


def shift(key: bytes, patient_id: str) -> Shift:
    """Return a patient's shift.

    Guarantees:
      - It depends on the key and the patient alone: all files of a patient
        move together, at every run, under their own name or their pseudonym.
    """
    drawn = pseudonyms.keyed_number(key, "dates", pseudonyms.pseudonym(key, patient_id))
    return Shift(days=1 + drawn % MOST_DAYS, seconds=drawn // MOST_DAYS % _DAY_S)


STAY: Final = Shift(days=0, seconds=0)
"""The shift of what is shifted already."""


def are_shifted(key: bytes, original: Dataset) -> bool:
    """Return whether the dates of ``original`` are those that this key has shifted.

    Guarantees:
      - A pseudonym alone is no proof: a hospital may write it beside a true
        date. The SOP Instance UID must be this key's as well, and the file
        must say that Septum rebuilt it and that its dates are modified.

    What it does not guarantee: nothing signs the dates. Whoever holds a file that
    this site gave away can write others into it, and they are taken for shifted.
    """
    patient, instance, modified = (
        _said(original, keyword)
        for keyword in ("PatientID", "SOPInstanceUID", "LongitudinalTemporalInformationModified")
    )
    return (
        modified == "MODIFIED"
        and is_septums(original)
        and pseudonyms.is_own(key, patient)
        and bool(instance)
        and pseudonyms.uid(key, instance) == instance
    )


def is_septums(original: Dataset) -> bool:
    """Return whether a file says that Septum rebuilt it, here or elsewhere."""
    work = _said(original, "DeidentificationMethod")
    return work.startswith(_MAKER) and work.endswith(_WORK)


def _said(original: Dataset, keyword: str) -> str:
    """Return the first value of an attribute of text; empty where there is none to be had."""
    try:
        value = original.get(keyword)
        first = value[0] if isinstance(value, MultiValue) else value
    except Exception:  # noqa: BLE001 - bytes that are no such value raise whatever they like
        return ""
    return first.strip(" \0") if isinstance(first, str) else ""


def _seconds(time: str) -> int | None:
    found = _TIME.fullmatch(time)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    # 60 is a leap second (PS3.5 6.2); it becomes the second before.
    fits = hours < 24 and minutes < 60 and seconds <= 60
    return hours * 3600 + minutes * 60 + min(seconds, 59) if fits else None


def _day(day: datetime) -> str:
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
