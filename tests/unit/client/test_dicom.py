import io
import logging
import os
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from septum.errors import Quarantine
from septum_client import dicom
from septum_client.dicom import Refused, Scan


def code_of(path):
    found = dicom.read(path)
    assert isinstance(found, Refused), "the file was accepted"
    return found.code


def test_a_scan_carries_the_image_and_the_fields_of_training(tmp_path, dcm):
    pixels = dcm.image(3)
    path = dcm.write(
        tmp_path / "x",
        patient=" P7 ",
        instance="1.2.9",
        pixels=pixels,
        RescaleSlope="2",
        RescaleIntercept="-1024",
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=65535,
    )
    scan = dicom.read(path)
    assert isinstance(scan, Scan)
    assert np.array_equal(scan.stored, pixels)
    assert (scan.patient_id, scan.sop_instance_uid) == ("P7", "1.2.9")
    assert (scan.sex, scan.age_band) == (1, 3)
    assert (scan.slope, scan.intercept, scan.inverted) == (2.0, -1024.0, True)
    assert scan.padding == (65535, 65535)


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_every_native_syntax_gives_the_same_pixels(tmp_path, dcm, syntax):
    pixels = dcm.image(4)
    stored = pixels.byteswap() if syntax == uid.ExplicitVRBigEndian else pixels
    path = tmp_path / "x"
    dcm.write(path, pixels=pixels, syntax=syntax, PixelData=stored.tobytes())
    assert np.array_equal(dicom.read(path).stored, pixels)


def test_run_length_encoded_pixels_are_decoded(tmp_path, dcm):
    pixels = dcm.image(5)
    ds = dcm.header(pixels=pixels)
    ds.compress(uid.RLELossless)
    dcm.write(tmp_path / "x", ds)
    assert np.array_equal(dicom.read(tmp_path / "x").stored, pixels)


def test_signed_pixels_and_a_padding_value_written_as_unsigned(tmp_path, dcm):
    pixels = dcm.image(6).astype(np.int16) - 2000
    path = dcm.write(tmp_path / "x", pixels=pixels)
    raw = path.read_bytes()
    # (0028,0120) after Pixel Representation, as US 63536, which means -2000.
    at = raw.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(raw[:at] + b"\x28\x00\x20\x01US\x02\x00" + b"\x30\xf8" + raw[at:])
    scan = dicom.read(path)
    assert np.array_equal(scan.stored, pixels)
    assert scan.padding == (-2000, -2000)


def test_an_overlay_in_the_unused_bits_is_gone(tmp_path, dcm):
    pixels = dcm.image(7)
    burned = pixels | np.uint16(0xF000)
    path = dcm.write(tmp_path / "x", pixels=burned, BitsStored=12, HighBit=11)
    assert np.array_equal(dicom.read(path).stored, pixels)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4096, b"%PDF" + b"x" * 500])
def test_other_files_are_not_dicom(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert code_of(tmp_path / "x") is Quarantine.NOT_DICOM


def test_a_torn_header_is_not_dicom(tmp_path, dcm):
    path = dcm.write(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:140])
    assert code_of(path) in {Quarantine.NOT_DICOM, Quarantine.CANNOT_DECODE}


@pytest.mark.parametrize("cut", [2, 100, 1000])
def test_missing_pixel_bytes_are_truncation_and_the_owner_is_known(tmp_path, dcm, cut):
    path = dcm.write(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:-cut])
    found = dicom.read(path)
    assert found.code is Quarantine.TRUNCATED
    assert (found.patient_id, found.sop_instance_uid) == ("P1", "1.2.3.1")


def test_pixels_shorter_than_the_header_says_are_truncation(tmp_path, dcm):
    path = dcm.write(tmp_path / "x", Rows=48)
    assert code_of(path) is Quarantine.TRUNCATED


def test_a_file_that_ends_inside_its_header_is_truncated(tmp_path, dcm):
    path = dcm.write(tmp_path / "x")
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(b"MONOCHROME2") + 4])
    assert code_of(path) is Quarantine.TRUNCATED


def test_a_compressed_file_without_its_end_is_truncated(tmp_path, dcm):
    ds = dcm.header()
    ds.compress(uid.RLELossless)
    path = dcm.write(tmp_path / "x", ds)
    path.write_bytes(path.read_bytes()[:-200])
    found = dicom.read(path)
    assert found.code is Quarantine.TRUNCATED
    assert found.patient_id == "P1"


def test_reports_and_directories_have_no_pixels(tmp_path, dcm):
    assert code_of(dcm.write(tmp_path / "x", PixelData=None)) is Quarantine.NO_PIXELS


@pytest.mark.parametrize(
    "syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless]
)
def test_broken_compressed_pixels_cannot_be_decoded(tmp_path, dcm, syntax):
    ds = dcm.header(pixels=dcm.image().astype(np.uint8), syntax=syntax)
    ds.PixelData = encapsulate([b"\xff\xd8 not an image " * 4])
    ds["PixelData"].is_undefined_length = True
    assert code_of(dcm.write(tmp_path / "x", ds)) is Quarantine.CANNOT_DECODE


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path, dcm, monkeypatch):
    path = dcm.write(tmp_path / "x", syntax=uid.DeflatedExplicitVRLittleEndian)

    def bomb(*args, **kwargs):
        raise AssertionError("inflated")

    monkeypatch.setattr(zlib, "decompress", bomb)
    monkeypatch.setattr(zlib, "decompressobj", bomb)
    assert code_of(path) is Quarantine.CANNOT_DECODE


