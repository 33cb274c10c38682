"""A new data set from the allow-list: nothing of the old one is redacted, or kept by default.

The original is read attribute by attribute through
:mod:`septum_client.deid.profile`. What the profile does not name is never
looked at: private attributes, overlays, curves, icons, ICC profiles, comments,
file meta information, preamble and padding cannot survive, at any depth.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from pydicom import uid as uids
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag

from septum import __version__
from septum.errors import Quarantine
from septum_client import pseudonyms
from septum_client.deid import elements, frames, method
from septum_client.deid.annex_e import Option
from septum_client.deid.items import Reader, element_of, fixed, value_of
from septum_client.deid.profile import IMAGE_CLASSES, PET_CLASS
from septum_client.reject import Rejected

IMPLEMENTATION_CLASS_UID: Final = "2.25.197384466015028837340962350421985127730"
IMPLEMENTATION_VERSION_NAME: Final = f"SEPTUM_{__version__}"[:16]

_PIXEL_DATA: Final = BaseTag(0x7FE00010)
_FUNCTIONAL_GROUPS: Final = 0x52009230
_NATIVE: Final = frozenset(
    {
        uids.ImplicitVRLittleEndian,
        uids.ExplicitVRLittleEndian,
        uids.ExplicitVRBigEndian,
        uids.DeflatedExplicitVRLittleEndian,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is kept beyond the basic profile, and what else was done to the pixels.

    Args:
      dates: ``drop`` them, or ``shift`` all of a patient by one keyed amount.
      patient_characteristics: Whether sex, banded age, and coarse size and
        weight are carried.
      pixels_checked: Whether text burned into the pixels was looked for and is gone.
      faces_removed: Whether recognisable visual features were removed and that was verified.
    """

    dates: Literal["drop", "shift"] = "drop"
    patient_characteristics: bool = False
    pixels_checked: bool = False
    faces_removed: bool = False

    @property
    def annex_e(self) -> frozenset[Option]:
        """The options of PS3.15 Table E.1-1 that are in force."""
        return frozenset(
            option
            for option, chosen in (
                (Option.RETAIN_MODIFIED_DATES, self.dates == "shift"),
                (Option.RETAIN_PATIENT_CHARACTERISTICS, self.patient_characteristics),
            )
            if chosen
        )


def require_image(original: Dataset) -> None:
    """Pass when a data set is an image of somebody.

    Raises:
      Rejected: NOT_AN_IMAGE, NO_PATIENT, NO_PIXELS, or NOT_DICOM without a SOP
        Instance UID.
    """
    reasons = (
        (_text(original, "SOPClassUID") not in IMAGE_CLASSES, Quarantine.NOT_AN_IMAGE),
        (not pseudonyms.plain(_text(original, "PatientID")), Quarantine.NO_PATIENT),
        (not _text(original, "SOPInstanceUID"), Quarantine.NOT_DICOM),
        (_PIXEL_DATA not in original, Quarantine.NO_PIXELS),
    )
    for holds, code in reasons:
        if holds:
            raise Rejected(code)


def rebuild(original: Dataset, *, key: bytes, options: Options) -> FileDataset:
    """Return a de-identified image built from the allow-list.

    Args:
      original: A parsed data set; it is not changed.
      key: The site's key, at least 16 bytes.
      options: What is kept beyond the basic profile.

    Returns:
      A data set in Explicit VR Little Endian, or in the compressed transfer
      syntax of the original, ready for :func:`pydicom.dcmwrite`.

    Guarantees:
      - Every attribute is in the profile and every value passed its grammar;
        text is of a closed list, a pseudonym or our own.
      - UIDs, pseudonyms and shifts depend on the key and the original alone;
        rebuilding the result with the same key and options gives the same bytes.
      - Stored pixel values are bit-exact.

    Raises:
      Rejected: NOT_AN_IMAGE, NO_PATIENT, NO_PIXELS, TRUNCATED, COLOUR,
        CANNOT_DECODE, BAD_GEOMETRY, or NOT_DICOM without a SOP Instance UID.
      ConfigError: The key is too short.
    """
    pseudonyms.require_key(key)
    require_image(original)
    sop_class = _text(original, "SOPClassUID")
    patient = _text(original, "PatientID")
    instance = _text(original, "SOPInstanceUID")
    reader = Reader(
        key=key,
        patient_id=patient,
        options=options.annex_e,
        signed=value_of(original, "PixelRepresentation") == 1,
        strict=_FUNCTIONAL_GROUPS in original or sop_class == PET_CLASS,
    )
    found = reader.image(original)
    found |= fixed(pseudonyms.pseudonym(key, patient))
    found |= method.record(options)
    content = {tag: elements.raw(tag, *pair) for tag, pair in found.items()}
    syntax = _transfer_syntax(original)
    compressed = syntax not in _NATIVE
    layout = _layout(found)
    content[_PIXEL_DATA] = elements.raw(
        _PIXEL_DATA,
        "OB" if compressed or layout.bits_allocated <= 8 else "OW",
        _pixels(original, layout, syntax),
        encapsulated=compressed,
    )
    return _file(content, sop_class, pseudonyms.uid(key, instance), syntax)


def _file(content: dict[int, Any], sop_class: str, instance: str, syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian if syntax in _NATIVE else syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    in_order = {element.tag: element for _, element in sorted(content.items())}
    clean = FileDataset("", in_order, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False)
    clean.filename = None
    clean.set_original_encoding(False, True, "iso8859")
    return clean


def _layout(found: dict[int, tuple[str, bytes]]) -> frames.Layout:
    def number(tag: int) -> int:
        return int.from_bytes(found[tag][1], "little")

    count = found.get(0x00280008, ("IS", b"1"))[1]
    return frames.Layout(
        rows=number(0x00280010),
        columns=number(0x00280011),
        frames=int(count or b"1"),
        samples=number(0x00280002),
        photometric=found[0x00280004][1].decode().strip(),
        bits_allocated=number(0x00280100),
        bits_stored=number(0x00280101),
        high_bit=number(0x00280102),
        signed=number(0x00280103) == 1,
    )


def _pixels(original: Dataset, layout: frames.Layout, syntax: str) -> bytes:
    element = element_of(original, _PIXEL_DATA)
    if element is None or not isinstance(element.value, bytes | bytearray) or not element.value:
        raise Rejected(Quarantine.NO_PIXELS)
    value = element.value
    if syntax not in _NATIVE:
        return frames.encapsulated(bytes(value), layout, syntax)
    swapped = 0
    if syntax == uids.ExplicitVRBigEndian:
        # An OW value of 8-bit samples is swapped by words (PS3.5 A.3).
        swapped = max(layout.bits_allocated // 8, 2 if element.VR == "OW" else 1)
    return frames.native(bytes(value), layout, swapped=swapped)


def _transfer_syntax(original: Dataset) -> str:
    meta = getattr(original, "file_meta", None)
    syntax = value_of(meta, "TransferSyntaxUID") if meta is not None else None
    if not syntax:
        return str(uids.ExplicitVRLittleEndian)
    known = isinstance(syntax, str) and (syntax in _NATIVE or syntax in uids.AllTransferSyntaxes)
    if not known:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return str(syntax)


def _text(original: Dataset, keyword: str) -> str:
    value = value_of(original, keyword)
    return value.strip(" \0") if isinstance(value, str) else ""
