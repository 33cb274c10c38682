"""Text in the pixels, found by tesseract: a second look that can refuse an image, never clear one.

Tesseract expects ink on paper. Of 204 words planted in scans (9 to 24 pixels,
white, on black, faint) it found 17% in the image as it is, and 86% in what is
narrower than a letter's stroke (a top-hat), drawn dark on white. The rest it
misses: that nothing was found means just that. What it reads is never
returned, kept or logged: only where, and only for words that are no side marker.
"""

import os
import shutil
import subprocess
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import ConfigError, Quarantine
from septum_client.reject import Rejected
from septum_client.screening.boxes import Box

# A word counts with so many letters and digits at least, at tesseract's confidence of
# so many percent. Side and position markers (L, R, AP, PA) are shorter. Chosen so that
# none of 107 images without text has one; noise is read as short words most often.
LEAST_CONFIDENCE: Final = ((3, 70.0), (4, 50.0))
# "AP" is at times read with a third letter; three letters are wider than twice their height.
_THREE_LETTERS: Final = 2.0
TIME_LIMIT_S: Final = 60.0
# Small letters are not letters to it: enlarge what is small (longer side below, factor).
_ENLARGE: Final = ((640, 3), (1280, 2))
_LONGEST_SIDE: Final = 2560
# Strokes wider than this are anatomy; in pixels of the enlarged image, odd.
_STROKE: Final = {1: 13, 2: 13, 3: 19}
# A stroke stands out by so many robust standard deviations, and so many grey levels.
_DEVIATIONS: Final = 6.0
_LEAST_LEVELS: Final = 20.0
# One word a row: left, top, width, height, confidence and text in these columns.
_WORD_LEVEL: Final = "5"


@cache
def available() -> bool:
    """Say whether tesseract is installed."""
    return shutil.which("tesseract") is not None


def require() -> None:
    """Refuse to go on without tesseract.

    Raises:
      ConfigError: It is not installed.
    """
    if not available():
        raise ConfigError(
            "intake.burned_in_text is 'ocr', and tesseract is not installed.",
            remedy='Run `apt install tesseract-ocr`, or set intake.burned_in_text = "header".',
        )


def find_text(image: NDArray[np.uint8]) -> tuple[Box, ...]:
    """Return where tesseract sees words of three or more letters and digits.

    Args:
      image: As a person would see it, ``(rows, columns)``; :func:`to_display`
        makes it.

    Returns:
      One box a word, in pixels of ``image``. Any box at all means that the
      image shows text; none does not mean that it shows none.

    Raises:
      ConfigError: Tesseract is not installed.
      Rejected: With BURNED_IN_TEXT when it failed or took longer than
        :data:`TIME_LIMIT_S`: an image that could not be looked at is treated
        as one that shows text.
    """
    require()
    longest = max(image.shape)
    scale = next((factor for side, factor in _ENLARGE if longest < side), 1)
    step = -(-longest // _LONGEST_SIDE)
    drawn = _resized(image, scale, step)
    # Text is brighter than what it lies on, or, on an inverted image, darker.
    tables = [_tesseract(_strokes(shown, _STROKE[scale])) for shown in (drawn, 255 - drawn)]
    found = (_word(line, scale, step) for table in tables for line in table.splitlines())
    frame = Box(0, 0, *image.shape)
    return tuple(box for word in found if word is not None and (box := word.meet(frame)).area)


def to_display(
    values: NDArray[np.floating[Any]] | NDArray[np.integer[Any]],
    hidden: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return the image as grey levels: black is the least value seen, white the largest.

    The whole range is shown, because letters are usually written with the
    extreme values and any narrower window could hide them.

    Args:
      values: ``(rows, columns)``.
      hidden: True where the pixel is padding and shows nothing; black.
    """
    shown = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    seen = shown if hidden is None else shown[~hidden]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    grey = np.clip((shown - low) / (high - low if high > low else 1.0), 0, 1) * 255
    if hidden is not None:
        grey[hidden] = 0
    return grey.round().astype(np.uint8)


def _resized(image: NDArray[np.uint8], scale: int, step: int) -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415 - loaded where an image is looked at

    rows, columns = image.shape
    size = (-(-columns * scale // step), -(-rows * scale // step))
    drawn = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(drawn, dtype=np.uint8)


def _strokes(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return what is bright and narrower than ``width`` pixels, black on white."""
    from scipy import ndimage  # noqa: PLC0415 - loaded where an image is looked at

    raised = image - ndimage.grey_opening(image, size=(width, width))
    middle = float(np.median(raised))
    deviation = 1.4826 * float(np.median(np.abs(raised - middle)))
    limit = max(middle + _DEVIATIONS * deviation, _LEAST_LEVELS)
    return np.where(raised > limit, 0, 255).astype(np.uint8)


def _tesseract(image: NDArray[np.uint8]) -> str:
    rows, columns = image.shape
    netpbm = f"P5 {columns} {rows} 255\n".encode() + image.tobytes()
    program = shutil.which("tesseract") or "tesseract"
    command = [program, "stdin", "stdout", "--psm", "11", "--dpi", "150", "tsv"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command; the image goes in by stdin
            command,
            input=netpbm,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT_S,
            check=True,
            env={"PATH": os.environ.get("PATH", ""), "OMP_THREAD_LIMIT": "1", "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        raise Rejected(Quarantine.BURNED_IN_TEXT) from None
    return done.stdout.decode("utf-8", errors="replace")


def _word(line: str, scale: int, step: int) -> Box | None:
    """Return where a row of tesseract's table found a word that counts."""
    cells = line.split("\t")
    if len(cells) != 12 or cells[0] != _WORD_LEVEL:
        return None
    characters = sum(character.isalnum() for character in cells[11])
    confidence = float(cells[10])
    if not any(characters >= n and confidence >= least for n, least in LEAST_CONFIDENCE):
        return None
    left, top, width, height = (int(cell) * step for cell in cells[6:10])
    if characters == 3 and width < _THREE_LETTERS * height:
        return None
    return Box(
        top // scale, left // scale, -(-(top + height) // scale), -(-(left + width) // scale)
    )
