import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum.errors import Quarantine
from septum_client.screening.boxes import Box
from septum_client.screening.devices import devices
from septum_client.screening.rules import REVIEWABLE, RULES, judge

DX, CT, US = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1.1", "2", "6.1"))


def header(**fields):
    ds = Dataset()
    values = {"SOPClassUID": DX, "Modality": "DX", "Rows": 480, "Columns": 640}
    for keyword, value in (values | fields).items():
        # As a scanner may write it: pydicom would warn of what the standard forbids.
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=0))
    return ds


def region(left=100, top=50, right=500, bottom=400, spatial=1, kind=1):
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = spatial, kind
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def ultrasound(*regions, **fields):
    if regions:
        fields["SequenceOfUltrasoundRegions"] = Sequence(regions)
    return header(SOPClassUID=US, Modality="US", **fields)


def ruled(ds, *, synthetic="exclude", faces="refuse"):
    return judge(ds, synthetic=synthetic, faces=faces)


def test_a_plain_radiograph_goes_on_to_the_next_look():
    ruling = ruled(header())
    assert (ruling.code, ruling.keep, ruling.reason) == (None, (), "no-rule")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary-capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "secondary-capture"),
        ({"ConversionType": "WSD"}, "conversion-type"),
        ({"ConversionType": "DF"}, "conversion-type"),
        ({"Modality": "OT"}, "captured-modality"),
        ({"BurnedInAnnotation": "YES"}, "burned-in-annotation"),
        ({"BurnedInAnnotation": "maybe"}, "burned-in-annotation"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "DOSE_INFO"]}, "screen"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"]}, "screen"),
        ({"ImageType": ["derived", "secondary", "screenshot"]}, "screen"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PRINTED"]}, "screen"),
        ({"ImageType": ["DERIVED", "SECONDARY", "VOLREN"]}, "screen"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"Modality": "CT", "PhotometricInterpretation": "RGB"}, "painted"),
        ({"Modality": "", "SOPClassUID": CT, "PhotometricInterpretation": "RGB"}, "painted"),
        ({"Modality": "CTX", "SOPClassUID": CT, "PhotometricInterpretation": "RGB"}, "painted"),
        ({"Modality": "CT", "ImageType": ["DERIVED", "SECONDARY"]}, "derived-without-place"),
        (
            {"Modality": "", "SOPClassUID": CT, "ImageType": ["DERIVED", "SECONDARY"]},
            "derived-without-place",
        ),
        (
            {"Modality": "X", "SOPClassUID": f"{CT}.1", "ImageType": ["DERIVED", "SECONDARY"]},
            "derived-without-place",
        ),
        ({"Modality": "ES"}, "undeclared-camera"),
    ],
)
def test_each_rule_refuses_what_it_names(fields, reason):
    ruling = ruled(header(**fields))
    codes = {rule.reason: rule.code for rule in RULES}
    assert (ruling.reason, ruling.code) == (reason, codes[reason])


def test_a_person_may_overrule_text_and_captures_and_nothing_else():
    assert {Quarantine.BURNED_IN_TEXT, Quarantine.SECONDARY_CAPTURE} == REVIEWABLE


