"""JPEG and JPEG-LS frames: what they say of themselves, and the same image without their words.

Every marker segment (ITU-T T.81 Annex B, T.87 Annex C) is known by name, has the
length its numbers imply, and is kept because the image needs it; or it is
dropped; or the frame is refused. Tables are written before the scan that refers
to them, and no others. The application segments that decoders need for colour
are written anew from their one meaningful number.
"""

import re
from collections.abc import Callable, Iterator
from struct import unpack_from
from typing import Final

from septum.errors import Quarantine
from septum_client.imaging.encapsulation import FrameHeader, ends_in_text
from septum_client.imaging.jpeg_tables import (
    BASELINE,
    DHT,
    DNL,
    DQT,
    DRI,
    EOI,
    EXTENDED,
    LOSSLESS,
    LSE,
    PROGRESSIVE,
    SOF_LS,
    SOS,
    Segment,
    Tables,
    huffman_fits,
    preset_fits,
    quantisation_fits,
)
from septum_client.reject import Rejected

# Hierarchical frames (C5-C7, CD-CF) need several images to make one, arithmetic coding
# (C9-CB) is in no DICOM transfer syntax: no decoder here reads them.
_SOF: Final = frozenset({BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, SOF_LS})
_COMMENT: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
# A marker ends entropy-coded bytes; T.87 stuffs a bit after FF, T.81 a zero byte.
_SCAN_END: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN_END_LS: Final = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# Before one of many restart markers, fewer texts are chance: 2 in 100 million.
_BEFORE_RESTART: Final = re.compile(rb"[0-9A-Za-z ^=.,:/_-]{14}\xff[\xd0-\xd7]")

_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_MRFX: Final = b"\xff\xe8\x00\x07mrfx"


def header(frame: bytes) -> FrameHeader:
    """Return what the frame header says (T.81 B.2.2).

    Raises:
      Rejected: With CANNOT_DECODE, before the first scan is looked at.
    """
    for segment in _segments(frame, scans=False):
        if segment.marker in _SOF:
            precision, rows, columns, samples = unpack_from(">BHHB", segment.payload)
            return FrameHeader(
                rows=rows,
                columns=columns,
                samples=samples,
                precision=precision,
                process=segment.marker,
            )
    raise Rejected(Quarantine.CANNOT_DECODE)


def names_colours(frame: bytes) -> bool:
    """Return whether the frame itself says how its colours are coded: by JFIF or by Adobe."""
    return any(
        _rebuilt(segment)[:4] in {_JFIF[:4], _ADOBE[:4]}
        for segment in _segments(frame, scans=False)
        if segment.marker in _APPLICATION
    )


def clean(frame: bytes) -> bytes:
    """Return the same image without comments, application data and trailing bytes.

    Args:
      frame: One frame of JPEG, Huffman-coded and not hierarchical, or of JPEG-LS.

    Guarantees:
      - A decoder gives the same samples, and the same colours.
      - No byte of a comment, of an application segment, of a table that no scan
        refers to, between segments or after the end of the image remains.
        Entropy-coded bytes are copied: what may hide within them, only a
        search of the output finds.

    Raises:
      Rejected: With CANNOT_DECODE for a marker or a length that is not the
        standard's, for an image without its end, and for a scan that ends in
        text: of a million scans of an image alone, about 17 do.
    """
    parts, applied, tables = [b"\xff\xd8"], set(), Tables()
    for segment in _segments(frame, scans=True):
        if segment.marker in _APPLICATION:
            rebuilt = _rebuilt(segment)
            if rebuilt and segment.marker not in applied and tables.frame is None:
                parts.append(rebuilt)
                applied.add(segment.marker)
        elif segment.marker == SOS:
            parts += [*tables.of_scan(segment.payload), segment.scan]
        elif segment.marker in _SOF:
            parts.append(tables.of_frame(segment))
        elif segment.marker not in {_COMMENT, DNL}:
            tables.define(segment)
    if not tables.scanned:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return b"".join([*parts, b"\xff\xd9"])


def _segments(frame: bytes, *, scans: bool) -> Iterator[Segment]:
    """Yield marker segments up to the end of the image, or to the first scan."""
    if frame[:2] != b"\xff\xd8":
        raise Rejected(Quarantine.CANNOT_DECODE)
    at, scan_end = 2, _SCAN_END
    while True:
        if frame[at : at + 1] != b"\xff":
            raise Rejected(Quarantine.CANNOT_DECODE)
        while frame[at : at + 1] == b"\xff":  # fill bytes before a marker (T.81 B.1.1.2)
            at += 1
        marker = frame[at] if at < len(frame) else 0
        if marker == EOI:
            return
        length = int.from_bytes(frame[at + 1 : at + 3])
        payload, at = frame[at + 3 : at + 1 + length], at + 1 + length
        if length < 2 or at > len(frame) or not _well_formed(marker, payload):
            raise Rejected(Quarantine.CANNOT_DECODE)
        scan = b""
        if marker == SOF_LS:
            scan_end = _SCAN_END_LS
        if marker == SOS:
            if not scans:
                return
            found = scan_end.search(frame, at)
            if found is None:
                raise Rejected(Quarantine.CANNOT_DECODE)
            scan, at = frame[at : found.start()].rstrip(b"\xff"), found.start()
            if ends_in_text(scan) or _BEFORE_RESTART.search(scan):
                raise Rejected(Quarantine.CANNOT_DECODE)
        yield Segment(marker=marker, payload=payload, scan=scan)


def _rebuilt(segment: Segment) -> bytes:
    """Return an application segment written anew from its number, or nothing."""
    payload = segment.payload
    if segment.marker == 0xE0 and payload.startswith(b"JFIF\x00"):
        return _JFIF
    if segment.marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
        return _ADOBE + bytes([payload[11]]) if payload[11] <= 2 else b""
    if segment.marker == 0xE8 and payload.startswith(b"mrfx") and len(payload) == 5:
        # A colour transform that JPEG-LS decoders undo (HP's, as in CharLS).
        return _MRFX + payload[4:] if payload[4] <= 3 else b""
    return b""


def _well_formed(marker: int, payload: bytes) -> bool:
    if marker in _APPLICATION or marker == _COMMENT:
        return True
    check = _CHECKS.get(SOF_LS if marker in _SOF else marker)
    return check is not None and check(payload)


def _frame_fits(payload: bytes) -> bool:
    # Zero rows mean that DNL tells them after the scan: no decoder here waits for that.
    return len(payload) > 6 and len(payload) == 6 + 3 * payload[5] and any(payload[1:3])


_CHECKS: Final[dict[int, Callable[[bytes], bool]]] = {
    SOF_LS: _frame_fits,
    SOS: lambda payload: len(payload) > 3 and len(payload) == 4 + 2 * payload[0],
    DHT: huffman_fits,
    DQT: quantisation_fits,
    DRI: lambda payload: len(payload) == 2,
    DNL: lambda payload: len(payload) == 2,
    LSE: preset_fits,
}
