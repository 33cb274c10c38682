import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import Quarantine
from septum_client import pixels
from septum_client.imaging.geometry import Plane, cross
from septum_client.imaging.volumes import (
    Slice,
    Volume,
    canonical,
    spacing_of,
    split_by_orientation,
    stack,
    to_training,
)
from septum_client.reject import Rejected

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
OBLIQUE = ((math.cos(0.3), math.sin(0.3), 0.0), (0.0, 0.0, -1.0))


def series(n=5, *, gap=2.0, axes=AXIAL, step=None, side=(4, 3), seed=0, start=(-10, 20, 30)):
    normal = np.array(cross(*axes)) * gap if step is None else np.array(step)
    values = np.random.default_rng(seed).random((n, *side), dtype=np.float32)
    return [
        Slice(
            values=values[i],
            plane=Plane(
                position_mm=tuple(float(x) for x in np.array(start) + i * normal),
                row_cosines=axes[0],
                column_cosines=axes[1],
                spacing_mm=(0.5, 0.7),
                thickness_mm=1.5,
            ),
        )
        for i in range(n)
    ]


def moved(one, by, **fields):
    plane = one.plane
    place = tuple(float(x) for x in np.array(plane.position_mm) + by)
    return Slice(
        values=fields.get("values", one.values),
        plane=Plane(
            position_mm=place,
            row_cosines=fields.get("row_cosines", plane.row_cosines),
            column_cosines=fields.get("column_cosines", plane.column_cosines),
            spacing_mm=fields.get("spacing_mm", plane.spacing_mm),
            thickness_mm=fields.get("thickness_mm", plane.thickness_mm),
        ),
    )


def code_of(slices):
    with pytest.raises(Rejected) as caught:
        stack(slices)
    return caught.value.code


@pytest.mark.parametrize("axes", [AXIAL, CORONAL, SAGITTAL, OBLIQUE])
def test_the_affine_says_where_each_slice_s_first_pixel_lies(axes):
    slices = series(axes=axes)
    volume = stack(slices)
    assert volume.values.shape == (5, 4, 3)
    assert np.allclose(volume.spacing_mm, (2.0, 0.5, 0.7))
    assert np.allclose(spacing_of(volume.affine), volume.spacing_mm)
    for place, one in enumerate(slices):
        assert np.array_equal(volume.values[place], one.values)
        assert np.allclose((volume.affine @ (place, 0, 0, 1))[:3], one.plane.position_mm)
    right, below = (volume.affine @ (0, 0, 1, 0))[:3], (volume.affine @ (0, 1, 0, 0))[:3]
    assert np.allclose(right, np.multiply(axes[0], 0.7))
    assert np.allclose(below, np.multiply(axes[1], 0.5))


@settings(deadline=None, max_examples=60)
@given(order=st.permutations(range(6)), axes=st.sampled_from([AXIAL, CORONAL, SAGITTAL, OBLIQUE]))
def test_the_order_of_the_slices_never_matters(order, axes):
    slices = series(6, axes=axes)
    # One copy, and cosines that rounding made differ, as scanners write them.
    slices[3] = moved(slices[3], 0, row_cosines=tuple(x + 1e-4 for x in axes[0]))
    slices.append(slices[2])
    first, other = stack(slices), stack([slices[i] for i in order] + [slices[6]])
    assert np.array_equal(first.values, other.values)
    assert np.array_equal(first.affine, other.affine)
    assert len(first.values) == 6


