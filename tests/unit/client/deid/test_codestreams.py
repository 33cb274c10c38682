import contextlib
import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from septum.errors import Quarantine
from septum_client.deid.codestream import clean, frames
from septum_client.imaging import jpeg2000, rle
from septum_client.imaging.decode import stored_frames
from septum_client.imaging.encapsulation import ends_in_text
from septum_client.imaging.limits import Limits
from septum_client.imaging.parse import parse
from septum_client.reject import Rejected

SECRET = b"Secret^Patient 19450312"
SMALL = Limits(smallest_side=1)
# Every compressed image that pydicom brings along and that can be decoded here.
FILES = [
    "693_J2KI.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_jpeg_no_color_transform.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_jpeg2k.dcm",
    "examples_ybr_color.dcm",
    "rtdose_rle.dcm",
    "rtdose_rle_1frame.dcm",
]
KINDS = ["SC_rgb_jpeg.dcm", "SC_rgb_jls_lossy_line.dcm", "693_J2KI.dcm", "SC_rgb_rle_16bit.dcm"]


def load(name):
    return parse(Path(get_testdata_file(name)).read_bytes())


@cache
def first_frame(name):
    ds = load(name)
    count = int(ds.get("NumberOfFrames", 1))
    return frames(ds.PixelData, count)[0], str(ds.file_meta.TransferSyntaxUID)


def decoded(ds, encoded):
    ds.PixelData = encapsulate(encoded)
    ds["PixelData"].is_undefined_length = True
    return list(stored_frames(ds, limits=SMALL))


def marker(code, payload):
    return bytes([0xFF, code]) + struct.pack(">H", len(payload) + 2) + payload


def planted(frame, syntax):
    """Return the frame with the secret in every place that a codestream leaves for words."""
    if syntax == uid.RLELossless:
        count, *offsets = struct.unpack_from("<16L", frame)
        used = [offset + len(SECRET) for offset in offsets[:count]]
        head = struct.pack("<16L", count, *used, *([0x41424344] * (15 - count)))
        return head + SECRET + frame[64:] + b"\x80" * 4 + SECRET
    if frame[:2] == b"\xff\x4f":
        (length,) = struct.unpack_from(">H", frame, 4)
        comment = marker(0x64, b"\x00\x01" + SECRET)
        out = frame[: 4 + length] + comment + frame[4 + length :]
        at = out.index(b"\xff\x90")
        (size,) = struct.unpack_from(">L", out, at + 6)
        size += len(comment) if size else 0
        out = out[: at + 6] + struct.pack(">L", size) + out[at + 10 : at + 12] + comment
        return out + frame[frame.index(b"\xff\x90") + 12 :] + SECRET
    if frame[4:8] == b"jP  ":
        box = struct.pack(">L4s", 8 + len(SECRET), b"uuid") + SECRET
        return frame[:12] + box + frame[12:] + SECRET
    words = [marker(code, SECRET) for code in (0xFE, *range(0xE0, 0xF0))]
    thumbnail = marker(0xE0, b"JFXX\x00\x10" + SECRET)
    scan = frame.index(b"\xff\xda")
    return (
        frame[:2] + b"".join(words) + thumbnail + frame[2:scan] + marker(0xFE, SECRET)
        + frame[scan:] + SECRET
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_the_same_bit_for_bit_and_what_was_planted_is_gone(name):
    ds = load(name)
    syntax = str(ds.file_meta.TransferSyntaxUID)
    encoded = frames(ds.PixelData, int(ds.get("NumberOfFrames", 1)))
    before = decoded(ds, encoded)
    dirty = [planted(frame, syntax) for frame in encoded]
    assert all(SECRET in frame for frame in dirty)
    pure = [clean(frame, syntax, pixels=ds.Rows * ds.Columns) for frame in dirty]
    assert not any(SECRET in frame for frame in pure)
    assert len(before) == len(encoded)
    assert all(map(np.array_equal, before, decoded(ds, pure)))


@pytest.mark.parametrize("name", FILES)
def test_cleaning_twice_is_cleaning_once(name):
    frame, syntax = first_frame(name)
    once = clean(frame, syntax)
    assert clean(once, syntax) == once


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    st.integers(0, 4000),
)
def test_no_bytes_end_in_anything_but_a_frame_or_a_code(name, edits, length):
    frame, syntax = first_frame(name)
    broken = bytearray(frame[:length] if length % 2 else frame)
    for at, value in edits:
        if at < len(broken):
            broken[at] = value
    with contextlib.suppress(Rejected):
        once = clean(bytes(broken), syntax)
        assert clean(once, syntax) == once


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(KINDS), st.integers(-1, 3))
def test_random_bytes_are_refused(data, name, count):
    with pytest.raises(Rejected):
        clean(data, first_frame(name)[1])
    with contextlib.suppress(Rejected):
        assert len(frames(data, count)) == count


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_of_another_kind_is_refused(name):
    frame, _ = first_frame(name)
    _, others = zip(*(first_frame(k) for k in KINDS if k[-8:] != name[-8:]), strict=True)
    for other in {*others, uid.MPEG2MPML, uid.ExplicitVRLittleEndian, "1.2.3"}:
        if {other, first_frame(name)[1]} <= {uid.JPEGBaseline8Bit, uid.JPEGLSNearLossless}:
            continue  # one family of markers
        if other != first_frame(name)[1]:
            with pytest.raises(Rejected):
                clean(frame, other)


