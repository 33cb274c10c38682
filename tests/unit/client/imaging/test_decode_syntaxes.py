import contextlib
import io
import itertools
import logging
import struct
import subprocess
import sys
import tracemalloc
import warnings
from functools import cache
from pathlib import Path

import jpeg_ls
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, pixel_array

from septum.errors import Quarantine
from septum_client.imaging import compressed
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.imaging.limits import Limits
from septum_client.imaging.parse import parse, silent
from septum_client.reject import Rejected

SMALL = Limits(smallest_side=1)
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
FILES = [
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "ExplVR_BigEnd.dcm",
    "image_dfl.dcm",
    "liver_1frame.dcm",
    "liver_expb_1frame.dcm",
    "rtdose.dcm",
    "rtdose_expb.dcm",
    "rtdose_rle.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
    "SC_rgb_jpeg.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEGLSNearLossless_16.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "MR_small_jp2klossless.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "693_J2KI.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
]


@cache
def raw_of(name):
    return Path(get_testdata_file(name)).read_bytes()


def frames_of(ds, limits=SMALL):
    return list(stored_frames(ds, limits=limits))


def code_of(ds, **limits):
    with pytest.raises(Rejected) as refusal:
        frames_of(ds, Limits(**{"smallest_side": 1} | limits))
    return refusal.value.code


def compressed_as(ds, syntax, *frames, **fields):
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].is_undefined_length = True
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_samples_that_pydicom_gives(name):
    ds = parse(raw_of(name))
    with silent():
        expected = pixel_array(ds)
    found = np.stack(frames_of(ds))
    assert np.array_equal(found, expected.reshape(found.shape))
    assert found.dtype == expected.dtype.newbyteorder("=")


def test_a_palette_becomes_colour():
    ds = parse(raw_of("examples_palette.dcm"))
    with silent():
        expected = apply_color_lut(pixel_array(ds, raw=True), ds)
    (found,) = frames_of(ds)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_jpeg_with_twelve_bits_is_refused_and_not_skipped(name):
    assert code_of(parse(raw_of(name))) is Quarantine.CANNOT_DECODE


def test_every_syntax_has_one_decoder_and_none_is_gpl():
    assert set(compressed.DECODERS.values()) == {"pillow", "gdcm", "pyjpegls", "pylibjpeg"}
    own = {s for s, name in compressed.DECODERS.items() if name == "pylibjpeg"}
    assert own.isdisjoint({*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes})


@pytest.mark.parametrize("near", [0, 2])
@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 256), (np.uint16, 4096)])
def test_jpeg_ls_is_within_its_promised_error(dcm, near, dtype, high):
    pixels = dcm.image(1, high=high).astype(dtype)
    syntax = uid.JPEGLSNearLossless if near else uid.JPEGLSLossless
    frame = bytes(jpeg_ls.encode_array(pixels, lossy_error=near))
    (found,) = frames_of(compressed_as(dcm.header(pixels=pixels), syntax, frame))
    assert np.abs(found.astype(int) - pixels).max() <= near


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless])
def test_lossless_means_lossless_with_and_without_sign(dcm, syntax, signed):
    pixels = dcm.image(2, side=64)
    pixels = pixels.astype(np.int16) - 2000 if signed else pixels
    ds = dcm.header(pixels=pixels)
    ds.compress(syntax)
    (found,) = frames_of(ds)
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("transform", [False, True])
def test_jpeg_2000_colour_is_rgb_whatever_it_was_in_between(dcm, transform):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    ds = dcm.header(pixels=pixels, **RGB)
    ds.compress(uid.JPEG2000Lossless, use_mct=transform)
    if transform:
        ds.PhotometricInterpretation = "YBR_RCT"
    (found,) = frames_of(ds)
    assert np.array_equal(found, pixels)


