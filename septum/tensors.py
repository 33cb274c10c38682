"""Named tensors as one file in the safetensors format: numbers and names, nothing that runs.

The format is eight bytes of length, a JSON header and the raw numbers
(huggingface/safetensors, README, "Format"). It is read here by comparing every
size before anything is allocated; a file that is not exactly what its header
says is refused whole.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from septum.errors import DataError

MOST_BYTES: Final = 1 << 30
_MOST_HEADER: Final = 4 << 20
_MOST_TENSORS: Final = 20_000
_MOST_AXES: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_KINDS: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
    }
)


def encode(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the file of ``tensors``; equal tensors give equal bytes, whatever their order.

    Raises:
      DataError: A name or dtype that the format or :func:`decode` does not take.
    """
    header: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        kind = next((kind for kind, dtype in _KINDS.items() if dtype == tensor.dtype), None)
        if kind is None or not _NAME.fullmatch(name):
            raise DataError(
                f"a tensor of {tensor.dtype} cannot be stored under its name.",
                remedy=f"Store {', '.join(_KINDS)}, named by letters, digits, dots and dashes.",
            )
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        span = [offset, offset + len(data)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def decode(content: bytes) -> dict[str, torch.Tensor]:
    """Read a file that :func:`encode` or another writer of the format made.

    Guarantees:
      - The tensors cover the file's data exactly: no gap, no overlap, no rest.
      - Every floating value is finite.

    Raises:
      DataError: Anything else; nothing of the file is quoted.
    """
    header, data = _split(content)
    header.pop("__metadata__", None)
    if not 0 < len(header) <= _MOST_TENSORS:
        raise _damaged(f"it holds {len(header)} tensors; 1 to {_MOST_TENSORS} are read")
    spans = []
    for name, entry in header.items():
        if not _NAME.fullmatch(name):
            raise _damaged("a name is not made of letters, digits, dots and dashes")
        spans.append((*_declared(entry, len(data)), name))
    tensors, end = {}, 0
    for begin, stop, dtype, shape, name in sorted(spans, key=lambda span: span[:2]):
        if begin != end:
            raise _damaged("its tensors overlap or leave a gap")
        end = stop
        # A copy, which nothing else holds and training may write to.
        tensor = torch.frombuffer(bytearray(data[begin:stop]), dtype=dtype).reshape(shape)
        if dtype.is_floating_point and not bool(tensor.isfinite().all()):
            raise _damaged("a value is not finite")
        tensors[name] = tensor
    if end != len(data):
        raise _damaged("bytes are left over behind its tensors")
    return tensors


def read(path: Path) -> bytes:
    """Return the bytes of a file of at most :data:`MOST_BYTES`.

    Raises:
      DataError: It cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read ({error.strerror}).", remedy="Name a readable file."
        ) from None
    if len(content) > MOST_BYTES:
        raise DataError(f"{path.name} is larger than {MOST_BYTES} bytes.", remedy="Use a smaller.")
    return content


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a file, as a study names it."""
    return hashlib.sha256(content).hexdigest()


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(content) < 8 or len(content) > MOST_BYTES:
        raise _damaged(f"it has {len(content)} bytes; 8 to {MOST_BYTES} are read")
    (length,) = struct.unpack_from("<Q", content)
    if length > min(_MOST_HEADER, len(content) - 8):
        raise _damaged(f"its header declares {length} bytes")
    try:
        header = json.loads(content[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _damaged("its header is not JSON, or names a tensor twice") from None
    if not isinstance(header, dict):
        raise _damaged("its header is not a table")
    return header, memoryview(content)[8 + length :]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _declared(entry: object, size: int) -> tuple[int, int, torch.dtype, tuple[int, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged("a tensor is not described by dtype, shape and data_offsets")
    dtype, shape, span = _KINDS.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    whole = all(
        isinstance(numbers, list) and all(type(n) is int and n >= least for n in numbers)
        for numbers, least in ((shape, 1), (span, 0))
    )
    if dtype is None or not whole or len(span) != 2 or len(shape) > _MOST_AXES:
        raise _damaged("a tensor has a dtype, shape or place that is not read")
    begin, stop = span
    if not begin <= stop <= size or stop - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged("a tensor is not of the size that its shape says")
    return begin, stop, dtype, tuple(shape)


def _damaged(reason: str) -> DataError:
    return DataError(
        f"this is no file of weights in the safetensors format: {reason}.",
        remedy="Export the weights again.",
    )
