"""What the header alone says about identifiers in the pixels: one table, first match rules.

A rule refuses an image or names the part that may stay; none clears an image,
because no header proves that its pixels are clean. ``BurnedInAnnotation NO``
therefore earns nothing here, except for the cameras in :data:`CAMERAS`.

An ultrasound scanner writes the patient's name into the frame as a matter of
course. The standard's regions (PS3.3 C.8.5.5) say where the picture is, so
the rest is blanked; without usable regions the layout must be a known one
(``devices.json``), and otherwise the image waits for a person.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset

from septum.errors import Quarantine
from septum_client.screening import header
from septum_client.screening.boxes import Box, without
from septum_client.screening.devices import devices
from septum_client.screening.faces import is_head
from septum_client.screening.regions import ultrasound_regions

# PS3.4 B.5: Secondary Capture and its four multi-frame classes.
_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_CAPTURES: Final = frozenset({_CAPTURE, *(f"{_CAPTURE}.{n}" for n in range(1, 5))})
_PHOTO: Final = "1.2.840.10008.5.1.4.1.1.77.1"
_ULTRASOUND: Final = "1.2.840.10008.5.1.4.1.1.6"
_ULTRASOUNDS: Final = frozenset(
    {f"{_ULTRASOUND}.1", f"{_ULTRASOUND}.2", _ULTRASOUND, "1.2.840.10008.5.1.4.1.1.3.1"}
)
# Modality (0008,0060) of what was captured, scanned or printed rather than acquired.
_CAPTURED: Final = frozenset({"OT", "SC", "HC", "DOC", "FID", "SD", "SS"})
# Words of Image Type (0008,0008) that vendors give to screens, sheets and renderings.
_SCREENS: Final = frozenset(
    {
        *("CAPTURE", "SAVE", "SAVED", "SCREEN", "SCREENCAPTURE", "SCREENSAVE", "SCREENSHOT"),
        *("SCREENSHOTS", "SNAPSHOT"),
        *("CHART", "DOSE", "FILM", "GRAPH", "PRINT", "PRINTED", "PROTOCOL", "REPORT", "RESULTS"),
        *("SUMMARY", "VOLREN", "VRT"),
    }
)
# Processors of cameras lay the patient's name over the picture.
CAMERAS: Final = frozenset({"ES", "XC", "DMS"})
# Whose pictures are coloured by nature. Elsewhere, and where no modality is stated, a
# pixel measures one value: colour there was painted, with its legend.
_COLOURED: Final = CAMERAS | {"US", "IVUS", "OP", "OPT", "GM", "SM"}
# PS3.4 B.5: CT, MR and PET, and their enhanced classes.
_SLICES: Final = tuple(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128", "130"))

# What a person may overrule after a look at the picture.
REVIEWABLE: Final = frozenset({Quarantine.BURNED_IN_TEXT, Quarantine.SECONDARY_CAPTURE})


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the header decides about one image.

    Args:
      code: Why the image stays out; None lets it go on to the next look.
      keep: The rectangles that may stay; empty means the whole image. Pixels
        outside must be blanked before anything else sees them.
      reason: Which rule spoke, a word of a closed list.
    """

    code: Quarantine | None
    keep: tuple[Box, ...] = ()
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the table."""

    reason: str
    code: Quarantine
    broken: Callable[[Dataset], bool]


def _modality(ds: Dataset) -> str:
    return header.text(ds, "Modality")


def _is_capture(ds: Dataset) -> bool:
    return header.text(ds, "SOPClassUID") in _CAPTURES


def _says_burned_in(ds: Dataset) -> bool:
    return bool(set(header.texts(ds, "BurnedInAnnotation")) - {"NO"})


def _is_painted(ds: Dataset) -> bool:
    colour = set(header.texts(ds, "PhotometricInterpretation")) - {"MONOCHROME1", "MONOCHROME2"}
    return _modality(ds) not in _COLOURED and bool(colour)


def _is_slice(ds: Dataset) -> bool:
    sop_class = header.text(ds, "SOPClassUID")
    return any(sop_class == root or sop_class.startswith(f"{root}.") for root in _SLICES)


def _is_derived_without_place(ds: Dataset) -> bool:
    # Dose sheets and curves come as CT or MR images that lie nowhere in the patient.
    return (
        (_modality(ds) in {"CT", "MR", "PT"} or _is_slice(ds))
        and "SECONDARY" in header.words(ds, "ImageType")
        and not header.has(ds, "ImageOrientationPatient")
        and not any(header.items(ds, "SharedFunctionalGroupsSequence"))
    )


def _is_undeclared_camera(ds: Dataset) -> bool:
    camera = _modality(ds) in CAMERAS or header.text(ds, "SOPClassUID").startswith(_PHOTO + ".1")
    return camera and header.texts(ds, "BurnedInAnnotation") != ("NO",)


RULES: Final = (
    Rule(reason="secondary-capture", code=Quarantine.SECONDARY_CAPTURE, broken=_is_capture),
    Rule(
        reason="conversion-type",
        code=Quarantine.SECONDARY_CAPTURE,
        broken=lambda ds: header.has(ds, "ConversionType"),
    ),
    Rule(
        reason="captured-modality",
        code=Quarantine.SECONDARY_CAPTURE,
        broken=lambda ds: _modality(ds) in _CAPTURED,
    ),
    Rule(
        reason="burned-in-annotation",
        code=Quarantine.BURNED_IN_TEXT,
        broken=_says_burned_in,
    ),
    Rule(
        reason="screen",
        code=Quarantine.BURNED_IN_TEXT,
        broken=lambda ds: bool(header.words(ds, "ImageType") & _SCREENS),
    ),
    Rule(
        reason="localiser",
        code=Quarantine.LOCALISER,
        broken=lambda ds: bool(header.words(ds, "ImageType") & {"LOCALIZER", "LOCALISER", "SCOUT"}),
    ),
    Rule(reason="painted", code=Quarantine.BURNED_IN_TEXT, broken=_is_painted),
    Rule(
        reason="derived-without-place",
        code=Quarantine.BURNED_IN_TEXT,
        broken=_is_derived_without_place,
    ),
    Rule(
        reason="undeclared-camera",
        code=Quarantine.BURNED_IN_TEXT,
        broken=_is_undeclared_camera,
    ),
)


def judge(
    original: Dataset,
    *,
    synthetic: Literal["exclude", "include"],
    faces: Literal["refuse", "deface", "allow"],
) -> Ruling:
    """Decide by the header whether, and which part of, an image may go on.

    Args:
      original: As parsed; the de-identified copy lacks what the rules read.
      synthetic: Whether an image marked Synthetic Data (0008,001C) may enter.
      faces: What is done with a scan that may show a face. ``deface`` lets it
        through with the reason ``face``: the caller must then deface the whole
        volume (:mod:`septum_client.screening.deface`) or refuse it.

    Guarantees:
      - Pure: the same header gives the same ruling.
      - A value that cannot be read counts against the image.
    """
    if synthetic == "exclude" and set(header.texts(original, "SyntheticData")) - {"NO"}:
        return Ruling(code=Quarantine.SYNTHETIC, reason="synthetic")
    for rule in RULES:
        if rule.broken(original):
            return Ruling(code=rule.code, reason=rule.reason)
    ruling = _layout(original)
    if ruling.code is None and faces != "allow" and is_head(original):
        code = Quarantine.FACE if faces == "refuse" else None
        return Ruling(code=code, keep=ruling.keep, reason="face")
    return ruling


def _layout(ds: Dataset) -> Ruling:
    """Rule on where in the frame the picture is."""
    rows, columns = header.whole(ds, "Rows") or 0, header.whole(ds, "Columns") or 0
    frame = Box(0, 0, rows, columns)
    blank = _known_text(ds, rows, columns)
    if _modality(ds) not in {"US", "IVUS"} and header.text(ds, "SOPClassUID") not in _ULTRASOUNDS:
        if not blank:
            return Ruling(code=None, reason="no-rule")
        return Ruling(code=None, keep=without([frame], blank), reason="known-device")
    regions = ultrasound_regions(ds, frame)
    if regions:
        return Ruling(code=None, keep=without(regions, blank), reason="ultrasound-regions")
    if blank:
        return Ruling(code=None, keep=without([frame], blank), reason="known-device")
    return Ruling(code=Quarantine.BURNED_IN_TEXT, reason="ultrasound-without-regions")


def _known_text(ds: Dataset, rows: int, columns: int) -> tuple[Box, ...]:
    maker, model = header.text(ds, "Manufacturer"), header.text(ds, "ManufacturerModelName")
    return tuple(
        box
        for device in devices()
        if device.made(
            modality=_modality(ds), manufacturer=maker, model=model, rows=rows, columns=columns
        )
        for box in device.blank
    )
