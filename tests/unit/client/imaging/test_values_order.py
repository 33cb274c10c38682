import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from septum.errors import Quarantine
from septum_client.imaging.decode import Values, frame_values, stored_frames
from septum_client.pixels import from_values, to_training
from septum_client.reject import Rejected


def values_of(ds, index=0):
    frames = list(stored_frames(ds))
    return frame_values(ds, index, frames[index])


def item(**fields):
    made = Dataset()
    for keyword, value in fields.items():
        setattr(made, keyword, value)
    return made


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([-3.0, -0.5, 0.1, 1.0, 2.5]),
    st.integers(-2000, 2000),
    st.booleans(),
    st.none() | st.tuples(st.integers(0, 4095), st.integers(0, 4095)),
)
def test_the_way_through_values_is_the_way_of_to_training(seed, slope, intercept, inverted, hide):
    stored = np.random.default_rng(seed).integers(0, 4096, (20, 30)).astype(np.uint16)
    ds = item(
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        PixelRepresentation=0,
        BitsStored=16,
    )
    if hide is not None:
        ds.add_new(0x00280120, "US", hide[0])
        ds.add_new(0x00280121, "US", hide[1])
    found = frame_values(ds, 0, stored)
    scale = {"slope": slope, "intercept": intercept}
    if found.hidden.all():
        return
    expected = to_training(stored, size=16, **scale, inverted=inverted, padding=hide)
    assert np.array_equal(from_values(found.values, found.hidden, 16), expected)


def test_rescale_comes_before_polarity(dcm):
    pixels = dcm.image(1)
    scale = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    found = values_of(dcm.header(pixels=pixels, PhotometricInterpretation="MONOCHROME1", **scale))
    assert np.array_equal(found.values, -(pixels.astype(np.float32) * 2 - 1024))
    assert found.values.dtype == np.float32
    assert not found.hidden.any()


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
@pytest.mark.parametrize("space", ["MONOCHROME1", "MONOCHROME2"])
def test_the_presentation_lut_shape_never_inverts_a_second_time(dcm, space, shape):
    pixels = dcm.image(2)
    plain = values_of(dcm.header(pixels=pixels, PhotometricInterpretation=space))
    shaped = values_of(
        dcm.header(pixels=pixels, PhotometricInterpretation=space, PresentationLUTShape=shape)
    )
    assert np.array_equal(plain.values, shaped.values)


def test_a_frame_s_own_transform_stands_before_the_shared_and_the_top_level_one(dcm):
    pixels = np.stack([dcm.image(k) for k in range(3)])
    groups = {
        slope: item(PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=1)])
        for slope in (2, 3, 5)
    }
    ds = dcm.header(
        pixels=pixels[0], NumberOfFrames=3, PixelData=pixels.tobytes(), RescaleSlope="7"
    )
    ds.PerFrameFunctionalGroupsSequence = [groups[2], groups[3], item()]
    assert np.array_equal(values_of(ds, 0).values, pixels[0] * 2.0 + 1)
    assert np.array_equal(values_of(ds, 1).values, pixels[1] * 3.0 + 1)
    assert np.array_equal(values_of(ds, 2).values, pixels[2] * 7.0)
    ds.SharedFunctionalGroupsSequence = [groups[5]]
    assert np.array_equal(values_of(ds, 1).values, pixels[1] * 3.0 + 1)
    assert np.array_equal(values_of(ds, 2).values, pixels[2] * 5.0 + 1)


def table(first, entries, *, bits=16, vr="US"):
    made = Dataset()
    made.add_new(0x00283002, vr, [len(entries), first, bits])
    made.add_new(0x00283006, "OW", np.asarray(entries, f"<u{bits // 8}").tobytes())
    return made


@pytest.mark.parametrize("bits", [8, 16])
def test_a_modality_table_stands_in_for_the_rescale(dcm, bits):
    pixels = (np.arange(24 * 24).reshape(24, 24) % 10).astype(np.uint16)
    entries = [90, 80, 70, 200]
    ds = dcm.header(pixels=pixels, ModalityLUTSequence=[table(3, entries, bits=bits)])
    # Below the first and beyond the last mapped value, the first and the last entry apply.
    expected = np.array([90, 90, 90, 90, 80, 70, 200, 200, 200, 200], np.float32)
    assert np.array_equal(values_of(ds).values, expected[pixels])


@pytest.mark.parametrize(("first", "vr"), [(-2, "SS"), (65534, "US")])
def test_the_first_mapped_value_is_signed_where_pixels_are(dcm, first, vr):
    pixels = (np.arange(24 * 24).reshape(24, 24) % 4 - 2).astype(np.int16)
    ds = dcm.header(pixels=pixels, ModalityLUTSequence=[table(first, [1, 2, 3, 4], vr=vr)])
    assert np.array_equal(values_of(ds).values, pixels + 3.0)


@pytest.mark.parametrize("descriptor", [[3, 0, 16], [5, 0, 16], [4, 0, 40], [4, 0], None])
def test_a_table_that_does_not_fit_its_descriptor_is_refused(dcm, descriptor):
    made = item(LUTData=[1, 2, 3, 4])
    if descriptor is not None:
        made.add_new(0x00283002, "US", descriptor)
    with pytest.raises(Rejected) as refusal:
        values_of(dcm.header(ModalityLUTSequence=[made]))
    assert refusal.value.code is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize("slope", [0, "nan", "inf", "1\\2"])
def test_a_rescale_that_means_nothing_is_refused(dcm, slope):
    ds = dcm.header()
    ds.add_new(0x00281053, "DS" if slope == 0 else "LO", slope)
    with pytest.raises(Rejected) as refusal:
        values_of(ds)
    assert refusal.value.code is Quarantine.BAD_VALUES


def test_padding_is_compared_with_stored_values(dcm):
    pixels = dcm.image(3)
    pixels[:4] = 4095
    ds = dcm.header(pixels=pixels, RescaleSlope="2", PixelPaddingValue=4095)
    assert np.array_equal(values_of(ds).hidden, pixels == 4095)
    ds.PixelPaddingRangeLimit = 4000
    assert np.array_equal(values_of(ds).hidden, pixels >= 4000)


def test_padding_is_found_whichever_sign_it_was_written_with(dcm):
    signed = dcm.image(4).astype(np.int16) - 2000
    signed[:4] = -2000
    ds = dcm.header(pixels=signed)
    ds.add_new(0x00280120, "US", 63536)
    assert np.array_equal(values_of(ds).hidden, signed == -2000)
    ds = dcm.header(pixels=signed.view(np.uint16))
    ds.add_new(0x00280120, "SS", -2000)
    assert np.array_equal(values_of(ds).hidden, signed == -2000)


def test_colour_becomes_luma_and_nothing_else(dcm):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    ds = dcm.header(
        pixels=pixels,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        RescaleSlope="9",
        PixelPaddingValue=int(pixels[0, 0, 0]),
    )
    found = values_of(ds)
    assert np.allclose(found.values, pixels @ [0.299, 0.587, 0.114], atol=1e-3)
    assert not found.hidden.any()


def test_values_do_not_show_the_image():
    shown = repr(Values(values=np.ones((2, 2), np.float32), hidden=np.zeros((2, 2), bool)))
    assert shown == "Values()"
