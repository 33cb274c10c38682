import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from septum_client.pixels import UnusableValuesError, to_training

stored_images = arrays(
    np.int16,
    st.tuples(st.integers(16, 40), st.integers(16, 40)),
    elements=st.integers(-3000, 3000),
).filter(lambda a: a.min() < a.max())
squares = arrays(np.int16, (24, 24), elements=st.integers(-3000, 3000)).filter(
    lambda a: a.min() < a.max()
)


@settings(max_examples=60, deadline=None)
@given(stored_images, st.integers(16, 48))
def test_values_are_in_the_unit_range_whatever_the_shape(stored, size):
    out = to_training(stored, size=size)
    assert out.shape == (size, size)
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1


@settings(max_examples=60, deadline=None)
@given(squares)
def test_the_order_of_pixels_is_kept(stored):
    out = to_training(stored, size=24)
    by_stored = np.argsort(stored, axis=None, kind="stable")
    assert (np.diff(out.ravel()[by_stored]) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(squares, st.sampled_from([12, 16, 24, 32]))
def test_monochrome1_is_the_inverted_monochrome2(stored, size):
    plain = to_training(stored, size=size)
    assert np.allclose(to_training(stored, size=size, inverted=True), 1 - plain, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(squares, st.sampled_from([0.5, 1.0, 2.0, 10.0]), st.integers(-1024, 1024))
def test_slope_and_intercept_of_the_scanner_do_not_matter(stored, slope, intercept):
    scaled = to_training(stored, size=16, slope=slope, intercept=intercept)
    assert np.allclose(scaled, to_training(stored, size=16), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(squares)
def test_a_negative_slope_inverts_and_monochrome1_inverts_it_back(stored):
    assert np.array_equal(
        to_training(stored, size=24, slope=-1.0, inverted=True), to_training(stored, size=24)
    )


def test_padding_is_black_and_does_not_stretch_the_contrast():
    stored = np.random.default_rng(0).integers(100, 200, (32, 32)).astype(np.int16)
    padded = stored.copy()
    padded[:, :8] = -2000
    out = to_training(padded, size=32, padding=(-2000, -2000))
    assert (out[:, :8] == 0).all()
    assert out[:, 8:].std() > 0.2
    assert to_training(padded, size=32)[:, 8:].std() < 0.05


def test_padding_is_black_in_monochrome1_too_and_may_be_a_range():
    stored = np.random.default_rng(0).integers(100, 200, (32, 32)).astype(np.int16)
    stored[:, :4], stored[:, 4:8] = -2000, -1990
    out = to_training(stored, size=32, padding=(-1990, -2000), inverted=True)
    assert (out[:, :8] == 0).all()


def test_an_oblong_image_is_centred_and_keeps_its_aspect():
    stored = np.full((16, 32), 100, dtype=np.uint16)
    stored[:, ::2] = 50
    out = to_training(stored, size=32)
    assert (out[:8] == 0).all()
    assert (out[24:] == 0).all()
    assert np.allclose(out[8:24, 1::2], 1)


@pytest.mark.parametrize(("side", "size"), [(64, 32), (48, 32), (40, 32), (100, 16)])
def test_the_mean_survives_the_resize_so_nothing_aliases(side, size):
    stored = (np.indices((side, side)).sum(axis=0) % 2 * 1000).astype(np.uint16)
    out = to_training(stored, size=size)
    assert abs(out.mean() - 0.5) < 1e-3
    assert abs(out - 0.5).max() <= 0.5 / (side / size) ** 2 + 1e-6


def test_an_even_reduction_is_the_block_mean():
    stored = np.random.default_rng(1).integers(0, 4096, (32, 32)).astype(np.uint16)
    full = to_training(stored, size=32)
    assert np.allclose(
        to_training(stored, size=16), full.reshape(16, 2, 16, 2).mean(axis=(1, 3)), atol=1e-6
    )


def test_one_bright_spot_in_an_empty_field_is_an_image():
    stored = np.zeros((64, 64), dtype=np.uint16)
    stored[3, 4] = 9
    assert to_training(stored, size=64)[3, 4] == 1


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"slope": 0.0}, {"slope": float("nan")}, {"intercept": float("inf")}, {"slope": 1e38}],
)
def test_images_without_finite_contrast_are_refused(kwargs):
    stored = np.full((16, 16), 7, dtype=np.uint16)
    if kwargs:
        stored[0] = 60000
    with pytest.raises(UnusableValuesError):
        to_training(stored, size=16, **kwargs)


def test_an_image_of_padding_only_is_refused():
    with pytest.raises(UnusableValuesError):
        to_training(np.full((16, 16), 7, dtype=np.uint16), size=16, padding=(7, 7))