def test_a_frame_that_says_rgb_nowhere_but_in_the_header_is_not_converted(dcm):
    pixels = np.full((24, 24, 3), (200, 30, 90), np.uint8)
    out = io.BytesIO()
    # Saved as if it were YCbCr, so the samples in the frame are these numbers.
    Image.fromarray(pixels, "YCbCr").save(out, "JPEG", quality=100, subsampling=0)
    frame = out.getvalue()
    assert frame[2:4] == b"\xff\xe0"
    bare = frame[:2] + frame[4 + struct.unpack_from(">H", frame, 4)[0] :]
    header = dcm.header(pixels=pixels, **RGB)
    (found,) = frames_of(compressed_as(header, uid.JPEGBaseline8Bit, bare))
    assert np.abs(found.astype(int) - pixels).max() <= 2


def test_planes_and_pixels_of_colour_are_the_same_image(dcm):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    planes = dcm.header(pixels=pixels, **RGB | {"PlanarConfiguration": 1})
    planes.PixelData = pixels.transpose(2, 0, 1).tobytes()
    (a,), (b,) = frames_of(planes), frames_of(dcm.header(pixels=pixels, **RGB))
    assert np.array_equal(a, pixels)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_native_samples_of_every_width_and_sign(dcm, dtype):
    info = np.iinfo(dtype)
    pixels = np.random.default_rng(3).integers(info.min, info.max, (24, 18), dtype, endpoint=True)
    (found,) = frames_of(dcm.header(pixels=pixels))
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(0, 15), st.booleans(), st.integers(0, 2**32 - 1))
def test_bits_beyond_the_stored_ones_never_matter(stored, spare, signed, seed):
    high = min(stored - 1 + spare, 15)
    rng = np.random.default_rng(seed)
    low = -(1 << (stored - 1)) if signed else 0
    values = rng.integers(low, low + (1 << stored), (16, 16))
    shift = high - stored + 1
    mask = ((1 << stored) - 1) << shift
    junk = rng.integers(0, 1 << 16, (16, 16)) & ~mask
    words = (((values << shift) & mask) | junk).astype(np.uint16)
    ds = _header(words, BitsStored=stored, HighBit=high, PixelRepresentation=int(signed))
    (found,) = frames_of(ds)
    assert np.array_equal(found, values)


def _header(pixels, **fields):
    ds = parse(raw_of("CT_small.dcm"))
    values = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "PixelData": pixels.tobytes(),
    } | fields
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_binary_frames_share_bytes(dcm):
    bits = np.random.default_rng(0).integers(0, 2, (3, 17, 19)).astype(np.uint8)
    ds = dcm.header(
        pixels=bits[0],
        NumberOfFrames=3,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelData=np.packbits(bits.ravel(), bitorder="little").tobytes(),
    )
    assert np.array_equal(np.stack(frames_of(ds)), bits)