@settings(deadline=None, max_examples=40)
@given(
    axes=st.sampled_from([AXIAL, CORONAL, SAGITTAL, OBLIQUE]),
    n=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_reading_each_slice_from_its_other_end_turns_the_stack_and_not_the_patient(axes, n, seed):
    slices = series(n, axes=axes, seed=seed)
    rows = slices[0].values.shape[0]
    far = np.multiply(axes[1], 0.5 * (rows - 1))
    turned = [
        moved(one, far, values=one.values[::-1], column_cosines=tuple(-x for x in axes[1]))
        for one in slices
    ]
    first, other = stack(slices), stack(turned)
    assert np.array_equal(other.values, first.values[::-1, ::-1])
    assert np.array_equal(canonical(first).values, canonical(other).values)
    assert np.allclose(canonical(first).affine, canonical(other).affine)


@pytest.mark.parametrize("axes", [AXIAL, CORONAL, SAGITTAL, OBLIQUE])
def test_canonical_moves_no_voxel_in_the_patient(axes):
    volume = stack(series(axes=axes))
    turned = canonical(volume)
    assert min(turned.affine[2, 0], turned.affine[1, 1], turned.affine[0, 2]) > 0
    assert np.allclose(spacing_of(turned.affine), turned.spacing_mm)

    def voxels(of):
        places = np.indices(of.values.shape).reshape(3, -1)
        at = of.affine @ np.vstack([places, np.ones(places.shape[1])])
        return sorted(zip(np.round(at[:3].T, 6).tolist(), of.values.ravel().tolist(), strict=True))

    assert voxels(volume) == voxels(turned)


def test_an_axial_scan_is_canonical_as_it_is():
    volume = stack(series())
    assert np.array_equal(canonical(volume).values, volume.values)


@pytest.mark.parametrize("absent", [1, 2, 3])
def test_a_missing_slice_is_found(absent):
    slices = series()
    del slices[absent]
    assert code_of(slices) is Quarantine.UNEVEN_SPACING


def test_one_missing_slice_among_a_thousand_is_found():
    slices = series(1000, side=(2, 2), gap=0.5)
    stack(slices)
    del slices[500]
    assert code_of(slices) is Quarantine.UNEVEN_SPACING


@pytest.mark.parametrize(("gap", "off"), [(5.0, 0.049), (0.5, 0.019)])
def test_unevenness_within_the_tolerance_passes_and_beyond_it_does_not(gap, off):
    slices = series(gap=gap)
    normal = np.array([0, 0, 1])
    stack([*slices[:2], moved(slices[2], off * normal), *slices[3:]])
    beyond = [*slices[:2], moved(slices[2], 1.1 * off * normal), *slices[3:]]
    assert code_of(beyond) is Quarantine.UNEVEN_SPACING


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE])
def test_positions_written_with_two_decimals_are_even(axes):
    slices = [
        moved(one, np.round(one.plane.position_mm, 2) - one.plane.position_mm)
        for one in series(40, gap=0.625, axes=axes)
    ]
    assert np.isclose(stack(slices).spacing_mm[0], 0.625, atol=1e-3)


@pytest.mark.parametrize("degrees", [2, 15, -20])
def test_a_tilted_gantry_is_refused(degrees):
    tilt = math.radians(degrees)
    axes = ((1.0, 0.0, 0.0), (0.0, math.cos(tilt), math.sin(tilt)))
    # The table moves along z while the planes lean.
    assert code_of(series(axes=axes, step=(0, 0, 2))) is Quarantine.UNEVEN_SPACING
    stack(series(axes=axes))


def test_equal_slices_at_one_place_count_once_and_different_ones_are_refused():
    slices = series()
    copy = moved(slices[1], 0, values=slices[1].values.copy())
    assert len(stack([*slices, copy]).values) == 5
    changed = moved(slices[1], 0, values=slices[1].values + 1)
    assert code_of([*slices, changed]) is Quarantine.UNEVEN_SPACING


@pytest.mark.parametrize(
    "fields",
    [
        {"spacing_mm": (0.5, 0.71)},
        {"values": np.zeros((3, 3), np.float32)},
        {"row_cosines": (0.0, 1.0, 0.0), "column_cosines": (-1.0, 0.0, 0.0)},
    ],
)
def test_slices_that_do_not_fit_on_each_other_are_refused(fields):
    slices = series()
    slices[2] = moved(slices[2], 0, **fields)
    assert code_of(slices) is Quarantine.BAD_GEOMETRY


def test_one_slice_is_as_high_as_it_is_thick():
    (one,) = series(1)
    assert stack([one, one]).spacing_mm == (1.5, 0.5, 0.7)
    assert code_of([moved(one, 0, thickness_mm=None)]) is Quarantine.BAD_GEOMETRY
    assert code_of([]) is Quarantine.BAD_GEOMETRY


