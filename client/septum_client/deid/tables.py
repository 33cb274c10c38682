"""Look-up tables hold grey levels alone: numbers of their descriptor, and for a scale in order.

The bytes of a table are as free as text. A modality table turns stored values
into those of a scale (DICOM PS3.3 C.11.1), so its entries only rise or only
fall; letters do not.
"""

import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement

from septum.errors import Quarantine
from septum_client.deid import elements
from septum_client.deid.profile import Carried
from septum_client.reject import Rejected

Pair = tuple[str, bytes]
"""A VR and the bytes of a value."""

_DESCRIPTOR: Final = 0x00283002
_DATA: Final = 0x00283006
_MOST_BITS: Final = 16
_MOST_ENTRIES: Final = 65536


def words(
    element: DataElement | RawDataElement, row: Carried, *, entries: int, signed: bool
) -> Pair | None:
    """Return a table's entries as little-endian words, cut behind the last.

    Args:
      element: The table's data.
      row: What the profile knows of its attribute; its argument is the most bytes.
      entries: As the descriptor says.
      signed: Whether Pixel Representation is 1.

    Returns:
      VR and value; None where there are no such entries.
    """
    vr = elements.vr_of(element, row, signed=signed)
    value = element.value
    if vr is None or not value:
        return None
    if not isinstance(value, bytes):
        listed = elements.values(element, "US")
        value = elements.encoded("US", listed, row) if listed else b""
    elif isinstance(element, RawDataElement) and not element.is_little_endian:
        value = b"".join(value[i : i + 2][::-1] for i in range(0, len(value), 2))
    if not value or len(value) % 2:
        return None
    content = value[: min(int(row.arguments[0]), 2 * entries)]
    return ("OW", content) if content else None


def scale(found: Mapping[int, Pair]) -> bytes:
    """Return the data of a modality table, with nothing behind its last entry.

    Args:
      found: What is carried of the item of Modality LUT Sequence, by tag.

    Guarantees:
      - There are as many entries as the descriptor says, each below two to
        the power of its bits, and they only rise or only fall.

    Raises:
      Rejected: CANNOT_DECODE. Without its table the image has other values.
    """
    descriptor, data = (found.get(tag, ("", b""))[1] for tag in (_DESCRIPTOR, _DATA))
    if len(descriptor) != struct.calcsize("<3H"):
        raise Rejected(Quarantine.CANNOT_DECODE)
    entries, _, bits = struct.unpack("<3H", descriptor)
    entries = entries or _MOST_ENTRIES
    # Entries of 8 bits come one to a byte, or one to a word (C.11.1.1.1).
    dtype = "u1" if bits <= 8 and len(data) < 2 * entries else "<u2"
    table = np.frombuffer(data, dtype)[:entries]
    steps = np.diff(table.astype(np.int64))
    if (
        len(table) != entries
        or not 1 <= bits <= _MOST_BITS
        or int(table.max()) >= 1 << bits
        or (steps.min(initial=0) < 0 < steps.max(initial=0))
    ):
        raise Rejected(Quarantine.CANNOT_DECODE)
    content = table.tobytes()
    return content + b"\0" * (len(content) % 2)
