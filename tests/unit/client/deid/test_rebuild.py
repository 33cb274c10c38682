"""Rebuilt, never redacted: what the output is, whatever the input was."""

import contextlib
import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from enhanced import enhanced_mr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from septum.errors import ConfigError, Quarantine
from septum_client.deid import grammar, masking, method
from septum_client.deid.dates import MOST_DAYS, shift
from septum_client.deid.profile import SECTIONS
from septum_client.deid.rebuild import Options, rebuild
from septum_client.imaging.decode import stored_frames
from septum_client.pseudonyms import pseudonym, uid
from septum_client.reject import Rejected

KEY, OTHER = b"k" * 32, b"o" * 32
BASIC = Options()
ALL = Options(dates="shift", patient_characteristics=True, pixels_checked=True, faces_removed=True)
NATIVE = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
)


def bundled(name):
    ds = pydicom.dcmread(get_testdata_file(name))
    ds.PatientID = ds.PatientID or "P1"
    return ds


def written(ds):
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def reread(content):
    return pydicom.dcmread(io.BytesIO(content))


def every_element(ds):
    for element in ds:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from every_element(item)


def rejected(ds):
    with pytest.raises(Rejected) as raised:
        rebuild(ds, key=KEY, options=BASIC)
    return raised.value.code


@pytest.mark.parametrize("options", [BASIC, ALL], ids=["basic", "all"])
@pytest.mark.parametrize("name", NATIVE)
def test_rebuilding_the_result_gives_the_same_bytes(name, options):
    once = written(rebuild(bundled(name), key=KEY, options=options))
    assert written(rebuild(bundled(name), key=KEY, options=options)) == once
    assert written(rebuild(reread(once), key=KEY, options=options)) == once


@pytest.mark.parametrize("options", [BASIC, ALL], ids=["basic", "all"])
def test_an_enhanced_image_is_rebuilt_whole_and_stably(options):
    once = written(rebuild(enhanced_mr(), key=KEY, options=options))
    assert written(rebuild(reread(once), key=KEY, options=options)) == once
    assert b"JONES" not in once
    assert b"8213345" not in once
    clean = reread(once)
    for index, group in enumerate(clean.PerFrameFunctionalGroupsSequence):
        content = group.FrameContentSequence[0]
        assert content.DimensionIndexValues == [1, index + 1]
        assert (content.StackID, content.InStackPositionNumber) == ("1", index + 1)
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx([-100.5, -90.25, 3.3 * index])
        assert group.PixelMeasuresSequence[0].PixelSpacing == [0.9375, 0.9375]
        assert group.PixelValueTransformationSequence[0].RescaleSlope == 1.5 + index
    organization = clean.DimensionOrganizationSequence[0].DimensionOrganizationUID
    assert organization == uid(KEY, "1.2.3.5")
    indices = clean.DimensionIndexSequence
    assert {item.DimensionOrganizationUID for item in indices} == {organization}


def test_an_own_file_with_shifted_dates_is_not_shifted_again():
    once = rebuild(bundled("CT_small.dcm"), key=KEY, options=ALL)
    twice = rebuild(reread(written(once)), key=KEY, options=ALL)
    assert once.StudyDate == twice.StudyDate != bundled("CT_small.dcm").StudyDate


OURS = {
    "PatientID": pseudonym(KEY, "P1"),
    "SOPInstanceUID": uid(KEY, "1.2.3"),
    "DeidentificationMethod": ["Septum 0.0.1: rebuilt from an allow-list", "and more"],
    "LongitudinalTemporalInformationModified": "MODIFIED",
}
FOREIGN = {
    "SOPInstanceUID": "1.2.3",
    "DeidentificationMethod": "somebody else's",
    "LongitudinalTemporalInformationModified": "REMOVED",
}


def dated(**fields):
    ds = bundled("CT_small.dcm")
    ds.StudyDate, ds.StudyTime = "20231114", "131415"
    for keyword, value in (OURS | fields).items():
        setattr(ds, keyword, value)
    return reread(written(rebuild(ds, key=KEY, options=ALL)))


@pytest.mark.parametrize("keyword", FOREIGN)
def test_a_pseudonym_of_ours_beside_true_dates_does_not_keep_them(keyword):
    clean = dated(**{keyword: FOREIGN[keyword]})
    moved = shift(KEY, "P1")
    assert clean.PatientID == OURS["PatientID"]
    assert (clean.StudyDate, clean.StudyTime) == (
        moved.date("20231114", "131415"), moved.time("131415")
    )  # fmt: skip


