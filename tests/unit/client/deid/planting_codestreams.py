"""Plants tokens in every place of a compressed frame, and around it, that can hold one.

Each place gives one frame; what cleans it may refuse it, or must return the same
image without the token. The markers are those of ITU-T T.81, T.87 and T.800.
"""

import io
import struct
from collections.abc import Iterator

import jpeg_ls
import numpy as np
import pydicom
from PIL import Image
from planting import Seeds
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames

BASELINE, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
RLE = "1.2.840.10008.1.2.5"


def picture(seed: int = 0, side: int = 64, dtype=np.uint8) -> np.ndarray:
    """Return a smooth picture with some noise, as a scan has."""
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(seed).integers(0, 9, (side, side))
    top = 200 if dtype == np.uint8 else 3800
    return ((np.sin(x / 9) * np.cos(y / 7) + 1) / 2 * top + noise).astype(dtype)


def frame_of(syntax: str) -> bytes:
    """Return one clean frame in ``syntax``."""
    if syntax == BASELINE:
        out = io.BytesIO()
        Image.fromarray(picture()).save(out, "JPEG", quality=90)
        return out.getvalue()
    if syntax == JPEG_LS_NEAR:
        return bytes(jpeg_ls.encode_array(picture(), lossy_error=2))
    name = {
        LOSSLESS: "SC_rgb_jpeg_gdcm.dcm",
        JPEG_LS: "MR_small_jpeg_ls_lossless.dcm",
        JPEG_2000: "MR_small_jp2klossless.dcm",
        JPEG_2000_LOSSY: "SC_rgb_gdcm_KY.dcm",
        RLE: "MR_small_RLE.dcm",
    }[syntax]
    ds = pydicom.dcmread(get_testdata_file(name))
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def segment(marker: int, body: bytes) -> bytes:
    """Return a marker segment of JPEG, JPEG-LS or JPEG 2000."""
    return struct.pack(">HH", marker, len(body) + 2) + body


def spiked(syntax: str, seeds: Seeds) -> Iterator[tuple[str, bytes]]:
    """Yield ``(place, frame)`` for every place of a frame in ``syntax``."""
    frame = frame_of(syntax)
    if syntax in {JPEG_2000, JPEG_2000_LOSSY}:
        yield from _jpeg_2000(frame, seeds)
    elif syntax == RLE:
        yield from _rle(frame, seeds)
    else:
        yield from _jpeg(frame, seeds, lossless_marks=syntax in {JPEG_LS, JPEG_LS_NEAR})


