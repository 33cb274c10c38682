"""Encapsulated pixel data to frames (DICOM PS3.5 A.4), whatever its offset table claims."""

import re
from dataclasses import dataclass
from struct import unpack_from
from typing import Final

from septum.errors import Quarantine
from septum_client.reject import Rejected

_ITEM: Final = 0xE000FFFE
_END: Final = 0xE0DDFFFE
# How a frame begins: JPEG and JPEG-LS (SOI), JPEG 2000 (SOC and SIZ), JP2 (signature box).
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
# Nine characters of names, numbers and dates, or twelve of any text.
_TEXT: Final = re.compile(rb"(?:[0-9A-Za-z ^=.,:/_-]{9}|[ -~]{12})\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameHeader:
    """What a compressed frame says of itself, before anything is decoded.

    ``process`` is the frame marker's second byte (T.81 Table B.1); 0 for JPEG 2000.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    process: int = 0


def frames(pixel_data: bytes, count: int) -> list[bytes]:
    """Return the compressed frames of encapsulated Pixel Data.

    Args:
      pixel_data: The element's value: the offset table item, then fragments.
      count: Number of Frames.

    Returns:
      ``count`` frames. With as many fragments as frames, each fragment is a
      frame; otherwise the basic offset table decides, and where that is empty
      the beginnings of the compressed images do.

    Guarantees:
      - Each fragment belongs to exactly one frame, in order, and none is left
        out; the offset table can never point elsewhere.

    Raises:
      Rejected: With TRUNCATED for fewer fragments than frames, CANNOT_DECODE
        for items or offsets that do not fit.
    """
    items = _items(pixel_data)
    if count < 1 or not items:
        raise Rejected(Quarantine.CANNOT_DECODE)
    (table_at, table_end), fragments = items[0], items[1:]
    if len(fragments) < count:
        raise Rejected(Quarantine.TRUNCATED)
    if len(fragments) == count:
        firsts = list(range(count))
    elif count == 1:
        firsts = [0]
    elif table_end > table_at:
        firsts = _by_offsets(pixel_data[table_at:table_end], fragments)
    else:
        firsts = [k for k, (at, _) in enumerate(fragments) if _begins(pixel_data, at)]
    if len(firsts) != count or firsts[0] != 0:
        raise Rejected(Quarantine.CANNOT_DECODE)
    ends = [*firsts[1:], len(fragments)]
    return [
        b"".join(pixel_data[at:end] for at, end in fragments[first:last])
        for first, last in zip(firsts, ends, strict=True)
    ]


def _items(data: bytes) -> list[tuple[int, int]]:
    """Return where each item's value starts and ends; the delimiter may be missing."""
    items: list[tuple[int, int]] = []
    at = 0
    while len(data) - at >= 8:
        tag, length = unpack_from("<LL", data, at)
        if tag == _END:
            return items
        at += 8
        if tag != _ITEM or at + length > len(data):
            raise Rejected(Quarantine.CANNOT_DECODE)
        items.append((at, at + length))
        at += length
    if at != len(data):
        raise Rejected(Quarantine.CANNOT_DECODE)
    return items


def _by_offsets(table: bytes, fragments: list[tuple[int, int]]) -> list[int]:
    """Return the first fragment of each frame; offsets count from the first fragment's item."""
    if len(table) % 4:
        raise Rejected(Quarantine.CANNOT_DECODE)
    origin = fragments[0][0]
    places = {at - origin: k for k, (at, _) in enumerate(fragments)}
    firsts = [places.get(offset, -1) for offset in unpack_from(f"<{len(table) // 4}L", table)]
    if any(a >= b for a, b in zip([-1, *firsts], firsts, strict=False)):
        raise Rejected(Quarantine.CANNOT_DECODE)
    return firsts


def _begins(data: bytes, at: int) -> bool:
    return any(data.startswith(beginning, at) for beginning in _BEGINNINGS)


def ends_in_text(coded: bytes) -> bool:
    """Return whether entropy-coded bytes end as words do, rather than as an image does.

    Decoders stop when the image is complete and skip the rest, so text can hide
    there. Of random bytes, 17 in a million end so: that many images are refused
    for nothing, and text shorter than nine characters is not seen.
    """
    return _TEXT.search(coded.rstrip(b"\0\r\n")[-12:]) is not None
