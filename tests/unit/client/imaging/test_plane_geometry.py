import math
import warnings

import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum.errors import Quarantine
from septum_client.imaging.geometry import plane, spacing
from septum_client.reject import Rejected


def classic(**fields):
    ds = Dataset()
    values = {
        "ImagePositionPatient": [1, 2, 3],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 5,
    } | fields
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def items(**fields):
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def enhanced():
    ds = Dataset()
    shared = Dataset()
    shared.PlaneOrientationSequence = items(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    shared.PixelMeasuresSequence = items(PixelSpacing=[2, 3], SliceThickness=4)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for i in range(3):
        frame = Dataset()
        frame.PlanePositionSequence = items(ImagePositionPatient=[i, 0, 0])
        frames.append(frame)
    frames[2].PixelMeasuresSequence = items(PixelSpacing=[20, 30])
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds


def refused(ds, frame=0):
    with pytest.raises(Rejected) as caught:
        plane(ds, frame)
    assert caught.value.code is Quarantine.BAD_GEOMETRY
    assert caught.value.__cause__ is None


def test_a_classic_image_says_where_it_lies():
    found = plane(classic(), 0)
    assert found.position_mm == (1, 2, 3)
    assert (found.row_cosines, found.column_cosines) == ((1, 0, 0), (0, 1, 0))
    assert found.normal == (0, 0, 1)
    assert found.spacing_mm == (0.5, 0.75)
    assert (found.thickness_mm, found.calibrated) == (5, True)


def test_an_enhanced_image_says_it_frame_by_frame():
    found = [plane(enhanced(), i) for i in range(3)]
    assert [one.position_mm[0] for one in found] == [0, 1, 2]
    assert {one.normal for one in found} == {(-1, 0, 0)}
    assert [one.spacing_mm for one in found] == [(2, 3), (2, 3), (20, 30)]
    assert [one.thickness_mm for one in found] == [4, 4, 4]
    refused(enhanced(), 3)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_real_scans_have_planes(name):
    ds = pydicom.dcmread(pydicom.data.get_testdata_file(name, download=False))
    found = plane(ds, 0)
    assert found.position_mm == tuple(ds.ImagePositionPatient)
    assert found.spacing_mm == tuple(ds.PixelSpacing)
    assert math.isclose(math.hypot(*found.normal), 1, abs_tol=1e-3)


@pytest.mark.parametrize("absent", ["ImagePositionPatient", "ImageOrientationPatient"])
@pytest.mark.parametrize("value", [None, []])
def test_without_place_or_orientation_there_is_no_plane(absent, value):
    assert plane(classic(**{absent: value}), 0) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 0.01, 1, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1]},
        {"ImagePositionPatient": [1, 2]},
        {"ImagePositionPatient": [1, 2, 1e9]},
        {"PixelSpacing": None},
        {"PixelSpacing": [0, 1]},
        {"PixelSpacing": [-1, 1]},
        {"PixelSpacing": [1]},
        {"SliceThickness": [1, 2]},
    ],
)
def test_geometry_that_means_nothing_is_refused(fields):
    refused(classic(**fields))


@pytest.mark.parametrize("text", ["nan\\1\\2", "inf\\1\\2", "Meier^Anna\\1\\2"])
def test_numbers_that_are_none_are_refused(text):
    ds = classic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag("ImagePositionPatient"), "DS", len(text), text.encode(), 0, False, True
        )
        ds._dict[raw.tag] = raw
        refused(ds)


def test_cosines_rounded_to_four_decimals_are_orthogonal():
    angle = math.radians(33)
    row = [round(math.cos(angle), 4), round(math.sin(angle), 4), 0]
    column = [round(-math.sin(angle), 4), round(math.cos(angle), 4), 0]
    found = plane(classic(ImageOrientationPatient=row + column), 0)
    assert math.isclose(found.normal[2], 1, abs_tol=1e-3)


def test_a_thickness_of_zero_is_unknown():
    assert plane(classic(SliceThickness=0), 0).thickness_mm is None
    assert plane(classic(SliceThickness=None), 0).thickness_mm is None


@pytest.mark.parametrize(
    ("fields", "mm", "calibrated"),
    [
        ({"PixelSpacing": [1, 2]}, (1, 2), True),
        ({"ImagerPixelSpacing": [1, 2]}, (1, 2), False),
        ({"NominalScannedPixelSpacing": [1, 2]}, (1, 2), False),
        ({"PixelSpacing": [1, 2], "ImagerPixelSpacing": [3, 4]}, (1, 2), True),
        ({"PixelSpacing": [1, 2], "ImagerPixelSpacing": [1, 2]}, (1, 2), False),
    ],
)
def test_a_radiograph_s_spacing_says_where_it_was_measured(fields, mm, calibrated):
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    assert plane(ds, 0) is None
    assert (spacing(ds, 0).mm, spacing(ds, 0).calibrated) == (mm, calibrated)


def test_what_says_no_spacing_has_none():
    assert spacing(Dataset(), 0) is None
