"""Which files a DICOMDIR names and the export lacks: counted, never shown.

The directory is not parsed as a data set. It is always Explicit VR Little
Endian (DICOM PS3.10 8.6), so each Referenced File ID (0004,1500) starts with
the same six bytes; looking for those costs one pass, cannot crash, and finds
the records whatever the links between them say.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Final

from septum_client.sources.items import Item

MAX_BYTES: Final = 64 * 2**20
MOST_NAMES: Final = 1_000_000
_FILE_ID: Final = re.compile(rb"\x04\x00\x00\x15CS(..)", re.DOTALL)
# PS3.10 8.5 allows 8 components of 8 characters; exports are less careful with the second.
_MOST_COMPONENTS: Final = 8
_MOST_CHARACTERS: Final = 1024


@dataclass(kw_only=True, eq=False)
class Roll:
    """Keeps the keys that go by and those that directories name, to count what never came.

    Guarantees:
      - Upper and lower case are one, and the version that ISO 9660 appends
        (``;1``) does not count: discs are copied by systems that change both.
      - Of each key it keeps 64 bits: a hash keyed by the process, so that
        nobody can choose two keys that count as one.
      - It looks at :data:`MOST_NAMES` names, of all directories together, and
        at none beyond the first :data:`MAX_BYTES` of one.
    """

    keys: set[int] = field(default_factory=set, repr=False)
    named: set[int] = field(default_factory=set, repr=False)
    looks: int = field(default=MOST_NAMES, repr=False)

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield every item as it is."""
        for item in items:
            self.keys.add(hash(_plain(item.key)))
            if item.kind == "index" and item.code is None:
                for name in islice(_names(_content(item), key=item.key), self.looks):
                    self.looks -= 1
                    self.named.add(hash(name))
            yield item

    @property
    def missing(self) -> int:
        """How many files the directories name that did not go by."""
        return len(self.named - self.keys)


def _names(data: bytes, *, key: str) -> Iterator[str]:
    """Yield the keys that a directory names: relative to its folder (DICOM PS3.10 8.5)."""
    folder = PurePosixPath(key).parent
    for found in islice(_FILE_ID.finditer(data[:MAX_BYTES]), MOST_NAMES):
        length = int.from_bytes(found[1], "little")
        if length > _MOST_CHARACTERS:
            continue
        value = data[found.end() : found.end() + length]
        if value.count(b"\\") >= _MOST_COMPONENTS:
            continue
        parts = [part.strip() for part in value.decode("latin-1").rstrip(" \x00").split("\\")]
        if all(parts):
            yield _plain((folder / "/".join(parts)).as_posix())


def _plain(key: str) -> str:
    return key.casefold().partition(";")[0]


def _content(item: Item) -> bytes:
    if item.path is None:
        return (item.content or b"")[:MAX_BYTES]
    try:
        with item.path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError:
        return b""
