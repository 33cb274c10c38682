"""JPEG 2000 and HTJ2K frames: what they say of themselves, and the same image without comments.

Markers are those of ITU-T T.800 Annex A and T.814 Annex A; any other is refused.
Pointer segments (TLM, PLM, PLT) only speed up random access and would name
lengths that no longer hold: they go, as do comments and whatever follows the end.
Every other segment is kept only with the numbers that it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from struct import calcsize, error, iter_unpack, pack, unpack_from
from typing import Any, Final

from septum.errors import Quarantine
from septum_client.imaging.encapsulation import FrameHeader, ends_in_text
from septum_client.reject import Rejected

_SOC: Final = b"\xff\x4f"
_EOC: Final = b"\xff\xd9"
_SIZ, _SOT, _SOD = 0xFF51, 0xFF90, 0xFF93
_COD, _COC, _RGN, _QCD, _QCC, _POC, _CAP = 0xFF52, 0xFF53, 0xFF5E, 0xFF5C, 0xFF5D, 0xFF5F, 0xFF50
_TILE: Final = frozenset({_COD, _COC, _RGN, _QCD, _QCC, _POC})
_MAIN: Final = _TILE | {_SIZ, _CAP}
_OF_COMPONENT: Final = frozenset({_COC, _RGN, _QCC})
# COM CRG TLM PLM PLT, and PRF CPF: words, shortcuts, and names of profiles.
_DROPPED: Final = frozenset({0xFF64, 0xFF63, 0xFF55, 0xFF57, 0xFF58, 0xFF56, 0xFF59})
_MOST_LEVELS: Final = 32
_CAPABLE: Final = 0x4000  # this bit of Rsiz says that CAP follows (T.800 Table A.10)
_HIGH_THROUGHPUT: Final = b"\x00\x02\x00\x00"  # and this, in CAP, that it is Part 15 alone
_STEP_BYTES: Final = {0: 1, 1: 2, 2: 2}  # by style of quantisation (T.800 Table A.28)
_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SUPERBOXES: Final = frozenset({b"jp2h"})
_PALETTES: Final = frozenset({b"pclr", b"cmap"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Siz:
    frame: FrameHeader
    tiles: int
    signed: bool
    capable: bool


def header(frame: bytes) -> FrameHeader:
    """Return what the image and tile size segment says (T.800 A.5.1).

    Raises:
      Rejected: With CANNOT_DECODE.
    """
    return _siz(_codestream(frame)).frame


def tiles(frame: bytes) -> int:
    """Return how many tiles the frame is cut into: each costs a decoder memory at once."""
    return _siz(_codestream(frame)).tiles


def clean(frame: bytes) -> bytes:
    """Return the bare codestream of the same image, without comments and trailing bytes.

    Args:
      frame: A codestream, or a JP2 file around one.

    Guarantees:
      - A decoder gives the same samples.
      - No byte of a box, of a comment or of a pointer segment remains; the
        numbers of every segment that does are within the standard's bounds, of
        components that exist, and no more than they need. Packet bytes are
        copied: what may hide within them, only a search of the output finds.

    Raises:
      Rejected: With CANNOT_DECODE for any marker or length that is not the
        standard's, for packed packet headers (PPM, PPT), for tile-parts that do
        not follow one another to the end, for one that ends in text (of a
        million, about 17 do by chance), and for a JP2 palette, which would
        change the image.
    """
    data = _codestream(frame)
    siz = _siz(data)
    segments, at = _header(data, 2, _MAIN, end=_SOT)
    levels = _most_levels(segments, siz)
    parts = [_SOC, *_judged(segments, siz, levels)]
    if not {(_SIZ, -1), (_COD, -1), (_QCD, -1)} <= segments.keys():
        raise Rejected(Quarantine.CANNOT_DECODE)
    first = at
    while data[at : at + 2] == b"\xff\x90":
        tile, at = _tile_part(data, at, siz, levels)
        parts += tile
    if at == first or data[at : at + 2] not in {_EOC, b"", b"\x00"}:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return b"".join([*parts, _EOC])


def _tile_part(data: bytes, start: int, siz: _Siz, levels: int) -> tuple[list[bytes], int]:
    """Return one tile-part with the length that it now has, and where it ended (T.800 A.4.2)."""
    length, tile, whole, part, count = _unpack(">HHLBB", data, start + 2)
    end = start + whole if whole else data.find(_EOC, start)
    segments, at = _header(data, start + 12, _TILE, end=_SOD)
    body = data[at:end]
    fits = length == 10 and tile < siz.tiles and at + 2 <= end <= len(data)
    # The steps of the main header are cut to its own levels: no tile may need more.
    if not fits or _most_levels(segments, siz) > levels or ends_in_text(body):
        raise Rejected(Quarantine.CANNOT_DECODE)
    kept = _judged(segments, siz, levels)
    size = 12 + sum(map(len, kept)) + len(body)
    return [b"\xff\x90", pack(">HHLBB", 10, tile, size, part, count), *kept, body], end


_Segments = dict[tuple[int, int], bytes]
"""What a segment says behind its length, by marker and component (-1: all of them)."""


def _header(data: bytes, at: int, allowed: frozenset[int], *, end: int) -> tuple[_Segments, int]:
    """Return the segments of a header that may be kept, and where the marker ``end`` is."""
    samples = _unpack(">H", data, 40)[0]
    found: _Segments = {}
    while True:
        marker, length = _unpack(">HH", data, at)
        if marker == end:
            return found, at
        after = at + 2 + length
        if length < 3 or after > len(data) or not (marker in allowed or marker in _DROPPED):
            raise Rejected(Quarantine.CANNOT_DECODE)
        if marker in allowed:
            layout = _component_layout(samples)
            component = _unpack(layout, data, at + 4)[0] if marker in _OF_COMPONENT else -1
            if component >= samples or (marker, component) in found:
                raise Rejected(Quarantine.CANNOT_DECODE)
            found[marker, component] = data[at + 4 : after]
        at = after


def _component_layout(samples: int) -> str:
    return ">B" if samples < 257 else ">H"


def _most_levels(segments: _Segments, siz: _Siz) -> int:
    """Return the most decomposition levels that any COD or COC of a header asks for."""
    width = calcsize(_component_layout(siz.frame.samples))
    levels = 0
    for (marker, _), said in segments.items():
        if marker in {_COD, _COC}:
            place = 5 if marker == _COD else width + 1
            levels = max(levels, _unpack(">B", said, place)[0])
    return levels


def _judged(segments: _Segments, siz: _Siz, levels: int) -> list[bytes]:
    """Return segments as they are written.

    Raises:
      Rejected: One of them is longer than its numbers, or they are no such numbers.
    """
    samples, parts = siz.frame.samples, []
    width = calcsize(_component_layout(samples))
    for (marker, _), said in segments.items():
        before = width if marker in _OF_COMPONENT else 0
        if marker == _CAP and not siz.capable:
            continue
        if marker in {_QCD, _QCC}:
            said = said[: before + _quantisation_bytes(said[before:], levels)]  # noqa: PLW2901 - the same steps, without those of no subband
        elif not _CHECKS[marker](said[before:], samples):
            raise Rejected(Quarantine.CANNOT_DECODE)
        parts.append(pack(">HH", marker, len(said) + 2) + said)
    return parts


def _quantisation_bytes(said: bytes, levels: int) -> int:
    """Return how many bytes of QCD say something of a subband (T.800 A.6.4)."""
    style = said[0] & 0x1F if said else -1
    size = _STEP_BYTES.get(style, 0)
    if not size or (len(said) - 1) % size or len(said) == 1 or (style == 1 and len(said) != 3):
        raise Rejected(Quarantine.CANNOT_DECODE)
    return min(len(said), 1 + size * (3 * levels + 1))


def _coding_fits(style: int, said: bytes) -> bool:
    """Return whether levels, code-block sizes and precincts fit together (T.800 Table A.15)."""
    return (
        len(said) >= 5
        and said[0] <= _MOST_LEVELS
        and said[1] <= 8
        and said[2] <= 8
        and said[4] <= 1
        and len(said) == 5 + (said[0] + 1 if style & 1 else 0)
    )


def _order_fits(said: bytes, samples: int) -> bool:
    """Return whether POC holds progressions from a component to a later one (T.800 A.6.6)."""
    layout = ">BBHBBB" if samples < 257 else ">BHHBHB"
    size = calcsize(layout)
    if not said or len(said) % size or len(said) > _MOST_LEVELS * size:
        return False
    return all(
        first < last <= _MOST_LEVELS + 1
        and start < (stop or 256)
        and start < samples
        and stop <= max(samples, 255)
        and order <= 4
        for first, start, _, last, stop, order in iter_unpack(layout, said)
    )


_CHECKS: Final[dict[int, Callable[[bytes, int], bool]]] = {
    _SIZ: lambda said, samples: len(said) == 36 + 3 * samples,
    _COD: lambda said, _: len(said) > 5 and said[1] <= 4 and _coding_fits(said[0], said[5:]),
    _COC: lambda said, _: len(said) > 1 and _coding_fits(said[0], said[1:]),
    _RGN: lambda said, _: len(said) == 2 and said[0] == 0,
    _POC: _order_fits,
    _CAP: lambda said, _: len(said) == 6 and said[:4] == _HIGH_THROUGHPUT,
}


def _siz(data: bytes) -> _Siz:
    marker, length, capabilities, *sizes, samples = _unpack(">HHH8LH", data, 2)
    right, bottom, left, top, wide, high, tile_left, tile_top = sizes
    if (
        data[:2] != _SOC
        or (marker, length) != (_SIZ, 38 + 3 * samples)
        or not (left < right and top < bottom and wide and high and samples)
        or not (tile_left <= left < tile_left + wide and tile_top <= top < tile_top + high)
        or any(data[at] != 1 for k in range(samples) for at in (43 + 3 * k, 44 + 3 * k))
    ):
        raise Rejected(Quarantine.CANNOT_DECODE)
    depth = data[42]
    return _Siz(
        frame=FrameHeader(
            rows=bottom - top, columns=right - left, samples=samples, precision=(depth & 0x7F) + 1
        ),
        tiles=-(-(right - tile_left) // wide) * -(-(bottom - tile_top) // high),
        signed=bool(depth & 0x80),
        capable=bool(capabilities & _CAPABLE),
    )


def _codestream(frame: bytes) -> bytes:
    """Return the codestream inside JP2 boxes (T.800 Annex I), or the frame itself."""
    if not frame.startswith(_SIGNATURE):
        return frame
    at, end = 0, len(frame)
    while True:
        length, kind = _unpack(">L4s", frame, at)
        inside = at + 8
        if length == 1:
            (length,) = _unpack(">Q", frame, inside)
            inside += 8
        after = at + length if length else end
        if not inside <= after <= end or kind in _PALETTES:
            raise Rejected(Quarantine.CANNOT_DECODE)
        if kind == b"jp2c":
            return frame[inside:after]
        at = inside if kind in _SUPERBOXES else after


def _unpack(layout: str, data: bytes, at: int) -> tuple[Any, ...]:
    try:
        return unpack_from(layout, data, at)
    except error:
        raise Rejected(Quarantine.CANNOT_DECODE) from None