def _jpeg(frame: bytes, seeds: Seeds, *, lossless_marks: bool) -> Iterator[tuple[str, bytes]]:
    start, end = 2, frame.rindex(b"\xff\xd9")
    scan = frame.index(b"\xff\xda")

    def put(place: str, marker: int, head: bytes = b"", at: int = start, tail: bytes = b""):
        token = seeds.text(place)
        return place, frame[:at] + segment(marker, head + token + tail) + frame[at:]

    yield put("COM after SOI", 0xFFFE)
    yield put("COM before SOS", 0xFFFE, at=scan)
    yield put("COM before EOI", 0xFFFE, at=end)
    for number in range(16):
        yield put(f"APP{number}", 0xFFE0 + number)
    yield put("JFIF thumbnail", 0xFFE0, b"JFIF\0\1\1\0\0\1\0\1\3\1")
    yield put("Adobe with a tail", 0xFFEE, b"Adobe\0\x64\0\0\0\0\0")
    yield put("EXIF", 0xFFE1, b"Exif\0\0II*\0\x08\0\0\0")
    yield put("XMP", 0xFFE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>")
    yield put("SPIFF", 0xFFE8, b"SPIFF\0")
    yield put("ICC profile", 0xFFE2, b"ICC_PROFILE\0\1\1")
    yield put("Photoshop resources", 0xFFED, b"Photoshop 3.0\x008BIM\4\4\0\0")
    for marker in (0xFFF0, 0xFFF6, 0xFFFD, 0xFFC8, 0xFFDE, 0xFFDF):
        yield put(f"reserved marker {marker:04x}", marker)
    if lossless_marks:
        yield put("LSE mapping table", 0xFFF8, b"\2\5\1")
        yield put("LSE of unknown kind", 0xFFF8, b"\x0d")
    else:
        token = seeds.text("unused Huffman table")
        counts = bytes([0] * 7 + [len(token)] + [0] * 8)
        body = segment(0xFFC4, b"\x13" + counts + token)
        yield "unused Huffman table", frame[:start] + body + frame[start:]
        token = seeds.text("unused quantisation table")
        body = segment(0xFFDB, b"\3" + token.ljust(64, b"\1"))
        yield "unused quantisation table", frame[:start] + body + frame[start:]
    for place, at in (("before EOI, outside a segment", end), ("after EOI", len(frame))):
        yield place, frame[:at] + seeds.text(place) + frame[at:]
    token = seeds.text("a second image after EOI")
    yield "a second image after EOI", frame + b"\xff\xd8" + segment(0xFFFE, token) + frame[2:]
    place = "between SOI and the first marker"
    yield place, frame[:2] + seeds.text(place) + frame[2:]
    yield "before SOI", seeds.text("before SOI") + frame


def _jpeg_2000(frame: bytes, seeds: Seeds) -> Iterator[tuple[str, bytes]]:
    frame = frame[frame.index(b"\xff\x4f\xff\x51") :]
    after_siz = 4 + struct.unpack(">H", frame[4:6])[0]
    tile = frame.index(b"\xff\x90")
    data = frame.index(b"\xff\x93", tile)
    end = frame.rindex(b"\xff\xd9")

    def longer_tile(extra: int) -> bytes:
        length = struct.unpack(">I", frame[tile + 6 : tile + 10])[0]
        return (
            frame[:tile]
            + frame[tile : tile + 6]
            + struct.pack(">I", length + extra if length else 0)
        )

    def in_tile(body: bytes, at: int) -> bytes:
        return longer_tile(len(body)) + frame[tile + 10 : at] + body + frame[at:]

    markers = {
        "COM as text": (0xFF64, b"\0\1"), "COM as bytes": (0xFF64, b"\0\0"),
        "CRG": (0xFF63, b""), "PLM": (0xFF57, b"\0"), "PLT": (0xFF58, b"\0"),
        "TLM": (0xFF55, b"\0\0"), "PPM": (0xFF60, b"\0"), "RGN": (0xFF5E, b"\7\0"),
        "QCC of no component": (0xFF5D, b"\x09\x22"), "COC of no component": (0xFF53, b"\x09\0"),
        "unknown marker": (0xFF6F, b""), "CAP": (0xFF50, b"\0\0\0\0"), "CBD": (0xFF78, b""),
    }  # fmt: skip
    for name, (marker, head) in markers.items():
        for where, at in (("main header", tile), ("after SIZ", after_siz)):
            place = f"{name} in {where}"
            yield place, frame[:at] + segment(marker, head + seeds.text(place)) + frame[at:]
        place = f"{name} in a tile header"
        yield place, in_tile(segment(marker, head + seeds.text(place)), data)
    place = "after the packets of a tile"
    yield place, in_tile(seeds.text(place), end)
    place = "before EOC, outside the tiles"
    yield place, frame[:end] + seeds.text(place) + frame[end:]
    yield "after EOC", frame + seeds.text("after EOC")
    head = b"\0\0\0\x0cjP  \r\n\x87\n" + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    color = _box(b"colr", b"\1\0\0\0\0\0\x11")
    size = struct.unpack(">II", frame[8:16])
    image = _box(b"ihdr", struct.pack(">IIHBBBB", size[1], size[0], 1, 15, 7, 0, 0))
    for kind in (b"xml ", b"uuid", b"uinf", b"free", b"res ", b"name", b"ICCx"):
        box = _box(kind, seeds.text(f"JP2 box {kind.decode()}"))
        wrapped = head + _box(b"jp2h", image + color) + box + _box(b"jp2c", frame)
        yield f"JP2 box {kind.decode()}", wrapped


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _rle(frame: bytes, seeds: Seeds) -> Iterator[tuple[str, bytes]]:
    number, *offsets = struct.unpack("<16I", frame[:64])
    token = seeds.text("RLE after the last segment")
    yield "RLE after the last segment", frame + token + b"\0" * (len(token) % 2)
    token = seeds.text("RLE unused offsets").ljust(12, b"\0")
    words = list(struct.unpack("<3I", token))
    yield (
        "RLE unused offsets",
        struct.pack("<16I", number, *offsets[:number], *words, *offsets[number + 3 :]) + frame[64:],
    )
    token = seeds.text("RLE between header and segments").ljust(12, b"\0")
    moved = [o + len(token) for o in offsets[:number]] + offsets[number:]
    yield (
        "RLE between header and segments",
        struct.pack("<16I", number, *moved) + token + frame[64:],
    )
    for at in range(1, number):
        place = f"RLE after segment {at}"
        # A no-operation (128) and then a literal run that no pixel needs.
        extra = seeds.text(place)
        extra = (bytes([len(extra) - 1]) + extra).ljust(14, b"\x80")
        moved = [o + len(extra) * (i >= at) for i, o in enumerate(offsets[:number])]
        yield place, (
            struct.pack("<16I", number, *moved, *offsets[number:])
            + frame[64 : offsets[at]] + extra + frame[offsets[at] :]
        )  # fmt: skip
