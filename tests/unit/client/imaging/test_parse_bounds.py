import contextlib
import gc
import io
import logging
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from septum.errors import Quarantine
from septum_client.imaging import parse as reading
from septum_client.imaging.limits import LIMITS, Limits
from septum_client.imaging.parse import owner, parse, read_bytes, silent
from septum_client.reject import Rejected

CT = Path(get_testdata_file("CT_small.dcm")).read_bytes()
PIXEL_DATA = b"\xe0\x7f\x10\x00"
ITEM, ITEM_END, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"


def code_of(data, **limits):
    with pytest.raises(Rejected) as refusal:
        parse(data, limits=Limits(**limits))
    return refusal.value.code


def content(ds):
    """Everything a data set says, at any depth."""
    with silent():
        return [(e.tag, e.VR, len(e.value) if e.VR == "SQ" else e.value) for e in ds.iterall()]


def written(ds, *, syntax=uid.ExplicitVRLittleEndian):
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def raw(dcm):
    return written(dcm.header())


def before_pixels(raw, extra):
    at = raw.index(PIXEL_DATA)
    return raw[:at] + extra + raw[at:]


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "ExplVR_BigEnd.dcm",
        "image_dfl.dcm",
        "nested_priv_SQ.dcm",
        "priv_SQ.dcm",
        "rtplan.dcm",
        "reportsi.dcm",
        "UN_sequence.dcm",
        "examples_overlay.dcm",
        "ExplVR_LitEndNoMeta.dcm",
        "rtstruct.dcm",
        "meta_missing_tsyntax.dcm",
        "badVR.dcm",
    ],
)
def test_a_data_set_is_what_pydicom_reads(name):
    path = Path(get_testdata_file(name))
    with silent():
        expected = pydicom.dcmread(path, force=True)
    assert content(parse(path.read_bytes())) == content(expected)


def test_the_data_set_can_be_written_and_read_again(raw):
    buffer = io.BytesIO()
    parse(CT).save_as(buffer)
    assert content(parse(buffer.getvalue())) == content(parse(CT))


def body_of(raw):
    """Return the data set alone: (0002,0000) says how long the file meta information is."""
    return raw[144 + struct.unpack_from("<L", raw, 140)[0] :]


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_the_encoding_of_a_bare_data_set_is_inferred(dcm, syntax):
    body = body_of(written(dcm.header(patient="P7"), syntax=syntax))
    ds = parse(body)
    assert ds.PatientID == "P7"
    assert ds.file_meta.TransferSyntaxUID == syntax


def test_a_missing_preamble_or_prefix_does_not_matter(raw):
    assert content(parse(raw[132:])) == content(parse(raw[128:])) == content(parse(raw))


