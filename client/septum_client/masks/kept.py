"""A mask between its file and its image: classes and places, as bytes that two children share."""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client.imaging.geometry import Plane
from septum_client.masks import grid
from septum_client.masks.objects import Frame
from septum_client.masks.segments import Mask
from septum_client.reject import Rejected


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """The frames of one mask file.

    Args:
      frames: Of a segmentation object; or the slices of a NIfTI mask, or a picture.
      affine: Of all frames together, from ``(frame, row, column, 1)`` to LPS mm; NIfTI alone.
    """

    frames: Sequence[Frame]
    affine: NDArray[np.float64] | None = field(default=None, repr=False)

    def packed(self) -> bytes:
        """Return it as bytes for :meth:`read`."""
        head = {
            "affine": None if self.affine is None else self.affine.tolist(),
            "shape": [len(self.frames), *self.frames[0].classes.shape],
            "frames": [
                {
                    "images": frame.images,
                    "plane": None if frame.plane is None else asdict(frame.plane),
                }
                for frame in self.frames
            ],
        }
        classes = b"".join(frame.classes.tobytes() for frame in self.frames)
        return json.dumps(head).encode() + b"\n" + classes

    @classmethod
    @functools.lru_cache(maxsize=1)
    def read(cls, path: Path) -> Self:
        """Return what an ingest keeps at ``path`` in its private folder.

        The last one stays in memory: an object of a whole series is asked for each image.
        """
        with path.open("rb") as file:
            head = json.loads(file.readline())
            classes = np.frombuffer(file.read(), dtype=np.uint8).reshape(head["shape"])
        frames = [
            Frame(
                classes=each,
                images=tuple((image, frame) for image, frame in said["images"]),
                plane=_plane(said["plane"]),
            )
            for each, said in zip(classes, head["frames"], strict=True)
        ]
        affine = None if head["affine"] is None else np.array(head["affine"])
        return cls(frames=frames, affine=affine)

    def parts(self, image: str) -> Iterator[bytes]:
        """Yield the bytes on which the mask of one image depends, as a digest takes them."""
        for frame in self.frames:
            of_image = [number for name, number in frame.images if name == image]
            if of_image:
                plane = None if frame.plane is None else asdict(frame.plane)
                yield json.dumps([of_image, plane, frame.classes.shape]).encode()
                yield frame.classes.tobytes()

    def put(self, onto: Mask, affine: NDArray[np.float64] | None) -> None:
        """Add a file's mask to the mask of its image, three axes; ``affine`` is the image's.

        Raises:
          Rejected: MASK_GEOMETRY.
        """
        classes = np.stack([frame.classes for frame in self.frames])
        if affine is not None and self.affine is not None:
            grid.place(classes, self.affine, onto, affine)
        elif affine is not None or self.affine is not None or classes.shape != onto.shape:
            raise Rejected(Quarantine.MASK_GEOMETRY)
        else:
            np.maximum(onto, classes, out=onto)


def put_frame(frame: Frame, onto: Mask, plane: Plane | None) -> None:
    """Add a frame to the mask of the image that it was drawn on, ``(rows, columns)``.

    Args:
      frame: Of a segmentation object.
      onto: Changed.
      plane: Where the image lies, if that is known.

    Raises:
      Rejected: MASK_GEOMETRY.
    """
    if plane is not None and frame.plane is not None:
        at, there = grid.affine_of(frame.plane), grid.affine_of(plane)
        grid.place(frame.classes[None], at, onto[None], there)
    elif frame.classes.shape != onto.shape:
        raise Rejected(Quarantine.MASK_GEOMETRY)
    else:
        np.maximum(onto, frame.classes, out=onto)


def _plane(said: dict[str, Any] | None) -> Plane | None:
    if said is None:
        return None
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in said.items()
    }
    return Plane(**fields)
