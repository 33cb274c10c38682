"""One data set or sequence item read through a table of the profile."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from septum.errors import Quarantine
from septum_client import pseudonyms
from septum_client.deid import dates, elements, method, tables
from septum_client.deid.annex_e import Option
from septum_client.deid.grammar import MEANINGS, STANDARD_UIDS, Value
from septum_client.deid.profile import IMAGE, SECTIONS, Carried, Section
from septum_client.demographics import AGE_BANDS, age_band_index
from septum_client.reject import Rejected

Pair = tuple[str, bytes]
"""A VR and the bytes of a value."""

_DEEPEST: Final = 8
_AGE_OF_BAND: Final[Mapping[str, str]] = {
    "0-17": "010Y",
    "18-39": "030Y",
    "40-59": "050Y",
    "60-79": "070Y",
    "80+": "090Y",
}
_REQUIRED: Final = tuple(row for row in IMAGE.values() if row.needed or row.empty)
_PHOTOMETRIC: Final = 0x00280004
_IMAGE_TYPE: Final = 0x00080008
_LUT_DATA: Final = 0x00283006
_SOP_CLASS: Final = 0x00080016
# DX, MG and intra-oral: value 3 of Image Type is enumerated, and may be empty (C.8.11.3.1.1).
_ENUMERATED_TYPE: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.1.{leaf}".encode() for leaf in ("1", "1.1", "2", "2.1", "3", "3.1")
)
_PALETTES: Final = frozenset(
    row.tag for row in IMAGE.values() if "PaletteColorLookupTable" in row.keyword
)


class Reader:
    """Reads one file by the profile: holds its key, options and memory, and no value of its own.

    Args:
      key: The site's key.
      patient_id: Patient ID of the original.
      options: Options in force.
      signed: Whether Pixel Representation is 1.
      strict: Whether attributes with a dummy need a value (type 1).
    """

    def __init__(
        self,
        *,
        key: bytes,
        patient_id: str,
        options: Collection[Option],
        signed: bool,
        strict: bool,
    ) -> None:
        self._key = key
        self._options = options
        self._signed = signed
        self._strict = strict
        self._shift = dates.shift(key, patient_id)
        self._uids: dict[str, str] = {}
        # Frames repeat each other: an element that was read once is not read again.
        self._seen: dict[tuple[object, ...], Pair | None] = {}
        self._rules: Mapping[str, Callable[[Dataset, Carried, list[Value]], list[Value] | None]] = {
            "uid": self._uid,
            "date": self._date,
            "time": self._time,
            "datetime": self._datetime,
            "age": _age,
            "text": _text,
            "none": _none,
        }

    def section(self, original: Dataset, rows: Section, *, depth: int = 0) -> dict[int, Pair]:
        """Return what ``rows`` carry of ``original``, by tag.

        Raises:
          Rejected: NOT_DICOM, for sequences nested without end.
        """
        if depth > _DEEPEST:
            raise Rejected(Quarantine.NOT_DICOM)
        found: dict[int, Pair] = {}
        present = [int(tag) for tag in original.keys()]  # noqa: SIM118 - iterating would convert
        for tag in present:
            row = rows.get(tag)
            pair = None if row is None else self._pair(original, row, depth)
            if pair is not None:
                found[tag] = pair
        return found

    def image(self, original: Dataset) -> dict[int, Pair]:
        """Return what the top level carries, with the empty attributes that an image must have.

        Guarantees:
          - Palettes are carried with PALETTE COLOR alone: nothing else reads them.
          - The dates of a file that this key has already shifted stay.

        Raises:
          Rejected: An attribute that the image cannot live without does not
            pass; NOT_DICOM, for sequences nested without end.
        """
        if dates.are_shifted(self._key, original):
            self._shift = dates.STAY
        found = self.section(original, IMAGE)
        for row in _REQUIRED:
            if row.needed and not found.get(row.tag, ("", b""))[1]:
                raise Rejected(row.needed)
            found.setdefault(row.tag, (row.vrs[0], b""))
        if found[_SOP_CLASS][1].strip(b"\0") in _ENUMERATED_TYPE and _IMAGE_TYPE in found:
            vr, said = found[_IMAGE_TYPE]
            first = said.decode().rstrip().split("\\")
            kept = [*first[:2], *("" if value == "OTHER" else value for value in first[2:])]
            found[_IMAGE_TYPE] = vr, elements.padded("\\".join(kept))
        if found[_PHOTOMETRIC][1].strip() != b"PALETTE COLOR":
            found = {tag: pair for tag, pair in found.items() if tag not in _PALETTES}
        return found

    def _pair(self, original: Dataset, row: Carried, depth: int) -> Pair | None:
        element = element_of(original, row.base_tag)
        if element is None:
            return None
        if row.vrs == ("SQ",):
            pair = self._sequence(original, element, row, depth)
        elif row.rule == "table":
            entries = _entries(original, row.keyword)
            pair = tables.words(element, row, entries=entries, signed=self._signed)
        else:
            pair = self._simple(original, element, row)
        if pair is not None and elements.fits(*pair):
            return pair
        if row.whole is not None:
            raise Rejected(row.whole)
        if row.dummy is not None and self._strict:
            return row.vrs[0], elements.padded(row.dummy)
        if row.empty_if_present or row.empty:
            return row.vrs[0], b""
        return None

    def _simple(
        self, original: Dataset, element: DataElement | RawDataElement, row: Carried
    ) -> Pair | None:
        if row.option is not None and row.option not in self._options:
            return None
        if row.rule == "date" or not isinstance(element, RawDataElement):
            return self._read(original, element, row)
        seen = (id(row), element.VR, element.value, element.is_little_endian)
        if seen not in self._seen:
            self._seen[seen] = self._read(original, element, row)
        return self._seen[seen]

    def _read(
        self, original: Dataset, element: DataElement | RawDataElement, row: Carried
    ) -> Pair | None:
        vr = elements.vr_of(element, row, signed=self._signed)
        found = elements.values(element, vr) if vr else None
        if vr is None or found is None or len(found) > row.most_values:
            return None
        if not found:
            return None if row.rule in {"none", "text"} or row.dummy is not None else (vr, b"")
        kept = row.check(found) if row.check else self._rules[row.rule](original, row, found)
        content = elements.encoded(vr, kept, row) if kept else None
        return None if content is None else (vr, content)

    def _uid(self, _: Dataset, __: Carried, found: list[Value]) -> list[Value] | None:
        return [self._mapped(str(value)) for value in found if value] or None

    def _mapped(self, text: str) -> str:
        if text in STANDARD_UIDS:
            return text
        if text not in self._uids:
            self._uids[text] = pseudonyms.uid(self._key, text)
        return self._uids[text]

    def _date(self, original: Dataset, row: Carried, found: list[Value]) -> list[Value] | None:
        keyword = dates.TIME_OF_DATE.get(row.keyword, "")
        time = value_of(original, keyword) if keyword else None
        moved = self._shift.date(str(found[0]), time.strip() if isinstance(time, str) else "")
        return None if moved is None else [moved]

    def _time(self, _: Dataset, __: Carried, found: list[Value]) -> list[Value] | None:
        moved = self._shift.time(str(found[0]))
        return None if moved is None else [moved]

    def _datetime(self, _: Dataset, __: Carried, found: list[Value]) -> list[Value] | None:
        moved = self._shift.datetime(str(found[0]))
        return None if moved is None else [moved]

    def _sequence(
        self, original: Dataset, element: DataElement | RawDataElement, row: Carried, depth: int
    ) -> Pair | None:
        if row.rule == "none" or elements.vr_of(element, row, signed=False) is None:
            return None
        if not isinstance(element, RawDataElement):
            return self._items(original, row, depth)
        seen = (id(row), element.VR, element.value, element.is_little_endian)
        if seen not in self._seen:
            self._seen[seen] = self._items(original, row, depth)
        return self._seen[seen]

    def _items(self, original: Dataset, row: Carried, depth: int) -> Pair | None:
        items = value_of(original, row.keyword)
        if not isinstance(items, Sequence):
            return None
        if not items:
            return "SQ", b""
        if row.rule == "code":
            coded = [code for item in items if (code := self._code(item, depth)) is not None]
            return ("SQ", elements.sequence(coded)) if coded else None
        rows = SECTIONS[row.arguments[0]]
        return "SQ", elements.sequence(self._item(item, rows, depth) for item in items)

    def _item(self, item: Dataset, rows: Section, depth: int) -> bytes:
        found = self.section(item, rows, depth=depth + 1)
        if rows is SECTIONS["modality_lut"]:
            found[_LUT_DATA] = "OW", tables.scale(found)
        return b"".join(elements.element(tag, *pair) for tag, pair in sorted(found.items()))

    def _code(self, item: Dataset, depth: int) -> bytes | None:
        value, scheme = value_of(item, "CodeValue"), value_of(item, "CodingSchemeDesignator")
        if not isinstance(value, str) or not isinstance(scheme, str):
            return None
        meaning = MEANINGS.get(scheme.strip(), {}).get(value.strip())
        if meaning is None:
            return None
        triplet = method.coded(value.strip(), scheme.strip(), meaning)
        return triplet + self._item(item, SECTIONS["code_modifiers"], depth)


def element_of(original: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """Return an element as the parser left it; None where there is none to be had."""
    try:
        return original.get_item(tag)
    except Exception:  # noqa: BLE001 - what was never read can be missing in many ways
        return None


def value_of(original: Dataset, keyword: str) -> Any:
    """Return a value as pydicom converts it; None where there is none, or it cannot."""
    try:
        return original.get(keyword)
    except Exception:  # noqa: BLE001 - bytes that are no such value raise whatever they like
        return None


def fixed(pseudonym: str) -> dict[int, Pair]:
    """Return the attributes that name the patient: by pseudonym alone."""
    name = elements.padded(pseudonym)
    return {0x00100010: ("PN", name), 0x00100020: ("LO", name)}


def _entries(original: Dataset, keyword: str) -> int:
    descriptor = value_of(original, keyword.removesuffix("Data") + "Descriptor")
    try:
        return int(descriptor[0]) % 2**16 or 2**16
    except (TypeError, ValueError, IndexError):
        return 0


def _age(_: Dataset, __: Carried, found: list[Value]) -> list[Value] | None:
    age = _AGE_OF_BAND.get(AGE_BANDS[age_band_index(str(found[0]))])
    return None if age is None else [age]


def _text(_: Dataset, row: Carried, __: list[Value]) -> list[Value]:
    return [" ".join(row.arguments)]


def _none(_: Dataset, __: Carried, ___: list[Value]) -> None:
    return None
