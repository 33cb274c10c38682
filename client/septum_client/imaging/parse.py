"""A whole DICOM data set from hostile bytes, in bounded memory and time, or one closed code."""

import logging
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydicom import config, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.tag import BaseTag

from septum.errors import Quarantine
from septum_client.imaging.limits import LIMITS, Limits
from septum_client.imaging.structure import Elements, Reader, starts_explicit
from septum_client.reject import Rejected

__all__ = ["LIMITS", "Limits", "judged", "owner", "parse", "read_bytes", "read_head", "silent"]

_HEAD_BYTES: Final = 2**20
_TRANSFER_SYNTAX: Final = BaseTag(0x00020010)
_OWNER: Final = (BaseTag(0x00100020), BaseTag(0x00080018))
_FIRST_GROUPS: Final = (0x0002, 0x0008)


def read_bytes(path: Path, *, limits: Limits = LIMITS) -> bytes:
    """Return a regular file's bytes.

    Raises:
      Rejected: With UNREADABLE for what cannot be opened or is no regular
        file, TOO_LARGE above ``limits.file_bytes``.
    """
    data = read_head(path, size=limits.file_bytes + 1)
    if len(data) > limits.file_bytes:
        raise Rejected(Quarantine.TOO_LARGE)
    return data


def read_head(path: Path, *, size: int = _HEAD_BYTES) -> bytes:
    """Return at most the first ``size`` bytes: enough for :func:`owner` of a file too large.

    Raises:
      Rejected: With UNREADABLE.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Rejected(Quarantine.UNREADABLE)
            return handle.read(size)
    except OSError:
        raise Rejected(Quarantine.UNREADABLE) from None


def parse(data: bytes, *, limits: Limits = LIMITS) -> FileDataset:
    """Return the data set of one file, every sequence in it already read.

    Args:
      data: The file, whole. A preamble, the file meta information, or both
        may be missing (DICOM PS3.10 7.1); the encoding is then inferred from
        the first element.
      limits: The bounds.

    Returns:
      A data set whose values pydicom converts when they are asked for; do
      that inside :func:`silent`. It holds no path and no open file.

    Guarantees:
      - Memory is bounded by ``limits``: depth, elements and inflated bytes
        are counted before they are allocated.
      - Warns of nothing, logs nothing, raises nothing but ``Rejected``.

    Raises:
      Rejected: NOT_DICOM; TRUNCATED, for bytes promised and absent; EXPANDS,
        for a deflated data set beyond the limits; TOO_LARGE, for too many
        elements; NO_PATIENT, for an unknown character set.
    """
    with judged(Quarantine.NOT_DICOM):
        return _File(data, limits).read()


def owner(data: bytes, *, limits: Limits = LIMITS) -> tuple[str, str]:
    """Return Patient ID and SOP Instance UID of a file that :func:`parse` refuses.

    They serve one purpose: a label row whose image was refused is not a label
    for an unknown patient. Empty where they cannot be read. Raises nothing.
    """
    with silent():
        try:
            header = beginning(data, limits=limits)
            patient, instance = (header.get(tag) for tag in _OWNER)
        except Exception:  # noqa: BLE001 - the owner stays unknown
            return "", ""
        values = [element.value if element is not None else "" for element in (patient, instance)]
        texts = [value.strip(" \0") if isinstance(value, str) else "" for value in values]
        return texts[0], texts[1]


def beginning(data: bytes, *, limits: Limits = LIMITS) -> FileDataset:
    """Return as much of a refused file's header as could be read, perhaps nothing."""
    with silent():
        file = _File(data, limits)
        with suppress(Exception):  # the file is refused already; as much as was read counts
            file.read()
        header = FileDataset("", file.found)
        header.set_original_encoding(False, True, file.encodings)
        return header


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom from warning or logging: both quote values and file names.

    Values are converted without validation meanwhile: over-long numbers and
    identifiers are common, and each value is judged where it is used. All
    settings are restored afterwards.
    """
    mode = config.settings.reading_validation_mode
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        config.settings.reading_validation_mode = mode


@contextmanager
def judged(code: Quarantine) -> Iterator[None]:
    """Be silent, and let every exception but ``Rejected`` end as ``Rejected(code)``."""
    with silent():
        try:
            yield
        except Rejected:
            raise
        except Exception:  # noqa: BLE001 - hostile bytes make parsers and decoders raise anything
            raise Rejected(code) from None


class _File:
    """One file on its way to a data set; what was found stays known after a refusal."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._body: Reader | None = None

    @property
    def found(self) -> Elements:
        return {} if self._body is None else self._body.found

    @property
    def encodings(self) -> str | list[str]:
        return "iso8859" if self._body is None else self._body.encodings

    def read(self) -> FileDataset:
        data, at, preamble = self._data, 0, None
        if data[128:132] == b"DICM":
            at, preamble = 132, data[:128]
        elif data[:4] == b"DICM":
            at = 4
        meta = Reader(data, little=True, limits=self._limits)
        if data[at : at + 2] == b"\x02\x00":
            try:
                at = meta.read(at, group=0x0002)
            except Rejected:
                raise Rejected(Quarantine.NOT_DICOM) from None
        elif at == 0 and not _plausible(data):
            raise Rejected(Quarantine.NOT_DICOM)
        syntax = _syntax(meta.found)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            data, at = _inflate(data[at:], self._limits), 0
        if at >= len(data):
            raise Rejected(Quarantine.NOT_DICOM)
        little = not (syntax == uid.ExplicitVRBigEndian or (not syntax and data[at] == 0))
        self._body = Reader(data, little=little, limits=self._limits)
        implicit = not starts_explicit(data, at)
        self._body.read(at)
        file_meta = FileMetaDataset(meta.found)
        file_meta.set_original_encoding(False, True, "iso8859")
        if not syntax:
            file_meta.TransferSyntaxUID = _inferred(implicit=implicit, little=little)
        ds = FileDataset("", self._body.found, preamble, file_meta, implicit, little)
        ds.set_original_encoding(implicit, little, self._body.encodings)
        return ds


def _plausible(data: bytes) -> bool:
    """Return whether bytes without a prefix begin as a data set does (identification: group 8)."""
    if len(data) < 8:
        return False
    for order in ("little", "big"):
        group, length = int.from_bytes(data[:2], order), int.from_bytes(data[4:8], order)
        if group in _FIRST_GROUPS and (starts_explicit(data, 0) or length <= len(data) - 8):
            return True
    return False


def _syntax(meta: Elements) -> str:
    element = meta.get(_TRANSFER_SYNTAX)
    value = element.value if element is not None else b""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def _inferred(*, implicit: bool, little: bool) -> uid.UID:
    if not little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


def _inflate(data: bytes, limits: Limits) -> bytes:
    """Return a deflated data set (DICOM PS3.5 A.5); what follows the stream is ignored."""
    allowed = max(limits.inflated_free, limits.inflated_ratio * len(data))
    allowed = min(limits.inflated_bytes, allowed)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, allowed + 1)
    except zlib.error:
        raise Rejected(Quarantine.NOT_DICOM) from None
    if len(inflated) > allowed:
        raise Rejected(Quarantine.EXPANDS)
    if not stream.eof:
        raise Rejected(Quarantine.TRUNCATED)
    return inflated
