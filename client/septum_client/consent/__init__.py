"""Consent and purpose: nobody trains whose record does not permit this study today.

Three sources of record: CSV registers (:mod:`.table`), FHIR Consent resources
(:mod:`.fhir`) and what DICOM headers declare (:mod:`.declared`). They are
weighed in :mod:`.decisions`, at every round, by :mod:`.standing`.
"""

from septum_client.consent.decisions import Basis, Declared
from septum_client.consent.register import FOLDER, Register, deny, withdraw, withdrawn

__all__ = ["FOLDER", "Basis", "Declared", "Register", "deny", "withdraw", "withdrawn"]
