"""The attacker's prior: films of people who are in no hospital.

An attacker may know what chests look like without knowing any patient. These
films come from the same anatomy and the same makes of scanner, and from a
branch of the seed that no hospital ever draws from.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum_bench.phantoms.anatomy import draw_attributes, grow
from septum_bench.phantoms.radiograph import DEFAULT_MATRIX, render
from septum_bench.phantoms.scanner import SCANNERS, percentile_normalise

PUBLIC_PREVALENCE: Final = 0.4
_PUBLIC_BRANCH: Final = 2  # hospitals.py uses 0 and 1


def public_images(n: int, size: int, seed: int) -> NDArray[np.float32]:
    """Return films of ``n`` people who are in no hospital, one each.

    Args:
      n: How many, at least 0.
      size: Rows and columns, at least 1.
      seed: Non-negative; may equal a plan's seed and still shares no patient with it.

    Returns:
      float32 ``[n, 1, size, size]`` in [0, 1], MONOCHROME2, normalised as ingest
      does: the film's 0.5..99.5 percentile to [0, 1], then area-resized.

    Guarantees:
      - Image ``i`` depends on ``seed`` and ``i`` alone, not on ``n``.

    Raises:
      DataError: an argument is out of range.
    """
    if n < 0 or size < 1 or seed < 0:
        raise DataError(
            f"n={n}, size={size}, seed={seed} must be at least 0, 1 and 0.",
            remedy="Ask for at least one pixel and give non-negative numbers.",
        )
    images = np.empty((n, 1, size, size), np.float32)
    for i in range(n):
        branch = np.random.SeedSequence(seed, spawn_key=(_PUBLIC_BRANCH, i))
        rng = np.random.default_rng(branch)
        scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
        attributes = draw_attributes(rng, positive=bool(rng.random() < PUBLIC_PREVALENCE))
        film = render(rng, grow(rng, attributes), scanner, matrix=max(DEFAULT_MATRIX, size))
        images[i, 0] = percentile_normalise(film, size)
    return images