def test_frames_come_one_at_a_time_in_the_memory_of_one(dcm):
    pixels = np.zeros((40, 256, 256), np.uint16)
    pixels[:] = np.arange(40)[:, None, None]
    ds = dcm.header(pixels=pixels[0], NumberOfFrames=40, PixelData=pixels.tobytes())
    tracemalloc.start()
    maxima = [frame.max() for frame in stored_frames(ds)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert maxima == list(range(40))
    assert peak < 8 * pixels[0].nbytes


def test_surplus_bytes_are_not_a_frame(dcm):
    pixels = dcm.image()
    assert len(frames_of(dcm.header(pixels=pixels, PixelData=pixels.tobytes() * 3))) == 1


@pytest.mark.parametrize("missing", [1, 2, 500])
def test_pixels_shorter_than_the_header_says_are_truncation(dcm, missing):
    ds = dcm.header()
    ds.PixelData = ds.PixelData[:-missing]
    assert code_of(ds) is Quarantine.TRUNCATED


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"PixelData": None}, Quarantine.NO_PIXELS),
        ({"PixelData": b""}, Quarantine.NO_PIXELS),
        ({"Rows": None}, Quarantine.BAD_GEOMETRY),
        ({"Columns": 0}, Quarantine.BAD_GEOMETRY),
        ({"NumberOfFrames": "0"}, Quarantine.BAD_GEOMETRY),
        ({"NumberOfFrames": "-1"}, Quarantine.BAD_GEOMETRY),
        ({"Rows": 8193}, Quarantine.TOO_LARGE),
        ({"NumberOfFrames": "65537"}, Quarantine.TOO_LARGE),
        ({"Rows": 8192, "Columns": 8192, "NumberOfFrames": "60000"}, Quarantine.TOO_LARGE),
        ({"PhotometricInterpretation": None}, Quarantine.CANNOT_DECODE),
        ({"PhotometricInterpretation": "HSV"}, Quarantine.COLOUR),
        ({"PhotometricInterpretation": "RGB"}, Quarantine.COLOUR),
        ({"SamplesPerPixel": 3}, Quarantine.COLOUR),
        ({"SamplesPerPixel": 2}, Quarantine.COLOUR),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "CMYK"}, Quarantine.COLOUR),
        ({"HighBit": 7}, Quarantine.CANNOT_DECODE),
        ({"HighBit": 16}, Quarantine.CANNOT_DECODE),
        ({"BitsStored": 24}, Quarantine.CANNOT_DECODE),
        ({"BitsStored": 0}, Quarantine.CANNOT_DECODE),
        ({"BitsAllocated": 24}, Quarantine.CANNOT_DECODE),
        ({"PixelRepresentation": 2}, Quarantine.CANNOT_DECODE),
        ({"FloatPixelData": b"\0" * 2304}, Quarantine.CANNOT_DECODE),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(dcm, fields, code):
    assert code_of(dcm.header(**fields)) is code


def test_images_below_the_smallest_side_are_refused_by_default(dcm):
    with pytest.raises(Rejected) as refusal:
        stored_frames(dcm.header(pixels=dcm.image(side=15)))
    assert refusal.value.code is Quarantine.BAD_GEOMETRY


@pytest.mark.parametrize(
    "syntax", [*compressed.DECODERS, uid.MPEG2MPML, uid.JPEG2000MC, "1.2.840.10008.1.9.1"]
)
def test_rubbish_in_place_of_a_frame_cannot_be_decoded(dcm, syntax):
    ds = compressed_as(
        dcm.header(pixels=dcm.image().astype(np.uint8)), syntax, b"\xff\xd8 not an image " * 4
    )
    assert code_of(ds) is Quarantine.CANNOT_DECODE


def test_an_rle_frame_whose_runs_end_early_cannot_be_decoded(dcm):
    # pylibjpeg-rle panics on it, and a panic is no Exception.
    runs = bytes([129, 7]) * 3
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + runs
    ds = dcm.header(pixels=dcm.image().astype(np.uint8))
    assert code_of(compressed_as(ds, uid.RLELossless, frame)) is Quarantine.CANNOT_DECODE


def test_a_frame_of_another_process_than_its_syntax_says_cannot_be_decoded():
    ds = parse(raw_of("SC_rgb_jpeg.dcm"))
    for syntax in (uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        ds.file_meta.TransferSyntaxUID = syntax
        assert code_of(ds) is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg.dcm", "MR_small_jp2klossless.dcm", "JPEGLSNearLossless_16.dcm"]
)
def test_a_frame_larger_than_the_header_says_is_refused_before_decoding(name, monkeypatch):
    monkeypatch.setattr(compressed, "_pydicom", lambda *a: pytest.fail("decoded"))
    monkeypatch.setattr(compressed, "_pillow", lambda *a: pytest.fail("decoded"))
    ds = parse(raw_of(name))
    ds.Rows -= 1
    assert code_of(ds) is Quarantine.TOO_LARGE
    ds.Rows += 2
    assert code_of(ds) is Quarantine.CANNOT_DECODE


