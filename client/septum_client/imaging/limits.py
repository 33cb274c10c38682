"""What one file may cost at most, in bytes, elements and pixels: one table, all of imaging."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper bounds, each checked before the memory or the time is spent.

    Args:
      file_bytes: Size of a file.
      inflated_bytes: Size of a deflated data set once inflated.
      inflated_ratio: Inflated bytes for each deflated byte, above the first
        ``inflated_free``: images reach 10, masks 200, bombs 1,032.
      inflated_free: Inflated bytes that no ratio is asked of.
      elements: Data elements, items and fragments together, at any depth.
      depth: Sequences inside one another.
      smallest_side: Rows or columns of a frame, at least.
      side: Rows or columns of a frame.
      frames: Frames of an image.
      pixel_bytes: All decoded frames of an image, together.
      tiles: Tiles of one JPEG 2000 frame: each costs kilobytes before it is decoded.
    """

    file_bytes: int = 256 * 2**20
    inflated_bytes: int = 512 * 2**20
    inflated_ratio: int = 250
    inflated_free: int = 16 * 2**20
    elements: int = 300_000
    depth: int = 32
    smallest_side: int = 16
    side: int = 8192
    frames: int = 65_536
    pixel_bytes: int = 2 * 2**30
    tiles: int = 4096


LIMITS: Final = Limits()