def test_exif_and_profiles_of_a_camera_are_gone():
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    image = Image.effect_noise((40, 30), 50)
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif, comment=SECRET, icc_profile=SECRET * 9)
    pure = clean(out.getvalue(), uid.JPEGBaseline8Bit)
    assert SECRET in out.getvalue()
    assert SECRET not in pure
    reread = Image.open(io.BytesIO(pure))
    assert np.array_equal(reread, Image.open(out))
    assert not reread.getexif()


def test_every_scan_of_a_progressive_frame_is_kept_and_the_words_between_are_not():
    out = io.BytesIO()
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    image.save(out, "JPEG", progressive=True)
    frame = out.getvalue()
    second = frame.index(b"\xff\xda", frame.index(b"\xff\xda") + 2)
    dirty = frame[:second] + marker(0xFE, SECRET) + frame[second:]
    pure = clean(dirty, uid.JPEGBaseline8Bit)
    assert SECRET not in pure
    assert np.array_equal(Image.open(io.BytesIO(pure)), Image.open(io.BytesIO(frame)))


@pytest.mark.parametrize("transform", [0, 1])
def test_adobe_s_colour_flag_is_kept_and_its_words_are_not(transform):
    frame, syntax = first_frame("SC_jpeg_no_color_transform.dcm")
    adobe = marker(0xEE, b"Adobe\x00\x65AAAA" + bytes([transform]) + SECRET)
    bare = clean(frame, syntax)
    while bare[3] in range(0xE0, 0xF0):
        bare = bare[:2] + bare[4 + int.from_bytes(bare[4:6]) :]
    pure = clean(bare[:2] + adobe + bare[2:], syntax)
    assert SECRET not in pure
    assert b"AAAA" not in pure
    assert Image.open(io.BytesIO(pure)).info["adobe_transform"] == transform


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "693_J2KI.dcm"])
def test_an_unknown_marker_is_refused(name):
    frame, syntax = first_frame(name)
    known = struct.unpack_from(">H", frame, 4)[0] + 4
    for code in (0x02, 0x30, 0xF0, 0xFD, 0xC8, 0xDF):
        with pytest.raises(Rejected):
            clean(frame[:known] + marker(code, SECRET) + frame[known:], syntax)