@pytest.mark.parametrize(
    ("said", "written_as"),
    [
        (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
        (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
    ],
)
def test_a_header_that_names_the_wrong_vr_encoding_is_read_all_the_same(dcm, said, written_as):
    right = written(dcm.header(), syntax=written_as)
    meta = written(dcm.header(), syntax=said)
    wrong = meta[: -len(body_of(meta))] + body_of(right)
    assert parse(wrong).Rows == 24


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x00" * 4096, b"%PDF" + b"x" * 500, b"\x08\x00", b"\x08\x00\xff\xff" * 70],
)
def test_bytes_that_are_something_else_are_not_dicom(data):
    assert code_of(data) is Quarantine.NOT_DICOM


@pytest.mark.parametrize("cut", [1, 2, 100, 1000])
def test_absent_pixel_bytes_are_truncation_and_the_owner_is_known(raw, cut):
    assert code_of(raw[:-cut]) is Quarantine.TRUNCATED
    assert owner(raw[:-cut]) == ("P1", "1.2.3.1")


def test_a_header_that_ends_in_a_value_is_truncated(raw):
    assert code_of(raw[: raw.index(b"MONOCHROME2") + 4]) is Quarantine.TRUNCATED


def test_fragments_without_their_end_are_truncated(dcm):
    ds = dcm.header()
    ds.compress(uid.RLELossless)
    raw = written(ds, syntax=uid.RLELossless)
    assert code_of(raw[:-200]) is Quarantine.TRUNCATED
    assert code_of(raw[:-8]) is Quarantine.TRUNCATED


@pytest.mark.parametrize("padding", [b"\x00" * 3, b"\x00" * 700, b"trailing rubbish"])
def test_what_fills_a_block_after_the_image_is_ignored(raw, padding):
    assert content(parse(raw + padding)) == content(parse(raw))


def test_the_owner_of_rubbish_is_nobody():
    assert owner(b"hello") == ("", "")


def test_private_sequences_of_any_vr_are_read(dcm):
    ds = dcm.header()
    block = ds.private_block(0x0009, "SEPTUM", create=True)
    inner = Dataset()
    inner.PatientName = "Inner^Name"
    block.add_new(1, "SQ", [inner])
    for syntax in (uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        read = parse(written(ds, syntax=syntax))
        assert read[0x0009, 0x1001].value[0].PatientName == "Inner^Name"


def test_unknown_vr_of_undefined_length_is_a_sequence(raw):
    name = b"\x10\x00\x10\x00\x04\x00\x00\x00A^B "
    nest = b"\x09\x00\x01\x10UN\0\0" + UNDEFINED + ITEM + UNDEFINED + name + ITEM_END + END
    assert parse(before_pixels(raw, nest))[0x0009, 0x1001].value[0].PatientName == "A^B"


def test_unknown_bytes_stay_bytes_and_are_never_parsed_later(raw):
    nest = ITEM + struct.pack("<L", 8) + b"\x10\x00\x10\x00PN\x00\x00"
    element = b"\x09\x00\x01\x10UN\0\0" + struct.pack("<L", len(nest)) + nest
    read = parse(before_pixels(raw, element))[0x0009, 0x1001]
    assert (read.VR, read.value) == ("UN", nest)


def nested(depth, *, delimited):
    head, inner = b"\x08\x00\x40\x11SQ\0\0", b""
    for _ in range(depth):
        size = struct.pack("<L", len(inner))
        item = ITEM + (UNDEFINED + inner + ITEM_END if delimited else size + inner)
        size = struct.pack("<L", len(item))
        inner = head + (UNDEFINED + item + END if delimited else size + item)
    return inner


@pytest.mark.parametrize("delimited", [True, False])
def test_sequences_may_nest_up_to_the_limit_and_no_deeper(raw, delimited):
    deepest = nested(LIMITS.depth, delimited=delimited)
    assert 0x00081140 in parse(before_pixels(raw, deepest))
    deeper = nested(LIMITS.depth + 1, delimited=delimited)
    assert code_of(before_pixels(raw, deeper)) is Quarantine.NOT_DICOM


def test_no_element_left_to_convert_holds_a_sequence(raw):
    deep = nested(LIMITS.depth + 50, delimited=False)
    for head in (b"\x08\x00\x40\x11UN\0\0", b"\x09\x00\x01\x10UN\0\0"):
        data = before_pixels(raw, head + struct.pack("<L", len(deep)) + deep)
        try:
            ds = parse(data)
        except Rejected:
            continue
        for element in ds:
            assert element.VR != "SQ"


def test_too_many_items_are_refused_before_they_are_made(raw):
    items = b"\x08\x00\x40\x11SQ\0\0" + UNDEFINED + (ITEM + b"\0\0\0\0") * 20_000 + END
    assert code_of(before_pixels(raw, items), elements=1000) is Quarantine.TOO_LARGE
    assert len(parse(before_pixels(raw, items))[0x00081140].value) == 20_000


def test_fragments_count_as_elements(raw):
    fragments = b"\x09\x00\x01\x10OB\0\0" + UNDEFINED + (ITEM + b"\0\0\0\0") * 2000 + END
    assert code_of(before_pixels(raw, fragments), elements=1000) is Quarantine.TOO_LARGE


def deflated(body):
    meta = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    head = meta[: -len(body_of(meta))]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return head + packer.compress(body) + packer.flush()


def test_a_deflated_bomb_is_refused_in_little_memory():
    element = b"\x09\x00\x01\x10OB\0\0" + struct.pack("<L", 400 * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = b"\x00" * 2**20
    body = packer.compress(element) + b"".join(packer.compress(zeros) for _ in range(400))
    bomb = deflated(b"")[:-2] + body + packer.flush()
    assert len(bomb) < 450_000
    gc.collect()
    tracemalloc.start()
    assert code_of(bomb) is Quarantine.EXPANDS
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * LIMITS.inflated_ratio * len(bomb)


def test_bytes_after_a_deflated_stream_are_ignored_and_a_torn_one_is_truncated():
    good = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    assert content(parse(good + b"\x00rubbish")) == content(parse(good))
    assert code_of(good[:-500]) is Quarantine.TRUNCATED
    assert code_of(deflated(b"")[:-2] + b"\xff" * 100) is Quarantine.NOT_DICOM


def test_an_unknown_character_set_is_refused(dcm):
    raw = written(dcm.header(SpecificCharacterSet="ISO_IR 100"))
    assert parse(raw).PatientID == "P1"
    assert code_of(raw.replace(b"ISO_IR 100", b"ISO_IR 999")) is Quarantine.NO_PATIENT
    assert code_of(raw.replace(b"ISO_IR 100", b"rot13     ")) is Quarantine.NO_PATIENT


def test_the_character_set_reaches_the_names_and_their_items(dcm):
    item = Dataset()
    item.PatientName = "Müller"
    ds = dcm.header(SpecificCharacterSet="ISO_IR 100", PatientName="Äcker")
    ds.ReferencedStudySequence = [item]
    read = parse(written(ds))
    assert (read.PatientName, read[0x00081110].value[0].PatientName) == ("Äcker", "Müller")


def test_what_cannot_be_opened_is_unreadable(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("dangling", "folder", "pipe", "absent"):
        with pytest.raises(Rejected) as refusal:
            read_bytes(tmp_path / name)
        assert refusal.value.code is Quarantine.UNREADABLE


def test_a_file_beyond_the_limit_is_too_large_and_its_owner_can_be_known(tmp_path, raw):
    (tmp_path / "x").write_bytes(raw)
    assert read_bytes(tmp_path / "x", limits=Limits(file_bytes=len(raw))) == raw
    with pytest.raises(Rejected) as refusal:
        read_bytes(tmp_path / "x", limits=Limits(file_bytes=len(raw) - 1))
    assert refusal.value.code is Quarantine.TOO_LARGE
    assert owner(reading.read_head(tmp_path / "x", size=700)) == ("P1", "1.2.3.1")


def test_nothing_a_file_says_is_logged_warned_or_shown(dcm, caplog, capfd):
    secret = "SECRET" * 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcm.header(patient=secret, PatientName=secret, PatientSex=secret)
        ds.StudyDate = "SECRETXX"
        raw = written(ds)
    caplog.clear()
    capfd.readouterr()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content(parse(raw))
        refused = []
        for broken in (raw[:-9], raw[:200], raw.replace(b"CSx\x00", b"CSx\x90")):
            with pytest.raises(Rejected) as refusal:
                parse(broken)
            refused.append(repr(refusal.value))
    shown = caplog.text + "".join(capfd.readouterr()) + "".join(refused)
    assert "SECRET" not in shown
    assert caught == []


def test_the_parser_s_settings_are_what_they_were(raw):
    def state():
        return (
            pydicom.config.settings.reading_validation_mode,
            logging.getLogger("pydicom").level,
            list(warnings.filters),
        )

    before = state()
    parse(raw)
    with pytest.raises(Rejected):
        parse(raw[:-9])
    assert state() == before


EDITS = st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(EDITS, st.integers(0, len(CT)), st.sampled_from(["CT_small.dcm", "rtplan.dcm"]))
def test_no_bytes_end_in_anything_but_a_data_set_or_a_code(edits, length, name):
    data = bytearray(Path(get_testdata_file(name)).read_bytes())
    for at, value in edits:
        if at < len(data):
            data[at] = value
    for broken in (bytes(data), bytes(data[:length])):
        assert all(isinstance(text, str) for text in owner(broken))
        with contextlib.suppress(Rejected):
            assert isinstance(parse(broken), pydicom.FileDataset)
