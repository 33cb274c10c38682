"""Ways to break a DICOM file that a parser may not survive: the fuzzers' common stock."""

import random
import struct

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF)
INTERESTING_LONG = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV ZZ"
).split()
TAGS = (
    (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0002), (0x0028, 0x0008), (0x0028, 0x0100),
    (0x0028, 0x0101), (0x0028, 0x0103), (0x0028, 0x1052), (0x0028, 0x3000), (0x7FE0, 0x0010),
    (0x5200, 0x9230), (0x0002, 0x0010), (0x0008, 0x0005), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD),
)  # fmt: skip


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def set_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[_place(data, rng)] = rng.randrange(256)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 8, 64, 1024))]


def repeat(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    part = data[start : start + rng.choice((2, 8, 20, 200))]
    data[start:start] = part * rng.choice((1, 2, 50, 500))


def edit_length(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    if rng.random() < 0.5:
        _overwrite(data, at, struct.pack("<H", rng.choice(INTERESTING) & 0xFFFF))
    else:
        _overwrite(data, at, struct.pack("<I", rng.choice(INTERESTING_LONG)))


def swap_vr(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    found = [at for vr in VRS if (at := data.find(vr, start)) >= 0]
    if found:
        _overwrite(data, min(found), rng.choice(VRS))


def change_tag(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    places = [at for tag in TAGS if (at := data.find(struct.pack("<HH", *tag), start)) >= 0]
    at = rng.choice(places) if places else start
    _overwrite(data, at, struct.pack("<HH", *rng.choice(TAGS)))


def edit_a_field(data: bytearray, rng: random.Random) -> None:
    """Overwrite the value of an attribute on which sizes hang."""
    at = data.find(struct.pack("<HH", *rng.choice(TAGS)))
    if at >= 0:
        _overwrite(data, at + 8, struct.pack("<H", rng.choice(INTERESTING) & 0xFFFF))


def nest(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    item = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    data[at:at] = item * rng.choice((1, 5, 70, 3000))


MUTATORS = (
    flip_bits, set_bytes, truncate, cut, repeat, edit_length, edit_length, swap_vr, change_tag,
    edit_a_field, nest,
)  # fmt: skip


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return ``data`` after one to four mutations, or the head of it with another's tail."""
    changed = bytearray(data)
    if others and rng.random() < 0.15:
        other = rng.choice(others)
        changed = bytearray(data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :])
    for _ in range(rng.randint(1, 4)):
        if len(changed) > 4:
            rng.choice(MUTATORS)(changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    # The header is small and the pixels are large: most faults belong in the header.
    if rng.random() < 0.7:
        return rng.randrange(min(len(data), 2500))
    return rng.randrange(len(data))


def _overwrite(data: bytearray, at: int, value: bytes) -> None:
    at = max(0, min(at, len(data) - len(value)))
    data[at : at + len(value)] = value