def test_dates_stay_where_the_whole_file_is_ours():
    clean = dated()
    assert (clean.StudyDate, clean.StudyTime) == ("20231114", "131415")


def test_the_date_that_stands_for_none_is_not_moved():
    # Moved, 1 January 1900 would give the shift away.
    assert dated(SOPInstanceUID="1.2.3", SeriesDate="19000101").get("SeriesDate") is None


@pytest.mark.parametrize("name", NATIVE)
def test_stored_pixels_are_bit_exact(name):
    before = bundled(name)
    after = reread(written(rebuild(before, key=KEY, options=BASIC)))
    np.testing.assert_array_equal(
        pydicom.pixels.pixel_array(after, raw=True), pydicom.pixels.pixel_array(before, raw=True)
    )


def test_another_key_gives_names_and_uids_that_share_nothing():
    first, second = (rebuild(bundled("CT_small.dcm"), key=key, options=ALL) for key in (KEY, OTHER))
    for keyword in ("PatientID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert first[keyword].value != second[keyword].value
    assert first.StudyDate != second.StudyDate


ALLOWED_TEXT = (
    {value for values in grammar.TERMS.values() for value in values}
    | {meaning for scheme in grammar.MEANINGS.values() for meaning in scheme.values()}
    | {code for scheme in grammar.MEANINGS.values() for code in scheme}
    | {*grammar.MEANINGS, *method.MEANINGS, *method.MEANINGS.values(), *method.METHOD}
    | {"REMOVED", "MODIFIED", "", "0", "UNKNOWN"}
)
TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}


# pydicom remarks on each drawn value that no code string may hold: that is the point.
@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:The value length")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_text_survives_but_that_of_our_own_lists(data):
    ds = enhanced_mr() if data.draw(st.booleans()) else bundled("MR_small.dcm")
    name = pseudonym(KEY, ds.PatientID)
    texts = st.text("abcXYZ 0123456789^-_.", min_size=1, max_size=14)
    for element in list(every_element(ds)):
        if element.VR in TEXT and element.keyword not in {
            "PatientID",
            "PhotometricInterpretation",
            "SOPClassUID",
        }:
            element.value = data.draw(texts)
    clean = reread(written(rebuild(ds, key=KEY, options=ALL)))
    for element in every_element(clean):
        if element.VR not in TEXT:
            assert element.VR not in {"UN", "OB"} or element.tag == 0x7FE00010
            continue
        several = element.value if element.VM > 1 else [element.value]
        for value in several:
            whole_number = element.keyword == "StackID" and str(value).isdigit()
            assert str(value) in ALLOWED_TEXT | {name} or whole_number, element.keyword


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("KVP", "8213345"),
        ("ExposureTime", "82133451"),
        ("SliceThickness", "8213345"),
        ("SeriesNumber", "8213345"),
        ("InstanceNumber", "8213345"),
        ("PatientWeight", "8213345"),
        ("Modality", "JONES"),
        ("BodyPartExamined", "MARY JONES"),
        ("ConvolutionKernel", "JONES"),
        ("ManufacturerModelName", "Room 4 Dr Jones"),
    ],
)
def test_a_record_number_or_name_in_the_wrong_field_does_not_pass(keyword, value):
    ds = bundled("CT_small.dcm")
    ds[keyword] = pydicom.DataElement(
        keyword, pydicom.datadict.dictionary_VR(keyword), value, already_converted=True
    )
    clean = reread(written(rebuild(ds, key=KEY, options=ALL)))
    assert clean.get(keyword) in {None, ""}


def test_numbers_are_rounded_to_the_digits_that_a_machine_gives():
    ds = bundled("CT_small.dcm")
    ds.KVP = "120.8213345"
    kvp = rebuild(ds, key=KEY, options=BASIC).KVP
    assert kvp == pytest.approx(120.82, abs=1e-9)


