"""NIfTI files and pictures, in the child: no header says whose they are, so the labels do."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client import pixels, pseudonyms, series
from septum_client.answers import Answer, prepared, refused
from septum_client.child_settings import Settings
from septum_client.deid.engine import Refused
from septum_client.imaging import nifti, parse, pictures
from septum_client.masks import grid
from septum_client.masks.kept import Kept
from septum_client.owner import Owner
from septum_client.reject import Rejected
from septum_client.screening import boxes, ocr, verdict


def volume(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Return a NIfTI file as one volume, or a ``code``."""
    if fields["kind"] != "nifti":
        return {"code": Quarantine.BAD_GEOMETRY.value}, b""
    rules = settings.engine.rules
    try:
        data = parse.read_bytes(Path(fields["path"])) if "path" in fields else body
        found = nifti.read(data)
        masks = _masks_of(settings, fields, found.values.shape, found.affine)
        values = series.to_training(
            found,
            size=settings.image_size,
            depth=settings.depth,
            # The format does not say which part of the body it shows.
            face=True,
            rules=rules,
        )
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""
    source = settings.named(b"file:", data)
    owner = Owner(instance=pseudonyms.uid(settings.engine.key, source), **fields["person"])
    if masks is not None:
        whole = grid.sampled(masks, size=settings.image_size, depth=settings.depth)
        header, content = prepared(owner, {0: values}, masks={0: whole})
    else:
        header, content = prepared(owner, {0: values})
    return {"source": source, **header}, content


def slices(settings: Settings, fields: Mapping[str, Any], data: bytes) -> Answer:
    """Read each slice as an image.

    The format says neither which part of the body it shows nor who it is of:
    where faces are refused, so is every volume without a header to rule it out.
    """
    try:
        if settings.engine.rules.faces != "allow":
            raise Rejected(Quarantine.FACE)
        volume = nifti.read(data)
        masks = _masks_of(settings, fields, volume.values.shape, volume.affine)
        return _plain(settings, fields["person"], data, list(volume.values), masks)
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""


def picture(settings: Settings, fields: Mapping[str, Any], data: bytes) -> Answer:
    """Read a PNG, JPEG, TIFF or BMP file as one image, or return a ``code``."""
    try:
        values = pictures.read(data)
        masks = _masks_of(settings, fields, (1, *values.shape), None)
        return _plain(settings, fields["person"], data, [values], masks)
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""


def _plain(
    settings: Settings,
    person: Mapping[str, Any],
    data: bytes,
    frames: Sequence[NDArray[np.float32]],
    masks: NDArray[np.uint8] | None,
) -> Answer:
    """Bring images without a header to training values; the labels table says whose they are."""
    engine = settings.engine
    source = settings.named(b"file:", data)
    owner = Owner(instance=pseudonyms.uid(engine.key, source), **person)
    reviewed = False
    if engine.rules.burned_in_text == "ocr":
        seen = verdict.see(
            ((frame, functools.partial(ocr.to_display, frame)) for frame in frames),
            count=len(frames),
            key=engine.key,
        )
        found = verdict.decide(seen, code=None, read=True, decisions=engine.decisions)
        if found.code is not None:
            return refused(Refused(code=found.code, owner=owner, preview=found.preview))
        reviewed = found.reviewed
        for frame in frames:
            frame[boxes.mask(found.blank, *frame.shape)] = frame.min()
    images: dict[int, NDArray[np.float32]] = {}
    for index, frame in enumerate(frames):
        with contextlib.suppress(pixels.UnusableValuesError):
            images[index] = pixels.from_values(frame, None, size=settings.image_size)
    squares = None
    if masks is not None:
        squares = {n: grid.sampled(masks[n], size=settings.image_size) for n in images}
    return prepared(
        owner, images, spoilt=len(frames) - len(images), reviewed=reviewed, masks=squares
    )


def _masks_of(
    settings: Settings,
    fields: Mapping[str, Any],
    shape: tuple[int, ...],
    affine: NDArray[np.float64] | None,
) -> NDArray[np.uint8] | None:
    """Return the mask of a file without a header, on its grid; None where none is asked for."""
    if settings.masks is None:
        return None
    if "mask" not in fields:
        raise Rejected(Quarantine.NO_MASK)
    onto = np.zeros(shape, dtype=np.uint8)
    Kept.read(Path(fields["mask"])).put(onto, affine)
    return onto
