"""A study's rounds one after another: who is asked while another process trains waits for it.

Flower gives a hospital one order at a time, but forgets a training process that
still runs when the SuperNode was restarted, or when it took the process for dead.
Asked for the same round again, a second process would find the charge and no
release, and say that the round is lost while the first still makes it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from septum.errors import Code, DataError, Refusal

_LOOK_S: Final = 0.5


@contextmanager
def taken(folder: Path, study: str, *, over: Callable[[], bool]) -> Iterator[None]:
    """Hold the study's turn at a site, as soon as no other process does.

    Args:
      folder: Where the turn's file lies, made if it is missing; the file is empty, and stays.
      study: Digest of an approved study.
      over: Whether it is too late to go on waiting; asked about twice a second.

    Guarantees:
      - One holder at a time. Whoever dies holds it no longer: the kernel sees to that,
        so a round that was cut off is never taken for one that is trained.

    Raises:
      Refusal: With :attr:`Code.STILL_TRAINING`: another process held it until ``over``.
      DataError: The file cannot be made, or not be locked.
    """
    path = folder / f"{study}.lock"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        turn = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataError(
            f"{path.name} could not be made ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then run again.",
        ) from None
    try:
        while not _held(turn):
            if over():
                raise Refusal(
                    Code.STILL_TRAINING,
                    "the order's deadline passed while another process trained a round of the "
                    "study.",
                    remedy="Nothing, if it still makes steps: its release is sent when the round "
                    "is asked again. Else restart `septum site up`, which ends it.",
                )
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(turn)


def _held(turn: int) -> bool:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DataError(
            f"the site's folder cannot be locked ({error.strerror}).",
            remedy="Put the site on a disk of this machine, whose file system knows locks.",
        ) from None
    return True
