"""Images that wait for a person's look, and what the person decided, in a folder of the site.

::

    review/              0700; it holds pictures that may show a name, and never leaves
      <name>.png         the picture as it is shown
      <name>.json        why it is here, and where text was seen
      decisions.jsonl    one decision a line, only ever appended to

A name is a keyed hash of the decoded pixels, which
:func:`septum_client.screening.verdict.see` makes, so that a decision belongs to
exactly those pixels: one changed value is a new image that nobody has looked at.
"""

import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from septum.durable import replace
from septum.errors import DataError, Quarantine
from septum_client.screening.boxes import Box

Verdict = Literal["accept", "reject", "blank"]
Entry = Literal["accept", "reject", "blank", "undo"]
VERDICTS: Final = get_args(Verdict)
NAME: Final = re.compile(r"[0-9a-f]{32,64}")
MOST_BOXES: Final = 200


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image that waits.

    Args:
      name: Its keyed hash.
      code: Why it was held back.
      boxes: Where text was seen, in pixels of the picture; may be empty.
      rows: Height of the picture in pixels.
      columns: Width of the picture in pixels.
      scale: How many pixels of the image make one of the picture, each way.
    """

    name: str
    code: Quarantine
    boxes: tuple[Box, ...]
    rows: int
    columns: int
    scale: int = 1


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person decided.

    Args:
      verdict: ``blank`` lets the image in with every box of ``boxes`` blanked.
      boxes: What to blank, in pixels of the image whatever the picture's
        scale was; empty for the other verdicts.
      at: When, with a time zone.
      by: Who, as the hospital's machine knows them.
    """

    verdict: Verdict
    boxes: tuple[Box, ...]
    at: datetime
    by: str


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The images of one site that wait for a look.

    Args:
      folder: Where they are kept; made on the first :meth:`put`.
    """

    folder: Path

    def put(
        self,
        name: str,
        image: NDArray[np.uint8],
        code: Quarantine,
        boxes: Iterable[Box],
        *,
        scale: int = 1,
    ) -> None:
        """Let an image wait, unless it was decided already; twice is once.

        Args:
          name: A keyed hash of the decoded pixels.
          image: What a person sees, ``(rows, columns)`` or ``(rows, columns, 3)``.
          code: Why it was held back.
          boxes: Where text was seen, in pixels of ``image``.
          scale: How many of the original's pixels make one of ``image``.

        Raises:
          ValueError: The name is no keyed hash.
        """
        path = self._path(name, ".json")
        if path.exists() or self.decision(name) is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        item = Item(
            name=name,
            code=code,
            boxes=tuple(boxes)[:MOST_BOXES],
            rows=image.shape[0],
            columns=image.shape[1],
            scale=scale,
        )
        replace(self._path(name, ".png"), lambda out: out.write(_png(image)))
        # Written last: an item that can be listed can be shown.
        replace(path, lambda out: out.write(json.dumps(asdict(item)).encode()))

    def items(self) -> tuple[Item, ...]:
        """Return every image that can be shown, decided or not, in an order that stays."""
        return tuple(_item(path) for path in sorted(self.folder.glob("*.json")))

    def pending(self) -> tuple[Item, ...]:
        """Return the images without a decision."""
        decided = self.decisions()
        return tuple(item for item in self.items() if item.name not in decided)

    def picture(self, name: str) -> bytes:
        """Return the picture as PNG.

        Raises:
          KeyError: No such image waits.
        """
        try:
            return self._path(name, ".png").read_bytes()
        except (FileNotFoundError, ValueError):
            raise KeyError(name) from None

    def decide(
        self, name: str, entry: Entry, *, at: datetime, by: str, boxes: Iterable[Box] = ()
    ) -> None:
        """Write a decision down; the last one counts, and ``undo`` takes it back.

        Args:
          name: Which image.
          entry: A verdict, or ``undo``.
          at: When, with a time zone.
          by: Who.
          boxes: What to blank, in pixels of the picture that was shown.

        Guarantees:
          - The decision is on the disk when this returns.

        Raises:
          KeyError: No such image is here.
          ValueError: An unknown verdict, ``blank`` without a box, or a box
            outside the image.
        """
        item = self._item(name)
        marked = tuple(boxes) if entry == "blank" else ()
        if entry not in (*VERDICTS, "undo") or len(marked) > MOST_BOXES:
            raise ValueError("not a verdict")
        if entry == "blank" and not marked:
            raise ValueError("nothing to blank")
        frame = Box(0, 0, item.rows, item.columns)
        if any(not box.area or box.meet(frame) != box for box in marked):
            raise ValueError("a box outside the image")
        whole = [tuple(side * item.scale for side in box) for box in marked]
        line = {"name": name, "entry": entry, "at": at.isoformat(), "by": by, "boxes": whole}
        self._append(json.dumps(line, separators=(",", ":")))

    def decision(self, name: str) -> Decision | None:
        """Return what was decided about exactly these pixels, or None."""
        return self.decisions().get(name)

    def decisions(self) -> dict[str, Decision]:
        """Return every decision that counts, by the image's name.

        Raises:
          DataError: The log was altered: no decision is taken from it.
        """
        found: dict[str, Decision] = {}
        for line in self._lines():
            try:
                name, decision = _entry(json.loads(line))
            except (KeyError, TypeError, ValueError):
                raise DataError(
                    "a line of the review's decisions cannot be read.",
                    remedy="Restore decisions.jsonl from a backup, or move it away to review anew.",
                ) from None
            found.pop(name, None)
            if decision is not None:
                found[name] = decision
        return found

    def forget_decided(self) -> int:
        """Delete the pictures that were decided, and return how many; decisions stay.

        A picture that shows a name is kept no longer than it is needed. After
        this a decision can no longer be undone from the page.
        """
        decided = self.decisions()
        done = [item.name for item in self.items() if item.name in decided]
        for name in done:
            self._path(name, ".json").unlink(missing_ok=True)
            self._path(name, ".png").unlink(missing_ok=True)
        return len(done)

    def _path(self, name: str, suffix: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError("not the name of an image")
        return self.folder / (name + suffix)

    @property
    def _log(self) -> Path:
        return self.folder / "decisions.jsonl"

    def _item(self, name: str) -> Item:
        try:
            return _item(self._path(name, ".json"))
        except (FileNotFoundError, ValueError):
            raise KeyError(name) from None

    def _lines(self) -> list[bytes]:
        try:
            whole, _newline, _torn = self._log.read_bytes().rpartition(b"\n")
        except FileNotFoundError:
            return []
        # What follows the last newline was cut short by a crash: nobody was told it counts.
        return whole.split(b"\n") if whole else []

    def _append(self, line: str) -> None:
        descriptor = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                torn = os.pread(descriptor, size, 0).rpartition(b"\n")[2]
                os.ftruncate(descriptor, size - len(torn))
            os.write(descriptor, line.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _item(path: Path) -> Item:
    read = json.loads(path.read_bytes())
    boxes = tuple(Box(*box) for box in read.pop("boxes"))
    return Item(**read | {"boxes": boxes, "code": Quarantine(read["code"])})


def _entry(line: dict[str, Any]) -> tuple[str, Decision | None]:
    """Return the image of a line of the log, and its decision; None where it was undone."""
    if line["entry"] == "undo":
        return line["name"], None
    if line["entry"] not in VERDICTS:
        raise ValueError("not a verdict")
    boxes = tuple(Box(*box) for box in line["boxes"])
    at = datetime.fromisoformat(line["at"])
    return line["name"], Decision(verdict=line["entry"], boxes=boxes, at=at, by=line["by"])


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - loaded where a picture is made

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()
