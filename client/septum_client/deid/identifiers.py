"""Every identifier that a data set holds, wherever it holds it: what a proof looks for.

Collected at any depth, from standard and private attributes, file meta, preamble
and the comments of compressed frames. This is deliberately a second way of reading
than the engine's: the engine lists what may stay, this lists what must be gone.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from septum_client import pseudonyms
from septum_client.deid import closed_terms, dates
from septum_client.deid.marker_segments import comments

_MAX_DEPTH: Final = 64
_MAX_TEXT: Final = 65_536  # characters of one value
_MAX_FRAMES: Final = 16  # whose comments are read; every frame of the output is searched
_PIXELS: Final = {0x7FE00010, 0x7FE00008, 0x7FE00009}
# Tables of grey levels: what looks like text in them is grey levels.
_TABLES: Final = {0x00283006, *range(0x00281201, 0x00281205), *range(0x00281221, 0x00281224)}
_TEXT: Final = {"LO", "SH", "ST", "LT", "UT", "UC", "UR", "CS", "AE"}
_BINARY: Final = {"OB", "OW", "UN"}
COUNTS: Final = frozenset(
    {
        *(0x00180070, 0x00541310, 0x00541311),  # counts: of photons, primary and secondary
        *(0x00181243, 0x00181074, 0x00181075),  # count rate, dose, half life
        *(0x00541300, 0x00541322),  # frame reference time, dose calibration factor
    }
)
"""Amounts that run to millions and name nobody: they are carried with five digits at most."""

_STANDARD_UIDS: Final = "1.2.840.10008."
_NO_DATE: Final = {"19000101", "00000000"}  # what files write for want of a date

_NAME_PART: Final = re.compile(r"[\^=\s,;\\.]+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ID_WORD: Final = re.compile(r"[\w./-]+")  # greedy to its end, so linear in time
_RUN: Final = re.compile(rb"[ -~\n\r\t\x80-\xff]{6,}")
_DATE: Final = re.compile(r"^(?:1[5-9]|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")

# Whose attribute it is decides how much of it is looked for: each of its words.
_KINDS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("address", re.compile(r"Address|Residence|PostalCode|LocationID|PatientLocation")),
    ("telephone", re.compile(r"Telephone|Telecom|Phone|FaxNumber|Email")),
    ("serial number", re.compile(r"SerialNumber|DeviceUID$|DeviceID$|PlateID|CassetteID|UDI")),
    ("institution", re.compile(r"Institution|Department|Organization|StationName|AETitle|Issuer")),
    ("name", re.compile(r"(?:Physician|Operator|Patient|Person|Mother|Responsible)\w*Name")),
    (
        "identifier",
        re.compile(
            r"PatientID|OtherPatientIDs|AccessionNumber|StudyID|AdmissionID|VisitID|Insurance"
            r"|OrderNumber|RequestedProcedureID|ProcedureStepID|MilitaryRank|MedicalRecordLocator"
            r"|ServiceEpisodeID|TrialSubject|ClinicalTrial\w*ID|LocalNamespace|EntityID|FillerOrder"
            r"|SpecimenIdentifier|ContainerIdentifier|PersonIdent|ContactDisplayName"
        ),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identifiers:
    """What a data set held that must not be in a file made of it.

    Args:
      tokens: ``(kind, text)``, without repeats.
      encodings: The input's own character sets, by their Python names.
    """

    tokens: tuple[tuple[str, str], ...] = field(repr=False)
    encodings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


def identifiers(original: Dataset, *, key: bytes | None = None) -> Identifiers:
    """Return every identifier in ``original``, to be looked for in what is made of it.

    Args:
      original: As read, before any change. It is not changed.
      key: The site's key. With it, pseudonyms and UIDs that the site made
        itself are recognised and left out: a file de-identified twice keeps
        them. Without it nothing is left out.

    Returns:
      Names in their parts, ids, dates, UIDs, serial numbers, addresses,
      telephone numbers, institutions, and free text of three words or more,
      as a whole and in every three words that follow each other.

    Guarantees:
      - Texts that the standard or the profile spell out (a maker, a view, a
        code's meaning) are not identifiers unless the attribute is somebody's
        name, id or address.
      - Dates are left out only where :func:`dates.are_shifted` says that they are
        no longer the patient's.
      - No word of the input is shown by ``repr``.
    """
    collector = _Collector(_own(key, original))
    collector.preamble(getattr(original, "preamble", None) or b"")
    meta = getattr(original, "file_meta", None)
    encodings = _encodings(original)
    for part in (meta, original):
        if part is not None:
            collector.data_set(part, encodings)
    found = tuple(sorted(collector.found))
    return Identifiers(tokens=found, encodings=tuple(dict.fromkeys(encodings)))


class _Collector:
    """Gathers tokens from one file."""

    def __init__(self, own: Callable[[str], bool]) -> None:
        self.found: set[tuple[str, str]] = set()
        self._own = own

    def preamble(self, value: bytes) -> None:
        self._runs(value)

    def data_set(self, ds: Dataset, encodings: list[str], depth: int = 0) -> None:
        """Collect from every element of ``ds`` and of the items in it."""
        if "SpecificCharacterSet" in ds:
            encodings = _encodings(ds)
        for tag in ds.keys():  # noqa: SIM118 - a data set iterates over converted elements
            element = ds.get_item(tag)
            vr = _vr(element)
            if vr == "SQ" or isinstance(getattr(element, "value", None), list):
                self._items(ds, tag, encodings, depth)
            elif int(tag) in _PIXELS:
                self._frames(element.value)
            else:
                self._element(int(tag), vr, element, encodings)

    def _items(self, ds: Dataset, tag: Any, encodings: list[str], depth: int) -> None:
        value = ds[tag].value
        if depth > _MAX_DEPTH or ds[tag].VR != "SQ":
            self._element(int(tag), ds[tag].VR, ds[tag], encodings)
            return
        for item in value:
            self.data_set(item, encodings, depth + 1)

    def _element(self, tag: int, vr: str, element: Any, encodings: list[str]) -> None:
        value = element.value
        if value is None or tag in _TABLES:
            return
        if isinstance(value, bytes) and vr in _BINARY:
            self._runs(value[:_MAX_TEXT])
            return
        texts = [text[:_MAX_TEXT] for text in _texts(value, encodings)]
        if vr == "PN":
            for text in texts:
                self._name(text)
        elif vr in {"DA", "DT"}:
            for text in texts:
                self._date(text)
        elif vr == "UI":
            for text in texts:
                self._uid(text)
        elif vr in {"IS", "DS"} and tag not in COUNTS:
            self.found |= {("identifier", t) for t in texts if t.isdigit() and len(t) >= 8}
        elif vr in _TEXT:
            kind = _kind(tag)
            for text in texts:
                self._text(kind, text)

    def _name(self, text: str) -> None:
        self.found |= {
            ("name", part)
            for part in _NAME_PART.split(text)
            if _long_enough(part) and not self._own(part)
        }

    def _date(self, text: str) -> None:
        if _DATE.match(text) and text[:8] not in _NO_DATE and not self._own("dates"):
            self.found.add(("date", text[:8]))

    def _uid(self, text: str) -> None:
        if (
            not text.startswith(_STANDARD_UIDS)
            and len(text) >= 6
            and text.casefold() not in closed_terms.terms()
            and not self._own(text)
        ):
            self.found.add(("uid", text))

    def _text(self, kind: str, text: str) -> None:
        if self._own(text):
            return
        if kind:
            self.found |= {(kind, part) for part in _parts(text) if _long_enough(part)}
        if text.casefold() in closed_terms.terms():
            return
        if "^" in text:
            self._name(text)
        self._free_text(text)

    def _free_text(self, text: str) -> None:
        self.found |= {
            ("identifier", word)
            for word in _ID_WORD.findall(text)
            if sum(c.isdigit() for c in word) >= 6
            and not word.startswith(_STANDARD_UIDS)
            and not self._own(word)
        }
        words = list(_WORD.finditer(text))
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            three = f"{first[0]} {second[0]} {third[0]}"
            if sum(map(str.isalpha, three)) >= 6 and three.casefold() not in closed_terms.threes():
                # As it stood, and with what stood between the words made a blank.
                written = text[first.start() : third.end()]
                self.found |= {("free text", three), ("free text", written[:64])}

    def _runs(self, value: bytes) -> None:
        for run in _RUN.findall(value.replace(b"\0", b"") if value[1::2].count(0) else value):
            text = run.decode("latin-1")
            if "^" in text and text.count("^") * 12 <= len(text) * 2:
                self._name(text)
            self._free_text(text)

    def _frames(self, value: Any) -> None:
        if not isinstance(value, bytes) or value[:4] != b"\xfe\xff\x00\xe0":
            return
        for run in comments(value, frames=_MAX_FRAMES):
            self._runs(run)


def _own(key: bytes | None, original: Dataset) -> Callable[[str], bool]:
    if key is None:
        return lambda _: False
    shifted = dates.are_shifted(key, original)

    def own(text: str) -> bool:
        if text == "dates":
            return shifted
        return pseudonyms.is_own(key, text) or (
            text.startswith("2.25.") and pseudonyms.uid(key, text) == text
        )

    return own


def _encodings(ds: Dataset) -> list[str]:
    try:
        return list(convert_encodings(ds.get("SpecificCharacterSet") or "ISO_IR 6"))
    except Exception:  # noqa: BLE001 - an element that is no text raises whatever it likes
        return ["iso8859"]


def _vr(element: Any) -> str:
    vr = element.VR
    if vr is None or (vr == "UN" and not element.tag.is_private):
        try:
            return str(dictionary_VR(element.tag))
        except KeyError:
            return "UN"
    return str(vr)


def _texts(value: Any, encodings: list[str]) -> Iterator[str]:
    if isinstance(value, bytes):
        if value.isascii() and b"\x1b" not in value:
            text = value.decode("ascii")
        else:
            try:
                text = decode_bytes(value, encodings, {"\\", "^", "="})
            except (LookupError, ValueError):
                text = value.decode("latin-1")
        parts: Iterable[Any] = text.split("\\")
    elif isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        parts = value
    else:
        parts = (value,)
    for part in parts:
        if text := str(part).strip(" \0\r\n\t"):
            yield text


def _kind(tag: int) -> str:
    keyword = keyword_for_tag(tag)
    return next((kind for kind, pattern in _KINDS if pattern.search(keyword)), "")


def _parts(text: str) -> set[str]:
    return {text, *_NAME_PART.split(text), *_WORD.findall(text)}


def _long_enough(part: str) -> bool:
    if part.isdigit():
        return len(part) >= 4
    return len(part) >= (3 if part.isascii() else 2)


__all__ = ["Identifiers", "identifiers"]
