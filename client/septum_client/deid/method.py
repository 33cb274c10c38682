"""What was done, written where the standard wants it (DICOM PS3.15 E.1.1, PS3.3 C.7.1.1)."""

from typing import TYPE_CHECKING, Final

from septum import __version__
from septum_client.deid import elements

if TYPE_CHECKING:
    from septum_client.deid.rebuild import Options

METHOD: Final = (
    f"Septum {__version__}: rebuilt from an allow-list",
    "DICOM PS3.15 Annex E Basic Profile, table of 2025 with 2026c",
)

MEANINGS: Final = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
}
"""Codes of CID 7050, scheme DCM (PS3.16)."""


def codes(options: "Options") -> tuple[str, ...]:
    """Return the codes that the options in force amount to."""
    said = {
        "113100": True,
        "113101": options.pixels_checked,
        "113102": options.faces_removed,
        "113107": options.dates == "shift",
        "113108": options.patient_characteristics,
    }
    return tuple(code for code, done in said.items() if done)


def record(options: "Options") -> dict[int, tuple[str, bytes]]:
    """Return the attributes that say what was done, by tag: VR and value."""
    shifted = options.dates == "shift"
    written = {
        0x00120062: ("CS", elements.padded("YES")),
        0x00120063: ("LO", elements.padded("\\".join(METHOD))),
        0x00120064: (
            "SQ",
            elements.sequence(coded(code, "DCM", MEANINGS[code]) for code in codes(options)),
        ),
        0x00280303: ("CS", elements.padded("MODIFIED" if shifted else "REMOVED")),
    }
    if options.pixels_checked:
        written[0x00280301] = ("CS", elements.padded("NO"))
    if options.faces_removed:
        written[0x00280302] = ("CS", elements.padded("NO"))
    return written


def coded(value: str, scheme: str, meaning: str) -> bytes:
    """Return a code as the content of a sequence item (PS3.3 8)."""
    return (
        elements.element(0x00080100, "SH", elements.padded(value))
        + elements.element(0x00080102, "SH", elements.padded(scheme))
        + elements.element(0x00080104, "LO", elements.padded(meaning))
    )