@pytest.mark.parametrize("name", KINDS[:3])
def test_a_frame_without_its_image_is_refused(name):
    frame, syntax = first_frame(name)
    with pytest.raises(Rejected):
        clean(frame[: len(frame) // 3], syntax)


def test_a_jp2_file_becomes_its_bare_codestream():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 40), np.uint8))
    out = io.BytesIO()
    image.save(out, "JPEG2000", irreversible=False)
    boxed = out.getvalue() + struct.pack(">L4s", 8 + len(SECRET), b"uuid") + SECRET
    pure = clean(boxed, uid.JPEG2000Lossless)
    assert pure[:4] == b"\xff\x4f\xff\x51"
    assert SECRET not in pure
    assert np.array_equal(Image.open(io.BytesIO(pure)), image)


def test_a_jp2_palette_is_refused_as_it_would_change_the_image():
    frame, _ = first_frame("693_J2KI.dcm")
    signature = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
    header = struct.pack(">L4s", 16, b"jp2h") + struct.pack(">L4s", 8, b"pclr")
    with pytest.raises(Rejected):
        clean(signature + header + struct.pack(">L4s", 0, b"jp2c") + frame, uid.JPEG2000)


def test_every_tile_part_s_length_is_what_it_now_is():
    image = Image.effect_noise((64, 64), 50)
    out = io.BytesIO()
    image.save(out, "JPEG2000", tile_size=(16, 16), irreversible=False, no_jp2=True)
    frame, dirty = out.getvalue(), b""
    comment = marker(0x64, b"\x00\x01" + SECRET)
    at = frame.index(b"\xff\x90")
    dirty = frame[:at]
    while frame[at : at + 2] == b"\xff\x90":
        (size,) = struct.unpack_from(">L", frame, at + 6)
        part = frame[at : at + size]
        dirty += part[:6] + struct.pack(">L", size + len(comment)) + part[10:12] + comment
        dirty += part[12:]
        at += size
    pure = clean(dirty + b"\xff\xd9", uid.JPEG2000Lossless)
    assert jpeg2000.tiles(frame) == 16
    assert dirty.count(SECRET) == 16
    assert SECRET not in pure
    assert np.array_equal(Image.open(io.BytesIO(pure)), image)


def test_bytes_behind_an_rle_image_are_gone_even_inside_its_last_run():
    # One segment: a run of three 7s and a literal run whose tail is not the image's.
    runs = bytes([256 - 2, 7, len(SECRET) + 1, 1, 2]) + SECRET
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + runs
    pure = rle.clean(frame, pixels=5)
    assert pure[64:] == bytes([256 - 2, 7, 1, 1, 2]) + b"\x00"
    assert rle.clean(frame, pixels=2)[64:] == bytes([256 - 1, 7])
    assert rle.clean(frame, pixels=1)[64:] == bytes([0, 7])
    with pytest.raises(Rejected):
        rle.clean(frame, pixels=6 + len(SECRET))


@pytest.mark.parametrize(
    "header",
    [
        [0] * 16,
        [16, *[64] * 15],
        [1, 0, *[0] * 14],
        [2, 66, 64, *[0] * 13],
        [1, 70, *[0] * 14],
    ],
)
def test_rle_offsets_out_of_order_are_refused(header):
    with pytest.raises(Rejected):
        rle.clean(struct.pack("<16L", *header) + bytes([255, 7, 0, 0]))


def item(data):
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(data)) + data


def pixel_data(fragments, table=b""):
    return item(table) + b"".join(map(item, fragments))


def test_as_many_fragments_as_frames_are_the_frames_whatever_the_table_says():
    lies = struct.pack("<2L", 0, 999)
    for table in (b"", lies, b"xyz"):
        assert frames(pixel_data([b"ab", b"cd"], table), 2) == [b"ab", b"cd"]


def test_all_fragments_of_a_single_frame_belong_together():
    assert frames(pixel_data([b"ab", b"cd", b"ef"]), 1) == [b"abcdef"]


