"""Removing faces with a tool that the hospital has installed, and not believing the tool.

Septum brings no defacer: the maintained ones come with FreeSurfer, FSL and
AFNI under licences of their own. The first of :data:`DEFACERS` that is on the
path is used, and its result is accepted only if
:mod:`septum_client.screening.face_surface` finds the face gone and the brain kept.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import ConfigError, Quarantine
from septum_client.reject import Rejected
from septum_client.screening import face_surface

TIME_LIMIT_S: Final = 3600.0
# What the tools need to find their own data; nothing else of our environment is passed on.
_ENVIRONMENT: Final = (
    *("PATH", "FREESURFER_HOME", "FS_LICENSE", "SUBJECTS_DIR", "FSLDIR", "AFNI_PLUGINPATH"),
    *("LD_LIBRARY_PATH", "LANG"),
)


@dataclass(frozen=True, kw_only=True)
class Defacer:
    """A program that writes a scan without its face.

    Args:
      executable: The name of the program on the path.
      arguments: Its arguments; ``{scan}``, ``{defaced}`` and ``{folder}`` are
        replaced by paths of ours.
      package: What to install to have it.
    """

    executable: str
    arguments: tuple[str, ...]
    package: str

    def command(self, *, scan: Path, defaced: Path) -> list[str]:
        """Return the command line."""
        paths = {"scan": str(scan), "defaced": str(defaced), "folder": str(scan.parent)}
        return [self.executable, *(argument.format_map(paths) for argument in self.arguments)]


# By how little they leave to recognise (Schwarz 2021). mri_deface is left out
# for its successor mideface, quickshear because it needs a brain mask first.
DEFACERS: Final = (
    Defacer(
        executable="mideface",
        arguments=("--i", "{scan}", "--o", "{defaced}", "--odir", "{folder}"),
        package="FreeSurfer 7.3 or later",
    ),
    Defacer(
        executable="fsl_deface",
        arguments=("{scan}", "{defaced}"),
        package="FSL 6",
    ),
    Defacer(
        executable="@afni_refacer_run",
        arguments=("-input", "{scan}", "-mode_deface", "-no_images", "-prefix", "{defaced}"),
        package="AFNI",
    ),
    Defacer(
        executable="pydeface",
        arguments=("{scan}", "--outfile", "{defaced}", "--force"),
        package="pydeface (with FSL)",
    ),
)


def installed() -> Defacer | None:
    """Return the first defacer that is on the path, or None."""
    return next((tool for tool in DEFACERS if shutil.which(tool.executable)), None)


def require() -> Defacer:
    """Return the defacer to use.

    Raises:
      ConfigError: None is installed.
    """
    tool = installed()
    if tool is None:
        names = ", ".join(tool.executable for tool in DEFACERS)
        raise ConfigError(
            f"intake.faces is 'deface', and none of {names} is installed.",
            remedy=f'Install {DEFACERS[0].package}, or set intake.faces = "refuse".',
        )
    return tool


def remove_face(
    values: NDArray[np.floating[Any]],
    affine: NDArray[np.floating[Any]],
    *,
    defacer: Defacer,
    time_limit_s: float = TIME_LIMIT_S,
) -> NDArray[np.float32]:
    """Return the volume without its face, seen to be gone.

    Args:
      values: ``(i, j, k)``: Hounsfield units or signal, air the least.
      affine: ``(4, 4)`` voxel to millimetres, RAS+.
      defacer: The tool.
      time_limit_s: After so long the tool, and all that it started, is killed.

    Returns:
      The tool's volume, of the same shape, removed voxels at the least value.

    Guarantees:
      - The scan lies on the disk only while the tool runs, in a folder that
        this user alone can read, with no name or date in it or in its header.
      - Nothing that the tool prints is kept.

    Raises:
      Rejected: With FACE: the tool failed, was too slow, changed the shape,
        left the face or cut the brain.
    """
    import nibabel  # noqa: PLC0415 - loaded where a volume is written

    air = np.float32(values.min())
    # Tools write 0 where they remove; with air at 0 that is air and not water.
    raised = values.astype(np.float32) - air
    with tempfile.TemporaryDirectory(prefix="septum-face-") as name:
        scan, defaced = Path(name, "scan.nii.gz"), Path(name, "defaced.nii.gz")
        nibabel.save(nibabel.Nifti1Image(raised, affine), scan)
        _run(defacer.command(scan=scan, defaced=defaced), Path(name), time_limit_s)
        after = _read(defaced, raised.shape)
    found = face_surface.compare(raised, after, affine)
    if not (found.face_is_gone and found.brain_is_kept):
        raise Rejected(Quarantine.FACE)
    return after + air


def _run(command: list[str], folder: Path, time_limit_s: float) -> None:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    ours = {"HOME": str(folder), "TMPDIR": str(folder), "FSLOUTPUTTYPE": "NIFTI_GZ"}
    program = shutil.which(command[0])
    if program is None:
        raise Rejected(Quarantine.FACE)
    process = subprocess.Popen(  # noqa: S603 - a fixed program; its arguments are our own paths
        [program, *command[1:]],
        cwd=folder,
        env=kept | ours,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        failed = process.wait(timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        raise Rejected(Quarantine.FACE) from None
    finally:
        _end(process)
    if failed:
        raise Rejected(Quarantine.FACE)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever the tool left running; defacers are scripts that start programs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    import nibabel  # noqa: PLC0415 - loaded where a volume is read

    try:
        image = nibabel.load(path)
        if image.shape != shape:
            raise Rejected(Quarantine.FACE)
        return np.asarray(np.nan_to_num(image.get_fdata(dtype=np.float32)), dtype=np.float32)
    except Rejected:
        raise
    except Exception:  # noqa: BLE001 - whatever the tool wrote, it is not a defaced scan
        raise Rejected(Quarantine.FACE) from None
