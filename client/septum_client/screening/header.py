"""The few header values that the rules read, as plain words and numbers; a bad value is no value.

A header is hostile: any element may hold anything. Each reader gives one type
back and never raises, and none of what it gives leaves this package.
"""

import re
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

UNREADABLE: Final = "?"
_NOT_WORD: Final = re.compile(r"[^A-Z0-9]+")


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the element's values, stripped and in capitals, without the empty ones.

    A value that cannot be read counts as :data:`UNREADABLE`, which is in no
    list of what is allowed, so rules fail closed on it.
    """
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises whatever the bytes provoke
        return (UNREADABLE,)
    if value is None:
        return ()
    every = value if isinstance(value, list | tuple) or _is_many(value) else [value]
    return tuple(word for item in every if (word := str(item).strip("\0 ").upper()))


def text(ds: Dataset, keyword: str) -> str:
    """Return the element's first value, or an empty string."""
    return next(iter(texts(ds, keyword)), "")


def words(ds: Dataset, keyword: str) -> frozenset[str]:
    """Return the words inside the values: ``DOSE_INFO`` is ``DOSE`` and ``INFO``."""
    return frozenset(
        word for value in texts(ds, keyword) for word in _NOT_WORD.split(value) if word
    )


def whole(ds: Dataset, keyword: str) -> int | None:
    """Return the element as an integer, or None."""
    value = number(ds, keyword)
    return int(value) if value is not None and value == int(value) else None


def number(ds: Dataset, keyword: str, index: int = 0) -> float | None:
    """Return one value of the element as a finite number, or None."""
    values = texts(ds, keyword)
    try:
        value = float(values[index])
    except (IndexError, ValueError):
        return None
    return value if abs(value) < 1e12 else None


def items(ds: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence; nothing for an absent or unreadable one."""
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises whatever the bytes provoke
        return
    if isinstance(value, Sequence):
        yield from value


def has(ds: Dataset, keyword: str) -> bool:
    """Say whether the element is there with a value, readable or not."""
    return bool(texts(ds, keyword))


def _is_many(value: object) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes | Dataset)