def test_the_offset_table_cuts_where_it_names_fragments():
    fragments = [b"ab", b"cdef", b"gh"]
    assert frames(pixel_data(fragments, struct.pack("<2L", 0, 22)), 2) == [b"abcdef", b"gh"]


@pytest.mark.parametrize("offsets", [(0, 0), (0, 3), (10, 22), (22, 0), (0, 2**32 - 1), (0,)])
def test_a_table_that_points_elsewhere_is_refused(offsets):
    table = struct.pack(f"<{len(offsets)}L", *offsets)
    with pytest.raises(Rejected) as refusal:
        frames(pixel_data([b"ab", b"cdef", b"gh"], table), 2)
    assert refusal.value.code is Quarantine.CANNOT_DECODE


def test_without_a_table_the_beginnings_of_images_cut():
    parts = [b"\xff\xd8\xff1", b"23", b"\xff\xd8\xff4", b"56"]
    assert frames(pixel_data(parts), 2) == [b"".join(parts[:2]), b"".join(parts[2:])]
    with pytest.raises(Rejected):
        frames(pixel_data(parts), 3)


def test_fewer_fragments_than_frames_are_truncation():
    with pytest.raises(Rejected) as refusal:
        frames(pixel_data([b"ab"]), 2)
    assert refusal.value.code is Quarantine.TRUNCATED


def test_a_colour_flag_that_decoders_abort_on_is_gone():
    frame, syntax = first_frame("SC_rgb_jpeg_gdcm.dcm")
    for transform in (3, 33, 255):
        adobe = marker(0xEE, b"Adobe\x00\x64\0\0\0\0" + bytes([transform]))
        assert clean(frame[:2] + adobe + frame[2:], syntax) == clean(frame, syntax)


def grey_jpeg(**options):
    out = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(out, "JPEG", **options)
    return out.getvalue()


def before_scan(frame, body):
    at = frame.index(b"\xff\xda")
    return frame[:at] + body + frame[at:]


# A 16-value table of letters; a table of 64 divisors.
LETTERS = bytes([0] * 7 + [9] + [0] * 8) + b"ZQ00012KX"
DIVISORS = b"ZQ00012KX".ljust(64, b"\1")


@pytest.mark.parametrize(
    "body",
    [
        marker(0xC4, b"\x13" + LETTERS),
        marker(0xC4, b"\x03" + LETTERS),
        marker(0xDB, b"\x03" + DIVISORS),
        marker(0xDB, b"\x02" + DIVISORS + b"\x03" + DIVISORS),
        marker(0xF8, b"\x01" + bytes(10)),
    ],
)
def test_a_table_that_no_scan_refers_to_is_gone(body):
    frame = grey_jpeg()
    pure = clean(before_scan(frame, body), uid.JPEGBaseline8Bit)
    assert pure == clean(frame, uid.JPEGBaseline8Bit)
    assert np.array_equal(Image.open(io.BytesIO(pure)), Image.open(io.BytesIO(frame)))


def test_a_table_that_is_replaced_before_any_scan_is_gone():
    frame = grey_jpeg()
    dirty = frame[:2] + marker(0xC4, b"\x10" + LETTERS) + marker(0xDB, b"\0" + DIVISORS) + frame[2:]
    assert clean(dirty, uid.JPEGBaseline8Bit) == clean(frame, uid.JPEGBaseline8Bit)


def test_each_scan_has_the_tables_that_are_in_force_there():
    # Optimised progressive scans each bring their own table under the same name.
    frame = grey_jpeg(progressive=True)
    pure = clean(frame, uid.JPEGBaseline8Bit)
    assert frame.count(b"\xff\xda") == pure.count(b"\xff\xda") > 3
    assert pure.count(b"\xff\xc4") > 3
    last = frame.rindex(b"\xff\xda")
    dirty = frame[:last] + marker(0xC4, b"\x12" + LETTERS) + frame[last:]
    assert clean(dirty, uid.JPEGBaseline8Bit) == pure
    assert np.array_equal(Image.open(io.BytesIO(pure)), Image.open(io.BytesIO(frame)))


