"""What may enter a cohort: the part of a hospital's policy that speaks of images and records."""

import hashlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from septum import __version__


class Intake(BaseModel):
    """What may enter a cohort. The defaults let nothing in that the hospital has not decided on.

    Args:
      consent: ``opt-in`` trains on patients whose record permits it and on nobody
        else; ``opt-out`` on all but those whose record denies it; ``waived`` likewise, where an
        ethics board has waived consent and no register is kept.
      burned_in_text: ``ocr`` looks into every image for text with tesseract;
        ``header`` goes by the header's rules alone.
      faces: What to do with a head scan that shows a face.
      synthetic: Whether images marked as synthetic (0008,001C) enter.
      patient_characteristics: Whether a sex and an age band are kept.
      dates: ``drop``, or ``shift`` by one keyed number of days per patient.
      keep_days: After so many days a cohort trains nothing more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    consent: Literal["opt-in", "opt-out", "waived"] = "opt-in"
    burned_in_text: Literal["ocr", "header"] = "ocr"
    faces: Literal["refuse", "deface", "allow"] = "refuse"
    synthetic: Literal["exclude", "include"] = "exclude"
    patient_characteristics: bool = True
    dates: Literal["drop", "shift"] = "drop"
    keep_days: int = Field(365, ge=1, le=36_500)

    @property
    def digest(self) -> str:
        """SHA-256 over what decides which images enter, and the version that decided it.

        Where it differs, an image that an earlier ingest let in must be looked at again.
        """
        decides = self.model_dump_json(exclude=_DECIDED_LATER)
        return hashlib.sha256(f"{__version__}{decides}".encode()).hexdigest()


# Asked anew at each round, of what is there.
_DECIDED_LATER: Final = {"consent", "keep_days"}
