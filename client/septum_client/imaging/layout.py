"""How an image's pixels are stored, judged before one of them is touched (DICOM PS3.3 C.7.6.3)."""

import math
from dataclasses import dataclass
from typing import Any, Final

from pydicom import uid

from septum.errors import Quarantine
from septum_client.imaging.limits import Limits
from septum_client.reject import Rejected

_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PALETTE: Final = "PALETTE COLOR"
_SPACES: Final[dict[float, frozenset[str]]] = {1: _GREY | {_PALETTE}, 3: _COLOUR}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The Image Pixel module of one image, every value within bounds.

    Args:
      syntax: Transfer syntax UID.
      rows: Rows of a frame.
      columns: Columns of a frame.
      frames: Number of Frames.
      samples: 1, or 3 for colour.
      photometric: Photometric Interpretation, one that is decoded here.
      bits_allocated: 1, 8, 16 or 32.
      bits_stored: At most Bits Allocated.
      high_bit: Position of the most significant stored bit.
      signed: Whether Pixel Representation is two's complement.
      planar: Planar Configuration: whether colours lie in planes of their own.
    """

    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool

    @property
    def colour(self) -> bool:
        """Whether a pixel becomes red, green and blue."""
        return self.samples == 3 or self.photometric == _PALETTE

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.rows * self.columns


def layout_of(ds: Any, limits: Limits) -> Layout:
    """Return the layout of an image's pixel data.

    Raises:
      Rejected: NO_PIXELS; BAD_GEOMETRY below the smallest side; TOO_LARGE, with
        rows, columns, frames, samples and bits multiplied before anything is
        allocated; COLOUR for a colour space that is not decoded here;
        CANNOT_DECODE for bits that do not fit together, and for Float and
        Double Float Pixel Data, which hold no stored values but results.
    """
    allocated = number(ds, "BitsAllocated", 0)
    stored = number(ds, "BitsStored", allocated)
    rows, columns = number(ds, "Rows", 0), number(ds, "Columns", 0)
    frames, samples = number(ds, "NumberOfFrames", 1), number(ds, "SamplesPerPixel", 1)
    high_bit = number(ds, "HighBit", stored - 1)
    photometric = text(ds, "PhotometricInterpretation")
    decoded = rows * columns * frames * samples * max(allocated, 8) / 8
    wide = 16 if photometric == _PALETTE or samples == 3 else 32
    representation = number(ds, "PixelRepresentation", 0)
    reasons = (
        ("FloatPixelData" in ds or "DoubleFloatPixelData" in ds, Quarantine.CANNOT_DECODE),
        (not ds.get("PixelData"), Quarantine.NO_PIXELS),
        (not min(rows, columns) >= limits.smallest_side, Quarantine.BAD_GEOMETRY),
        (not _whole(rows, columns, frames, samples), Quarantine.BAD_GEOMETRY),
        (frames < 1, Quarantine.BAD_GEOMETRY),
        (max(rows, columns) > limits.side or frames > limits.frames, Quarantine.TOO_LARGE),
        (photometric == "", Quarantine.CANNOT_DECODE),
        (photometric not in _SPACES.get(samples, frozenset()), Quarantine.COLOUR),
        (allocated not in {1, 8, 16, 32} or allocated > wide, Quarantine.CANNOT_DECODE),
        (allocated == 1 and photometric not in _GREY, Quarantine.CANNOT_DECODE),
        (not _whole(stored, high_bit), Quarantine.CANNOT_DECODE),
        (not 1 <= stored <= high_bit + 1 <= allocated, Quarantine.CANNOT_DECODE),
        (representation not in {0, 1}, Quarantine.CANNOT_DECODE),
        (decoded > limits.pixel_bytes, Quarantine.TOO_LARGE),
    )
    code = next((code for holds, code in reasons if holds), None)
    if code is not None:
        raise Rejected(code)
    return Layout(
        syntax=_syntax(ds),
        rows=int(rows),
        columns=int(columns),
        frames=int(frames),
        samples=int(samples),
        photometric=photometric,
        bits_allocated=int(allocated),
        bits_stored=int(stored),
        high_bit=int(high_bit),
        signed=representation == 1,
        planar=number(ds, "PlanarConfiguration", 0) == 1,
    )


def text(ds: Any, keyword: str) -> str:
    """Return one text without padding; empty where there is none, or more than one."""
    value = ds.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def number(ds: Any, keyword: str, default: float) -> float:
    """Return a number; ``default`` where absent or empty; NaN where it is not one number."""
    try:
        value = ds.get(keyword)
        return default if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(*values: float) -> bool:
    return all(math.isfinite(value) and value == int(value) for value in values)


def _syntax(ds: Any) -> str:
    meta = getattr(ds, "file_meta", None)
    syntax = text(meta, "TransferSyntaxUID") if meta is not None else ""
    return syntax or str(uid.ImplicitVRLittleEndian)
