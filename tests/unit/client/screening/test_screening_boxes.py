import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum_client.screening.boxes import NOTHING, Box, crop, hull, mask, without

ROWS, COLUMNS = 12, 16
sides = st.tuples(
    st.integers(-2, 14), st.integers(-2, 18), st.integers(-2, 14), st.integers(-2, 18)
)
boxes = st.lists(sides.map(lambda four: Box(*four)), max_size=4)


def covered(found):
    return mask([box for box in found if box.area], ROWS, COLUMNS)


@given(boxes, boxes)
def test_what_is_left_is_what_the_boxes_cover_and_the_holes_do_not(keep, holes):
    left = without(keep, [hole for hole in holes if hole.area])
    assert np.array_equal(covered(left), covered(keep) & ~covered(holes))


@given(boxes)
def test_no_pixel_outside_the_boxes_survives_a_crop(keep):
    keep = tuple(box for box in keep if box.area)
    values = np.arange(1, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)
    before = values.copy()
    out = crop(values, keep, fill=0)
    allowed = set(values[covered(keep)]) if keep else set(values.flat)
    assert set(out.flat) - {0} == allowed
    assert np.array_equal(values, before)


def test_a_crop_of_colour_keeps_its_samples():
    values = np.full((ROWS, COLUMNS, 3), 9, dtype=np.uint8)
    out = crop(values, (Box(2, 3, 5, 8),), fill=0)
    assert out.shape == (3, 5, 3)
    assert out.min() == 9


@pytest.mark.parametrize("none", [[], [Box(3, 3, 3, 9)]])
def test_nothing_has_no_hull(none):
    assert hull(none) == NOTHING
