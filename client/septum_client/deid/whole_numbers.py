"""The large whole numbers in a file's attributes, whatever VR or spelling they have.

A record number is found in bytes as text; in an FD or UL it is no text. This
reads attributes of numbers as numbers, for a proof to compare.
"""

import struct
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from septum_client.deid.identifiers import COUNTS

_FORMATS: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"
}  # fmt: skip


def whole_numbers(ds: Dataset, *, least: int) -> Iterator[int]:
    """Yield the whole numbers, without sign, of all attributes at any depth but ``COUNTS``.

    Args:
      ds: As read from a little-endian file, without pixels.
      least: Smaller ones are left out.

    Raises:
      ValueError, OverflowError, struct.error: A value is no number.
    """
    for tag in ds.keys():  # noqa: SIM118 - a data set iterates over converted elements
        element = ds.get_item(tag)
        if element.VR == "SQ":
            for item in ds[tag].value:
                yield from whole_numbers(item, least=least)
        elif isinstance(raw := element.value, bytes) and int(tag) not in COUNTS:
            for value in _values(element.VR, raw):
                if abs(value) >= least and value == int(value):
                    yield abs(int(value))


def _values(vr: str | None, raw: bytes) -> Iterator[float]:
    if vr in {"IS", "DS"}:
        texts = raw.decode("latin-1").split("\\")
        yield from (float(text.strip(" \0")) for text in texts if text.strip(" \0"))
    elif vr in _FORMATS:
        yield from (value for (value,) in struct.iter_unpack(f"<{_FORMATS[vr]}", raw))
