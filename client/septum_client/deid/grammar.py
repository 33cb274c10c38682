"""What a kept value must look like: a closed list, or a number that a machine can produce.

Every rule is a pure function from the values of one attribute to the values
that are written. None means: not carried. A rule never passes on text that is
not in the project's own lists, and never a number with more digits than its
attribute needs, so that a record number typed into a dose field does not pass.
"""

import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Final

from pydicom.datadict import dictionary_has_tag
from pydicom.uid import UID_dictionary

Value = str | int | float
Rule = Callable[[Sequence[Value]], list[Value] | None]

_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d{1,12}", re.ASCII)
# A DS has at most 16 (PS3.5 6.2); many writers give every digit of a double. It is rounded.
_MOST_CHARACTERS: Final = 32
_MOST_TYPES: Final = 16
_OTHER: Final = "OTHER"

_WHOLE_LISTS: Final = frozenset({"patient_orientation", "series_type", "focal_shape"})


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


TERMS: Final[dict[str, list[str]]] = tomllib.loads(_read("terms.toml"))
"""The closed lists, by name."""

MEANINGS: Final[dict[str, dict[str, str]]] = json.loads(_read("codes.json"))["meanings"]
"""Code meaning by coding scheme and code value; SNM3 is an older name of SRT (PS3.16 8)."""
MEANINGS["SNM3"] = MEANINGS["SRT"]

STANDARD_UIDS: Final = frozenset(UID_dictionary)
"""The UIDs that the standard itself defines: they name no object of a hospital."""


def term(name: str) -> Rule:
    """Return the rule of a closed list.

    Guarantees:
      - Only spellings of ``terms.toml`` are written, whatever the case or
        spacing of the input. A value that is not listed is left out; where
        the position of a value means something, all of them are.
    """
    spelled = _spellings(TERMS[name])
    whole = name in _WHOLE_LISTS

    def rule(values: Sequence[Value]) -> list[Value] | None:
        found = [spelled.get(_plain(value)) for value in values]
        kept: list[Value] = [value for value in found if value is not None]
        return kept if kept and (not whole or len(kept) == len(found)) else None

    return rule


def image_type(values: Sequence[Value]) -> list[Value] | None:
    """Keep an Image Type by position (PS3.3 C.7.6.1.1.2).

    Values 1 and 2 must be the standard's; a later one that is not listed
    becomes ``OTHER``, so that those behind it keep their place.
    """
    if len(values) > _MOST_TYPES:
        return None
    first = [_IMAGE_TYPE_1.get(_plain(value)) for value in values[:1]]
    second = [_IMAGE_TYPE_2.get(_plain(value)) for value in values[1:2]]
    if not first or None in first + second:
        return None
    rest = [_IMAGE_TYPE.get(_plain(value), _OTHER) for value in values[2:]]
    return [value for value in first + second + rest if value is not None]


def whole_number(low: int, high: int, digits: int) -> Rule:
    """Return the rule of a whole number from ``low`` to ``high``; one outlier drops them all.

    Args:
      low: Smallest value that passes.
      high: Largest value that passes.
      digits: Significant decimal digits that are kept.
    """

    def rule(values: Sequence[Value]) -> list[Value] | None:
        kept: list[Value] = []
        for value in values:
            if isinstance(value, str):
                if not _INTEGER.fullmatch(value):
                    return None
                value = int(value)  # noqa: PLW2901 - the same value, as a number
            if not (low <= value <= high and value == int(value)):
                return None
            kept.append(int(float(f"{value:.{digits}g}")))
        return kept

    return rule


def number(low: float, high: float, digits: int) -> Rule:
    """Return the rule of a real number from ``low`` to ``high``, rounded.

    Args:
      low: Smallest value that passes.
      high: Largest value that passes.
      digits: Significant decimal digits that are kept.
    """

    def rule(values: Sequence[Value]) -> list[Value] | None:
        kept: list[Value] = []
        for value in values:
            found = _real(value)
            if found is None or not low <= found <= high:
                return None
            kept.append(float(f"{found:.{digits}g}") + 0.0)
        return kept

    return rule


def coarse(low: float, high: float, step: float) -> Rule:
    """Return the rule of a body measure: in range, and on a grid of ``step``."""

    def rule(values: Sequence[Value]) -> list[Value] | None:
        found = _real(values[0]) if len(values) == 1 else None
        if found is None or not low <= found <= high:
            return None
        return [float(f"{max(1, math.floor(found / step + 0.5)) * step:.6g}")]

    return rule


def pointer(values: Sequence[Value]) -> list[Value] | None:
    """Keep tags of the standard's dictionary; a private tag drops them all."""
    tags = [int(value) for value in values if not isinstance(value, str)]
    known = all(not tag >> 16 & 1 and dictionary_has_tag(tag) for tag in tags)
    return list(tags) if known and len(tags) == len(values) else None


def standard_uid(values: Sequence[Value]) -> list[Value] | None:
    """Keep UIDs that the standard defines (PS3.6 A)."""
    return list(values) if all(value in STANDARD_UIDS for value in values) else None


def decimal_string(value: float, digits: int) -> str:
    """Return a number as a DS of at most 16 characters (PS3.5 6.2).

    >>> decimal_string(0.48828125, 8), decimal_string(-1234.5, 8), decimal_string(1e-7, 3)
    ('0.48828125', '-1234.5', '1e-07')
    """
    return f"{value + 0.0:.{digits}g}"


def _real(value: Value) -> float | None:
    if isinstance(value, str):
        if len(value) > _MOST_CHARACTERS or not _DECIMAL.fullmatch(value):
            return None
        value = float(value)
    return float(value) if math.isfinite(value) else None


def _plain(value: Value) -> str:
    return " ".join(str(value).upper().split())


def _spellings(values: Sequence[str]) -> dict[str, str]:
    return {_plain(value): value for value in reversed(values)}


_IMAGE_TYPE_1: Final = _spellings(TERMS["image_type_1"])
_IMAGE_TYPE_2: Final = _spellings(TERMS["image_type_2"])
_IMAGE_TYPE: Final = _spellings(TERMS["image_type"]) | {"": ""}
