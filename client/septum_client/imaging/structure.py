"""Data elements from bytes, in bounded depth, number and memory (DICOM PS3.5 clause 7).

pydicom's reader recurses as deep as a file tells it to and allocates as many
items as the file names. This one walks the same structure, decides what is a
sequence before pydicom can, and hands over elements whose values pydicom
converts when they are asked for: no value is parsed twice, and nothing that
is left to convert contains a sequence.
"""

import re
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from septum.errors import Quarantine
from septum_client.imaging.limits import Limits
from septum_client.reject import Rejected

Elements = dict[BaseTag, Any]

_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_DATA: Final = 0x7FE00010
_CHARACTER_SET: Final = 0x00080005
_UNDEFINED: Final = 0xFFFFFFFF
_VRS: Final = {vr.value.encode(): vr.value for vr in VR if len(vr.value) == 2}
_LONG: Final = frozenset(vr.value for vr in EXPLICIT_VR_LENGTH_32)
_DEFAULT_ENCODING: Final = "iso8859"


def starts_explicit(data: bytes, at: int) -> bool:
    """Return whether the element at ``at`` names a VR (DICOM PS3.5 7.1.2)."""
    return data[at + 4 : at + 6] in _VRS


@dataclass(kw_only=True, slots=True)
class _Scope:
    """One data set being read: the top level, or an item at some depth."""

    found: Elements = field(default_factory=dict)
    end: int
    depth: int
    implicit: bool
    delimited: bool = False
    encodings: str | list[str]


