"""A cohort on disk: three private files that appear together or not at all.

``images.npy`` (float16), ``index.npz`` (plain arrays, nothing pickled) and
``cohort.json``; with ``masks.npy`` for segmentation, ``linkage.npy`` only in
simulations. Nothing here knows DICOM or labels.
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

FORMAT: Final = 2
IMAGES, INDEX, MANIFEST, LINKAGE = "images.npy", "index.npz", "cohort.json", "linkage.npy"
MASKS: Final = "masks.npy"
META: Final = "meta_"
LINEAGE: Final = ("rules", "key", "version", "made", "expires")
"""What of a lineage decides; its counts differ between a first and a second ingest."""
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
    masks: NDArray[np.uint8] | None = None


def require_apart(source: Path, folder: Path) -> None:
    """Pass when neither folder is inside the other: replacing one never deletes the other.

    Raises:
      DataError: They overlap.
    """
    ours, theirs = folder.resolve(), source.resolve()
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        raise DataError(
            "The source and the folder to write lie inside one another.",
            remedy="Keep what Septum writes outside the DICOM export.",
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


def write_images(
    folder: Path, source: NDArray[Any], order: NDArray[np.int64], *, name: str = IMAGES
) -> str:
    """Write ``images.npy`` from the rows of ``source`` in another order; return its SHA-256.

    Args:
      folder: Where; must not hold the file yet.
      source: float16, ``(rows, *shape of one image)``, or uint8 masks; may be a memory map.
      order: Row of the source for each row of the result.
      name: :data:`IMAGES` or :data:`MASKS`.
    """
    digest = hashlib.sha256()
    shape, kind = (len(order), *source.shape[1:]), source.dtype.newbyteorder("<")
    # Plain writes, not a memory map: on a full disk a map kills the process.
    with private(folder / name) as out:
        header = {"descr": kind.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, len(order), _BLOCK):
            block = source[order[start : start + _BLOCK]].astype(kind, copy=False).tobytes()
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def write_index(
    folder: Path, *, manifest: Mapping[str, Any], arrays: Arrays, linkage: tuple[str, ...]
) -> None:
    """Write the index and, last of all, the manifest; the images must be there.

    Args:
      folder: The folder that :func:`replacing` yields.
      manifest: ``spec``, ``images_digest``, ``lineage`` and whatever else the
        cohort says of itself; ``format`` and ``digest`` are added.
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
    """Return the SHA-256 over spec, origin, the digest of the images and every array."""
    lineage = {name: manifest["lineage"].get(name) for name in LINEAGE}
    pixels = [manifest[name] for name in ("images_digest", "masks_digest") if name in manifest]
    said = [manifest["spec"], lineage, *pixels]
    total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def images_digest(images: NDArray[Any]) -> str:
    """Return the SHA-256 over the images, or masks, read block by block."""
    total = hashlib.sha256()
    for start in range(0, len(images), _BLOCK):
        total.update(images[start : start + _BLOCK].tobytes())
    return total.hexdigest()


def purge(folder: Path) -> None:
    """Delete a cohort and everything half-written beside it, and see that it is gone.

    Raises:
      DataError: Something is still there, or it is not a cohort.
    """
    _require_replaceable(folder)
    for path in folder.parent.glob(f".{folder.name}-*"):
        _remove(path)
    if folder.exists():
        # Out of the way first: after a crash in between, no half of a cohort looks like one.
        with suppress(OSError):
            _remove(folder.rename(folder.with_name(f".{folder.name}-purged{_UNFINISHED}")))
        _remove(folder)
        _sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise DataError(
            "Files of an old cohort could not be deleted.",
            remedy="Give this account write permission for the site directory, then run again.",
        )


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
        if (found := manifest["format"]) != FORMAT:
            raise DataError(
                f"The cohort is of format {found!r}; this Septum reads {FORMAT}.", remedy=remedy
            )
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        masks = None
        if (folder / MASKS).exists():
            masks = np.load(folder / MASKS, mmap_mode="r", allow_pickle=False)
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
    return Stored(manifest=manifest, images=images, arrays=arrays, linkage=linkage, masks=masks)


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
    if replaced := folder.exists():
        folder.rename(old)
    try:
        work.rename(folder)
    except BaseException:
        if replaced:
            old.rename(folder)
        raise
    _sync_folder(folder.parent)
    if replaced:
        _remove(old)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot fsync a folder; the files themselves are synced.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
