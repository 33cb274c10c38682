"""A cohort on disk: three private files that appear together or not at all.

``images.npy`` (float16), ``index.npz`` (plain arrays, nothing pickled) and
``cohort.json``; with ``linkage.npy`` only in simulations. Nothing here knows
DICOM or labels.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError

FORMAT: Final = 1
IMAGES, INDEX, MANIFEST, LINKAGE = "images.npy", "index.npz", "cohort.json", "linkage.npy"
META: Final = "meta_"
_UNFINISHED: Final = ".partial"
_BLOCK: Final = 64

Arrays = Mapping[str, NDArray[Any]]
_FAULTS: Final = {
    errno.ENOSPC: ("The disk of the cohort folder is full.", "Free space, then ingest again."),
    errno.EDQUOT: ("The disk quota of this account is used up.", "Free space, then ingest again."),
    errno.EROFS: ("The cohort folder is on a read-only disk.", "Choose another folder."),
    errno.EACCES: ("The cohort folder cannot be written.", "Give this account write permission."),
    errno.EPERM: ("The cohort folder cannot be written.", "Give this account write permission."),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """What :func:`load` found: consistent in itself, not yet checked for meaning."""

    manifest: Mapping[str, Any]
    images: NDArray[np.float16]
    arrays: Arrays
    linkage: tuple[str, ...]


def require_apart(source: Path, folder: Path) -> None:
    """Pass when neither folder is inside the other: replacing one never deletes the other.

    Raises:
      DataError: They overlap.
    """
    ours, theirs = folder.resolve(), source.resolve()
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        raise DataError(
            "The cohort folder and the source folder lie inside one another.",
            remedy="Keep the cohort outside the DICOM export.",
        )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a private folder beside ``folder`` that takes its place on success.

    Guarantees:
      - Everything is on the disk (fsync) before the name changes; on any
        exception or interrupt the new files are deleted and ``folder`` is
        what it was.

    Raises:
      DataError: ``folder`` is something else than a cohort, or the disk
        refuses (full, read-only, no permission).
    """
    work: Path | None = None
    fault = None
    try:
        _require_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkdtemp makes it 0700, whatever the umask.
        work = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=_UNFINISHED, dir=folder.parent)
        )
        yield work
        _sync_folder(work)
        _swap(work, folder)
    except OSError as error:
        number = error.errno or errno.EIO
        fault = _FAULTS.get(number) or (
            f"The cohort folder cannot be written ({errno.errorcode.get(number, number)}).",
            "Check the disk, then ingest again.",
        )
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    if fault is not None:
        raise DataError(fault[0], remedy=fault[1]) from None


@contextmanager
def private(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing, readable by its owner only, and fsync it at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        yield handle
        handle.flush()
        os.fsync(descriptor)


def write_images(folder: Path, rows: Path, order: NDArray[np.int64], shape: tuple[int, ...]) -> str:
    """Write ``images.npy`` from rows of raw float16 in another order; return its SHA-256.

    Args:
      folder: Where; must not hold the file yet.
      rows: Raw little-endian float16 of ``shape``.
      order: Row of the source for each row of the result.
      shape: Images, 1, size, size.
    """
    digest = hashlib.sha256()
    source = np.memmap(rows, dtype="<f2", mode="r", shape=shape)
    # Plain writes, not a memory map: on a full disk a map kills the process.
    with private(folder / IMAGES) as out:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, len(order), _BLOCK):
            block = source[order[start : start + _BLOCK]].tobytes()
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def write_index(
    folder: Path, *, manifest: Mapping[str, Any], arrays: Arrays, linkage: tuple[str, ...]
) -> None:
    """Write the index and, last of all, the manifest; the images must be there.

    Args:
      folder: The folder that :func:`replacing` yields.
      manifest: ``spec``, ``images_digest`` and whatever else the cohort says
        of itself; ``format`` and ``digest`` are added.
      arrays: Plain arrays, none of objects.
      linkage: One keyed hash per patient, or nothing.
    """
    with private(folder / INDEX) as out:
        np.savez(out, allow_pickle=False, **arrays)
    if linkage:
        with private(folder / LINKAGE) as out:
            np.save(out, np.array(linkage, dtype="S32"), allow_pickle=False)
    full = {**manifest, "format": FORMAT, "digest": digest(manifest, arrays)}
    with private(folder / MANIFEST) as out:
        out.write(json.dumps(full, indent=2, sort_keys=True).encode() + b"\n")


def digest(manifest: Mapping[str, Any], arrays: Arrays) -> str:
    """Return the SHA-256 over the spec, the digest of the images and every array."""
    total = hashlib.sha256(json.dumps(manifest["spec"], sort_keys=True).encode())
    total.update(str(manifest["images_digest"]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def images_digest(images: NDArray[np.float16]) -> str:
    """Return the SHA-256 over the images, read block by block."""
    total = hashlib.sha256()
    for start in range(0, len(images), _BLOCK):
        total.update(images[start : start + _BLOCK].tobytes())
    return total.hexdigest()


def load(folder: Path) -> Stored:
    """Read a cohort's files; the images stay on disk, mapped read-only.

    Raises:
      DataError: A file is missing, cut off, of another format, or not the one
        that the manifest's digest was made of.
    """
    if folder.name.endswith(_UNFINISHED) or not (folder / MANIFEST).is_file():
        raise DataError("There is no cohort in this folder.", remedy="Run `septum site ingest`.")
    remedy = "Ingest again from the DICOM source."
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = manifest["format"]
        if found != FORMAT:
            raise DataError(
                f"The cohort is of format {found!r}; this Septum reads {FORMAT}.", remedy=remedy
            )
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        # numpy leaves a damaged archive open; this file closes itself.
        with (
            (folder / INDEX).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            arrays = {name: archive[name] for name in archive.files}
        linkage: tuple[str, ...] = ()
        if (folder / LINKAGE).exists():
            hashes = np.load(folder / LINKAGE, allow_pickle=False)
            linkage = tuple(value.decode("ascii") for value in hashes.tolist())
        intact = manifest["digest"] == digest(manifest, arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        intact = False
    if not intact:
        raise DataError("The cohort on disk is incomplete or was altered.", remedy=remedy)
    for array in arrays.values():
        array.setflags(write=False)
    return Stored(manifest=manifest, images=images, arrays=arrays, linkage=linkage)


def _require_replaceable(folder: Path) -> None:
    taken = folder.is_symlink() or (folder.exists() and not folder.is_dir())
    if not taken and folder.is_dir():
        taken = any(folder.iterdir()) and not (folder / MANIFEST).is_file()
    if taken:
        raise DataError(
            "The cohort folder holds something else than a cohort.",
            remedy="Choose a new or empty folder; nothing was deleted.",
        )


def _swap(work: Path, folder: Path) -> None:
    old = work.with_suffix(".old")
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        work.rename(folder)
    except BaseException:
        if replaced:
            old.rename(folder)
        raise
    _sync_folder(folder.parent)
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot fsync a folder; the files themselves are synced.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
