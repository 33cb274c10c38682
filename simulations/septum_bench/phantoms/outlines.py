"""Where a film's lungs and nodule are: known exactly, because the phantom was built of them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum_bench.phantoms.anatomy import Anatomy
from septum_bench.phantoms.radiograph import View, grid, lesion, lungs

CLASSES: Final = ("lung", "nodule")

# A fifth of the deepest lung: what a radiologist's pen would follow.
_LEAST_SHARE: Final = 0.2


def outlines(
    anatomy: Anatomy, view: View, *, field_mm: float, matrix: int
) -> dict[str, NDArray[np.bool_]]:
    """Return the pixels of each class of :data:`CLASSES` on a film of this view.

    Returns:
      bool ``[matrix, matrix]`` each. Without a nodule, its pixels are none.
    """
    x, y = grid(view, field_mm, matrix)
    deep = lungs(anatomy, view, x, y, anatomy.chest_half_mm(y))
    ill = anatomy.attributes.lesion_mm > 0
    nodule = lesion(anatomy, view, x, y) > 0 if ill else np.zeros(x.shape, dtype=np.bool_)
    return {"lung": deep > _LEAST_SHARE * 0.6 * anatomy.depth_mm, "nodule": nodule}
