"""Whether a defacing tool did its work: the skin of the face before, looked for after.

What is verified: of the skin that faces forward between brow and chin, at
most half may still be a drop of signal towards the front, in each of three bands
(eyes, nose, mouth) that the scan covers; and the brain behind is untouched.

What is not: that nobody could recognise what is left, or rebuild the rest.
Ears, teeth and the shape of the skull identify too, and are not looked at.
Published defacers leave 28 to 38% of faces matchable (Schwarz 2021), so a
verified scan is one whose tool did not silently fail, and no more.

Proportions are in head breadths below the crown (adult: breadth 152 mm, crown
to brow 95, to eyes 112, to nose base 155, to chin 225), so that children scale.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.floating[Any]]

BANDS: Final = {"eyes": (0.62, 0.86), "nose": (0.86, 1.08), "mouth": (1.08, 1.35)}
MOST_SKIN_LEFT: Final = 0.5
MOST_BRAIN_CHANGED: Final = 0.02
_HALF_FACE: Final = 0.35
_STEP_MM: Final = 2.0
# Outside these breadths it is no head, or a head with its holder or shoulders.
_BREADTH_MM: Final = (90.0, 170.0)
_FEWEST_COLUMNS: Final = 30
# Voxels from the skin, inwards and outwards; the nearest are half air.
_INSIDE: Final = (-2, -1)
_OUTSIDE: Final = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of a face.

    Args:
      skin_left: For each band that the scan covers, the share of the skin seen
        from the front that is still there, 0 to 1.
      brain_changed: The share of the voxels behind the forehead that changed.
    """

    skin_left: dict[str, float]
    brain_changed: float

    @property
    def face_is_gone(self) -> bool:
        """True when every band was seen to lose its skin, and there was a band to see."""
        return bool(self.skin_left) and max(self.skin_left.values()) <= MOST_SKIN_LEFT

    @property
    def brain_is_kept(self) -> bool:
        """True when the tool cut no brain."""
        return self.brain_changed <= MOST_BRAIN_CHANGED


def compare(before: Volume, after: Volume, affine: NDArray[np.floating[Any]]) -> Comparison:
    """Look for the face of ``before`` in ``after``.

    Args:
      before: ``(i, j, k)``, air the darkest.
      after: Of the same shape, from the defacing tool.
      affine: ``(4, 4)``, voxel to millimetres, x to the patient's left-right,
        y to the front, z to the top (RAS+, as in NIfTI).

    Returns:
      A comparison. Without a head to be found there is no band, and so the
      face is not gone.
    """
    front, spacing = _upright(before, affine)
    behind, _ = _upright(after, affine)
    head = _largest(front > 0.5 * _otsu(front))
    if not head.any():
        return Comparison(skin_left={}, brain_changed=1.0)
    lines = _Proportions(head, spacing)
    left = {
        name: share
        for name, (high, low) in BANDS.items()
        if (share := _skin_left(head, front, behind, lines.face(high, low))) is not None
    }
    changed = np.abs(front - behind) > 0.01 * max(float(np.ptp(front)), 1e-6)
    return Comparison(skin_left=left, brain_changed=float(changed[lines.brain()].mean()))


