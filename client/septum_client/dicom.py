"""Read one DICOM file by allow-list: an image and the few fields that training needs.

The parser is asked for :data:`CARRIED` and for nothing else, so no other
attribute, at any depth, exists in the process. Hostile and broken files end as
:class:`Refused`, never as an exception: an exception's text could carry what
the header says. Neither result shows an identifier when printed.
"""

import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config, uid
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import pixel_array

from septum.errors import Quarantine
from septum_client.demographics import age_band_index, sex_index

CARRIED: Final = (
    "SOPInstanceUID",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "PixelData",
)
MIN_SIDE: Final = 16
MAX_PIXELS: Final = 8192 * 8192
MAX_FILE_BYTES: Final = 256 * 2**20

_TAGS: Final = [tag_for_keyword(keyword) for keyword in CARRIED]
_IDENTITY_TAGS: Final = [tag_for_keyword(keyword) for keyword in ("SOPInstanceUID", "PatientID")]
_HEADER_BYTES: Final = 2**20
# Deflated Explicit VR Little Endian (DICOM PS3.5 A.5) is absent on purpose:
# the parser inflates it whole, without a limit, before the first element.
_NATIVE: Final = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian}
)
_COMPRESSED: Final = frozenset(
    {*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes}
    | {*uid.RLETransferSyntaxes}
)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Scan:
    """One single-frame greyscale image as stored, and the fields training needs.

    Args:
      patient_id: Patient ID, without padding, never empty.
      sop_instance_uid: SOP Instance UID, never empty.
      sex: Index into :data:`septum_client.demographics.SEXES`.
      age_band: Index into :data:`septum_client.demographics.AGE_BANDS`.
      stored: Stored values, integers of shape ``(rows, columns)``; bits
        beyond Bits Stored, which may hold an overlay, are already gone.
      slope: Rescale Slope, finite.
      intercept: Rescale Intercept, finite.
      inverted: Whether Photometric Interpretation is MONOCHROME1.
      padding: First and last stored value that mean "no image here".
    """

    patient_id: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    sex: int
    age_band: int
    stored: NDArray[np.integer[Any]] = field(repr=False)
    slope: float
    intercept: float
    inverted: bool
    padding: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Refused:
    """A file that stays out, why, and whose it was as far as that could be read.

    The identity serves one purpose: a label row whose image was refused is
    not a label for an unknown patient.
    """

    code: Quarantine
    patient_id: str = field(default="", repr=False)
    sop_instance_uid: str = field(default="", repr=False)


def read(path: Path) -> Scan | Refused:
    """Read one file.

    Args:
      path: Any file: its name and extension mean nothing.

    Returns:
      The scan, or the reason it is refused. At most :data:`MAX_FILE_BYTES`
      are read, and pixels are decoded only when the header promises at most
      :data:`MAX_PIXELS` of them.

    Guarantees:
      - Raises nothing, warns of nothing and logs nothing that a file says.
    """
    with _silence():
        try:
            data, whole = _bytes_of(path)
        except OSError:
            return Refused(code=Quarantine.UNREADABLE)
        if data[128:132] != b"DICM":  # DICOM PS3.10 7.1
            return Refused(code=Quarantine.NOT_DICOM)
        try:
            syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
        except Exception:  # noqa: BLE001 - a hostile header can make the parser raise anything
            return Refused(code=Quarantine.NOT_DICOM)
        if syntax not in _NATIVE | _COMPRESSED:
            return Refused(code=Quarantine.CANNOT_DECODE)
        if not whole:
            return _refused(data[:_HEADER_BYTES], Quarantine.TOO_LARGE)
        try:
            found = _scan(data, native=syntax in _NATIVE)
        except EOFError:
            found = Quarantine.TRUNCATED
        except LookupError:
            # An unknown character set: one patient could be read as two.
            found = Quarantine.NO_PATIENT
        except Exception:  # noqa: BLE001 - as above
            found = Quarantine.NOT_DICOM
        return _refused(data, found) if isinstance(found, Quarantine) else found