@pytest.mark.parametrize("name", [b"\x00", b"\x10"])
def test_a_table_in_use_that_spells_words_is_refused(name):
    # No value twice (Z Q 0 0 ...); no difference of more than 16 bits.
    with pytest.raises(Rejected):
        clean(before_scan(grey_jpeg(), marker(0xC4, name + LETTERS)), uid.JPEGBaseline8Bit)


@pytest.mark.parametrize(
    "text", [b"ZQ00012KX", b"Doe^John 1945", b"[{(<#@!?>)}]", b"ZQ00012KX\0\0"]
)
@pytest.mark.parametrize("name", KINDS[:3])
def test_coded_bytes_that_end_in_text_are_refused(name, text):
    frame, syntax = first_frame(name)
    if frame[:2] == b"\xff\xd8":
        end = frame.rindex(b"\xff\xd9")
        dirty = frame[:end] + text + frame[end:]
    else:
        dirty = in_last_tile(frame, text)
    assert clean(frame, syntax)
    with pytest.raises(Rejected):
        clean(dirty, syntax)


def in_last_tile(frame, text):
    at, end = frame.rindex(b"\xff\x90"), frame.rindex(b"\xff\xd9")
    (size,) = struct.unpack_from(">L", frame, at + 6)
    size += len(text) if size else 0
    return frame[: at + 6] + struct.pack(">L", size) + frame[at + 10 : end] + text + frame[end:]


def test_text_before_a_restart_marker_is_refused():
    frame = grey_jpeg(restart_marker_blocks=8)
    at = frame.index(b"\xff\xd3", frame.index(b"\xff\xda"))
    assert clean(frame, uid.JPEGBaseline8Bit)
    with pytest.raises(Rejected):
        clean(frame[:at] + b"Doe^John 19450312" + frame[at:], uid.JPEGBaseline8Bit)


def test_random_bytes_seldom_end_in_text():
    tails = np.random.default_rng(0).integers(0, 256, (300_000, 12), np.uint8)
    found = sum(ends_in_text(tail.tobytes()) for tail in tails)
    assert found <= 20  # 17 in a million: about five


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02\x05\x01" + SECRET,
        b"\x03\x05",
        b"\x04\x02" + SECRET[:4],
        b"\x01" + struct.pack(">5H", 255, 9, 3, 21, 64),
        b"\x01" + b"Doe^John45",
    ],
)
def test_what_jpeg_ls_presets_is_five_numbers_in_order_or_refused(payload):
    frame, syntax = first_frame("SC_rgb_jls_lossy_line.dcm")
    with pytest.raises(Rejected):
        clean(before_scan(frame, marker(0xF8, payload)), syntax)
    assert clean(before_scan(frame, marker(0xF8, b"\x01" + bytes(10))), syntax)


def test_an_arithmetic_frame_and_a_second_scan_of_a_component_are_refused():
    frame = grey_jpeg()
    start = frame.index(b"\xff\xc0")
    end = frame.rindex(b"\xff\xd9")
    scan = frame[frame.index(b"\xff\xda") : end]
    for broken in (
        frame[: start + 1] + b"\xc9" + frame[start + 2 :],
        frame[:end] + scan + frame[end:],
        frame[:end][: frame.index(b"\xff\xda")] + b"\xff\xd9",
    ):
        with pytest.raises(Rejected):
            clean(broken, uid.JPEGBaseline8Bit)


def after_siz(frame, body):
    at = 4 + int.from_bytes(frame[4:6])
    return frame[:at] + body + frame[at:]


def segment_of(frame, code):
    at = frame.index(bytes([0xFF, code]), 4)
    return at, at + 2 + int.from_bytes(frame[at + 2 : at + 4])


