"""The parts of compressed pixel data in which text can hide, apart from the image itself."""

import struct
from collections.abc import Iterator
from typing import Final

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# Segments that a decoder needs: tables and sizes. Their bytes look like text by nature
# (the usual Huffman table spells the alphabet), so they count as part of the image.
_OF_THE_IMAGE: Final = frozenset(
    {0xC4, 0xDB, 0xDD, 0x51, 0x52, 0x53, 0x5C, 0x5D, 0x5E, 0x5F, 0x50, 0x55, 0x57, 0x58, 0xF8}
    | set(range(0xC0, 0xD0))
)
_WITHOUT_LENGTH: Final = frozenset({0x01, 0x4F, 0xD8, *range(0xD0, 0xD8), *range(0x30, 0x40)})
_STARTS: Final = (b"\xff\xd8", b"\xff\x4f")
_ENDS: Final = frozenset({0xDA, 0x93, 0xD9})


def items(value: bytes, start: int = 0) -> tuple[list[bytes], int]:
    """Return the items of encapsulated pixel data and where they end (PS3.5 A.4).

    The first is the basic offset table. The end is -1 when the value is not a
    whole run of items and its delimiter.
    """
    found: list[bytes] = []
    at = start
    while value[at : at + 4] == _ITEM and at + 8 <= len(value):
        (length,) = struct.unpack_from("<I", value, at + 4)
        if at + 8 + length > len(value):
            return found, -1
        found.append(value[at + 8 : at + 8 + length])
        at += 8 + length
    return found, (at + 8 if value[at : at + 8] == _END + b"\0\0\0\0" else -1)


def comments(value: bytes, *, frames: int | None = None) -> Iterator[bytes]:
    """Yield what encapsulated pixel data says beside the image: offset table and segments."""
    found, _ = items(value)
    if found:
        yield found[0]
    for fragment in found[1 : None if frames is None else frames + 1]:
        yield from said_beside_image(fragment)


def said_beside_image(frame: bytes) -> Iterator[bytes]:
    """Yield the segments of a JPEG, JPEG-LS or JPEG 2000 header that are no part of the image.

    Guarantees:
      - A frame of another kind yields nothing; a header that cannot be
        followed is yielded from there to the start of the scan, at most 64 KiB.
    """
    if frame[:2] not in _STARTS:
        return
    at = 2
    while at + 4 <= len(frame):
        marker = frame[at + 1]
        if frame[at] != 0xFF:
            yield frame[at : at + 65_536]
            return
        if marker in _ENDS:
            break
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if marker not in _OF_THE_IMAGE and marker != 0x90:
            yield frame[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
    if (end := frame.rfind(b"\xff\xd9")) >= 0:
        yield frame[end + 2 :]
