"""What a JPEG stream defines before its scans, and which of it each scan needs (T.81 B.2.3, B.2.4).

A table that no scan refers to is no part of the image, and can hold anything.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import unpack_from
from typing import Final

from septum.errors import Quarantine
from septum_client.reject import Rejected

EOI, SOS, DHT, DQT, DNL, DRI, LSE = 0xD9, 0xDA, 0xC4, 0xDB, 0xDC, 0xDD, 0xF8
BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, SOF_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
_SEQUENTIAL: Final = frozenset({BASELINE, EXTENDED})
_MOST_CATEGORIES: Final = 16  # of a difference: T.81 Tables F.1 and H.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One marker segment: what it says, and the coded bytes behind it if it begins a scan."""

    marker: int
    payload: bytes
    scan: bytes = b""


class Tables:
    """What a stream has defined so far, and which of it was written (T.81 B.2.4)."""

    def __init__(self) -> None:
        self.frame: Segment | None = None
        self.scanned: set[int] = set()
        self._defined: dict[tuple[int, int], bytes] = {}
        self._written: dict[tuple[int, int], bytes] = {}

    def define(self, segment: Segment) -> None:
        """Remember the tables of a segment; a later one with the same name replaces them."""
        for name, table in _split(segment):
            self._defined[segment.marker, name] = table

    def of_frame(self, segment: Segment) -> bytes:
        """Return the frame header; a second one is refused."""
        if self.frame is not None:
            raise Rejected(Quarantine.CANNOT_DECODE)
        self.frame = segment
        return written(segment.marker, segment.payload)

    def of_scan(self, payload: bytes) -> list[bytes]:
        """Return the tables that a scan needs and that are not written yet, and its header."""
        process, quantised = self._components()
        chosen = dict(zip(payload[1:-3:2], payload[2:-3:2], strict=True))
        again = self.scanned & chosen.keys() if process != PROGRESSIVE else set()
        if len(chosen) != payload[0] or not chosen.keys() <= quantised.keys() or again:
            raise Rejected(Quarantine.CANNOT_DECODE)
        self.scanned |= chosen.keys()
        needed = {(DRI, 0)}
        if process == SOF_LS:
            needed.add((LSE, 1))
            if any(chosen.values()):  # mapping tables: they would make this a palette
                raise Rejected(Quarantine.CANNOT_DECODE)
        else:
            needed |= {(DHT, name) for name in _huffman_names(process, payload)}
        if process not in {SOF_LS, LOSSLESS}:
            needed |= {(DQT, quantised[component]) for component in chosen}
        parts = []
        for key in sorted(needed & self._defined.keys()):
            table = self._defined[key]
            if self._written.get(key) != table:
                parts.append(written(key[0], table))
                self._written[key] = table
            if key[0] == DHT and not _huffman_sound(table):
                raise Rejected(Quarantine.CANNOT_DECODE)
        if process in _SEQUENTIAL:  # one scan for all coefficients: decoders expect these
            payload = payload[:-3] + b"\x00\x3f\x00"
        return [*parts, written(SOS, payload)]

    def _components(self) -> tuple[int, dict[int, int]]:
        """Return the process, and each component's quantisation table."""
        if self.frame is None:
            raise Rejected(Quarantine.CANNOT_DECODE)
        said = self.frame.payload
        return self.frame.marker, dict(zip(said[6::3], said[8::3], strict=True))


def written(marker: int, payload: bytes) -> bytes:
    """Return a marker segment as bytes."""
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2) + payload


def _split(segment: Segment) -> Iterator[tuple[int, bytes]]:
    """Yield each table of a well-formed segment, under the name that scans call it by."""
    payload, at = segment.payload, 0
    if segment.marker == DRI:
        yield 0, payload
    elif segment.marker == LSE:
        yield payload[0], payload
    else:
        size = _huffman_size if segment.marker == DHT else _quantisation_size
        while at < len(payload):
            after = at + size(payload, at)
            # Class and name of a Huffman table; precision and name of a quantisation table.
            name = payload[at] if segment.marker == DHT else payload[at] & 0x0F
            yield name, payload[at:after]
            at = after


def _huffman_names(process: int, payload: bytes) -> set[int]:
    """Return the tables that a scan's components refer to (T.81 B.2.3, G.1.3)."""
    chosen = payload[2:-3:2]
    first, refines = payload[-3], payload[-1] >> 4
    names = set()
    if process != PROGRESSIVE or not (first or refines):
        names |= {pair >> 4 for pair in chosen}
    if process in _SEQUENTIAL or (process == PROGRESSIVE and first):
        names |= {0x10 | pair & 0x0F for pair in chosen}
    return names


def _huffman_sound(table: bytes) -> bool:
    """Return whether no value has two codes, and none is more than the table's class can mean.

    Words spell letters twice; so do most texts.
    """
    values = table[17:]
    return len(set(values)) == len(values) and (
        table[0] >> 4 == 1 or max(values, default=0) <= _MOST_CATEGORIES
    )


def quantisation_fits(payload: bytes) -> bool:
    """Return whether DQT is a run of whole tables (T.81 B.2.4.1)."""
    return _tables_fit(payload, _quantisation_size)


def huffman_fits(payload: bytes) -> bool:
    """Return whether DHT is a run of whole tables (T.81 B.2.4.2)."""
    return _tables_fit(payload, _huffman_size)


def _tables_fit(payload: bytes, size: Callable[[bytes, int], int]) -> bool:
    at = 0
    while at < len(payload):
        if payload[at] & 0x0F > 3 or payload[at] >> 4 > 1:
            return False
        at += size(payload, at)
    return at == len(payload)


def _quantisation_size(payload: bytes, at: int) -> int:
    return 65 if payload[at] >> 4 == 0 else 129


def _huffman_size(payload: bytes, at: int) -> int:
    return 17 + sum(payload[at + 1 : at + 17])


def preset_fits(payload: bytes) -> bool:
    """Return whether LSE holds the five numbers, in order (T.87 C.2.4.1.1).

    Its other kinds are palettes and sizes that no decoder here reads.
    """
    if len(payload) != 11 or payload[0] != 1:
        return False
    most, first, second, third, reset = unpack_from(">5H", payload, 1)
    most = most or 65535
    return bool(first <= second <= third <= most and reset <= max(255, most))
