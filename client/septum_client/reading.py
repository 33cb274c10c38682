"""What the child process does with one file: the verbs behind the sandbox.

Every function takes the settings, its arguments and perhaps the file's bytes,
and answers with pseudonyms, closed codes, numbers and arrays.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client import pixels, plain_files, series
from septum_client.answers import Answer, Header, prepared, refused
from septum_client.child_settings import Settings
from septum_client.deid.engine import Deidentified, Refused
from septum_client.imaging import geometry, parse
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.masks import finding, grid, objects
from septum_client.masks.finding import Masks
from septum_client.owner import Owner
from septum_client.reject import Rejected

__all__ = ["VERBS", "Settings"]


def prepare(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Bring one file to training values, with its mask where the study asks for one.

    Args:
      settings: Of this run.
      fields: ``kind``, ``path`` unless ``body`` is the file, and, where the file itself
        names none, ``person`` (a pseudonym, not a name) and the ``mask`` kept for it.
      body: The file's bytes, or nothing.

    Returns:
      ``source`` (a keyed hash of the file's bytes, empty where it must be read
      again) and either ``known``, or a ``code``, or ``frames``: the index of
      each float16 square in the body.
    """
    data = _read(settings, fields, body)
    if isinstance(data, Refused):
        return refused(data)
    digest = str(fields.get("mask_digest", "")).encode("ascii")
    source = settings.named(b"file:", data + digest)
    if source in settings.known:
        return {"source": source, "known": True}, b""
    header, content = _KINDS[fields["kind"]](settings, fields, data)
    return {"source": source, **header}, content


def deidentify(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Return a de-identified file as the body, or a ``code``.

    ``face`` says whether a volume of such files may show one.
    """
    data = _read(settings, fields, body)
    if isinstance(data, Refused):
        return refused(data)
    found = settings.engine(data)
    if isinstance(found, Refused):
        return refused(found)
    header = {
        "owner": asdict(found.owner),
        "source": settings.named(b"file:", data),
        "face": found.face,
        "frame_of_reference": str(found.dataset.get("FrameOfReferenceUID") or ""),
    }
    return header, found.content


def stack(settings: Settings, fields: Mapping[str, Any], _: bytes) -> Answer:
    """Return the de-identified files of one series as one volume, or a ``code``."""
    owner = Owner(**fields["owner"])
    said: Header = {"instances": fields["instances"]}
    try:
        volume, left_out = series.volume_of(series.paths_of(fields))
        values = series.to_training(
            volume,
            size=settings.image_size,
            depth=settings.depth,
            face=fields["face"],
            rules=settings.engine.rules,
        )
        masks = None
        if settings.masks is not None:
            reference = fields["frame_of_reference"]
            mask = settings.masks.series(owner, fields["instances"], reference, volume)
            masks = {0: grid.sampled(mask, size=settings.image_size, depth=settings.depth)}
    except Rejected as rejected:
        header, _ = refused(Refused(code=rejected.code, owner=owner))
        return header | said, b""
    header, content = prepared(owner, {0: values}, masks=masks)
    joined = "".join(sorted(fields["sources"])).encode()
    said["source"] = settings.named(b"series:", joined)
    return header | said | {"localisers": left_out.total()}, content


def mask(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Return a mask's packed bytes, or a ``code``; ``mask`` is None for what is no mask."""
    told, dicom = settings.masks, fields["kind"] == "dicom"
    data = _read(settings, fields, body)
    if told is None or isinstance(data, Refused) or (dicom and not objects.is_one(data)):
        # Read again, and refused, as an image.
        return {"mask": None}, b""
    owner = settings.engine.owner_of(data) if dicom else Owner()
    try:
        if dicom and not owner.patient:
            raise Rejected(Quarantine.NO_PATIENT)
        said, content = finding.read(
            fields["kind"], data, key=settings.engine.key, segments=told.segments
        )
    except Rejected as rejected:
        header, _ = refused(Refused(code=rejected.code, owner=owner))
        return header | {"object": dicom}, b""
    return {"owner": asdict(owner), "mask": said}, content


def _read(settings: Settings, fields: Mapping[str, Any], body: bytes) -> bytes | Refused:
    if "path" not in fields:
        return body
    path = Path(fields["path"])
    try:
        return parse.read_bytes(path)
    except Rejected as rejected:
        if rejected.code != Quarantine.TOO_LARGE:
            return Refused(code=rejected.code)
        return Refused(code=rejected.code, owner=settings.engine.owner_of(parse.read_head(path)))


def _dicom(settings: Settings, _: Mapping[str, Any], data: bytes) -> Answer:
    found = settings.engine(data)
    if isinstance(found, Refused):
        return refused(found)
    if found.face and settings.engine.rules.faces != "allow":
        # One by one, slices cannot be defaced; together, they show the face.
        return refused(Refused(code=Quarantine.FACE, owner=found.owner))
    masks, of_masks = None, {}
    try:
        images, spoilt = _training_values(found, settings.image_size)
        if settings.masks is not None:
            of_masks = {"mask_digest": settings.masks.digest(found.owner)}
            masks = _masks_of(settings.masks, found, images, settings.image_size)
    except Rejected as rejected:
        return refused(Refused(code=rejected.code, owner=found.owner))
    header, content = prepared(
        found.owner,
        images,
        spoilt=spoilt,
        facts=_facts(found),
        reviewed=found.reviewed,
        masks=masks,
    )
    return header | of_masks, content


def _masks_of(
    masks: Masks, found: Deidentified, frames: Iterable[int], size: int
) -> dict[int, NDArray[np.uint8]]:
    header = found.dataset
    return {
        index: grid.sampled(
            masks.frame(
                found.owner,
                index,
                count=int(header.get("NumberOfFrames") or 1),
                shape=(int(header.Rows), int(header.Columns)),
                plane=geometry.plane(header, index),
            ),
            size=size,
        )
        for index in frames
    }


def _training_values(found: Deidentified, size: int) -> tuple[dict[int, NDArray[np.float32]], int]:
    """Return the usable frames by index, and how many were not."""
    images: dict[int, NDArray[np.float32]] = {}
    spoilt = 0
    for index, stored in enumerate(stored_frames(found.dataset)):
        values = frame_values(found.dataset, index, stored)
        try:
            images[index] = pixels.from_values(values.values, values.hidden, size=size)
        except pixels.UnusableValuesError:
            spoilt += 1
    return images, spoilt


def _facts(found: Deidentified) -> Header:
    """Return what ``septum site check`` compares: nothing here is a text of the input."""
    header = found.dataset
    spacing = geometry.spacing(header, 0)
    return {
        "modality": str(header.get("Modality", "")),
        "photometric": str(header.PhotometricInterpretation),
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "bits": int(header.BitsStored),
        "spacing_mm": None if spacing is None else list(spacing.mm),
    }


_KINDS: Final[Mapping[str, Callable[[Settings, Mapping[str, Any], bytes], Answer]]] = {
    "dicom": _dicom,
    "nifti": plain_files.slices,
    "picture": plain_files.picture,
}
VERBS: Final = {
    "prepare": prepare,
    "deidentify": deidentify,
    "series": stack,
    "volume": plain_files.volume,
    "mask": mask,
}
