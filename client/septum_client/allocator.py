"""Keeps the memory that a training step gives back, so that the next one need not ask for it."""

import ctypes
import functools
from typing import Final

# mallopt(3) and mallinfo(3) of the GNU C library.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_NEVER: Final = 2**31 - 1
_FREE: Final = 8  # place of ``fordblks`` among the numbers of ``mallinfo2``


class _Account(ctypes.Structure):
    _fields_ = (("numbers", ctypes.c_size_t * 10),)


@functools.cache
def keep_memory() -> bool:
    """Have the C library reuse freed memory in this process; return whether it was told so.

    Per-patient gradients of a layer are tens of MiB, which the library takes from
    the system and gives back in every step. The system clears each page of it anew:
    for ``densenet121`` 40,000 page faults a step, a quarter of what clipping costs.

    Guarantees:
      - Changes no result. Memory that was used once stays with the process until it ends.
      - Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(bool(mallopt(what, _NEVER)) for what in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def kept_bytes() -> int:
    """Return the bytes that were given back and are still with the process; 0 where unknown."""
    account = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if account is None:
        return 0
    account.restype = _Account
    return int(account().numbers[_FREE])
