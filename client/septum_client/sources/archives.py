"""Zip archives read member by member in memory: capped before inflating, never unpacked to disk.

The sizes that an archive declares are checked before a byte is inflated, and
inflating stops at the declared size, so a lie about it ends as a refusal.
Overlapping members (David Fifield, "A better zip bomb", WOOT 2019) are refused
by the places that the directory gives them.
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import IO, Final, cast

from septum.errors import Quarantine
from septum_client.reject import Rejected
from septum_client.sources.items import HEAD_BYTES, Item, Limits, is_archive, kind_of

_LOCAL_HEADER_BYTES: Final = 30
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
_ENTRY_BYTES: Final = 512  # 46 and the name; a longer mean is not an export of images
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
# zipfile inflates bzip2 and LZMA without a cap, and exports use neither.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # NotImplementedError among them
    ValueError,
    OverflowError,
)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


@dataclass(kw_only=True, slots=True)
class Allowance:
    """What one archive on disk and all archives inside it may still cost; used up as they open."""

    archive_bytes: int
    members: int

    @classmethod
    def of(cls, limits: Limits) -> "Allowance":
        """Return a full allowance."""
        return cls(archive_bytes=limits.archive_bytes, members=limits.members)


def members(
    file: IO[bytes],
    *,
    key: str,
    limits: Limits,
    allowance: Allowance,
    depth: int = 1,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Iterator[Item]:
    """Yield the members of an archive, ordered by path; folders are not members.

    Args:
      file: The archive, open for reading.
      key: Its key, to which members' paths are joined; empty where the
        archive is the source itself, whose one top folder is left out then.
      limits: What one member may cost.
      allowance: What may be used in all; reduced here.
      depth: How many archives this one lies in, itself included.
      wanted: Which keys to read; the others are passed over.

    Returns:
      Where the archive cannot be trusted, one item of kind ``archive`` with a
      code. Where a member cannot, its item has a code and the rest goes on.

    Guarantees:
      - At most ``limits.member_bytes`` are inflated for a member.
    """
    try:
        archive = _opened(file, allowance)
    except Rejected as refused:
        yield Item(key=key, kind="archive", code=refused.code)
        return
    entries = _files(archive)
    top = "" if key else _only_folder([path for path, _ in entries])
    for path, info in entries:
        place = f"{key}/{path}" if key else path.removeprefix(top)
        if not wanted(place):
            continue
        code = _fault(path, info, limits)
        content = b"" if code else _inflate(archive, info)
        if content is None:
            yield Item(key=place, code=Quarantine.BAD_ARCHIVE)
        elif code is not None:
            yield Item(key=place, code=code)
        elif not is_archive(content[:HEAD_BYTES]):
            kind = kind_of(content[:HEAD_BYTES], path, at_top="/" not in place)
            yield Item(key=place, kind=kind, content=content)
        elif depth >= limits.depth:
            yield Item(key=place, kind="archive", code=Quarantine.EXPANDS)
        else:
            yield from members(
                BytesIO(content), key=place, limits=limits, allowance=allowance, depth=depth + 1
            )


def size(file: IO[bytes], limits: Limits) -> int:
    """Return how many members an archive has; 1 where it cannot be opened."""
    try:
        archive = _opened(file, Allowance.of(limits))
    except Rejected:
        return 1
    return len(_files(archive))


def _opened(file: IO[bytes], allowance: Allowance) -> zipfile.ZipFile:
    """Return the archive after its directory has passed, and charge the allowance."""
    watched = _Watched(file, most_entries=allowance.members)
    try:
        archive = zipfile.ZipFile(cast("IO[bytes]", watched))
    except _BROKEN:
        raise Rejected(Quarantine.BAD_ARCHIVE) from None
    watched.opening = False
    infos = archive.infolist()
    names = [_path(info) for info in infos]
    spans = sorted(
        (start := info.header_offset, start + _LOCAL_HEADER_BYTES + len(name) + info.compress_size)
        for name, info in zip(names, infos, strict=True)
    )
    edges = [(0, 0), *spans, (archive.start_dir, archive.start_dir)]
    overlap = any(end > start for (_, end), (start, _) in pairwise(edges))
    if overlap or len(set(names)) != len(names):
        raise Rejected(Quarantine.BAD_ARCHIVE)
    unpacked = sum(info.file_size for info in infos)
    if len(infos) > allowance.members or unpacked > allowance.archive_bytes:
        raise Rejected(Quarantine.EXPANDS)
    allowance.members -= len(infos)
    allowance.archive_bytes -= unpacked
    return archive


def _files(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return path and entry of every member that is no folder, sorted folder by folder."""
    entries = [(_path(info), info) for info in archive.infolist()]
    return sorted(
        (entry for entry in entries if not entry[0].endswith("/")),
        key=lambda entry: entry[0].split("/"),
    )


def _path(info: zipfile.ZipInfo) -> str:
    """Return the member's path with ``/``, as Windows tools should have written it."""
    return info.filename.replace("\\", "/")


def _only_folder(paths: list[str]) -> str:
    """Return the folder that a zipped folder puts around everything, with its slash, or nothing.

    >>> _only_folder(["out/a", "out/b/c"]), _only_folder(["out/a", "b"])
    ('out/', '')
    """
    # Finder adds this folder beside the one that was zipped.
    paths = [path for path in paths if not path.startswith("__MACOSX/")]
    top = paths[0].partition("/")[0] + "/" if paths else ""
    return top if all(path.startswith(top) for path in paths) else ""


def _fault(path: str, info: zipfile.ZipInfo, limits: Limits) -> Quarantine | None:
    """Return why a member is refused before a byte of it is read."""
    mode = stat.S_IFMT(info.external_attr >> 16)
    if (
        {"", ".", ".."} & set(path.split("/"))
        or _DRIVE.match(path)
        or mode not in {0, stat.S_IFREG}
        or info.flag_bits & _ENCRYPTED
        or info.compress_type not in _METHODS
    ):
        return Quarantine.BAD_ARCHIVE
    if info.file_size > limits.member_bytes:
        return Quarantine.TOO_LARGE
    if info.file_size > max(limits.ratio_from_bytes, limits.ratio * info.compress_size):
        return Quarantine.EXPANDS
    return None


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    """Return a member's bytes; ``None`` where they are not what the directory says."""
    try:
        with archive.open(info) as member:
            # One more than declared is never given; asking for it checks the CRC.
            content = member.read(info.file_size + 1)
    except _BROKEN:
        return None
    return content if len(content) == info.file_size else None


class _Watched:
    """A file whose directory is counted before zipfile makes an object of every entry."""

    def __init__(self, file: IO[bytes], *, most_entries: int) -> None:
        self.opening = True
        self._file = file
        self._most = most_entries
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.opening and size > _ENTRY_BYTES * max(self._most, 1024):
            raise Rejected(Quarantine.EXPANDS)
        data = self._file.read(size)
        if self.opening and data.count(_ENTRY_SIGNATURE) > self._most:
            raise Rejected(Quarantine.EXPANDS)
        return data
