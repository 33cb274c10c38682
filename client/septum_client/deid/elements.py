"""Elements as values, and values as the bytes of Explicit VR Little Endian (DICOM PS3.5 6, 7).

Reading takes an element as the parser left it, without converting what is not
asked for. Writing gives bytes alone, so an output holds nothing but them.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

from septum_client.deid.grammar import Value, decimal_string
from septum_client.deid.profile import Carried

_FORMATS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LIMITS: Final = {
    "US": (0, 2**16 - 1),
    "SS": (-(2**15), 2**15 - 1),
    "UL": (0, 2**32 - 1),
    "SL": (-(2**31), 2**31 - 1),
}
_LONG: Final = frozenset({"OB", "OW", "SQ", "UN"})  # with a length of four bytes
_FLOAT32_DIGITS: Final = 6  # as many decimal digits as every float32 gives back

ITEM: Final = b"\xfe\xff\x00\xe0"


def vr_of(element: DataElement | RawDataElement, row: Carried, *, signed: bool) -> str | None:
    """Return the VR in force, or None where the file's is not the attribute's.

    Args:
      element: The element.
      row: What the profile knows of its attribute.
      signed: Whether Pixel Representation is 1: it decides between US and SS
        where a file does not say (PS3.5 Annex A.1).
    """
    said = None if element.VR is None else str(element.VR)
    if said in row.vrs:
        return said
    if said is not None and said != "UN" and " or " not in said:
        return None
    if row.vrs == ("US", "SS"):
        return "SS" if signed else "US"
    return row.vrs[-1]


def values(element: DataElement | RawDataElement, vr: str) -> list[Value] | None:
    """Return an element's values: text stripped of padding, numbers as numbers.

    Returns:
      An empty list for an empty element; None for bytes that are no such values.
    """
    raw = element.value
    if not isinstance(element, RawDataElement):
        return _listed(raw, vr)
    if not raw:
        return []
    if vr in _FORMATS or vr == "AT":
        return _unpacked(raw, vr, little=element.is_little_endian or element.VR == "UN")
    return _texts(raw.decode("latin-1"))


def encoded(vr: str, found: Sequence[Value], row: Carried) -> bytes | None:
    """Return values as the bytes of an element's value field, padded to an even length.

    Returns:
      None where a value does not fit its VR.
    """
    if vr in _FORMATS:
        limits = _LIMITS.get(vr)
        if limits and not all(limits[0] <= value <= limits[1] for value in found):  # type: ignore[operator]  # numbers only
            return None
        if vr == "FL":
            digits = min(row.digits, _FLOAT32_DIGITS)
            found = [float(f"{value:.{digits}g}") for value in found]
        return struct.pack(f"<{len(found)}{_FORMATS[vr]}", *found)
    if vr == "AT":
        halves = [half for tag in found for half in (int(tag) >> 16, int(tag) & 0xFFFF)]
        return struct.pack(f"<{len(halves)}H", *halves)
    if vr == "DS":
        text = "\\".join(decimal_string(float(value), row.digits) for value in found)
    else:
        text = "\\".join(map(str, found))
    return padded(text, b"\0" if vr == "UI" else b" ")


def padded(text: str, padding: bytes = b" ") -> bytes:
    """Return ASCII text of an even length (PS3.5 6.2)."""
    content = text.encode("ascii")
    return content + padding if len(content) % 2 else content


def element(tag: int, vr: str, content: bytes) -> bytes:
    """Return a whole element: tag, VR, length, value (PS3.5 7.1.2)."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG:
        return head + struct.pack("<HI", 0, len(content)) + content
    return head + struct.pack("<H", len(content)) + content


def sequence(items: Iterable[bytes]) -> bytes:
    """Return the value of a sequence of encoded items, with lengths (PS3.5 7.5)."""
    return b"".join(ITEM + struct.pack("<I", len(item)) + item for item in items)


def raw(tag: int, vr: str, content: bytes, *, encapsulated: bool = False) -> RawDataElement:
    """Return an element that pydicom writes as it is, and reads on demand."""
    length = 0xFFFFFFFF if encapsulated else len(content)
    return RawDataElement(BaseTag(tag), vr, length, content, 0, False, True)


def fits(vr: str, content: bytes) -> bool:
    """Return whether a value can be written with a length of two bytes, where it must be."""
    return vr in _LONG or len(content) <= 0xFFFE


def _unpacked(content: bytes, vr: str, *, little: bool) -> list[Value] | None:
    order = "<" if little else ">"
    size = 2 if vr == "AT" else struct.calcsize(_FORMATS[vr])
    if len(content) % size or (vr == "AT" and len(content) % 4):
        return None
    numbers = struct.unpack(f"{order}{len(content) // size}{_FORMATS.get(vr, 'H')}", content)
    if vr == "AT":
        return [high << 16 | low for high, low in zip(numbers[::2], numbers[1::2], strict=True)]
    return list(numbers)


def _texts(text: str) -> list[Value]:
    plain = text.strip(" \0\t\r\n")
    return [part.strip(" \0") for part in plain.split("\\")] if plain else []


def _listed(value: object, vr: str) -> list[Value] | None:
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        return _texts(value.decode("latin-1")) if vr not in _FORMATS else None
    several = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if vr in _FORMATS or vr == "AT":
        numbers: list[Value] = [part + 0 for part in several if isinstance(part, int | float)]
        return numbers if len(numbers) == len(several) else None
    return _texts("\\".join(str(part) for part in several))
