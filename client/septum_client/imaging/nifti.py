"""NIfTI from bytes in memory: a grid of values and where it lies, and no text.

Of the header, only the shape, type, offset, scale and orientation are asked;
description, auxiliary file, intent name and extensions are never read.
Formats: NIfTI-1.1 (Cox et al. 2004) and NIfTI-2, one file, gzip or not.
"""

import gzip
import math
import warnings
import zlib
from io import BufferedIOBase, BytesIO
from typing import Any, Final, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.imaging.limits import LIMITS, Limits
from septum_client.imaging.volumes import Volume, reoriented, spacing_of
from septum_client.reject import Rejected

MIN_SIDE: Final = 16
_GZIP: Final = b"\x1f\x8b"
# Deflate cannot do better (RFC 1951: 258 bytes for 2 bits), so a longer promise is not kept.
_MOST_INFLATION: Final = 1032
_HEADERS: Final = {
    348: (nibabel.Nifti1Header, slice(344, 348), b"n+1\x00"),
    540: (nibabel.Nifti2Header, slice(4, 8), b"n+2\x00"),
}
_LONGEST_HEADER: Final = 540
_MM: Final = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(data: bytes, *, limits: Limits = LIMITS) -> Volume:
    """Return the volume, depth towards the head, rows to the back, columns to the left.

    Args:
      data: The whole file.
      limits: ``pixel_bytes`` bounds stored and float32 values together,
        ``side`` each of rows and columns, ``frames`` the depth.

    Returns:
      Values scaled by slope and intercept where the header has them. Axes are
      swapped and turned round as for DICOM, never interpolated.

    Guarantees:
      - No more is inflated than the header needs, and the header's promise is
        checked against ``limits`` first.

    Raises:
      Rejected: CANNOT_DECODE (no NIfTI in one file, or a type that is not one
        real number), COLOUR, BAD_GEOMETRY (not three axes, no orientation, or
        axes that are not at right angles), TOO_LARGE, TRUNCATED, BAD_VALUES
        (not finite).
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # nibabel's quote the header
            return _read(data, limits)
    except Rejected:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Rejected(Quarantine.TRUNCATED) from None
    except MemoryError:
        raise Rejected(Quarantine.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - nibabel's errors are many, and their texts quote the header
        raise Rejected(Quarantine.CANNOT_DECODE) from None


def _read(data: bytes, limits: Limits) -> Volume:
    packed = data.startswith(_GZIP)
    file = cast("BufferedIOBase", gzip.GzipFile(fileobj=BytesIO(data)) if packed else BytesIO(data))
    header = _header(file.read(_LONGEST_HEADER))
    kind, shape = _kind(header), _shape(header, limits)
    count = math.prod(shape)
    offset = int(header.get_data_offset())
    needed = offset + count * kind.itemsize
    if count * (kind.itemsize + 4) > limits.pixel_bytes or offset > limits.inflated_bytes:
        raise Rejected(Quarantine.TOO_LARGE)
    if offset < header.sizeof_hdr:
        raise Rejected(Quarantine.CANNOT_DECODE)
    if needed > len(data) * (_MOST_INFLATION if packed else 1):
        raise Rejected(Quarantine.TRUNCATED)
    affine = _affine(header)
    file.seek(offset)
    stored = file.read(needed - offset)
    if len(stored) < needed - offset:
        raise Rejected(Quarantine.TRUNCATED)
    file.read(1)  # at the end of a gzip stream, this compares its checksum
    grid = np.frombuffer(stored, dtype=kind).reshape(shape, order="F")
    turned, affine = reoriented(grid, affine)
    values = turned.astype(np.float32, order="C")
    slope, intercept = header.get_slope_inter()
    if slope is not None:
        values *= np.float32(slope)
        values += np.float32(intercept)
    if not np.isfinite(values).all():
        raise Rejected(Quarantine.BAD_VALUES)
    if min(values.shape[1:]) < MIN_SIDE:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    return Volume(values=values, spacing_mm=spacing_of(affine), affine=affine)


def _header(head: bytes) -> Any:
    for size, (form, place, magic) in _HEADERS.items():
        if head[place] == magic and len(head) >= size:
            # Unchecked, because the check logs what it finds.
            return form(binaryblock=head[:size], check=False)
    raise Rejected(Quarantine.CANNOT_DECODE)


def _kind(header: Any) -> np.dtype[Any]:
    kind: np.dtype[Any] = np.dtype(header.get_data_dtype())
    if kind.fields is not None:
        raise Rejected(Quarantine.COLOUR)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise Rejected(Quarantine.CANNOT_DECODE)
    return kind


def _shape(header: Any, limits: Limits) -> tuple[int, ...]:
    shape = tuple(int(n) for n in header.get_data_shape())
    # One volume in a series of one is a volume.
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    if max(shape) > max(limits.side, limits.frames):
        raise Rejected(Quarantine.TOO_LARGE)
    return shape


def _affine(header: Any) -> NDArray[np.float64]:
    """Return the affine from index to LPS mm.

    Without a code for either form, the standard's fallback says how far
    voxels are apart and not which side is left, so it is not used.
    """
    if not (header["sform_code"] > 0 or header["qform_code"] > 0):
        raise Rejected(Quarantine.BAD_GEOMETRY)
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _MM[header.get_xyzt_units()[0]]
        affine = _RAS_TO_LPS @ affine
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        right = np.allclose(cosines.T @ cosines, np.eye(3), atol=0.01)
    except Exception:  # noqa: BLE001 - as in read
        right = False
    if not right:
        raise Rejected(Quarantine.BAD_GEOMETRY)
    return affine
