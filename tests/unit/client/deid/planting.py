"""Plants a recognisable token in every place of a DICOM file that can hold one.

Written without sight of the engine: the one who plants is not the one who removes.
The encoder is our own, so that values which no library would write can be written:
names in code strings, record numbers in numbers, text in binary, groups that do
not exist. Every token is unique in its file; ``Seeds.forms`` remembers the place
and each byte form in which it went in, and a search is ``form in output``.
"""

import datetime as dt
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pydicom
from pydicom.datadict import DicomDictionary, RepeatersDictionary
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

# Without these there is no image, so they are abused one at a time, not all together.
ESSENTIAL = {
    0x00020010: "TransferSyntaxUID",
    0x00080005: "SpecificCharacterSet",
    0x00080016: "SOPClassUID",
    0x00080060: "Modality",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280006: "PlanarConfiguration",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x7FE00010: "PixelData",
}
# Numbers on which an image's values hang; a record number in one may end in a refusal.
VALUES = {
    0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281054, 0x00281055, 0x00281056,
    0x00280120, 0x00280121, 0x00280030, 0x00181164, 0x00180050, 0x00180088,
    0x00200032, 0x00200037, 0x00200013, 0x00080008, 0x00283000, 0x00283010,
    0x00281101, 0x00281102, 0x00281103, 0x00281104, 0x00281199, 0x00281201, 0x00281202,
    0x00281203, 0x00281204, 0x00281221, 0x00281222, 0x00281223, 0x52009229, 0x52009230,
    0x00280034, 0x00182010, 0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00008, 0x7FE00009,
}  # fmt: skip