class Reader:
    """One walk over one data set.

    Args:
      data: The bytes, whole.
      little: Whether numbers are little endian.
      limits: The bounds; ``elements`` and ``depth`` are used here.
    """

    def __init__(self, data: bytes, *, little: bool, limits: Limits) -> None:
        order = "<" if little else ">"
        self._data = data
        self._little = little
        self._explicit = Struct(f"{order}HH2sH").unpack_from
        self._implicit = Struct(f"{order}HHL").unpack_from
        self._long = Struct(f"{order}L").unpack_from
        self._left = limits.elements
        self._depth = limits.depth
        self._top = _Scope(end=len(data), depth=0, implicit=False, encodings=_DEFAULT_ENCODING)

    @property
    def found(self) -> Elements:
        """The top level elements read so far, also after a refusal."""
        return self._top.found

    @property
    def encodings(self) -> str | list[str]:
        """The character set of the top level, as far as it was read."""
        return self._top.encodings

    def read(self, at: int, *, group: int | None = None) -> int:
        """Read a top level into :attr:`found`, to the end or while tags are of ``group``.

        Returns:
          Where it stopped.

        Raises:
          Rejected: With NOT_DICOM, TRUNCATED, TOO_LARGE, or NO_PATIENT for an
            unknown character set: one patient could be read as two.
        """
        # Writers mistake one VR encoding for the other; the first element tells (PS3.5 7.1.2).
        self._top.implicit = not starts_explicit(self._data, at)
        return self._elements(at, self._top, group)

    def _elements(self, at: int, scope: _Scope, group: int | None = None) -> int:
        top, found = scope.depth == 0, scope.found
        while at < scope.end:
            if scope.end - at < 8:
                if top and (_PIXEL_DATA in found or not any(self._data[at:])):
                    return scope.end
                raise Rejected(Quarantine.TRUNCATED)
            start = at
            tag, vr, length, at = self._header(at, scope)
            if group is not None and tag >> 16 != group:
                return start
            beyond = tag >> 16 == 0xFFFE or at + length > scope.end
            if top and (tag == 0 or (beyond and _PIXEL_DATA in found)):
                return start  # what fills a medium's block, after the image
            if tag >> 16 == 0xFFFE:
                if scope.delimited and tag == _ITEM_END:
                    return at
                if top or scope.delimited or tag == _ITEM:
                    raise Rejected(Quarantine.NOT_DICOM)
                continue  # a delimiter that a defined length makes superfluous
            self._count()
            element, at = self._element(tag, vr, length, at, scope)
            if tag == _CHARACTER_SET:
                scope.encodings = _encodings(element.value)
            found[element.tag] = element
        if scope.delimited:
            raise Rejected(Quarantine.TRUNCATED)
        return at

    def _header(self, at: int, scope: _Scope) -> tuple[int, str | None, int, int]:
        """Return tag, VR if one is named, length, and where the value starts (PS3.5 7.1)."""
        group, number, code, length = self._explicit(self._data, at)
        tag = group << 16 | number
        # Some writers switch to implicit VR for single elements.
        if scope.implicit or group == 0xFFFE or not (code.isalpha() and code.isupper()):
            return tag, None, self._implicit(self._data, at)[2], at + 8
        vr = _VRS.get(code)
        if vr not in _LONG:
            return tag, vr or "UN", length, at + 8
        if scope.end - at < 12:
            raise Rejected(Quarantine.TRUNCATED)
        return tag, vr, self._long(self._data, at + 8)[0], at + 12

    def _element(
        self, tag: int, vr: str | None, length: int, at: int, scope: _Scope
    ) -> tuple[Any, int]:
        """Return one element, and where its value ends."""
        if vr is None or vr == "UN":
            vr = _vr(scope.found, tag)
        end = after = at + length
        if length == _UNDEFINED:
            # UN of undefined length is a sequence (DICOM PS3.5 6.2.2, Note 7).
            if vr in {"SQ", "UN"}:
                return self._sequence(tag, at, scope, end=None)
            end, after = self._fragments(at, scope.end)
        elif end > scope.end:
            beyond = end > len(self._data)
            raise Rejected(Quarantine.TRUNCATED if beyond else Quarantine.NOT_DICOM)
        elif vr == "SQ" and (not tag >> 16 & 1 or self._is_item(at, end)):
            return self._sequence(tag, at, scope, end=end)
        value = self._data[at:end]
        if vr in {"UN", "SQ"}:
            # Not raw: pydicom would look the VR up again, and might find a sequence in it.
            return DataElement(BaseTag(tag), "UN", value, at, already_converted=True), after
        kept = value or empty_value_for_VR(vr, raw=True)
        raw = RawDataElement(BaseTag(tag), vr, length, kept, at, scope.implicit, self._little)
        return raw, after

    def _sequence(
        self, tag: int, at: int, scope: _Scope, *, end: int | None
    ) -> tuple[DataElement, int]:
        """Return a sequence, read up to ``end`` or to its delimiter (DICOM PS3.5 7.5)."""
        if scope.depth >= self._depth:
            raise Rejected(Quarantine.NOT_DICOM)
        start, items = at, Sequence()
        items.is_undefined_length = end is None
        stop = scope.end if end is None else end
        while at < stop:
            item, length = self._item(at, stop)
            at += 8
            if item == _SEQUENCE_END and end is None:
                break
            if item == _ITEM:
                self._count()
                at = self._append(items, at, stop, length, scope)
            elif item != _SEQUENCE_END:
                raise Rejected(Quarantine.NOT_DICOM)
        else:
            if end is None:
                raise Rejected(Quarantine.TRUNCATED)
        return DataElement(
            BaseTag(tag), "SQ", items, start, end is None, already_converted=True
        ), at

    def _append(self, items: Sequence, at: int, stop: int, length: int, outer: _Scope) -> int:
        delimited = length == _UNDEFINED
        if not delimited and at + length > stop:
            raise Rejected(Quarantine.TRUNCATED)
        scope = _Scope(
            end=stop if delimited else at + length,
            depth=outer.depth + 1,
            # Items may be implicit inside explicit, never the reverse (PS3.5 6.2.2, Note 4).
            implicit=outer.implicit or not starts_explicit(self._data, at),
            delimited=delimited,
            encodings=outer.encodings,
        )
        at = self._elements(at, scope)
        item = Dataset(scope.found, parent_encoding=outer.encodings)
        item.set_original_encoding(scope.implicit, self._little, scope.encodings)
        item.is_undefined_length_sequence_item = delimited
        items.append(item)
        return at

    def _fragments(self, at: int, end: int) -> tuple[int, int]:
        """Return where a value of fragments ends, and where its delimiter does (PS3.5 A.4)."""
        while True:
            tag, length = self._item(at, end)
            if tag == _SEQUENCE_END:
                return at, at + 8
            if tag != _ITEM or length == _UNDEFINED:
                raise Rejected(Quarantine.NOT_DICOM)
            self._count()
            at += 8 + length

    def _item(self, at: int, end: int) -> tuple[int, int]:
        if end - at < 8:
            raise Rejected(Quarantine.TRUNCATED)
        group, element, length = self._implicit(self._data, at)
        return group << 16 | element, length

    def _is_item(self, at: int, end: int) -> bool:
        return at == end or (end - at >= 8 and self._item(at, end)[0] == _ITEM)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Rejected(Quarantine.TOO_LARGE)


def _vr(found: Elements, tag: int) -> str:
    """Return the dictionary's VR, "UN" where it has none (private creators: PS3.5 7.8.1)."""
    try:
        if not tag >> 16 & 1:
            return str(dictionary_VR(tag)) if tag & 0xFFFF else "UL"
        block = tag >> 8 & 0xFF
        if block == 0:
            return "LO" if tag & 0xFFFF >= 0x10 else "UN"
        creator = found[BaseTag(tag & 0xFFFF0000 | block)].value
        name = creator.decode("latin-1") if isinstance(creator, bytes) else str(creator)
        return str(private_dictionary_VR(tag, name.strip(" \0")))
    except KeyError:
        return "UN"


def _encodings(value: bytes | None) -> list[str]:
    """Return Python's names for a Specific Character Set (DICOM PS3.3 C.12.1.1.2)."""
    terms = (value or b"").decode("ascii", "replace").split("\\")
    terms = [re.sub(r"^ISO[^_]IR", "ISO_IR", term.strip(" \0")) for term in terms]
    terms = [re.sub(r"^ISO.2022.IR.", "ISO 2022 IR ", term) for term in terms]
    if any(term not in python_encoding for term in terms):
        raise Rejected(Quarantine.NO_PATIENT)
    names: list[str] = convert_encodings(terms)
    return names
