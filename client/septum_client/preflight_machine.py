"""Has this machine the disk, the memory and the versions that the study needs?"""

import os
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from septum import __version__
from septum.fab import fab_digest
from septum_client.preflight_findings import Finding, look, ok, stop

_MIB: Final = 1 << 20
_SPARE_BYTES: Final = 512 * _MIB
_IN_FLIGHT: Final = 6
"""Copies of one vector that a round may leave on the disk at once: the outbox's, and those that
Flower keeps of a message and of its answer while both are under way."""


def check_disk(folder: Path, *, vector_bytes: int, rounds: int) -> Finding:
    """Return whether the site's disk holds the releases of ``rounds`` rounds, each kept.

    Args:
      folder: The site directory.
      vector_bytes: Size of one update.
      rounds: Rounds still to come.
    """
    free = shutil.disk_usage(folder).free
    needed = (rounds + _IN_FLIGHT) * vector_bytes + _SPARE_BYTES
    text = f"{_size(free)} free; {rounds} rounds need {_size(needed)}"
    if free < needed:
        return stop("disk", text, "Free disk space, or move the site to a larger disk.")
    return ok("disk", text)


def check_memory(*, needed_bytes: int) -> Finding:
    """Return whether as much memory is free as the measured training took.

    Args:
      needed_bytes: Peak of a process that trained a phantom batch.
    """
    free = free_memory_bytes()
    if not free:
        return look(
            "memory",
            f"training takes {_size(needed_bytes)}; this system does not say what is free",
            "See that as much memory is free.",
        )
    text = f"{_size(free)} free; training took {_size(needed_bytes)}"
    if free < needed_bytes:
        return stop("memory", text, "Close other programs, or use a machine with more memory.")
    return ok("memory", text)


def check_graphics() -> Finding:
    """Return what is there to compute with; training runs on the processor either way."""
    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        return ok("graphics card", f"one is there and is not used; training runs on {cores} cores")
    return ok("graphics card", f"none, and none is needed; training runs on {cores} cores")


def check_versions(*, theirs: str, bundle: str) -> Finding:
    """Return whether both sides run the same Septum and speak through the same bundle.

    Args:
      theirs: The coordinator's version of Septum.
      bundle: SHA-256 of its Flower bundle.
    """
    installed = f"Septum {__version__}, flwr {_version('flwr')}, torch {_version('torch')}"
    if bundle != fab_digest():
        return stop(
            "versions",
            f"{installed}; the coordinator's Septum {theirs} sends another bundle, which is "
            "refused here",
            f"Agree on one version with the coordinator, and install Septum {theirs} or later.",
        )
    if _series(theirs) != _series(__version__):
        return look(
            "versions",
            f"{installed}; the coordinator runs Septum {theirs}",
            "Agree on one version with the coordinator before the study starts.",
        )
    return ok("versions", f"{installed}; the coordinator runs Septum {theirs}")


def free_memory_bytes() -> int:
    """Return the memory that a new process can have; 0 where the system does not say."""
    try:
        table = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^MemAvailable:\s+(\d+) kB", table, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _series(text: str) -> str:
    return ".".join(text.split(".")[:2])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _size(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1 << 30 else f"{size / _MIB:.0f} MiB"