def test_private_overlay_curve_icon_padding_and_file_meta_are_gone():
    ds = bundled("examples_overlay.dcm")
    ds.private_block(0x0009, "SECRET", create=True).add_new(1, "LO", "SECRET")
    ds.add_new(0x50003000, "OW", b"SECRET")
    ds.add_new(0xFFFCFFFC, "OB", b"SECRET")
    ds.IconImageSequence = [Dataset()]
    ds.ICCProfile = b"SECRET"
    ds.file_meta.SourceApplicationEntityTitle = "SECRET"
    ds.preamble = b"SECRET".ljust(128)
    content = written(rebuild(ds, key=KEY, options=ALL))
    clean = reread(content)
    assert b"SECRET" not in content
    assert not [e.tag for e in clean if e.tag.is_private or e.tag.group >> 8 in {0x50, 0x60}]
    assert content[:128] == b"\0" * 128


def test_bits_beyond_those_stored_are_cleared_and_values_stay():
    ds = enhanced_mr(frames=1)
    stored = np.frombuffer(ds.PixelData, "<u2")
    ds.PixelData = (stored | 0xA000).astype("<u2").tobytes()
    assert rebuild(ds, key=KEY, options=BASIC).PixelData == stored.tobytes()


def test_the_sign_of_a_stored_value_fills_the_bits_above_it():
    ds = enhanced_mr(frames=1)
    ds.PixelRepresentation = 1
    ds.PixelData = np.full(64, 0x5FFF, "<u2").tobytes()
    clean = rebuild(ds, key=KEY, options=BASIC)
    assert set(np.frombuffer(clean.PixelData, "<i2")) == {-1}


def test_bytes_behind_the_last_frame_are_cut_and_missing_ones_refused():
    ds = enhanced_mr(frames=1)
    exact = ds.PixelData
    ds.PixelData = exact + b"SECRET"
    assert rebuild(ds, key=KEY, options=BASIC).PixelData == exact
    ds.PixelData = exact[:-2]
    assert rejected(ds) is Quarantine.TRUNCATED


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, Quarantine.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, Quarantine.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.3"}, Quarantine.NOT_AN_IMAGE),
        ({"SOPClassUID": None}, Quarantine.NOT_AN_IMAGE),
        ({"PatientID": None}, Quarantine.NO_PATIENT),
        ({"PatientID": "  "}, Quarantine.NO_PATIENT),
        ({"SOPInstanceUID": None}, Quarantine.NOT_DICOM),
        ({"PixelData": None}, Quarantine.NO_PIXELS),
        ({"Rows": None}, Quarantine.BAD_GEOMETRY),
        ({"BitsStored": 17}, Quarantine.CANNOT_DECODE),
        ({"BitsAllocated": 12}, Quarantine.CANNOT_DECODE),
        ({"SamplesPerPixel": 4}, Quarantine.COLOUR),
        ({"PhotometricInterpretation": "JONES"}, Quarantine.COLOUR),
        ({"PhotometricInterpretation": None}, Quarantine.COLOUR),
        ({"PhotometricInterpretation": ""}, Quarantine.COLOUR),
        ({"SamplesPerPixel": None}, Quarantine.COLOUR),
        ({"SamplesPerPixel": 2}, Quarantine.COLOUR),
        ({"Rows": []}, Quarantine.BAD_GEOMETRY),
        ({"Columns": None}, Quarantine.BAD_GEOMETRY),
        ({"Columns": 0}, Quarantine.BAD_GEOMETRY),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_with_its_code(change, code):
    ds = bundled("CT_small.dcm")
    for keyword, value in change.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    assert rejected(ds) is code


