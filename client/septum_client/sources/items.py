"""One thing found in an export, what it looks like, and how much may be unpacked to see it."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from septum.errors import Quarantine

Kind = Literal["dicom", "nifti", "picture", "table", "index", "archive"]

HEAD_BYTES: Final = 4096
# Media Storage SOP Class UID (0002,0002) of a DICOMDIR (DICOM PS3.10 7.1 and 8.6).
_DIRECTORY_CLASS: Final = b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"
_NIFTI_1: Final = (b"n+1\x00", b"ni1\x00")
_NIFTI_2: Final = (b"n+2\x00", b"ni2\x00")
_PICTURES: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What unpacking may cost. The first four hold for one archive and all archives in it.

    Args:
      archive_bytes: Bytes in all members together, unpacked.
      members: Members in all.
      depth: 1 opens archives, 2 also those inside them.
      member_bytes: Bytes in one member, unpacked; at most this is held in
        memory per level of depth.
      ratio: Unpacked over packed size that a member may have, once it is
        larger than ``ratio_from_bytes``: an empty mask shrinks 1,000-fold too.
    """

    archive_bytes: int = 64 * 2**30
    members: int = 100_000
    depth: int = 2
    member_bytes: int = 256 * 2**20
    ratio: int = 200
    ratio_from_bytes: int = 16 * 2**20


LIMITS: Final = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One file of an export, or one member of an archive in it.

    Args:
      key: Path below the source, with ``/``; an archive counts as a folder.
        For the order and for the labels' ``file`` column; never written,
        logged or shown, because file names carry names.
      kind: What the first bytes look like; ``archive`` only where a whole
        archive is refused, ``index`` for a DICOMDIR, which is no image.
      path: Where the bytes are; ``None`` for members of archives.
      content: The bytes of a member; ``None`` for files on disk.
      code: Why this stays out, where that is known already.
    """

    key: str = field(repr=False)
    kind: Kind = "dicom"
    path: Path | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    code: Quarantine | None = None


def is_archive(head: bytes) -> bool:
    """Return whether a file that starts with ``head`` is a zip archive and not DICOM."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and not _is_part_10(head)


def kind_of(head: bytes, name: str, *, at_top: bool) -> Kind:
    """Return what a file is, by its content first.

    Args:
      head: Its first :data:`HEAD_BYTES`.
      name: Its name, whose ending tells a table and a broken NIfTI file.
      at_top: Whether it lies at the top of the source, where the labels are.

    Returns:
      ``dicom`` where nothing else fits: the parser refuses what is not.
    """
    name = name.lower()
    if _is_part_10(head):
        # Before all else: a DICOM preamble may be a TIFF header (DICOM PS3.10 7.1).
        return "index" if _DIRECTORY_CLASS in head[132:] else "dicom"
    if name.endswith(".csv") and at_top:
        return "table"
    if name.endswith((".nii", ".nii.gz")) or _is_nifti(head) or _is_nifti(_inflated(head)):
        return "nifti"
    if head.startswith(_PICTURES) or (head[:2] == b"BM" and head[6:10] == b"\x00" * 4):
        return "picture"
    return "dicom"


def _is_part_10(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in _NIFTI_1 or head[4:8] in _NIFTI_2


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 348)
    except zlib.error:
        return b""
