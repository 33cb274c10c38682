"""What becomes of an image after its pixels were looked at: by rule, by OCR, by a person.

A person's decision holds for exactly the pixels that the person saw: it is
kept under their name, a keyed hash of every decoded value.
"""

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.screening import ocr
from septum_client.screening.boxes import Box

Display = NDArray[np.uint8]
Stored = NDArray[Any]
Frames = Iterator[tuple[Stored, Callable[[], Display]]]

_PREVIEW_SIDE: Final = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a person decided about an image.

    Args:
      verdict: ``blank`` lets it in with the boxes overwritten.
      boxes: In pixels of the image; of several pictures, of the sheet that they were shown on.
    """

    verdict: Literal["accept", "blank", "reject"]
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Seen:
    """The pixels of an image, by name, and the pictures of them that are looked at."""

    name: str = field(repr=False)
    pictures: tuple[Display, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Preview:
    """What a reviewer sees of a refused image: every picture that was looked at, on one sheet.

    Holds whatever is burned in.

    Args:
      name: Of the pixels.
      image: uint8 ``(rows, columns)``; each picture in it is at most 2048 a side.
      boxes: Where text was found, in pixels of ``image``.
      scale: How many pixels of the original make one of ``image``.
    """

    name: str = field(repr=False)
    image: Display = field(repr=False)
    boxes: tuple[Box, ...]
    scale: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Verdict:
    """Why the image stays out, or on what condition it enters.

    Args:
      code: ``None`` lets it in.
      preview: For the review page, where a person could decide otherwise.
      reviewed: Whether a person let it in.
      blank: What must be overwritten first, in every frame.
    """

    code: Quarantine | None
    preview: Preview | None = None
    reviewed: bool = False
    blank: tuple[Box, ...] = ()


def see(frames: Iterable[tuple[Stored, Callable[[], Display]]], *, count: int, key: bytes) -> Seen:
    """Return the name of all frames' pixels, and the pictures to look at.

    These are the first, the middle and the last frame, and of more than three
    the brightest and the darkest value that each pixel ever has. Text that
    stays, or moves over what is even, is in one of these. Text of one other
    frame alone is lost where the rest of the loop is as bright as its letters
    and as dark as what they lie on.

    Args:
      frames: Stored values and how to display them, one frame after the other.
      count: How many there are.
      key: The site's key: without it, a name cannot be found by trying images.
    """
    digest = hashlib.sha256()
    chosen = {0, count // 2, count - 1}
    single: list[Display] = []
    extremes: tuple[Display, Display] | None = None
    for index, (stored, display) in enumerate(frames):
        little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little.dtype.str}{little.shape}".encode())
        digest.update(little.tobytes())
        shown = display()
        if index in chosen:
            single.append(shown)
        brightest, darkest = extremes or (shown, shown)
        extremes = np.maximum(brightest, shown), np.minimum(darkest, shown)
    name = hmac.digest(key, b"pixels:" + digest.digest(), "sha256").hex()[:32]
    more = extremes if extremes is not None and count > len(chosen) else ()
    return Seen(name=name, pictures=(*single, *more))


def decide(
    seen: Seen, *, code: Quarantine | None, read: bool, decisions: Mapping[str, Decision]
) -> Verdict:
    """Return what becomes of an image.

    Args:
      seen: Its pixels.
      code: Why the header's rules refuse it, if they do.
      read: Whether to look for text with tesseract.
      decisions: What a person decided, by name of the pixels.

    Guarantees:
      - Tesseract only ever refuses: it overrules neither a rule nor a person.
    """
    decision = decisions.get(seen.name)
    if decision is not None:
        if decision.verdict == "reject":
            return Verdict(code=Quarantine.REVIEWED_OUT)
        return Verdict(code=None, reviewed=True, blank=tuple(_in_image(decision.boxes, seen)))
    found = [ocr.find_text(picture) if read else () for picture in seen.pictures]
    code = code or (Quarantine.BURNED_IN_TEXT if any(found) else None)
    if code is None:
        return Verdict(code=None)
    return Verdict(code=code, preview=_preview(seen, found))


def _preview(seen: Seen, found: Sequence[Sequence[Box]]) -> Preview:
    """Return all pictures on one sheet, with what was found in each."""
    tiles, scale = _tiles(seen)
    whole = Box(0, 0, max(tile.bottom for tile in tiles), max(tile.right for tile in tiles))
    sheet = np.zeros((whole.bottom // scale, whole.right // scale), dtype=np.uint8)
    boxes = []
    for picture, tile, words in zip(seen.pictures, tiles, found, strict=True):
        top, left, bottom, right = (side // scale for side in tile)
        rows, columns = bottom - top, right - left
        # The mean of each block: every second pixel alone would make small letters unreadable.
        blocks = picture[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale)
        sheet[top:bottom, left:right] = blocks.mean(axis=(1, 3)).round()
        for word in words:
            part = word.moved(tile.top, tile.left).meet(tile)
            # What lies in the strip that no whole block covers is not shown.
            if part.area:
                below, beyond = -(-part.bottom // scale), -(-part.right // scale)
                boxes.append(Box(part.top // scale, part.left // scale, below, beyond))
    return Preview(name=seen.name, image=sheet, boxes=tuple(sorted(set(boxes))), scale=scale)


def _in_image(marked: Iterable[Box], seen: Seen) -> Iterator[Box]:
    """Yield boxes that were drawn on the sheet as boxes of every frame."""
    for box in marked:
        for tile in _tiles(seen)[0]:
            part = box.meet(tile)
            if part.area:
                yield part.moved(-tile.top, -tile.left)


def _tiles(seen: Seen) -> tuple[tuple[Box, ...], int]:
    """Return where on the sheet each picture lies, in pixels of the image, and the sheet's scale.

    Row by row, as wide as high; each tile is a whole number of the preview's pixels.
    """
    shape = seen.pictures[0].shape
    scale = -(-max(shape) // _PREVIEW_SIDE)
    rows, columns = (side // scale * scale for side in shape)
    across = math.ceil(math.sqrt(len(seen.pictures)))
    places = (divmod(place, across) for place in range(len(seen.pictures)))
    frame = Box(0, 0, rows, columns)
    return tuple(frame.moved(down * rows, right * columns) for down, right in places), scale
