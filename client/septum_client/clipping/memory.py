"""How many images go through the network at once: from the memory that is free, measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

_LARGEST: Final = {"cpu": 32}  # more gains nothing there
_LARGEST_ELSEWHERE: Final = 256
_FEWEST: Final = 2
_WHOLE: Final = 16  # rows from which one number a row fills whole vectors: see places.py
_COPIES: Final = 3  # of what forward keeps: itself, gradients on the way back, patients' gradients
_FREE_SHARE: Final = 0.5

_LIMITS: Final = (  # what a container may use, and uses: cgroup 2, then 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_bytes(device: torch.device, *, root: Path = Path("/")) -> int:
    """Return the bytes free on ``device``: the accelerator's own, else the machine's.

    Args:
      device: Where training runs.
      root: Where ``/proc`` and ``/sys`` are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = (root / "proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in _LIMITS:
        try:
            most, now = ((root / name.lstrip("/")).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdigit():
            free = min(free, max(0, int(most) - int(now)))
    return free


def row_bytes(model: nn.Module, shape: Sequence[int], *, device: torch.device) -> int:
    """Return the bytes that forward keeps for backward, for one more image of ``shape``."""
    one, two = (_kept_bytes(model, (count, *shape), device=device) for count in (1, 2))
    return max(1, two - one)  # standardised weights are kept once, whatever the images


def _kept_bytes(model: nn.Module, size: Sequence[int], *, device: torch.device) -> int:
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alive.append(model(torch.zeros(tuple(size), device=device)))
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def physical_batch(
    *, row: int, parameters: int, most: int, expected: float, free: int, device: torch.device
) -> int:
    """Return the images of every backward pass: a constant of the site, not of the draw.

    The result of a step does not depend on it but for rounding. A power of two,
    so that small differences in free memory do not change it.

    Args:
      row: Bytes of one image, see :func:`row_bytes`.
      parameters: Number of weights.
      most: Most images of one patient, all of which go together.
      expected: Expected patients of a draw: more images than theirs would be blank.
      free: Bytes that are free.
      device: Where training runs.

    >>> physical_batch(row=1 << 20, parameters=10_000, most=1, expected=100.0, free=8 << 30,
    ...                device=torch.device("cpu"))
    32
    >>> physical_batch(row=100 << 20, parameters=10_000, most=1, expected=100.0, free=8 << 30,
    ...                device=torch.device("cpu"))
    8
    """
    room = _FREE_SHARE * free - _COPIES * 4 * parameters
    fits = max(
        _FEWEST, min(int(room // (_COPIES * row)), _power_above(max(expected * most, _WHOLE)))
    )
    largest = _LARGEST.get(device.type, _LARGEST_ELSEWHERE)
    return max(most, min(largest, _power_below(fits)))


def _power_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _power_above(number: float) -> int:
    return 1 << (max(_FEWEST, round(number)) - 1).bit_length()