def test_too_many_tiles_are_refused_before_decoding():
    out = io.BytesIO()
    image = Image.effect_noise((64, 64), 50)
    image.save(out, "JPEG2000", tile_size=(8, 8), irreversible=False, no_jp2=True)
    ds = compressed_as(_header(np.asarray(image)), uid.JPEG2000Lossless, out.getvalue())
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 7, 0
    assert np.array_equal(frames_of(ds)[0], image)
    assert code_of(ds, tiles=63) is Quarantine.TOO_LARGE


def test_fragments_in_an_uncompressed_image_cannot_be_decoded(dcm):
    ds = compressed_as(dcm.header(), uid.ExplicitVRLittleEndian, dcm.image().tobytes())
    assert code_of(ds) is Quarantine.CANNOT_DECODE


def segmented(*numbers):
    return struct.pack(f"<{len(numbers)}H", *numbers)


def palette_image(dcm, table, entries, **fields):
    ds = dcm.header(
        pixels=(np.arange(256) % 8).astype(np.uint8).reshape(16, 16),
        PhotometricInterpretation="PALETTE COLOR",
    )
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [entries, 0, 16])
        setattr(ds, f"Segmented{colour}PaletteColorLookupTableData", table)
    return ds


def test_a_segmented_palette_is_expanded(dcm):
    # Two discrete entries, then a straight line of four, then one more.
    table = segmented(0, 2, 100, 200, 1, 4, 1000, 0, 1, 7)
    (found,) = frames_of(palette_image(dcm, table, 7))
    assert found[0, :8, 0].tolist() == [100, 200, 400, 600, 800, 1000, 7, 7]
    assert found.dtype == np.uint16


@pytest.mark.parametrize(
    "table",
    [
        segmented(0, 2, 100),
        segmented(1, 4, 1000),
        segmented(0, 1, 5, 2, 3, 0, 0),
        segmented(0, 60000, *[1] * 60000),
        b"",
    ],
)
def test_a_broken_palette_cannot_be_decoded(dcm, table):
    assert code_of(palette_image(dcm, table, 7)) is Quarantine.CANNOT_DECODE


KINDS = ["SC_rgb_jpeg.dcm", "SC_rgb_jls_lossy_line.dcm", "MR_small_jp2klossless.dcm"]
KINDS += ["MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm", "CT_small.dcm"]
HOSTILE = """
import sys
from pathlib import Path
import numpy as np
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.imaging.parse import parse
from septum_client.reject import Rejected
rng = np.random.default_rng(int(sys.argv[1]))
for name in sys.argv[2:]:
    raw = Path(name).read_bytes()
    for _ in range(12):
        broken = bytearray(raw)
        for at in rng.integers(132, len(raw), 5):
            broken[at] = rng.integers(256)
        try:
            ds = parse(bytes(broken))
            for index, stored in enumerate(stored_frames(ds)):
                frame_values(ds, index, stored)
        except Rejected:
            pass
"""


def test_no_bytes_end_in_anything_but_values_or_a_code():
    # In a process of its own: these decoders are C, and a fault of theirs is the sandbox's.
    paths = [get_testdata_file(name) for name in KINDS]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HOSTILE, "7", *paths],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert b"Traceback" not in done.stderr


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
                         "PixelRepresentation", "SamplesPerPixel", "PixelPaddingValue"]),
        st.integers(0, 65535), max_size=3,
    ),
    st.sampled_from(["CT_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm"]),
)  # fmt: skip
def test_no_header_ends_in_anything_but_values_or_a_code(fields, name):
    ds = parse(raw_of(name))
    with silent(), contextlib.suppress(Rejected):
        for keyword, value in fields.items():
            setattr(ds, keyword, value)
        for index, stored in itertools.islice(enumerate(stored_frames(ds, limits=SMALL)), 2):
            values = frame_values(ds, index, stored)
            assert values.values.shape == values.hidden.shape == stored.shape[:2]


def test_nothing_is_logged_or_warned_of_while_frames_are_decoded(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in (*FILES, "JPGExtended.dcm"):
            with contextlib.suppress(Rejected):
                frames_of(parse(raw_of(name)))
    assert caught == []
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""