def test_a_derived_slice_that_lies_in_the_patient_is_no_screen():
    ds = header(
        SOPClassUID=CT,
        Modality="CT",
        BodyPartExamined="CHEST",
        ImageType=["DERIVED", "SECONDARY", "MPR"],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    assert ruled(ds).code is None


def test_burned_in_annotation_no_clears_nothing():
    assert ruled(header(BurnedInAnnotation="NO", Modality="OT")).code is not None
    assert ruled(ultrasound(BurnedInAnnotation="NO")).code is Quarantine.BURNED_IN_TEXT


@pytest.mark.parametrize(
    ("synthetic", "marked", "code"),
    [
        ("exclude", "YES", Quarantine.SYNTHETIC),
        ("exclude", "NO", None),
        ("include", "YES", None),
    ],
)
def test_synthetic_images_enter_only_when_the_policy_says_so(synthetic, marked, code):
    assert ruled(header(SyntheticData=marked), synthetic=synthetic).code is code


def test_an_ultrasound_is_cropped_to_its_picture():
    ruling = ruled(ultrasound(region()))
    assert (ruling.code, ruling.keep) == (None, (Box(50, 100, 401, 501),))


def test_traces_and_graphics_are_cut_away():
    tissue, flow = region(right=300), region(left=310, kind=2)
    others = [region(0, 410, 640, 479, spatial=3, kind=3), region(0, 0, 90, 40, spatial=5, kind=0)]
    ruling = ruled(ultrasound(tissue, flow, *others))
    assert ruling.keep == (Box(50, 100, 401, 301), Box(50, 310, 401, 501))


@pytest.mark.parametrize(
    "regions",
    [
        [],
        [region(spatial=3, kind=3)],
        [region(right=700)],
        [region(bottom=600)],
        [region(), region(bottom=600)],
        [region(left=500, right=100)],
        [region(0, 0, 639, 479)],
        [region(0, 0, 320, 479), region(321, 0, 639, 479)],
        [Dataset()],
    ],
)
def test_without_regions_to_rely_on_an_ultrasound_waits_for_a_person(regions):
    ruling = ruled(ultrasound(*regions))
    assert (ruling.code, ruling.keep) == (Quarantine.BURNED_IN_TEXT, ())
    assert ruling.reason == "ultrasound-without-regions"


def test_one_pixel_beyond_the_frame_is_a_habit_of_some_scanners():
    assert ruled(ultrasound(region(right=640))).keep == (Box(50, 100, 401, 640),)


def test_a_known_device_is_cropped_to_what_lies_below_its_banner():
    ds = ultrasound(Manufacturer="Philips Medical Systems", ManufacturerModelName="iU22")
    ruling = ruled(ds)
    assert (ruling.code, ruling.keep) == (None, (Box(47, 0, 480, 640),))
    ds.Rows = 481
    assert ruled(ds).code is Quarantine.BURNED_IN_TEXT


def test_a_known_banner_is_cut_out_of_a_region_that_reaches_into_it():
    ds = ultrasound(region(top=10), Manufacturer="Philips", ManufacturerModelName="iU22")
    assert ruled(ds).keep == (Box(47, 100, 401, 501),)


def test_every_known_device_is_whole_and_says_who_says_so():
    assert len(devices()) >= 12
    for device in devices():
        frame = Box(0, 0, device.rows, device.columns)
        assert device.blank
        assert all(box.area and box.meet(frame) == box for box in device.blank), device.cite
        assert sum(box.area for box in device.blank) < frame.area / 4
        assert device.cite
        assert device.manufacturer == device.manufacturer.upper()
        assert device.model == device.model.upper()


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_jpeg2k.dcm"])
def test_the_ultrasound_that_shows_a_hospitals_name_is_refused(name):
    ruling = ruled(pydicom.dcmread(get_testdata_file(name)))
    assert ruling.code is Quarantine.BURNED_IN_TEXT


@pytest.mark.parametrize("name", ["examples_palette.dcm", "examples_ybr_color.dcm"])
def test_regions_of_an_image_that_was_resized_later_are_not_believed(name):
    ds = pydicom.dcmread(get_testdata_file(name))
    assert "SequenceOfUltrasoundRegions" in ds
    assert ruled(ds).reason == "ultrasound-without-regions"


KEYWORDS = ["Modality", "ImageType", "BurnedInAnnotation", "ConversionType", "SyntheticData"]


@given(
    values=st.dictionaries(
        st.sampled_from(KEYWORDS), st.text("ABCNOYES\\ \0é", min_size=0, max_size=12)
    )
)
def test_a_ruling_says_nothing_of_what_the_header_says(values):
    ds = header()
    for keyword, value in values.items():
        ds.add(DataElement(keyword, "LO", value, validation_mode=0))
    ruling = ruled(ds)
    reasons = {rule.reason for rule in RULES}
    others = {"synthetic", "no-rule", "face", "known-device", "ultrasound-without-regions"}
    assert ruling.reason in reasons | others


@pytest.mark.parametrize("keyword", ["BurnedInAnnotation", "ConversionType", "SyntheticData"])
def test_a_value_that_cannot_be_read_counts_against_the_image(keyword, monkeypatch):
    ds = header()
    real = Dataset.get

    def broken(self, name, *rest):
        if name == keyword:
            raise ValueError("bytes that mean nothing")
        return real(self, name, *rest)

    monkeypatch.setattr(Dataset, "get", broken)
    assert ruled(ds).code is not None
