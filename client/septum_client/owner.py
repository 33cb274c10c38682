"""Whose image it is, by pseudonym, and the little that a cohort keeps of that person."""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """All that leaves the process that read a file's header; nothing of it is header text.

    Args:
      patient: The patient's pseudonym; empty where it could not be read.
      instance: The de-identified SOP Instance UID; likewise.
      series: The de-identified Series Instance UID; likewise.
      linkage: The patient's hash for simulations, or nothing.
      sex: Index into :data:`septum_client.demographics.SEXES`.
      age_band: Index into :data:`septum_client.demographics.AGE_BANDS`.
      declared: What the file says of consent (:mod:`septum_client.consent.declared`).
    """

    patient: str = field(default="", repr=False)
    instance: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    linkage: str = field(default="", repr=False)
    sex: int = 0
    age_band: int = 0
    declared: int = 0


NOBODY: Final = Owner()
