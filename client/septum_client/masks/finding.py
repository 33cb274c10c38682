"""The mask of an image, in the child: of whichever files the parent found to be its masks."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from septum.errors import Quarantine
from septum_client.imaging import nifti, pictures
from septum_client.imaging.geometry import Plane
from septum_client.imaging.volumes import Volume
from septum_client.masks import grid, objects
from septum_client.masks.kept import Kept, put_frame
from septum_client.masks.objects import Frame
from septum_client.masks.segments import Mask, Segments, name
from septum_client.owner import Owner
from septum_client.reject import Rejected
from septum_client.sandbox.frames import Header


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """What a child knows of masks.

    Args:
      segments: Which segment is which class.
      images: Digest of its masks, and where they are kept, by :func:`name` of an image.
      references: Where objects that name no image are kept, by :func:`name` of
        their frame of reference.
    """

    segments: Segments
    images: Mapping[str, tuple[str, Sequence[str]]] = field(repr=False)
    references: Mapping[str, Sequence[str]] = field(repr=False)

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> Self | None:
        """Return what the parent told; ``None`` where no study asks for masks."""
        if told is None:
            return None
        segments = Segments.of(told["segments"])
        return cls(segments=segments, images=told["images"], references=told["references"])

    def digest(self, owner: Owner) -> str:
        """Return the digest of an image's masks; NO_MASK where it has none."""
        found = self.images.get(name(owner.patient, owner.instance))
        if found is None:
            raise Rejected(Quarantine.NO_MASK)
        return found[0]

    def frame(
        self, owner: Owner, frame: int, *, count: int, shape: tuple[int, ...], plane: Plane | None
    ) -> Mask:
        """Return the mask of one frame of a DICOM image, ``(rows, columns)``.

        Args:
          owner: Of the image.
          frame: From 0.
          count: Frames of the image.
          shape: Rows and columns.
          plane: Where the frame lies, if that is known.

        Raises:
          Rejected: NO_MASK, MASK_GEOMETRY.
        """
        onto = np.zeros(shape, dtype=np.uint8)
        _, paths = self.images.get(name(owner.patient, owner.instance), ("", ()))
        if not paths:
            raise Rejected(Quarantine.NO_MASK)
        for path in paths:
            for each in Kept.read(Path(path)).frames:
                numbers = {number for image, number in each.images if image == owner.instance}
                if -1 in numbers and count > 1:
                    # Of a loop, this could be any frame.
                    raise Rejected(Quarantine.MASK_GEOMETRY)
                if numbers & {frame, -1}:
                    put_frame(each, onto, plane)
        return onto

    def series(
        self, owner: Owner, instances: Sequence[str], frame_of_reference: str, volume: Volume
    ) -> Mask:
        """Return the mask of a series that became a volume, ``(depth, rows, columns)``.

        Args:
          owner: Of any of its images.
          instances: De-identified SOP Instance UIDs of its images.
          frame_of_reference: De-identified; empty without one.
          volume: Their values.

        Raises:
          Rejected: NO_MASK, MASK_GEOMETRY.
        """
        names = [name(owner.patient, instance) for instance in instances]
        paths = {path for each in names for path in self.images.get(each, ("", ()))[1]}
        reference = name(owner.patient, frame_of_reference)
        paths |= set(self.references.get(reference, ()) if frame_of_reference else ())
        if not paths:
            raise Rejected(Quarantine.NO_MASK)
        onto, here = np.zeros(volume.values.shape, dtype=np.uint8), set(instances)
        for path in sorted(paths):
            for each in Kept.read(Path(path)).frames:
                if not each.images or here & {image for image, _ in each.images}:
                    _put(each, onto, volume)
        return onto


def read(kind: str, data: bytes, *, key: bytes, segments: Segments) -> tuple[Header, bytes]:
    """Return a mask's packed bytes, and in the header what an index of masks needs.

    Args:
      kind: Of :data:`septum_client.sources.Kind`.
      data: The file, whole.
      key: The site's key.
      segments: Which segment is which class.

    Raises:
      Rejected: It cannot be read, or holds an unknown segment.
    """
    if kind == "dicom":
        found = objects.read(data, key=key, segments=segments)
        kept = Kept(frames=found.frames)
        images = {image: _digest(key, kept.parts(image)) for image in sorted(found.images)}
        said: Header = {"images": images, "reference": found.frame_of_reference}
    elif kind == "nifti":
        volume = nifti.read(data)
        whole = volume.values.astype(np.int64)
        if (whole != volume.values).any():
            raise Rejected(Quarantine.UNKNOWN_SEGMENT)
        kept = Kept(frames=_frames(segments.of_pixels(whole)), affine=volume.affine)
        said = {}
    else:
        kept = Kept(frames=_frames(segments.of_pixels(pictures.read_indices(data))[None]))
        said = {}
    content = kept.packed()
    return said | {"digest": _digest(key, [content])}, content


def _frames(classes: Mask) -> list[Frame]:
    return [Frame(classes=each, images=(), plane=None) for each in classes]


def _put(frame: Frame, onto: Mask, volume: Volume) -> None:
    if frame.plane is None:
        raise Rejected(Quarantine.MASK_GEOMETRY)
    grid.place(frame.classes[None], grid.affine_of(frame.plane), onto, volume.affine)


def _digest(key: bytes, parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return hmac.digest(key, b"mask:" + total.digest(), "sha256").hex()[:32]