def test_an_unknown_transfer_syntax_cannot_be_decoded(tmp_path, dcm):
    path = dcm.write(tmp_path / "x")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.9.1\x00"))
    assert code_of(path) is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize(
    "fields",
    [
        {"HighBit": 7},
        {"BitsStored": 24},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"PhotometricInterpretation": None},
    ],
)
def test_unusual_bit_layouts_cannot_be_decoded(tmp_path, dcm, fields):
    assert code_of(dcm.write(tmp_path / "x", **fields)) is Quarantine.CANNOT_DECODE


def test_a_modality_table_is_refused_rather_than_ignored(tmp_path, dcm):
    item = pydicom.Dataset()
    item.LUTExplanation = "OD"
    path = dcm.write(tmp_path / "x", ModalityLUTSequence=[item])
    assert code_of(path) is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize(
    "fields",
    [
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_is_refused_at_any_depth(tmp_path, dcm, fields, dtype):
    path = dcm.write(tmp_path / "x", pixels=dcm.image().astype(dtype), **fields)
    assert code_of(path) is Quarantine.COLOUR


@pytest.mark.parametrize("frames", ["2", "0", "-1"])
def test_anything_but_one_frame_is_refused(tmp_path, dcm, frames):
    assert code_of(dcm.write(tmp_path / "x", NumberOfFrames=frames)) is Quarantine.MULTI_FRAME


def test_one_frame_said_aloud_is_one_frame(tmp_path, dcm):
    assert isinstance(dicom.read(dcm.write(tmp_path / "x", NumberOfFrames="1")), Scan)


def test_a_huge_promise_is_refused_before_decoding(tmp_path, dcm, monkeypatch):
    monkeypatch.setattr(dicom, "pixel_array", lambda *a, **k: pytest.fail("decoded"))
    path = dcm.write(tmp_path / "x", Rows=65535, Columns=65535)
    assert code_of(path) is Quarantine.TOO_LARGE


def test_a_huge_file_is_refused_and_its_owner_known(tmp_path, dcm, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_FILE_BYTES", 1000)
    found = dicom.read(dcm.write(tmp_path / "x"))
    assert (found.code, found.patient_id) == (Quarantine.TOO_LARGE, "P1")


@pytest.mark.parametrize("patient", ["", "   ", None, "A\\B"])
def test_a_file_without_one_patient_is_refused(tmp_path, dcm, patient):
    assert code_of(dcm.write(tmp_path / "x", patient=patient)) is Quarantine.NO_PATIENT


@pytest.mark.parametrize("fields", [{"Rows": 0}, {"Columns": 15}, {"Rows": None}])
def test_bad_geometry_is_refused(tmp_path, dcm, fields):
    assert code_of(dcm.write(tmp_path / "x", **fields)) is Quarantine.BAD_GEOMETRY


@pytest.mark.parametrize("fields", [{"RescaleSlope": 0}, {"RescaleSlope": "nan"}])
def test_a_rescale_that_means_nothing_is_refused(tmp_path, dcm, fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = dcm.write(tmp_path / "x", **fields)
    assert code_of(path) is Quarantine.BAD_VALUES


def test_what_cannot_be_opened_is_unreadable(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("dangling", "folder", "pipe", "absent"):
        assert code_of(tmp_path / name) is Quarantine.UNREADABLE


def test_no_byte_of_a_file_can_make_the_reader_raise(tmp_path, dcm):
    raw = bytearray(dcm.write(tmp_path / "x").read_bytes()[:700])
    rng = np.random.default_rng(0)
    path = tmp_path / "y"
    for _ in range(300):
        broken = bytearray(raw)
        for at in rng.integers(132, len(raw), 4):
            broken[at] = rng.integers(256)
        path.write_bytes(broken[: rng.integers(100, len(raw) + 1)])
        assert isinstance(dicom.read(path), Refused | Scan)


def test_deep_nesting_is_refused_without_harm(tmp_path, dcm):
    path = dcm.write(tmp_path / "x")
    raw = path.read_bytes()
    at = raw.index(b"\xe0\x7f\x10\x00")
    nest = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(raw[:at] + nest * 5000 + raw[at:])
    assert isinstance(dicom.read(path), Refused)


def test_nothing_a_file_says_is_logged_warned_or_shown(tmp_path, dcm, caplog, capfd):
    secret = "SECRET" * 20
    ds = dcm.header(PatientAge=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.PatientName = secret
        ds.PatientSex = secret
        ds.InstitutionName = secret
        ds.PatientID = secret
        path = dcm.write(tmp_path / secret, ds)
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan = dicom.read(path)
        path.write_bytes(path.read_bytes()[:-9])
        refused = dicom.read(path)
    shown = caplog.text + "".join(capfd.readouterr()) + repr(scan) + repr(refused)
    assert isinstance(scan, Scan)
    assert "SECRET" not in shown
    assert caught == []


def test_the_parser_s_settings_are_what_they_were(tmp_path, dcm):
    before = (pydicom.config.settings.reading_validation_mode, logging.getLogger("pydicom").level)
    dicom.read(dcm.write(tmp_path / "x"))
    after = (pydicom.config.settings.reading_validation_mode, logging.getLogger("pydicom").level)
    assert before == after


def test_an_unknown_character_set_hides_the_patient(tmp_path, dcm):
    buffer = io.BytesIO()
    dcm.header(SpecificCharacterSet="ISO_IR 100").save_as(buffer, enforce_file_format=True)
    path = tmp_path / "x"
    path.write_bytes(buffer.getvalue().replace(b"ISO_IR 100", b"ISO_IR 999"))
    assert code_of(path) is Quarantine.NO_PATIENT