class _Stream(BytesIO):
    """Bytes that remember whether somebody asked for more than there is."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size is not None and 0 < len(found) < size:
            self.short = True
        return found

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position = super().seek(offset, whence)
        if position > len(self.getbuffer()):
            self.short = True
        return position


@contextmanager
def _silence() -> Iterator[None]:
    # pydicom's warnings and log lines quote values and file names.
    mode = config.settings.reading_validation_mode
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        config.settings.reading_validation_mode = mode


def _bytes_of(path: Path) -> tuple[bytes, bool]:
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError
        data = handle.read(MAX_FILE_BYTES + 1)
    return data, len(data) <= MAX_FILE_BYTES


def _refused(data: bytes, code: Quarantine) -> Refused:
    config.settings.reading_validation_mode = config.IGNORE
    try:
        header = pydicom.dcmread(
            BytesIO(data), stop_before_pixels=True, specific_tags=_IDENTITY_TAGS
        )
        return Refused(
            code=code,
            patient_id=_text(header, "PatientID"),
            sop_instance_uid=_text(header, "SOPInstanceUID"),
        )
    except Exception:  # noqa: BLE001 - the file is refused already; only its owner stays unknown
        return Refused(code=code)


def _scan(data: bytes, *, native: bool) -> Scan | Quarantine:
    stream = _Stream(data)
    config.settings.reading_validation_mode = config.RAISE
    header = pydicom.dcmread(stream, specific_tags=_TAGS)
    # Over-long numbers and identifiers are common and harmless; each field is judged below.
    config.settings.reading_validation_mode = config.IGNORE
    fault = _fault(header, native=native, short=stream.short)
    if fault is not None:
        return fault
    try:
        # Index 0: surplus bytes after the frame are not a second frame.
        stored = pixel_array(header, raw=True, index=0)
    except Exception:  # noqa: BLE001 - decoders of compressed data raise whatever they like
        return Quarantine.CANNOT_DECODE
    if stored.shape != (header.Rows, header.Columns) or stored.dtype.kind not in "iu":
        return Quarantine.CANNOT_DECODE
    return Scan(
        patient_id=_text(header, "PatientID"),
        sop_instance_uid=_text(header, "SOPInstanceUID"),
        sex=sex_index(_text(header, "PatientSex")),
        age_band=age_band_index(_text(header, "PatientAge")),
        stored=stored,
        slope=_number(header, "RescaleSlope", 1),
        intercept=_number(header, "RescaleIntercept", 0),
        inverted=_text(header, "PhotometricInterpretation") == "MONOCHROME1",
        padding=_padding(header, signed=stored.dtype.kind == "i"),
    )


def _fault(header: Any, *, native: bool, short: bool) -> Quarantine | None:
    """Return the first reason not to decode (Image Pixel Module, DICOM PS3.3 C.7.6.3)."""
    pixels = header.get("PixelData") or b""
    rows, columns = _number(header, "Rows", 0), _number(header, "Columns", 0)
    allocated, used = _number(header, "BitsAllocated", 0), _number(header, "BitsStored", 0)
    photometric = _text(header, "PhotometricInterpretation")
    scale = _number(header, "RescaleSlope", 1), _number(header, "RescaleIntercept", 0)
    reasons = (
        (not pixels and short, Quarantine.TRUNCATED),
        (not pixels, Quarantine.NO_PIXELS),
        (not _text(header, "PatientID"), Quarantine.NO_PATIENT),
        (not _text(header, "SOPInstanceUID"), Quarantine.NOT_DICOM),
        (_number(header, "SamplesPerPixel", 1) != 1, Quarantine.COLOUR),
        (photometric not in {"", "MONOCHROME1", "MONOCHROME2"}, Quarantine.COLOUR),
        (_number(header, "NumberOfFrames", 1) != 1, Quarantine.MULTI_FRAME),
        (not (rows >= MIN_SIDE and columns >= MIN_SIDE), Quarantine.BAD_GEOMETRY),
        (rows * columns > MAX_PIXELS, Quarantine.TOO_LARGE),
        (photometric == "", Quarantine.CANNOT_DECODE),
        (allocated not in {8, 16, 32}, Quarantine.CANNOT_DECODE),
        (not 1 <= used <= allocated, Quarantine.CANNOT_DECODE),
        (_number(header, "HighBit", used - 1) != used - 1, Quarantine.CANNOT_DECODE),
        # A table in place of slope and intercept (DICOM PS3.3 C.11.1) is not supported yet.
        ("ModalityLUTSequence" in header, Quarantine.CANNOT_DECODE),
        (native and len(pixels) < rows * columns * allocated / 8, Quarantine.TRUNCATED),
        (not all(map(math.isfinite, scale)) or scale[0] == 0, Quarantine.BAD_VALUES),
    )
    return next((code for holds, code in reasons if holds), None)


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def _number(header: Any, keyword: str, default: float) -> float:
    """Return a number; ``default`` where absent or empty; NaN where it is not one number."""
    try:
        value = header.get(keyword)
        return default if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _padding(header: Any, *, signed: bool) -> tuple[int, int] | None:
    first = _number(header, "PixelPaddingValue", math.nan)
    last = _number(header, "PixelPaddingRangeLimit", first)
    if not (math.isfinite(first) and math.isfinite(last)):
        return None
    sign = 1 << (header.BitsStored - 1)

    def as_stored(value: float) -> int:
        # Written as US beside signed pixels, -2000 arrives as 63536.
        return int(value) - 2**16 if signed and value >= sign else int(value)

    return as_stored(first), as_stored(last)
