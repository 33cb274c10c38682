"""The standard's own list of what identifies, as data (DICOM PS3.15 Table E.1-1).

The table is a deny-list: an attribute that it does not name is kept. Septum
never decides by it what to carry; :mod:`septum_client.deid.profile` does. It
is the yardstick that the profile is held to, row by row, in the tests.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Final

PRIVATE: Final = "private"

ACTIONS: Final = {
    "X": frozenset({"absent"}),
    "Z": frozenset({"absent", "empty", "replaced"}),
    "D": frozenset({"absent", "empty", "replaced"}),
    "U": frozenset({"absent", "replaced"}),
    "C": frozenset({"absent", "empty", "replaced", "cleaned"}),
    "K": frozenset({"absent", "empty", "replaced", "cleaned", "kept"}),
    "X/Z": frozenset({"absent", "empty", "replaced"}),
    "X/D": frozenset({"absent", "empty", "replaced"}),
    "Z/D": frozenset({"absent", "empty", "replaced"}),
    "X/Z/D": frozenset({"absent", "empty", "replaced"}),
    "X/Z/U*": frozenset({"absent", "empty", "replaced"}),
}
"""What may become of a value under each action (PS3.15 E.1.1): removing more than the
action asks is always allowed here, for what the object's type forbids is found by dciodvfy."""


class Option(StrEnum):
    """The options of PS3.15 E.3 that are columns of the table."""

    RETAIN_SAFE_PRIVATE = "retain_safe_private"
    RETAIN_UIDS = "retain_uids"
    RETAIN_DEVICE_IDENTITY = "retain_device_identity"
    RETAIN_INSTITUTION_IDENTITY = "retain_institution_identity"
    RETAIN_PATIENT_CHARACTERISTICS = "retain_patient_characteristics"
    RETAIN_FULL_DATES = "retain_full_dates"
    RETAIN_MODIFIED_DATES = "retain_modified_dates"
    CLEAN_DESCRIPTORS = "clean_descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean_structured_content"
    CLEAN_GRAPHICS = "clean_graphics"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One attribute of the table.

    Args:
      tag: Eight hexadecimal digits, in which ``x`` stands for any digit, or
        :data:`PRIVATE` for every attribute of an odd group.
      name: The attribute's name.
      basic: The action of the basic profile, a key of :data:`ACTIONS`.
      by_option: The action that each option puts in its place.
    """

    tag: str
    name: str
    basic: str
    by_option: Mapping[Option, str]


def _read() -> tuple[str, tuple[Row, ...]]:
    text = files(__package__).joinpath("annex_e.json").read_text(encoding="utf-8")
    document = json.loads(text)
    rows = tuple(
        Row(
            tag=tag,
            name=name,
            basic=basic,
            by_option={Option(option): action for option, action in by_option.items()},
        )
        for tag, name, basic, by_option in document["rows"] + document["newer"]
    )
    return document["edition"], rows


EDITION, TABLE = _read()

_BY_TAG: Final = {row.tag: row for row in TABLE}
_WILD: Final = tuple(row for row in TABLE if "x" in row.tag)


def row(tag: int) -> Row | None:
    """Return the table's row for a tag, or None where it has none.

    >>> row(0x00100010).basic, row(0x00091001).name, row(0x60023000).name
    ('Z', 'Private Attributes', 'Overlay Data')
    """
    if tag >> 16 & 1:
        return _BY_TAG[PRIVATE]
    digits = f"{tag:08x}"
    if digits in _BY_TAG:
        return _BY_TAG[digits]
    return next((wild for wild in _WILD if _fits(wild.tag, digits)), None)


def action(tag: int, options: Collection[Option] = ()) -> str:
    """Return what the standard asks for an attribute.

    Args:
      tag: Group and element as one integer.
      options: The options in force. Where two of them speak, ``C`` wins over
        ``K``: the stricter.

    Returns:
      A key of :data:`ACTIONS`; ``K`` for an attribute that the table does not name.

    >>> action(0x00080020), action(0x00080020, {Option.RETAIN_MODIFIED_DATES})
    ('Z', 'C')
    """
    found = row(tag)
    if found is None:
        return "K"
    said = {found.by_option[option] for option in options if option in found.by_option}
    return min(said) if said else found.basic


def _fits(pattern: str, digits: str) -> bool:
    return all(p in {"x", d} for p, d in zip(pattern, digits, strict=True))