def planted(ds, tag, vr, value):
    ds[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    return ds


@pytest.mark.parametrize("vr", ["LO", "DS", "IS", "US", "FD", "PN", "UN"])
@pytest.mark.parametrize(
    "tag", [0x00283000, 0x00283010, 0x52009229, 0x52009230, 0x00082218, 0x00081140, 0x00280008]
)
def test_an_attribute_with_a_foreign_vr_is_gone_or_the_file_is_refused(tag, vr):
    ds = planted(bundled("CT_small.dcm"), tag, vr, b"12345678")
    with contextlib.suppress(Rejected):
        assert b"12345678" not in written(rebuild(ds, key=KEY, options=ALL))


@pytest.mark.parametrize("vr", ["US", "FD", "DS", "SQ", "AT"])
@pytest.mark.parametrize(
    "tag", [0x00080016, 0x00080018, 0x00100020, 0x00280004, 0x00280010, 0x00280103, 0x00281101]
)
@pytest.mark.parametrize("value", [b"123", b"1.2.3", b"\xfe\xff"])
def test_bytes_that_are_no_value_of_their_vr_end_as_a_code(tag, vr, value):
    with contextlib.suppress(Rejected):
        rebuild(planted(bundled("examples_palette.dcm"), tag, vr, value), key=KEY, options=ALL)


def test_two_transfer_syntaxes_are_none():
    ds = bundled("CT_small.dcm")
    ds.file_meta["TransferSyntaxUID"].value = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    assert rejected(ds) is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize("length", [0, 8])
def test_pixels_that_were_never_read_are_no_pixels(length):
    ds = bundled("CT_small.dcm")
    ds.filename = ds.buffer = None
    ds[0x7FE00010] = RawDataElement(BaseTag(0x7FE00010), "OW", length, None, 0, False, True)
    assert rejected(ds) is Quarantine.NO_PIXELS


@pytest.mark.parametrize("length", [1, 4, 7, 9, 20])
def test_an_item_without_its_end_is_refused(length):
    ds = bundled("MR_small_RLE.dcm")
    ds.PixelData = ds.PixelData[:length]
    assert rejected(ds) in {Quarantine.CANNOT_DECODE, Quarantine.TRUNCATED}


def test_palettes_are_carried_with_palette_color_alone():
    ds = bundled("examples_palette.dcm")
    keyword = "RedPaletteColorLookupTableData"
    assert rebuild(ds, key=KEY, options=BASIC)[keyword].value == ds[keyword].value
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.RedPaletteColorLookupTableData = b"SECRET" * 9
    clean = rebuild(ds, key=KEY, options=BASIC)
    assert not [e.keyword for e in clean if "Palette" in e.keyword]
    assert b"SECRET" not in written(clean)


def test_a_palette_is_stored_as_its_colours_in_eight_bits():
    ds = bundled("examples_palette.dcm")
    (colours,) = stored_frames(ds)
    assert colours.dtype == np.uint16
    clean = rebuild(ds, key=KEY, options=BASIC)
    masking.colour(clean)
    again = reread(written(clean))
    assert (again.PhotometricInterpretation, again.BitsStored) == ("RGB", 8)
    assert not [e.keyword for e in again if "Palette" in e.keyword]
    assert np.array_equal(next(iter(stored_frames(again))), colours >> 8)


def compressed(syntax, stored, *, signed=False):
    """Return an image of 64 by 64 pixels that says 12 stored bits, over samples of 16."""
    ds = enhanced_mr(frames=1)
    ds.Rows = ds.Columns = 64
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.tobytes()
    instance = ds.SOPInstanceUID
    ds.compress(syntax)
    ds.SOPInstanceUID, ds.BitsStored, ds.HighBit = instance, 12, 11
    return ds


@pytest.mark.parametrize("signed", [False, True])
def test_unused_bits_of_a_compressed_image_are_cleared_or_it_is_refused(signed):
    text = np.frombuffer(b"SECRET^JOHN 1945" * 128, np.uint8)
    nibbles = np.stack([text >> 4, text & 15], 1).ravel().astype(np.uint16)
    dirty = np.arange(64 * 64, dtype=np.uint16) | nibbles << 12
    native = enhanced_mr(frames=1)
    native.Rows = native.Columns = 64
    native.PixelRepresentation, native.PixelData = int(signed), dirty.tobytes()
    expected = rebuild(native, key=KEY, options=BASIC).PixelData
    ds = compressed(pydicom.uid.RLELossless, dirty, signed=signed)
    clean = reread(written(rebuild(ds, key=KEY, options=BASIC)))
    assert pydicom.pixels.pixel_array(clean, raw=True).tobytes() == expected
    for syntax in (pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless):
        pure = np.frombuffer(expected, "<u2")
        assert rebuild(compressed(syntax, pure, signed=signed), key=KEY, options=BASIC)
        assert rejected(compressed(syntax, dirty, signed=signed)) is Quarantine.CANNOT_DECODE


def test_rle_segments_of_another_number_than_the_samples_are_refused():
    ds = compressed(pydicom.uid.RLELossless, np.arange(64 * 64, dtype=np.uint16))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    assert rejected(ds) is Quarantine.CANNOT_DECODE


def test_a_short_key_is_a_mistake_of_the_caller():
    with pytest.raises(ConfigError):
        rebuild(bundled("CT_small.dcm"), key=b"short", options=BASIC)


def test_the_original_is_not_changed():
    ds = bundled("CT_small.dcm")
    before = written(ds)
    rebuild(ds, key=KEY, options=ALL)
    assert written(ds) == before


def test_a_code_is_kept_with_our_meaning_and_dropped_where_it_is_not_listed():
    ds = bundled("CT_small.dcm")
    known, unknown = Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "51185008", "SCT", "JONES"
    unknown.CodeValue, unknown.CodingSchemeDesignator, unknown.CodeMeaning = "JONES", "L", "JONES"
    ds.AnatomicRegionSequence = [known, unknown]
    clean = reread(written(rebuild(ds, key=KEY, options=BASIC)))
    (item,) = clean.AnatomicRegionSequence
    assert (item.CodeValue, item.CodingSchemeDesignator) == ("51185008", "SCT")
    assert item.CodeMeaning == grammar.MEANINGS["SCT"]["51185008"] != "JONES"


@given(st.text())
def test_dates_only_ever_move_back_and_intervals_stay(patient):
    moved = shift(KEY, patient)
    assert 1 <= moved.days <= MOST_DAYS
    first, second = moved.datetime("20200229235959"), moved.datetime("20200301000001")
    assert first < "20200229235959"
    assert np.datetime64(_iso(second)) - np.datetime64(_iso(first)) == np.timedelta64(2, "s")
    assert (moved.date("20200229", "235959"), moved.time("235959")) == (first[:8], first[8:])


def _iso(moment):
    day, clock = moment[:8], moment[8:]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"


def test_what_is_no_date_is_dropped():
    moved = shift(KEY, "P1")
    assert [moved.date(text) for text in ("JONES", "20201301", "", "2020")] == [None] * 4
    assert [moved.time(text) for text in ("JONES", "99", "")] == [None] * 3
    assert [moved.datetime(text) for text in ("JONES", "20201301")] == [None] * 2
    assert str(moved.days) not in repr(moved)


def _errors(path):
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {line for line in lines if line.startswith("Error")}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("options", [BASIC, ALL], ids=["basic", "all"])
@pytest.mark.parametrize("name", [*NATIVE, "enhanced"])
def test_dciodvfy_finds_no_error_that_the_input_had_not(name, options, tmp_path):
    ds = enhanced_mr() if name == "enhanced" else bundled(name)
    if ds.file_meta.TransferSyntaxUID == pydicom.uid.DeflatedExplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian  # it does not inflate
    before, after = tmp_path / "before.dcm", tmp_path / "after.dcm"
    before.write_bytes(written(ds))
    after.write_bytes(written(rebuild(ds, key=KEY, options=options)))
    assert _errors(after) <= _errors(before)


@pytest.mark.parametrize(
    ("leaf", "said", "kept"),
    [
        ("1.1", ["ORIGINAL", "PRIMARY", "JONES"], ["ORIGINAL", "PRIMARY", ""]),
        ("1.1", ["ORIGINAL", "PRIMARY", "", "JONES"], ["ORIGINAL", "PRIMARY", "", ""]),
        ("1.2", ["DERIVED", "PRIMARY", "JONES", "LEFT"], ["DERIVED", "PRIMARY", "", "LEFT"]),
        ("2", ["ORIGINAL", "PRIMARY", "JONES"], ["ORIGINAL", "PRIMARY", "OTHER"]),
    ],
)
def test_an_unlisted_image_type_is_empty_where_the_standard_lists_them_all(leaf, said, kept):
    ds = bundled("CT_small.dcm")
    ds.SOPClassUID, ds.ImageType = f"1.2.840.10008.5.1.4.1.1.{leaf}", said
    clean = reread(written(rebuild(ds, key=KEY, options=BASIC)))
    assert clean.ImageType == kept
    assert rebuild(clean, key=KEY, options=BASIC).ImageType == kept


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("leaf", ["1.1", "1.2", "1.3"])
def test_dciodvfy_takes_the_image_type_of_a_radiograph(leaf, tmp_path):
    ds = bundled("CT_small.dcm")
    ds.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{leaf}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "JONES"]
    path = tmp_path / "after.dcm"
    path.write_bytes(written(rebuild(ds, key=KEY, options=BASIC)))
    assert not [line for line in _errors(path) if "Image Type" in line]


