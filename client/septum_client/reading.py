"""What the child process does with one file: the verbs behind the sandbox.

Every function takes the settings, its arguments and perhaps the file's bytes,
and answers with pseudonyms, closed codes, numbers and arrays.
"""

import contextlib
import functools
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client import pixels, pseudonyms, series
from septum_client.answers import Answer, Header, prepared, refused
from septum_client.deid.engine import Deidentified, Deidentifier, Refused
from septum_client.imaging import geometry, nifti, parse, pictures
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.owner import Owner
from septum_client.reject import Rejected
from septum_client.rules import Intake
from septum_client.screening import boxes, ocr, verdict
from septum_client.screening.boxes import Box


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What holds for a whole run.

    Args:
      engine: The de-identifier.
      image_size: Pixels a side in training.
      depth: Slices of a volume.
      known: Keyed hashes of files that need no second look.
    """

    engine: Deidentifier
    image_size: int
    depth: int
    known: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Return the settings that the parent sent as JSON."""
        linkage = fields["linkage_key"]
        return cls(
            engine=Deidentifier(
                key=bytes.fromhex(fields["key"]),
                rules=Intake.model_validate(fields["rules"]),
                decisions={
                    name: verdict.Decision(
                        verdict=said["verdict"], boxes=tuple(Box(*box) for box in said["boxes"])
                    )
                    for name, said in fields["decisions"].items()
                },
                linkage_key=None if linkage is None else bytes.fromhex(linkage),
            ),
            image_size=fields["image_size"],
            depth=fields["depth"],
            known=frozenset(fields["known"]),
        )


def prepare(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Bring one file to training values.

    Args:
      settings: Of this run.
      fields: ``kind``, ``path`` unless ``body`` is the file, and ``patient``
        (a pseudonym) where the file itself names none.
      body: The file's bytes, or nothing.

    Returns:
      ``source`` (a keyed hash of the file's bytes, empty where it must be read
      again) and either ``known``, or a ``code``, or ``frames``: the index of
      each float16 square in the body.
    """
    data = _read(settings, fields, body)
    if isinstance(data, Refused):
        return refused(data)
    source = _hash(settings.engine.key, b"file:", data)
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
    source = _hash(settings.engine.key, b"file:", data)
    return {"owner": asdict(found.owner), "source": source, "face": found.face}, found.content


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
    except Rejected as rejected:
        header, _ = refused(Refused(code=rejected.code, owner=owner))
        return header | said, b""
    header, content = prepared(owner, {0: values})
    joined = "".join(sorted(fields["sources"])).encode()
    said["source"] = _hash(settings.engine.key, b"series:", joined)
    return header | said | {"localisers": left_out.total()}, content


def volume(settings: Settings, fields: Mapping[str, Any], body: bytes) -> Answer:
    """Return a NIfTI file as one volume, or a ``code``."""
    if fields["kind"] != "nifti":
        return {"code": Quarantine.BAD_GEOMETRY.value}, b""
    rules = settings.engine.rules
    try:
        data = parse.read_bytes(Path(fields["path"])) if "path" in fields else body
        values = series.to_training(
            nifti.read(data),
            size=settings.image_size,
            depth=settings.depth,
            # The format does not say which part of the body it shows.
            face=True,
            rules=rules,
        )
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""
    source = _hash(settings.engine.key, b"file:", data)
    owner = Owner(instance=pseudonyms.uid(settings.engine.key, source), **fields["person"])
    header, content = prepared(owner, {0: values})
    return {"source": source, **header}, content


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
    try:
        images, spoilt = _training_values(found, settings.image_size)
    except Rejected as rejected:
        return refused(Refused(code=rejected.code, owner=found.owner))
    return prepared(
        found.owner, images, spoilt=spoilt, facts=_facts(found), reviewed=found.reviewed
    )


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


def _nifti(settings: Settings, fields: Mapping[str, Any], data: bytes) -> Answer:
    """Read each slice as an image.

    The format says neither which part of the body it shows nor who it is of:
    where faces are refused, so is every volume without a header to rule it out.
    """
    try:
        if settings.engine.rules.faces != "allow":
            raise Rejected(Quarantine.FACE)
        return _plain(settings, fields["person"], data, list(nifti.read(data).values))
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""


def _picture(settings: Settings, fields: Mapping[str, Any], data: bytes) -> Answer:
    try:
        return _plain(settings, fields["person"], data, [pictures.read(data)])
    except Rejected as rejected:
        return {"code": rejected.code.value}, b""


def _plain(
    settings: Settings,
    person: Mapping[str, Any],
    data: bytes,
    frames: Sequence[NDArray[np.float32]],
) -> Answer:
    """Bring images without a header to training values; the labels table says whose they are."""
    engine = settings.engine
    source = _hash(engine.key, b"file:", data)
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
    return prepared(owner, images, spoilt=len(frames) - len(images), reviewed=reviewed)


def _hash(key: bytes, purpose: bytes, data: bytes) -> str:
    return hmac.digest(key, purpose + hashlib.sha256(data).digest(), "sha256").hex()[:32]


_KINDS: Final[Mapping[str, Callable[[Settings, Mapping[str, Any], bytes], Answer]]] = {
    "dicom": _dicom,
    "nifti": _nifti,
    "picture": _picture,
}
VERBS: Final = {"prepare": prepare, "deidentify": deidentify, "series": stack, "volume": volume}
