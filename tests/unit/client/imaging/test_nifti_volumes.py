import gzip
import logging
import struct
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path

import nibabel
import nibabel.tests
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import Quarantine
from septum_client.imaging import nifti
from septum_client.imaging.limits import Limits
from septum_client.reject import Rejected

BUNDLED = Path(nibabel.tests.__file__).parent / "data"
SECRET = "Meier^Anna"


def made(values=None, affine=None, form=nibabel.Nifti1Image, **fields):
    if values is None:
        values = np.random.default_rng(0).integers(0, 999, (20, 18, 5)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine
    image = form(values, affine)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def patched(data, at, form, *values):
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def code_of(data, **kwargs):
    with pytest.raises(Rejected) as caught:
        nifti.read(data, **kwargs)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.code


@pytest.mark.parametrize("form", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_axes_come_as_head_back_left(form, packed):
    values = np.arange(20 * 18 * 5, dtype=np.int16).reshape(20, 18, 5)
    data = made(values, form=form)
    volume = nifti.read(gzip.compress(data) if packed else data)
    assert volume.values.dtype == np.float32
    assert volume.values.flags.c_contiguous
    # NIfTI's first two axes grow to the right and to the front, DICOM's to the left and the back.
    assert np.array_equal(volume.values, values[::-1, ::-1].transpose(2, 1, 0))
    assert volume.spacing_mm == (4, 3, 2)


@settings(deadline=None, max_examples=60)
@given(
    axes=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    turn=st.floats(-0.5, 0.5),
)
def test_orientation_is_what_nibabel_makes_of_it(axes, signs, turn):
    values = np.random.default_rng(0).random((20, 18, 17)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[:, axes] * signs) * (2, 3, 4)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    image = nibabel.Nifti1Image(values, rotation @ affine)
    want = nibabel.as_closest_canonical(image)
    got = nifti.read(image.to_bytes())
    assert np.array_equal(got.values, want.get_fdata()[::-1, ::-1].transpose(2, 1, 0))
    assert np.allclose(got.spacing_mm, want.header.get_zooms()[::-1], rtol=1e-5)
    last = np.array([*got.values.shape, 2]) - 1
    at = got.affine @ last * (-1, -1, 1, 1)
    assert np.allclose(at, want.affine @ (0, 0, last[0], 1), atol=1e-3)


def test_a_real_volume_holds_what_nibabel_reads():
    volume = nifti.read((BUNDLED / "anatomical.nii").read_bytes())
    want = nibabel.as_closest_canonical(nibabel.load(BUNDLED / "anatomical.nii")).get_fdata()
    assert np.allclose(volume.values, want[::-1, ::-1].transpose(2, 1, 0), rtol=1e-6)


@pytest.mark.parametrize("name", ["functional.nii", "example4d.nii.gz"])
def test_real_time_series_are_refused(name):
    assert code_of((BUNDLED / name).read_bytes()) is Quarantine.BAD_GEOMETRY


def test_a_series_of_one_is_a_volume():
    values = np.ones((20, 18, 5, 1), np.float32)
    assert nifti.read(made(values)).values.shape == (5, 18, 20)


@pytest.mark.parametrize("shape", [(20, 18), (20,), (20, 18, 5, 2), (20, 18, 5, 1, 3)])
def test_anything_but_three_axes_is_refused(shape):
    assert code_of(made(np.ones(shape, np.float32))) is Quarantine.BAD_GEOMETRY


def test_slope_and_intercept_are_applied():
    values = np.arange(20 * 18 * 5, dtype=np.int16).reshape(20, 18, 5)
    data = patched(made(values), 112, "<2f", 0.5, -10)
    want = values[::-1, ::-1].transpose(2, 1, 0) * 0.5 - 10
    assert np.array_equal(nifti.read(data).values, want)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"])
def test_every_real_type_is_read_in_either_byte_order(dtype):
    values = np.random.default_rng(0).integers(0, 99, (20, 18, 5)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)
    data = nibabel.Nifti1Image(values, np.eye(4), header).to_bytes()
    assert np.array_equal(nifti.read(data).values, values[::-1, ::-1].transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.ones((20, 18, 5), np.complex64), Quarantine.CANNOT_DECODE),
        (np.ones((20, 18, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), Quarantine.COLOUR),
        (np.full((20, 18, 5), np.nan, np.float32), Quarantine.BAD_VALUES),
        (np.full((20, 18, 5), 1e300), Quarantine.BAD_VALUES),
        (np.ones((15, 18, 5), np.float32), Quarantine.BAD_GEOMETRY),
    ],
)
def test_values_that_are_no_grey_image_are_refused(values, code):
    assert code_of(made(values)) is code


def test_one_voxel_that_is_not_a_number_is_enough():
    values = np.ones((20, 18, 5), np.float32)
    values[3, 4, 2] = np.nan
    assert code_of(made(values)) is Quarantine.BAD_VALUES


def test_without_an_orientation_nobody_knows_left_from_right():
    assert code_of(patched(made(), 252, "<2h", 0, 0)) is Quarantine.BAD_GEOMETRY


@pytest.mark.parametrize(
    "row", [(0.0, 0, 0, 0), (np.nan, 0, 0, 0), (np.inf, 1, 0, 0), (1.0, 3.0, 0, 0)]
)
def test_axes_that_are_not_at_right_angles_are_refused(row):
    assert code_of(patched(made(), 280, "<4f", *row)) is Quarantine.BAD_GEOMETRY


def test_lengths_are_in_millimetres_whatever_the_file_counts_in():
    assert np.allclose(nifti.read(made(xyzt_units=3)).spacing_mm, (0.004, 0.003, 0.002))
    assert np.allclose(nifti.read(made(xyzt_units=1)).spacing_mm, (4000, 3000, 2000))


@pytest.mark.parametrize("packed", [False, True])
def test_no_promise_of_a_header_is_believed_before_it_is_checked(packed):
    close = gzip.compress if packed else bytes
    data = made()
    cases = {
        Quarantine.TOO_LARGE: patched(data, 42, "<3h", 32767, 32767, 32767),
        Quarantine.TRUNCATED: patched(data, 42, "<3h", 4000, 4000, 5),
    }
    for code, broken in cases.items():
        closed = close(broken)
        tracemalloc.start()
        try:
            assert code_of(closed) is code
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
    assert code_of(close(data), limits=Limits(pixel_bytes=20 * 18 * 5 * 6 - 1)) is (
        Quarantine.TOO_LARGE
    )
    nifti.read(close(data), limits=Limits(pixel_bytes=20 * 18 * 5 * 6))


def test_no_more_is_inflated_than_the_header_needs():
    bomb = gzip.compress(made() + bytes(300 * 2**20), 9)
    assert len(bomb) < 2**20
    tracemalloc.start()
    try:
        assert nifti.read(bomb).values.shape == (5, 18, 20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [-1.0, 0.0, 100.0, float("nan"), float("inf")])
def test_an_offset_into_the_header_or_nowhere_is_refused(offset):
    assert code_of(patched(made(), 108, "<f", offset)) is Quarantine.CANNOT_DECODE


def test_an_offset_beyond_reason_is_too_large():
    assert code_of(patched(made(), 108, "<f", 1e12)) is Quarantine.TOO_LARGE


def test_what_was_cut_or_changed_on_its_way_is_refused():
    data = made()
    packed = gzip.compress(data)
    for kept in (353, 1000, len(data) - 1):
        assert code_of(data[:kept]) is Quarantine.TRUNCATED
    for kept in (600, len(packed) - 9, len(packed) - 1):
        assert code_of(packed[:kept]) is Quarantine.TRUNCATED
    changed = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    assert code_of(changed) is Quarantine.TRUNCATED


@pytest.mark.parametrize(
    "data", [b"", b"x" * 1000, b"\x1f\x8b", gzip.compress(b"x" * 1000, mtime=0), bytes(348)]
)
def test_what_is_no_nifti_is_refused(data):
    assert code_of(data) in {Quarantine.CANNOT_DECODE, Quarantine.TRUNCATED}


def test_a_pair_of_files_is_refused():
    assert code_of(patched(made(), 344, "4s", b"ni1\0")) is Quarantine.CANNOT_DECODE


def test_no_text_of_the_header_is_in_the_result_or_said(caplog, capfd):
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((20, 18, 5)), np.eye(4))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = SECRET.encode()
    extension = nibabel.nifti1.Nifti1Extension("comment", SECRET.encode())
    image.header.extensions.append(extension)
    data = image.to_bytes()
    assert data.count(SECRET.encode()) == 5
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = nifti.read(data)
        for at in (40, 70):
            code_of(patched(data, at, "<h", 999))
    shown = caplog.text + "".join(capfd.readouterr()) + repr(volume)
    assert SECRET not in shown
    assert caught == []
    assert SECRET.encode() not in volume.values.tobytes()


def test_no_byte_of_a_header_can_make_the_reader_raise_anything_else():
    raw = made()
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(500):
        broken = bytearray(raw)
        for at in rng.integers(0, 352, 3):
            broken[at] = rng.integers(256)
        with suppress(Rejected):
            read += np.isfinite(nifti.read(bytes(broken)).values).all()
    assert 0 < read < 500
