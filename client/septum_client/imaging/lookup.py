"""Lookup tables of the standard: palettes and modality tables, expanded within their size."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.imaging.layout import Layout
from septum_client.reject import Rejected

Table = NDArray[np.uint16]
_COLOURS: Final = ("Red", "Green", "Blue")
_ENTRIES: Final = 65536


def palette(ds: Any, indices: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Return red, green and blue of each index (DICOM PS3.3 C.7.9, C.7.6.3.1.5 and .6).

    Returns:
      ``(rows, columns, 3)``, uint8 or uint16 as the tables' entries are.

    Raises:
      Rejected: With CANNOT_DECODE for a table that does not fit its descriptor.
    """
    planes = []
    widths = set()
    for colour in _COLOURS:
        entries, first, bits = _descriptor(
            ds.get(f"{colour}PaletteColorLookupTableDescriptor"), signed=layout.signed
        )
        segments = ds.get(f"Segmented{colour}PaletteColorLookupTableData")
        if segments:
            table = _expanded(_words(segments, bits), entries)
        else:
            table = _entries(ds.get(f"{colour}PaletteColorLookupTableData"), entries, bits)
        widths.add(bits)
        planes.append(_looked_up(table, indices, first))
    if len(widths) != 1:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return np.stack(planes, axis=-1).astype(np.uint8 if widths == {8} else np.uint16)


def modality(item: Any, stored: NDArray[Any], *, signed: bool) -> NDArray[np.float32]:
    """Return the modality values of stored values (Modality LUT, DICOM PS3.3 C.11.1).

    Args:
      item: The item of Modality LUT Sequence.
      stored: Stored values; below the first and above the last entry's, the
        first and the last entry apply (C.11.1.1.1).
      signed: Whether the first stored value mapped is signed (SS).

    Raises:
      Rejected: With CANNOT_DECODE.
    """
    entries, first, bits = _descriptor(item.get("LUTDescriptor"), signed=signed)
    table = _entries(item.get("LUTData"), entries, bits)
    return _looked_up(table, stored, first).astype(np.float32)


def _descriptor(value: Any, *, signed: bool) -> tuple[int, int, int]:
    try:
        entries, first, bits = (int(number) for number in value)
    except (TypeError, ValueError):
        raise Rejected(Quarantine.CANNOT_DECODE) from None
    # Read as SS, more than 32767 entries arrive negative; read as US, a negative first value
    # arrives above 32767. Zero entries mean 65536.
    entries = entries & 0xFFFF or _ENTRIES
    first = (first + 0x8000 & 0xFFFF) - 0x8000 if signed else first & 0xFFFF
    if not 1 <= bits <= 16:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return entries, first, 8 if bits <= 8 else 16


def _entries(value: Any, entries: int, bits: int) -> Table:
    """Return a table's entries; 8-bit entries come one to a byte, or one to a word."""
    if not isinstance(value, bytes):
        words = np.asarray([] if value is None else value).reshape(-1)
        if words.dtype.kind not in "iu" or len(words) != entries:
            raise Rejected(Quarantine.CANNOT_DECODE)
        return (words & 0xFFFF).astype(np.uint16)
    if bits == 8 and len(value) < 2 * entries:
        table = np.frombuffer(value, np.uint8)[:entries].astype(np.uint16)
    else:
        table = np.frombuffer(value[: len(value) & ~1], "<u2")[:entries].astype(np.uint16)
    if len(table) != entries:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return table


def _words(value: Any, bits: int) -> list[int]:
    """Return segments as numbers: bytes where entries have 8 bits, words otherwise."""
    if not isinstance(value, bytes):
        raise Rejected(Quarantine.CANNOT_DECODE)
    dtype = "<u2" if bits == 16 else "u1"
    words = np.frombuffer(value[: len(value) // (bits // 8) * (bits // 8)], dtype)
    return [int(word) for word in words]


def _expanded(words: list[int], entries: int) -> Table:
    """Return a segmented table's entries (DICOM PS3.3 C.7.9.2), never more than ``entries``.

    Indirect segments, which repeat earlier ones, are refused: nobody is known
    to write them, and they can multiply.
    """
    table: list[int] = []
    at = 0
    while len(table) < entries and at + 2 < len(words):
        kind, length = words[at : at + 2]
        size = length if kind == 0 else 1
        values = words[at + 2 : at + 2 + size]
        if kind > 1 or len(values) != size or (kind == 1 and not table):
            raise Rejected(Quarantine.CANNOT_DECODE)
        if kind == 1:
            line = np.linspace(table[-1], values[0], length + 1)[1:]
            values = np.rint(line).astype(int).tolist()
        table += values
        at += 2 + size
    if len(table) != entries:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return np.asarray(table, np.uint16)


def _looked_up(table: Table, stored: NDArray[Any], first: int) -> Table:
    return table[np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)]