def inside(keyword, **fields):
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return {keyword: [item]}


@pytest.mark.parametrize(
    "fields",
    [
        inside("RealWorldValueMappingSequence", RealWorldValueSlope=123456789.0),
        inside("RealWorldValueMappingSequence", RealWorldValueIntercept=-5551234567.0),
        inside(
            "RealWorldValueMappingSequence", DoubleFloatRealWorldValueFirstValueMapped=5551234567.0
        ),
        inside("SequenceOfUltrasoundRegions", PulseRepetitionFrequency=654321),
        inside("SequenceOfUltrasoundRegions", PhysicalDeltaX=654321.9876),
        {"AcquisitionDuration": 654321.0},
        {"ExposureTime": "654321"},
        {"WindowWidth": "654321"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_record_number_or_telephone_in_a_binary_number_does_not_pass(fields):
    ds = bundled("CT_small.dcm")
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    clean = reread(written(rebuild(ds, key=KEY, options=ALL)))
    (keyword,) = fields
    left = clean.get(keyword)
    assert not left or not list(every_element(left[0]))


def test_no_attribute_takes_a_whole_number_of_more_than_five_digits_unrounded():
    real_world = {"RealWorldValueSlope", "RealWorldValueIntercept"} | {
        f"DoubleFloatRealWorldValue{which}ValueMapped" for which in ("First", "Last")
    }
    rows = [row for table in SECTIONS.values() for row in table.values()]
    numbers = [row for row in rows if row.rule in {"int", "number"}]
    assert len(numbers) > 300
    for row in numbers:
        digits = int(row.arguments[2]) if len(row.arguments) > 2 else 10
        most = max(abs(float(bound)) for bound in row.arguments[:2])
        assert most < 1e5 or digits <= 5 or (row.keyword in real_world and digits <= 6)
        assert row.rule == "int" or digits <= 7


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_scale_that_does_not_pass_refuses_the_file_as_its_values_would_change(keyword):
    ds = bundled("CT_small.dcm")
    setattr(ds, keyword, "8213345")
    assert rejected(ds) is Quarantine.CANNOT_DECODE


def with_modality_table(data, *, bits):
    ds, item = bundled("CT_small.dcm"), Dataset()
    item.add_new(0x00283002, "US", [64, 0, bits])
    item.add_new(0x00283006, "OW", data)
    item.ModalityLUTType = "OD"
    ds.ModalityLUTSequence = [item]
    return ds


RISING = np.arange(64, dtype="<u2")


@pytest.mark.parametrize(
    ("data", "bits", "kept"),
    [
        (RISING.tobytes(), 16, RISING.tobytes()),
        (RISING[::-1].tobytes(), 12, RISING[::-1].tobytes()),
        (np.zeros(64, "<u2").tobytes(), 8, bytes(128)),
        (bytes(range(64)) + b"SECRET", 8, bytes(range(64))),
        (RISING.tobytes() + b"SECRET", 16, RISING.tobytes()),
    ],
)
def test_a_modality_table_that_rises_or_falls_is_carried_and_nothing_behind_it(data, bits, kept):
    ds = with_modality_table(data, bits=bits)
    clean = reread(written(rebuild(ds, key=KEY, options=BASIC)))
    assert clean.ModalityLUTSequence[0].LUTData == kept


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (b"seen by Doctor Miller on ward 7, call 0441 55512".ljust(128), 16),
        ((RISING + 2**12).tobytes(), 12),
        ((RISING + 2**8).tobytes(), 8),
        (RISING[:63].tobytes(), 16),
        (RISING.tobytes(), 17),
        (RISING.tobytes(), 0),
    ],
)
def test_a_modality_table_of_anything_but_a_scale_refuses_the_file(data, bits):
    assert rejected(with_modality_table(data, bits=bits)) is Quarantine.CANNOT_DECODE


@pytest.mark.parametrize("keyword", ["LUTDescriptor", "LUTData"])
def test_half_a_modality_table_refuses_the_file(keyword):
    ds = with_modality_table(RISING.tobytes(), bits=16)
    del ds.ModalityLUTSequence[0][keyword]
    assert rejected(ds) is Quarantine.CANNOT_DECODE


def test_a_modality_table_of_a_foreign_vr_refuses_the_file():
    ds = planted(bundled("CT_small.dcm"), 0x00283000, "LO", b"12345678")
    assert rejected(ds) is Quarantine.CANNOT_DECODE


def test_a_voi_table_is_not_carried():
    ds = bundled("CT_small.dcm")
    ds.VOILUTSequence = with_modality_table(RISING.tobytes(), bits=16).ModalityLUTSequence
    clean = rebuild(ds, key=KEY, options=ALL)
    assert "VOILUTSequence" not in clean