@pytest.mark.parametrize(
    "body",
    [
        marker(0x60, b"\0" + SECRET),  # PPM
        marker(0x61, b"\0" + SECRET),  # PPT
        marker(0x5D, b"\x09\x22" + SECRET),  # QCC
        marker(0x53, b"\x09\x00" + SECRET),  # COC
        marker(0x5E, b"\x09\x00\x07"),  # RGN
        marker(0x5E, b"\x00\x00\x07" + SECRET),
        marker(0x5F, SECRET[:7]),  # POC
        marker(0x5F, struct.pack(">BBHBBB", 0, 0, 1, 33, 9, 5)),
        marker(0x5F, struct.pack(">BBHBBB", 3, 0, 1, 3, 1, 0)),
        marker(0x51, SECRET * 2),
    ],
)
def test_a_segment_that_the_image_cannot_need_is_refused(body):
    frame, syntax = first_frame("MR_small_jp2klossless.dcm")
    assert clean(frame, syntax)
    with pytest.raises(Rejected):
        clean(after_siz(frame, body), syntax)


@pytest.mark.parametrize("code", [0x50, 0x56, 0x59])
def test_capabilities_and_profiles_of_a_plain_codestream_are_gone(code):
    frame, syntax = first_frame("MR_small_jp2klossless.dcm")
    assert clean(after_siz(frame, marker(code, b"\0\0\0\0" + SECRET)), syntax) == clean(
        frame, syntax
    )


def test_capabilities_of_a_high_throughput_codestream_are_kept_if_they_say_no_more():
    frame, _ = first_frame("MR_small_jp2klossless.dcm")
    capable = frame[:6] + b"\x40\x00" + frame[8:]
    said = marker(0x50, b"\x00\x02\x00\x00\x00\x03")
    assert said in clean(after_siz(capable, said), uid.HTJ2KLossless)
    for wrong in (b"\x00\x02\x00\x00" + SECRET, b"ZQ00\x00\x03"):
        with pytest.raises(Rejected):
            clean(after_siz(capable, marker(0x50, wrong)), uid.HTJ2KLossless)


def test_steps_of_no_subband_are_gone_and_the_image_stays():
    frame, syntax = first_frame("MR_small_jp2klossless.dcm")
    start, end = segment_of(frame, 0x5C)
    longer = marker(0x5C, frame[start + 4 : end] + SECRET)
    assert clean(frame[:start] + longer + frame[end:], syntax) == clean(frame, syntax)


def test_a_header_says_each_thing_once_and_no_more_than_its_numbers():
    frame, syntax = first_frame("MR_small_jp2klossless.dcm")
    for code in (0x52, 0x5C):
        start, end = segment_of(frame, code)
        twice = frame[:end] + frame[start:end] + frame[end:]
        without = frame[:start] + frame[end:]
        for broken in (twice, without):
            with pytest.raises(Rejected):
                clean(broken, syntax)
    start, end = segment_of(frame, 0x52)
    with pytest.raises(Rejected):
        clean(frame[:start] + marker(0x52, frame[start + 4 : end] + SECRET) + frame[end:], syntax)


def test_a_part_of_a_tile_that_does_not_exist_is_refused():
    frame, syntax = first_frame("MR_small_jp2klossless.dcm")
    at = frame.index(b"\xff\x90")
    with pytest.raises(Rejected):
        clean(frame[: at + 4] + b"ZQ" + frame[at + 6 :], syntax)


def test_rle_bytes_become_what_is_stored_and_runs_stay():
    runs = bytes([256 - 2, 0xF7, 1, 0xA1, 0x5F])
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + runs
    low = bytes(k & 0x0F for k in range(256))
    assert rle.clean(frame, pixels=5, stored=[low])[64:-1] == bytes([254, 7, 1, 1, 15])
    assert rle.clean(frame, pixels=5, stored=[bytes(range(256))]) == rle.clean(frame, pixels=5)
    with pytest.raises(Rejected):
        rle.clean(frame, pixels=5, stored=[low, low])