class _Proportions:
    """Where the parts of a head are, as slices of an upright volume."""

    def __init__(self, head: NDArray[np.bool_], spacing: tuple[float, float, float]) -> None:
        self._spacing = spacing
        self._top = int(np.flatnonzero(head.any(axis=(0, 1))).max())
        crown = head[:, :, max(0, self._top - int(100 / spacing[2])) : self._top + 1]
        across = np.flatnonzero(crown.any(axis=(1, 2)))
        along = np.flatnonzero(crown.any(axis=(0, 2)))
        breadth = (across.max() - across.min() + 1) * spacing[0]
        self._breadth = float(np.clip(breadth, *_BREADTH_MM))
        self._middle = int(across.max() + across.min()) // 2
        self._length = (int(along.min()), int(along.max()))

    def _sideways(self, half: float) -> slice:
        reach = int(half * self._breadth / self._spacing[0])
        return slice(max(0, self._middle - reach), self._middle + reach + 1)

    def _below(self, high: float, low: float) -> slice:
        per = self._breadth / self._spacing[2]
        return slice(max(0, self._top - int(low * per)), max(0, self._top - int(high * per)))

    def face(self, high: float, low: float) -> tuple[slice, slice, slice]:
        """Return the block between two heights, from the middle of the head to the front."""
        back, front = self._length
        return self._sideways(_HALF_FACE), slice((back + front) // 2, None), self._below(high, low)

    def brain(self) -> tuple[slice, slice, slice]:
        """Return a block that lies inside any brain: above the brow, away from the skull."""
        back, front = self._length
        margin = (front - back) // 4
        return self._sideways(0.25), slice(back + margin, front - margin), self._below(0.25, 0.5)


def _skin_left(
    head: NDArray[np.bool_],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    block: tuple[slice, slice, slice],
) -> float | None:
    """Return the share of forward skin still there; None where too little of it is in the scan.

    Skin is there where the signal drops from inside to outside by a quarter of
    what it did before: neither a brighter background nor a darker image hides it.
    """
    tissue = head[block]
    depth = tissue.shape[1]
    skin = depth - 1 - np.argmax(tissue[:, ::-1, :], axis=1)
    # Where the field of view cuts the face, there is no skin to look at.
    seen = tissue.any(axis=1) & (skin + _OUTSIDE[-1] < depth)
    if np.count_nonzero(seen) < _FEWEST_COLUMNS:
        return None
    still = _drop(after[block], skin) > 0.25 * _drop(before[block], skin)
    return float(np.count_nonzero(still & seen) / np.count_nonzero(seen))


def _drop(values: NDArray[np.float32], skin: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return by how much each column is brighter within the skin than before it."""
    last = values.shape[1] - 1

    def mean(offsets: tuple[int, ...]) -> NDArray[np.float32]:
        levels = [np.clip(skin + offset, 0, last)[:, None, :] for offset in offsets]
        found = [np.take_along_axis(values, level, axis=1)[:, 0, :] for level in levels]
        return np.asarray(np.mean(found, axis=0), dtype=np.float32)

    return mean(_INSIDE) - mean(_OUTSIDE)


def _upright(
    volume: Volume, affine: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Return the volume with axes right, front, top, at about :data:`_STEP_MM`."""
    from nibabel import orientations  # noqa: PLC0415 - loaded where a volume is looked at

    axes = orientations.io_orientation(affine)
    turned = orientations.apply_orientation(np.asarray(volume, dtype=np.float32), axes)
    sizes = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    spacing = [float(sizes[int(np.flatnonzero(axes[:, 0] == axis)[0])]) for axis in range(3)]
    steps = [max(1, int(_STEP_MM / size + 0.25)) for size in spacing]
    thin = turned[:: steps[0], :: steps[1], :: steps[2]]
    x, y, z = (size * step for size, step in zip(spacing, steps, strict=True))
    return np.nan_to_num(thin), (x, y, z)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected piece, so that a coil or a headset is no head."""
    from scipy import ndimage  # noqa: PLC0415 - loaded where a volume is looked at

    labels, pieces = ndimage.label(ndimage.binary_opening(mask))
    if not pieces:
        return np.zeros_like(mask)
    largest: NDArray[np.bool_] = labels == 1 + int(np.argmax(np.bincount(labels.flat)[1:]))
    return largest


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the value that best splits air from tissue (Otsu 1979), clipped of outliers."""
    low, high = np.percentile(values, (0.5, 99.5))
    if not low < high:
        return float(high)
    counts, edges = np.histogram(np.clip(values, low, high), bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(middles[int(np.nanargmax(between[:-1]))])
