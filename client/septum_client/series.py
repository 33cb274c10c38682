"""A series of de-identified files to one volume, in the child process."""

import resource
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum_client import pixels
from septum_client.imaging import geometry, parse, volumes
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.imaging.volumes import Slice, Volume
from septum_client.reject import Rejected
from septum_client.rules import Intake
from septum_client.screening import deface

# DICOM's axes run to the patient's left and back (PS3.3 C.7.6.2.1.1); the tools' do not.
_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_AXES: Final = [2, 1, 0, 3]


def volume_of(paths: Sequence[Path]) -> tuple[Volume, Counter[Quarantine]]:
    """Return the volume that the files' frames make, and what was left out of it.

    Args:
      paths: De-identified files of one series, in any order.

    Raises:
      Rejected: BAD_GEOMETRY where a frame does not say where it lies,
        LOCALISER where no orientation prevails, UNEVEN_SPACING where slices
        are missing or shifted.
    """
    slices = []
    with parse.silent():
        for path in paths:
            header = parse.parse(parse.read_bytes(path))
            for index, stored in enumerate(stored_frames(header)):
                plane = geometry.plane(header, index)
                if plane is None:
                    raise Rejected(Quarantine.BAD_GEOMETRY)
                values = frame_values(header, index, stored)
                slices.append(Slice(values=values.values, plane=plane, hidden=values.hidden))
    kept, rest = volumes.split_by_orientation(slices)
    if not kept:
        raise Rejected(Quarantine.LOCALISER)
    left_out = Counter({Quarantine.LOCALISER: len(rest)})
    return volumes.canonical(volumes.stack([slices[place] for place in kept])), +left_out


def to_training(
    volume: Volume, *, size: int, depth: int, face: bool, rules: Intake
) -> NDArray[np.float32]:
    """Return a volume as ``(depth, size, size)`` in [0, 1], without its face where it shows one.

    Args:
      volume: Canonical.
      size: Pixels a side.
      depth: Slices.
      face: Whether a rule found that it may show a face.
      rules: What is done about that.

    Raises:
      Rejected: FACE where it may not enter or could not be removed, and
        BAD_VALUES without contrast.
    """
    if face and rules.faces == "refuse":
        raise Rejected(Quarantine.FACE)
    if face and rules.faces == "deface":
        volume = _faceless(volume)
    try:
        return volumes.to_training(volume, size=size, depth=depth)
    except pixels.UnusableValuesError:
        raise Rejected(Quarantine.BAD_VALUES) from None


def _faceless(volume: Volume) -> Volume:
    with _writing():
        removed = deface.remove_face(
            volume.values.transpose(2, 1, 0),
            _TO_RAS @ volume.affine[:, _AXES],
            defacer=deface.require(),
        )
    return Volume(
        values=np.ascontiguousarray(removed.transpose(2, 1, 0)),
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        hidden=volume.hidden,
    )


@contextmanager
def _writing() -> Iterator[None]:
    """Let this process write files meanwhile: a defacer reads one and writes another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def paths_of(fields: Mapping[str, Any]) -> list[Path]:
    """Return the files that a task names."""
    return [Path(path) for path in fields["paths"]]
