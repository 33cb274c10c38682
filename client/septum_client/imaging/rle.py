"""RLE frames (DICOM PS3.5 Annex G), cut to exactly the runs and bits that the image needs."""

from collections.abc import Sequence
from struct import error, pack, unpack_from
from typing import Final

from septum.errors import Quarantine
from septum_client.reject import Rejected

_HEADER_BYTES: Final = 64
_SEGMENTS: Final = 15


def clean(
    frame: bytes, *, pixels: int | None = None, stored: Sequence[bytes] | None = None
) -> bytes:
    """Return the same image in segments that follow one another and hold nothing else.

    Args:
      frame: One RLE frame.
      pixels: Rows times columns; each segment decodes to one byte for each.
        Without it, the shortest segment's length is taken: bytes behind the
        image in a frame of a single segment then stay.
      stored: For each segment, what each of the 256 bytes becomes; None leaves
        them as they are.

    Guarantees:
      - Segments decode to the same bytes, or what ``stored`` makes of them, up
        to ``pixels``; gaps between
        segments, idle runs and what follows the last one are gone, unused
        offsets are zero.

    Raises:
      Rejected: With CANNOT_DECODE for offsets out of order, no or more than
        15 segments, another number than ``stored`` tells, or segments that
        decode to fewer bytes.
    """
    starts = _starts(frame)
    places = list(zip(starts, [*starts[1:], len(frame)], strict=True))
    if stored is not None and len(stored) != len(places):
        raise Rejected(Quarantine.CANNOT_DECODE)
    if pixels is None:
        pixels = min(_cut(frame, start, end, len(frame) * 128)[1] for start, end in places)
    segments = []
    for index, (start, end) in enumerate(places):
        segment, decoded = _cut(frame, start, end, pixels)
        if not 0 < pixels == decoded:
            raise Rejected(Quarantine.CANNOT_DECODE)
        if stored is not None:
            segment = _mapped(segment, stored[index])
        segments.append(segment + b"\x00" * (len(segment) % 2))
    offsets, at = [], _HEADER_BYTES
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    unused = [0] * (_SEGMENTS - len(offsets))
    return b"".join([pack("<16L", len(offsets), *offsets, *unused), *segments])


def _starts(frame: bytes) -> list[int]:
    try:
        count, *offsets = unpack_from("<16L", frame)
    except error:
        raise Rejected(Quarantine.CANNOT_DECODE) from None
    starts = offsets[:count]
    ordered = all(a < b for a, b in zip(starts, [*starts[1:], len(frame)], strict=False))
    if not 1 <= count <= _SEGMENTS or starts[0] < _HEADER_BYTES or not ordered:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return starts


def _cut(frame: bytes, at: int, end: int, wanted: int) -> tuple[bytes, int]:
    """Return the runs that decode to the first ``wanted`` bytes, and to how many they do.

    A run that reaches further is shortened; idle codes are left out (PS3.5 G.3.2).
    """
    parts, start, decoded = [], at, 0
    while at < end - 1 and decoded < wanted:
        code = frame[at]
        if code == 128:
            parts.append(frame[start:at])
            at = start = at + 1
            continue
        length, size = (code + 1, code + 2) if code < 128 else (257 - code, 2)
        if at + size > end:
            break
        decoded += length
        if decoded > wanted:
            kept = length - (decoded - wanted)
            parts.append(frame[start:at])
            if code < 128:
                parts.append(bytes([kept - 1]) + frame[at + 1 : at + 1 + kept])
            else:
                parts.append(bytes([257 - kept if kept > 1 else 0, frame[at + 1]]))
            return b"".join(parts), wanted
        at += size
    parts.append(frame[start:at])
    return b"".join(parts), decoded


def _mapped(runs: bytes, table: bytes) -> bytes:
    """Return the same runs of other bytes."""
    if table == bytes(range(256)):
        return runs
    mapped, at = bytearray(runs), 0
    while at < len(runs):
        after = at + 2 + (runs[at] if runs[at] < 128 else 0)
        mapped[at + 1 : after] = runs[at + 1 : after].translate(table)
        at = after
    return bytes(mapped)
