"""A mask lies on the pixels of its image, through every turn and every size."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import Quarantine
from septum_client import pixels
from septum_client.imaging import volumes
from septum_client.imaging.geometry import Plane
from septum_client.masks import grid
from septum_client.reject import Rejected

AFFINE = np.array([[0, 0, 1.5, 7], [0, 2, 0, -3], [4, 0, 0, 11], [0, 0, 0, 1.0]])
SHAPE = (3, 5, 4)


def mask_of(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def turned(mask, affine, axes, flips):
    """Return the same mask in space, stored along other axes."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = mask.shape[old] - 1 if flip else 0
    way = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return mask.transpose(axes)[way], affine @ turn


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product([False, True], repeat=3)))
def test_a_mask_stored_along_any_axes_lands_on_the_same_pixels(axes, flips):
    mask = mask_of()
    stored, affine = turned(mask, AFFINE, axes, flips)
    onto = np.zeros(SHAPE, np.uint8)
    grid.place(stored, affine, onto, AFFINE)
    assert np.array_equal(onto, mask)


def test_single_frames_make_the_volume_that_they_are_slices_of():
    mask = mask_of()
    onto = np.zeros(SHAPE, np.uint8)
    for number in (2, 0, 1):
        plane = Plane(
            position_mm=tuple((AFFINE @ [number, 0, 0, 1])[:3]),
            row_cosines=(1, 0, 0),
            column_cosines=(0, 1, 0),
            spacing_mm=(2, 1.5),
        )
        grid.place(mask[number][None], grid.affine_of(plane), onto, AFFINE)
    assert np.array_equal(onto, mask)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a @ np.diag([1, 1, 1.2, 1]),  # another spacing
        lambda a: a @ np.diag([1, 2, 1, 1]),
        lambda a: a + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4]),  # between pixels
        lambda a: a + np.array([[0] * 4, [0] * 4, [0, 0, 0, 40], [0] * 4]),  # outside
        lambda a: a @ np.array([[1, 0, 0, 0], [0, 0.98, 0.2, 0], [0, -0.2, 0.98, 0], [0, 0, 0, 1]]),
    ],
)
def test_a_mask_of_another_grid_is_refused_and_never_resampled(change):
    onto = np.zeros(SHAPE, np.uint8)
    with pytest.raises(Rejected) as caught:
        grid.place(mask_of(), change(AFFINE), onto, AFFINE)
    assert caught.value.code is Quarantine.MASK_GEOMETRY
    assert not onto.any()


def test_the_rounding_of_written_positions_moves_no_pixel():
    mask = mask_of()
    onto = np.zeros(SHAPE, np.uint8)
    grid.place(mask, AFFINE + 1e-3 * np.eye(4)[:, [3, 3, 3, 0]], onto, AFFINE)
    assert np.array_equal(onto, mask)


@given(st.integers(0, 9), st.integers(0, 9))
def test_where_two_frames_claim_a_pixel_the_later_label_holds_in_any_order(a, b):
    first, second = mask_of(a), mask_of(b)
    one, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for onto, order in ((one, (first, second)), (other, (second, first))):
        for mask in order:
            grid.place(mask, AFFINE, onto, AFFINE)
    assert np.array_equal(one, other)
    assert np.array_equal(one, np.maximum(first, second))


@settings(max_examples=40)
@given(st.integers(16, 70), st.integers(16, 70), st.integers(8, 40), st.data())
def test_a_sampled_mask_lies_where_its_image_lies(rows, columns, size, data):
    top = data.draw(st.integers(0, rows - 8))
    left = data.draw(st.integers(0, columns - 8))
    mask = np.zeros((rows, columns), np.uint8)
    mask[top : top + 8, left : left + 8] = 1
    image = pixels.on_square(mask.astype(np.float32), size)
    found = grid.sampled(mask, size=size)
    assert found.shape == (size, size)
    # Wholly inside is the class, wholly outside is background.
    assert (found[image > 0.999] == 1).all()
    assert (found[image < 0.001] == 0).all()


def test_slices_are_sampled_as_the_volume_averages_them():
    values = np.zeros((12, 20, 20), np.float32)
    values[4:8, 4:14, 6:16] = 1
    volume = volumes.Volume(values=values, spacing_mm=(1, 1, 1), affine=np.eye(4))
    image = volumes.to_training(volume, size=10, depth=6)
    found = grid.sampled(values.astype(np.uint8), size=10, depth=6)
    assert np.array_equal(found, (image > 0.5).astype(np.uint8))


def test_a_mask_of_the_right_size_is_not_changed():
    mask = mask_of(shape=(24, 24))
    assert np.array_equal(grid.sampled(mask, size=24), mask)
