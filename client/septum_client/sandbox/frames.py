"""What parent and child say to each other: one JSON header and raw bytes. Nothing is unpickled.

A frame is four bytes of header length, eight bytes of body length (both
big-endian), the header and the body.
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

LENGTHS: Final = struct.Struct(">IQ")
MAX_HEADER: Final = 64 * 2**20
MAX_BODY: Final = 2**31

Header = dict[str, Any]


def pack(header: Mapping[str, Any], body: bytes = b"") -> tuple[bytes, bytes]:
    """Return the frame in two parts, so that a large body is not copied."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), len(body)) + text, body


def unpack(read: Callable[[int], bytes]) -> tuple[Header, bytes]:
    """Return the next frame.

    Args:
      read: Returns exactly as many bytes as asked for, or raises.

    Raises:
      ValueError: Not a frame, or one above the limits.
    """
    header_bytes, body_bytes = LENGTHS.unpack(read(LENGTHS.size))
    if header_bytes > MAX_HEADER or body_bytes > MAX_BODY:
        raise ValueError("a frame is above the limits")
    header = json.loads(read(header_bytes))
    if not isinstance(header, dict):
        raise ValueError("a frame's header is not an object")
    return header, read(body_bytes) if body_bytes else b""
