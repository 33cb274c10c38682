"""No identifier of the input is left in the output's bytes, or the kinds that are.

**What is searched.** The file as written, inflated where it is deflated. Its header,
and in compressed frames the comments and application segments and whatever follows
the image, are searched for every token. The image itself (native pixels, entropy-coded
data, tables of a codec) is searched for the tokens that are long enough not to be there
by chance. All text is compared in lower case, in ASCII, UTF-8, Latin-1, the input's own
character sets and UTF-16 in both orders.

**The bound.** Of ``tokens`` texts, the expected number found by chance in ``size``
bytes of image is at most ``size * tokens * 2**-bits``; a token is looked for there when
that is below ``CHANCE``. ``bits`` counts, per character, 7 for a letter (either case) and
8 for another in compressed data, whose bytes are nearly uniform. In native pixels,
neighbours resemble each other: 2 where a character lies within eight grey levels of the
one before it, else 5. In a native CT image of 0.5 MB and 100 tokens this asks for about
46 bits: a UID, three words, a name of 13 letters. **So a short name or a date written as
grey levels of a native image is not found here.** What guards against that is that the
pixels are exactly the frames' samples, and the search of pixels for visible text.

**Numbers.** Attributes of numbers are binary, or text in many spellings (654321.0, 6.54321e5).
A whole number of six digits or more in one of them counts where a token has those digits, in
one run or separated, with or without zeros before them. Amounts that run to millions (counts,
doses) are not compared; the allow-list carries five digits of them.

**What is not searched.** Hexadecimal, base64, encryption or any other coding of a
token: nothing in the engine codes text, and an input that holds text already coded holds
it where the allow-list drops it. Numbers with digits behind the point: a record number does
not come in parts. Numbers of fewer than four digits, and Latin words of fewer than three
letters, are not tokens; they are everywhere.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from typing import Final

from ahocorasick_rs import BytesAhoCorasick
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from septum_client.deid import closed_terms
from septum_client.deid.identifiers import Identifiers, identifiers
from septum_client.deid.marker_segments import items, said_beside_image
from septum_client.deid.whole_numbers import whole_numbers

__all__ = ["CHANCE", "Identifiers", "bits", "identifiers", "survivors"]

CHANCE: Final = 1e-6

_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_MAX_INFLATED: Final = 2**30
_PIXEL_HEADS: Final = (
    (b"\xe0\x7f\x10\x00OW\0\0", "little", False), (b"\xe0\x7f\x10\x00OB\0\0", "little", False),
    (b"\xe0\x7f\x10\x00", "little", True), (b"\x7f\xe0\x00\x10OW\0\0", "big", False),
    (b"\x7f\xe0\x00\x10OB\0\0", "big", False),
)  # fmt: skip
_DIGITS: Final = re.compile(r"\d+", re.ASCII)
_SIX_DIGITS: Final = 100_000
_CLOSED_VRS: Final = {"CS", "LO", "SH", "ST", "UI", "LT", "UC", "UT"}
_SOMEBODYS: Final = frozenset(
    tag_for_keyword(keyword)
    for keyword in ("PatientID", "AccessionNumber", "StudyID", "InstitutionName", "StationName")
)


def survivors(identifiers: Identifiers, output: bytes) -> Counter[str]:
    """Return how many of the input's identifiers are in ``output``, by kind.

    Args:
      identifiers: Of the input.
      output: A DICOM file (PS3.10), as it will be kept.

    Returns:
      Kind of identifier to number of identifiers found; empty means proved.

    Guarantees:
      - A token in the header is found wherever it stands. Words of fewer than
        six letters and numbers of fewer than eight digits count only where
        they stand alone; longer ones also inside a longer word.
      - A token that is itself a term of the closed lists (a patient called
        Chest) is excused only inside an attribute that holds such a term and
        nothing else; a number of at most five digits only inside a decimal or
        integer string.
      - A file whose attributes cannot be read is not proved where a token
        has six digits: its numbers are unknown.
      - What cannot be told apart is searched as header: a mistake costs a
        file, not a patient.
    """
    if not identifiers.tokens:
        return Counter()
    plain = _inflated(output)
    header, image, compressed = _parts(plain)
    counted = _in_header(identifiers, header)
    ds = _read(plain)
    if any(_excusable(text) for _, text in counted):
        # By number, so that one in the wrong place counts however the rest is read.
        excused = _in_header(identifiers, b"\0".join(_closed_values(ds)))
        counted -= Counter({token: n for token, n in excused.items() if _excusable(token[1])})
    found = set(counted)
    found |= _in_numbers(identifiers, ds) if plain else set()
    found |= _in_image(identifiers, image, compressed=compressed)
    return Counter(kind for kind, _ in found)


def bits(text: str, *, compressed: bool) -> int:
    """Return how unlikely ``text`` is at a given place of an image: -log2 of the probability.

    >>> bits("DOE", compressed=True), bits("19700101", compressed=False)
    (21, 19)
    """
    if compressed:
        return sum(7 if c.isalpha() and c.isascii() else 8 for c in text)
    codes = text.lower().encode("latin-1", "replace")
    near = sum(abs(a - b) <= 8 for a, b in pairwise(codes))
    return 2 * near + 5 * (len(codes) - near)


# --- the parts of a file -------------------------------------------------------------------


def _inflated(output: bytes) -> bytes:
    if _DEFLATED not in output[:1024] or output[128:132] != b"DICM":
        return output
    end = 144 + int.from_bytes(output[140:144], "little")
    try:
        return output[:end] + zlib.decompressobj(wbits=-15).decompress(output[end:], _MAX_INFLATED)
    except zlib.error:
        return output


def _parts(plain: bytes) -> tuple[bytes, bytes, bool]:
    """Return header, image, and whether the image is compressed."""
    for head, order, implicit in _PIXEL_HEADS:
        at = plain.rfind(head)
        while at >= 0:
            start = at + len(head) + 4
            length = plain[start - 4 : start]
            if length == b"\xff\xff\xff\xff" and not implicit:
                found, end = items(plain, start)
                if end == len(plain):
                    beside = [part for f in found[1:] for part in said_beside_image(f)]
                    header = b"\0".join([plain[:start], *found[:1], *beside])
                    return header, b"".join(found[1:]), True
            elif start + int.from_bytes(length, order) == len(plain):  # type: ignore[arg-type] # a literal of the table
                return plain[:start], plain[start:], False
            at = plain.rfind(head, 0, at)
    return plain, b"", False


def _read(plain: bytes) -> Dataset | None:
    try:
        return dcmread(BytesIO(plain), stop_before_pixels=True)
    except Exception:  # noqa: BLE001 - hostile bytes raise whatever they like
        return None


def _closed_values(ds: Dataset | None) -> tuple[bytes, ...]:
    """Return the values of attributes that hold closed terms, or numbers, and nothing else."""
    try:
        return () if ds is None else (*_closed_in(ds.file_meta), *_closed_in(ds))
    except Exception:  # noqa: BLE001 - what cannot be read excuses nothing
        return ()


def _closed_in(ds: Dataset) -> Iterator[bytes]:
    for tag in ds.keys():  # noqa: SIM118 - a data set iterates over converted elements
        element = ds.get_item(tag)
        if element.VR == "SQ":
            for item in ds[tag].value:
                yield from _closed_in(item)
        elif isinstance(raw := element.value, bytes) and (
            element.VR in {"IS", "DS"}
            or (element.VR in _CLOSED_VRS and tag not in _SOMEBODYS and _all_closed(raw))
        ):
            yield raw


def _all_closed(raw: bytes) -> bool:
    values = raw.decode("latin-1").split("\\")
    return all(value.strip(" \0").casefold() in closed_terms.terms() for value in values)


def _excusable(text: str) -> bool:
    return text.casefold() in closed_terms.words() or (text.isdigit() and len(text) < 6)


# --- the search ----------------------------------------------------------------------------


def _forms(text: str, encodings: tuple[str, ...]) -> Iterator[bytes]:
    if text.isascii():
        yield text.lower().encode()
        if len(text) > 3:
            # Without the last zero, the same bytes are there in either order.
            yield text.lower().encode("utf-16-le")[:-1]
        return
    for spelled in {text, text.lower(), text.upper()}:
        for encoding in {"utf-8", "latin-1", "utf-16-le", "utf-16-be", *encodings}:
            try:
                yield spelled.encode(encoding).lower()
            except (UnicodeError, LookupError):
                continue


def _spelled(kind: str, text: str) -> tuple[str, ...]:
    if kind != "date":
        return (
            (text,) if " " not in text else (text, text.replace(" ", "_"), text.replace(" ", "^"))
        )
    year, month, day = text[:4], text[4:6], text[6:]
    return (
        text, f"{year}-{month}-{day}", f"{year}/{month}/{day}", f"{year}.{month}.{day}",
        f"{day}.{month}.{year}", f"{day}/{month}/{year}", f"{month}/{day}/{year}",
        f"{day}-{month}-{year}",
    )  # fmt: skip


@lru_cache(maxsize=8)
def _automaton(
    identifiers: Identifiers,
) -> tuple[BytesAhoCorasick, tuple[tuple[str, str], ...]]:
    patterns: dict[bytes, tuple[str, str]] = {}
    for kind, text in identifiers.tokens:
        for spelled in _spelled(kind, text):
            for form in _forms(spelled, identifiers.encodings):
                patterns.setdefault(form, (kind, text))
    return BytesAhoCorasick(list(patterns)), tuple(patterns.values())


def _in_header(identifiers: Identifiers, header: bytes) -> Counter[tuple[str, str]]:
    """Return how often each token stands in ``header``."""
    automaton, tokens = _automaton(identifiers)
    low = header.lower()
    return Counter(
        tokens[index]
        for index, start, end in automaton.find_matches_as_indexes(low, overlapping=True)
        if _alone(low, start, end, *tokens[index])
    )


def _alone(low: bytes, start: int, end: int, kind: str, text: str) -> bool:
    """Return whether a match counts: short ones must not be part of a longer word or number."""
    before, after = low[start - 1 : start], low[end : end + 1]
    if kind == "uid":
        return not any(c.isdigit() or c == b"." for c in (before, after))
    if text.isdigit():
        joined = b"0123456789." if len(text) < 6 else b"0123456789"
        return len(text) >= 8 or not any(c and c in joined for c in (before, after))
    return len(text) >= 6 or not text.isascii() or not any(c.isalnum() for c in (before, after))


def _in_numbers(identifiers: Identifiers, ds: Dataset | None) -> set[tuple[str, str]]:
    """Return the tokens whose digits an attribute of numbers holds; all, where that is unknown."""
    wanted: dict[int, set[tuple[str, str]]] = {}
    for kind, text in identifiers.tokens:
        runs = [] if kind == "uid" else _DIGITS.findall(text)
        for number in {int(digits) for digits in (*runs, "".join(runs)) if digits}:
            if number >= _SIX_DIGITS:
                wanted.setdefault(number, set()).add((kind, text))
    try:
        numbers = (
            wanted.keys()
            if ds is None
            else wanted.keys() & set(whole_numbers(ds, least=_SIX_DIGITS))
        )
    except Exception:  # noqa: BLE001 - what cannot be read proves nothing
        numbers = wanted.keys()
    return {token for number in numbers for token in wanted[number]}


def _in_image(identifiers: Identifiers, image: bytes, *, compressed: bool) -> set[tuple[str, str]]:
    if not image:
        return set()
    limit = CHANCE / (len(image) * len(identifiers.tokens))
    patterns = {
        form: (kind, text)
        for kind, text in identifiers.tokens
        if 2.0 ** -bits(text, compressed=compressed) < limit
        for form in _forms(text, identifiers.encodings)
    }
    if not patterns:
        return set()
    tokens = list(patterns.values())
    low = image.lower()
    matches = BytesAhoCorasick(list(patterns)).find_matches_as_indexes(low, overlapping=True)
    return {
        tokens[index] for index, start, end in matches if _alone(low, start, end, *tokens[index])
    }