@dataclass(kw_only=True)
class Seeds:
    """Makes tokens, each once, and remembers where each went in and in which bytes."""

    number: int = 0
    forms: list[tuple[str, bytes]] = field(default_factory=list, repr=False)

    def _next(self) -> int:
        self.number += 1
        return self.number

    def remember(self, place: str, *forms: bytes) -> None:
        self.forms += [(place, form) for form in forms]

    def text(self, place: str) -> bytes:
        token = f"ZQ{self._next():05d}KX".encode()
        self.remember(place, token)
        return token

    def free_text(self, place: str) -> bytes:
        return b"seen by " + self.text(place) + b" at the " + self.text(place) + b" ward"

    def name(self, place: str) -> bytes:
        return b"=".join(
            b"^".join(self.text(f"{place} group {group} part {part}") for part in range(5))
            for group in range(3)
        )

    def digits(self, place: str) -> bytes:
        token = f"{917_700_000 + self._next():09d}".encode()
        self.remember(place, token)
        return token

    def date(self, place: str) -> bytes:
        day = dt.date(1801, 1, 1) + dt.timedelta(days=self._next())
        forms = [day.strftime(f).encode() for f in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y")]
        self.remember(place, *forms)
        return forms[0]

    def time(self, place: str) -> bytes:
        fraction = f"{917_000 + self._next() % 80_000:06d}".encode()
        self.remember(place, b"113307." + fraction)
        return b"113307." + fraction

    def uid(self, place: str) -> bytes:
        token = f"1.2.826.0.1.9177{self._next():06d}.7".encode()
        self.remember(place, token)
        return token

    def binary(self, place: str, code: str, order: str) -> bytes:
        """Return a record number as one binary number, remembered in both orders and as text."""
        value = (9_100_000 if code == "f" else 917_700_000) + self._next()
        self.remember(
            place,
            *(struct.pack(o + code, value) for o in "<>"),
            str(value).encode(),
        )
        return struct.pack(order + code, value)

    def value(self, place: str, vr: str, order: str) -> bytes:
        """Return a value of ``vr`` that carries a token."""
        makers: dict[str, Callable[[], bytes]] = {
            "PN": lambda: self.name(place),
            "DA": lambda: self.date(place),
            "DT": lambda: self.date(place) + b"112233.000001+0100",
            "TM": lambda: self.time(place),
            "DS": lambda: self.digits(place),
            "IS": lambda: self.digits(place),
            "UI": lambda: self.uid(place),
            "UR": lambda: b"http://pacs/" + self.text(place),
            "FD": lambda: self.binary(place, "d", order),
            "FL": lambda: self.binary(place, "f", order),
            "SL": lambda: self.binary(place, "i", order),
            "UL": lambda: self.binary(place, "I", order),
            "SV": lambda: self.binary(place, "q", order),
            "UV": lambda: self.binary(place, "Q", order),
            "OD": lambda: self.binary(place, "d", order),
            **dict.fromkeys(("LO", "LT", "ST", "UC", "UT", "SH"), lambda: self.free_text(place)),
        }
        # A text in two-byte words (US, SS, OW), tags (AT), ages and code strings is text still.
        value = makers.get(vr, lambda: self.text(place))()
        pad = -len(value) % 4 if vr in {"AT", "OF", "OL", "OW", "US", "SS"} else len(value) % 2
        return value + (b"\0" if vr in {"UI", "OB", "UN", "US", "SS", "OW"} else b" ") * pad


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One of the standard's native encodings (PS3.5 A.1 to A.5)."""

    implicit: bool = False
    order: str = "<"

    def element(self, tag: int, vr: str, value: bytes, *, undefined: bool = False) -> bytes:
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        length = 0xFFFFFFFF if undefined else len(value)
        if self.implicit:
            return head + struct.pack(self.order + "I", length) + value
        if vr in LONG or vr not in STANDARD_VRS:
            return head + vr.encode() + b"\0\0" + struct.pack(self.order + "I", length) + value
        return head + vr.encode() + struct.pack(self.order + "H", length) + value

    def sequence(self, tag: int, *items: bytes, undefined: bool = False) -> bytes:
        body = b"".join(self._mark(0xE000, len(item)) + item for item in items)
        if undefined:
            body = b"".join(
                self._mark(0xE000, 0xFFFFFFFF) + item + self._mark(0xE00D, 0) for item in items
            ) + self._mark(0xE0DD, 0)
        return self.element(tag, "SQ", body, undefined=undefined)

    def _mark(self, element: int, length: int) -> bytes:
        return struct.pack(self.order + "HHI", 0xFFFE, element, length)


STANDARD_VRS = {vr for entry in DicomDictionary.values() for vr in entry[0].split(" or ")}


def encoding_of(syntax: str) -> Encoding:
    return Encoding(implicit=syntax == IMPLICIT, order=">" if syntax == BIG else "<")


def everywhere(seeds: Seeds, encoding: Encoding, *, every: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield every ``every``-th attribute of the whole dictionary, each holding a token."""
    for index, (tag, (vrs, *_, keyword)) in enumerate(sorted(DicomDictionary.items())):
        if tag in ESSENTIAL or tag in VALUES or index % every or tag >> 16 in {0, 2, 0xFFFE}:
            continue
        vr = vrs.split(" or ")[0]
        if vr == "SQ":
            depth = 3 if index % 50 == 0 else 1
            yield (
                tag,
                sequence(seeds, encoding, tag, keyword, depth=depth, undefined=index % 2 == 0),
            )
        elif vr != "NONE":
            yield tag, encoding.element(tag, vr, seeds.value(f"{keyword} {vr}", vr, encoding.order))


def sequence(
    seeds: Seeds, encoding: Encoding, tag: int, place: str, *, depth: int = 3, undefined=False
) -> bytes:
    """Return a sequence whose item, and the items in it, hold names, ids, UIDs and private."""
    order, here = encoding.order, f"{place} item"
    inside = [
        (0x00080018, "UI"), (0x00080022, "DA"), (0x00080050, "SH"), (0x00080104, "LO"),
        (0x00090010, "LO"), (0x00091001, "UN"), (0x00100010, "PN"), (0x00100020, "LO"),
        (0x00180015, "CS"), (0x00180060, "DS"), (0x0040A160, "UT"),
    ]  # fmt: skip
    inside = inside if depth > 1 else inside[5:9]
    elements = [encoding.element(t, vr, seeds.value(f"{here} {vr}", vr, order)) for t, vr in inside]
    if depth > 1:
        # Listed in Annex E, then unlisted.
        deeper = {3: 0x0040A730, 2: 0x00540016}[depth]
        elements.append(
            sequence(seeds, encoding, deeper, here, depth=depth - 1, undefined=not undefined)
        )
    return encoding.sequence(tag, *[b"".join(elements)], undefined=undefined)


def odd_places(seeds: Seeds, encoding: Encoding) -> Iterator[tuple[int, bytes]]:
    """Yield private blocks, overlays, curves, groups that do not exist, and padding."""
    order = encoding.order

    def put(tag: int, vr: str, place: str) -> tuple[int, bytes]:
        return tag, encoding.element(tag, vr, seeds.value(place, vr, order))

    for group in (0x0009, 0x0029, 0x0043, 0x0061, 0x2001, 0x7FDF, 0xE1FF):
        yield put(group << 16 | 0x10, "LO", "private creator")
        for offset, vr in enumerate(("LO", "UN", "PN", "DA", "IS", "FD", "OB", "UT", "UI", "CS")):
            yield put(group << 16 | 0x1000 + offset, vr, f"private {vr}")
        tag = group << 16 | 0x1040
        yield tag, sequence(seeds, encoding, tag, "private SQ")
        yield put(group << 16 | 0x0002, "LO", "private element below the block")
        yield put(group << 16 | 0xFF01, "LO", "private element without a creator")
    for group in range(0x6000, 0x6020, 2):
        yield (
            group << 16 | 0x10,
            encoding.element(group << 16 | 0x10, "US", struct.pack(order + "H", 8)),
        )
        yield put(group << 16 | 0x0022, "LO", "overlay description")
        yield put(group << 16 | 0x1500, "LO", "overlay label")
        yield put(group << 16 | 0x3000, "OW", "overlay data")
    for tag, (vr, *_, keyword) in RepeatersDictionary.items():
        number = int(tag.replace("x", "0"), 16)
        if vr.split(" or ")[0] not in {"SQ", "NONE"} and number >> 16 not in {0x6000, 0x28}:
            yield put(number, vr.split(" or ")[0], f"repeating group {keyword}")
    for group in (0x0001, 0x0003, 0x0005, 0x0007, 0x0006, 0x0030, 0x4321, 0x4000, 0x7FE1, 0xFFFA):
        yield put(group << 16 | 0x0123, "LO", "group that does not exist")
    for tag in (0x00080000, 0x00100000, 0x00280000):
        yield put(tag, "UL", "group length")
    yield put(0x00280199, "LO", "unknown element of the image group")
    yield put(0x00189999, "UN", "unknown element")
    yield put(0x7FE0FFFF, "OB", "after the pixels")
    yield put(0xFFFCFFFC, "OB", "data set trailing padding")


def file_meta(seeds: Seeds, syntax: str, sop_class: str) -> bytes:
    """Return the preamble and group 2 with a token in every element that may hold one."""
    explicit = Encoding()

    def put(tag: int, vr: str) -> bytes:
        place = f"file meta {tag & 0xFFFF:04x}"
        return explicit.element(tag, vr, seeds.value(place, vr, "<"))

    def uid(tag: int, value: str) -> bytes:
        return explicit.element(tag, "UI", value.encode() + b"\0" * (len(value) % 2))

    body = b"".join(
        (
            explicit.element(0x00020001, "OB", b"\0\1"),
            uid(0x00020002, sop_class), put(0x00020003, "UI"), uid(0x00020010, syntax),
            put(0x00020012, "UI"), put(0x00020013, "SH"), put(0x00020016, "AE"),
            put(0x00020017, "AE"), put(0x00020018, "AE"), put(0x00020026, "UR"),
            put(0x00020027, "UR"), put(0x00020028, "UR"), put(0x00020031, "OB"),
            put(0x00020050, "LO"), put(0x00020100, "UI"), put(0x00020102, "OB"),
        )
    )  # fmt: skip
    preamble = b"II*\0" + seeds.text("preamble") + b" " + seeds.text("preamble")
    length = explicit.element(0x00020000, "UL", struct.pack("<I", len(body)))
    return preamble.ljust(128, b"\0") + b"DICM" + length + body


def elements_of(ds: pydicom.Dataset, syntax: str) -> dict[int, bytes]:
    """Return each top-level element of ``ds`` as its bytes in ``syntax``."""
    encoding, parts = encoding_of(syntax), {}
    for tag in ds.keys():  # noqa: SIM118 - a data set iterates over elements
        out = DicomBytesIO()
        out.is_implicit_VR = encoding.implicit
        out.is_little_endian = encoding.order == "<"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_data_element(out, ds[tag], ["iso8859"])
        parts[int(tag)] = out.getvalue()
    return parts


def with_unknown_vr(seeds: Seeds) -> tuple[int, bytes]:
    """Return an element of a VR that no edition has; readers disagree about its length."""
    return 0x00091050, Encoding().element(0x00091050, "ZZ", seeds.text("private of unknown VR"))


def planted(
    ds: pydicom.Dataset, seeds: Seeds, *, every: int = 1, values: Iterable[tuple[int, bytes]] = ()
) -> bytes:
    """Return ``ds`` as a file whose every other place holds a token.

    What an image cannot be an image without keeps its value; ``every`` thins the
    walk over the dictionary; ``values`` replaces single elements at the end.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    encoding = encoding_of(syntax)
    parts = elements_of(ds, syntax)
    parts |= dict(everywhere(seeds, encoding, every=every))
    parts |= dict(odd_places(seeds, encoding))
    for tag, vr in ((0x00080018, "UI"), (0x00100010, "PN"), (0x00100020, "LO"), (0x00100030, "DA")):
        place = f"{tag:08x} of the patient"
        parts[tag] = encoding.element(tag, vr, seeds.value(place, vr, encoding.order))
    parts |= dict(values)
    body = b"".join(parts[tag] for tag in sorted(parts))
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(wbits=-15)
        body = squeeze.compress(body) + squeeze.flush()
        body += b"\0" * (len(body) % 2)
    return file_meta(seeds, syntax, str(ds.SOPClassUID)) + body


# --- an independent search ---------------------------------------------------------------


def header_views(output: bytes) -> Iterator[bytes]:
    """Yield the header's bytes, inflated, without the pixels, and each value's text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(output))
        ds.pop("PixelData", None)
        for element in ds.iterall():
            yield str(element.value).upper().encode("utf-8", "replace")
        plain = io.BytesIO()
        ds.file_meta.TransferSyntaxUID = EXPLICIT  # not encapsulated: only its header is wanted
        ds.save_as(plain, implicit_vr=False, little_endian=True)
        yield plain.getvalue()
        yield plain.getvalue().upper()


def haystacks(output: bytes) -> Iterator[bytes]:
    """Yield every view of a file in which a token could hide from the plain bytes."""
    yield output
    yield output.upper()
    yield from header_views(output)
    ds = pydicom.dcmread(io.BytesIO(output))
    if "PixelData" not in ds:
        return
    pixels = ds["PixelData"]
    frames = [pixels.value]
    if pixels.is_undefined_length:
        yield b"".join(frames := list(generate_frames(pixels.value, number_of_frames=_frames(ds))))
        return
    if ds.BitsAllocated == 16:
        words = np.frombuffer(frames[0], dtype="<u2")
        for shift in (0, 8, 12):
            plane = (words >> shift).astype(np.uint8)
            yield plane.tobytes()
            if shift == 12:
                yield ((plane[: len(plane) // 2 * 2 : 2] << 4) | plane[1::2]).tobytes()
    yield frames[0][1::2]


def _frames(ds: pydicom.Dataset) -> int:
    return int(ds.get("NumberOfFrames") or 1)


def left(output: bytes, seeds: Seeds) -> list[str]:
    """Return the places whose token is still in ``output``; empty is what we want."""
    everything = b"\xff\x00\xff".join(haystacks(output))
    header = b"".join(header_views(output))
    # Four bytes turn up in pixels by chance, so they are looked for in the header only.
    return sorted(
        {place for place, form in seeds.forms if form in (everything if len(form) > 4 else header)}
    )