def test_localisers_are_what_is_not_parallel_to_most():
    slices = [*series(2, axes=CORONAL), *series(5), *series(1, axes=SAGITTAL)]
    kept, others = split_by_orientation(slices)
    assert (kept, others) == ([2, 3, 4, 5, 6], [0, 1, 7])
    stack([slices[i] for i in kept])


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(8)))
def test_what_a_localiser_is_does_not_depend_on_the_order(order):
    slices = [*series(2, axes=CORONAL), *series(5), *series(1, axes=SAGITTAL)]
    kept, others = split_by_orientation([slices[i] for i in order])
    assert {order[i] for i in kept} == {2, 3, 4, 5, 6}
    assert sorted(kept + others) == list(range(8))


def test_a_scout_of_three_planes_has_no_majority():
    slices = [*series(2, axes=CORONAL), *series(2), *series(2, axes=SAGITTAL)]
    assert split_by_orientation(slices) == ([], [0, 1, 2, 3, 4, 5])
    assert split_by_orientation([]) == ([], [])


def test_a_scout_of_another_matrix_is_no_part_of_the_stack():
    slices = [*series(5), *series(2, side=(9, 9))]
    assert split_by_orientation(slices) == ([0, 1, 2, 3, 4], [5, 6])


def volume_of(values, hidden=None):
    return Volume(
        values=values.astype(np.float32), spacing_mm=(1, 1, 1), affine=np.eye(4), hidden=hidden
    )


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    size=st.integers(1, 9),
    depth=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_training_values_are_exact_means(shape, size, depth, seed):
    values = np.random.default_rng(seed).random((*shape,)) + np.arange(shape[0])[:, None, None]
    if values.size < 2:
        return
    got = to_training(volume_of(values), size=size, depth=depth)
    unit = pixels.unit_range(values.astype(np.float32), None)
    squares = np.stack([pixels.on_square(one, size) for one in unit]).astype(np.float64)
    # Repeating each slice `depth` times makes every share a whole number of slices.
    fine = np.repeat(squares, depth, axis=0)
    want = fine.reshape(depth, shape[0], size, size).mean(axis=1)
    assert got.shape == (depth, size, size)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-6


@settings(deadline=None, max_examples=40)
@given(offset=st.integers(-2000, 2000), slope=st.sampled_from([0.5, 1, 4]))
def test_a_constant_offset_and_a_scale_do_not_matter(offset, slope):
    values = np.random.default_rng(1).integers(0, 1000, (7, 20, 16))
    first = to_training(volume_of(values), size=8, depth=4)
    other = to_training(volume_of(values * slope + offset), size=8, depth=4)
    assert np.abs(first - other).max() < 1e-5
    assert first.max() <= 1
    assert first.std() > 0.01


def test_one_range_holds_for_the_whole_volume():
    values = np.stack([np.full((8, 8), i) for i in range(10)])
    got = to_training(volume_of(values), size=4, depth=10)
    assert np.allclose(got, (np.arange(10) / 9)[:, None, None], atol=1e-6)


def test_padding_is_zero_and_moves_no_percentile():
    values = np.random.default_rng(0).random((4, 8, 8)) + 5
    hidden = np.zeros(values.shape, bool)
    hidden[:, :2] = True
    spoilt = np.where(hidden, -2000, values)
    got = to_training(volume_of(spoilt, hidden), size=8, depth=4)
    assert (got[:, :2] == 0).all()
    assert np.array_equal(got[:, 2:], pixels.unit_range(values[:, 2:].astype(np.float32), None))


def test_padding_of_some_slices_is_that_of_the_volume():
    slices = series(3)
    mask = np.ones(slices[1].values.shape, bool)
    slices[1] = Slice(values=slices[1].values, plane=slices[1].plane, hidden=mask)
    hidden = stack(slices[::-1]).hidden
    assert hidden.any(axis=(1, 2)).tolist() == [False, True, False]
    assert stack(series(3)).hidden is None


@pytest.mark.parametrize("values", [np.zeros((3, 8, 8)), np.full((3, 8, 8), np.nan)])
def test_a_volume_without_contrast_is_unusable(values):
    with pytest.raises(pixels.UnusableValuesError):
        to_training(volume_of(values), size=4, depth=2)
