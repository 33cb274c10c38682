import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr import codedict

from septum.errors import Quarantine
from septum_client.screening.faces import faceless, is_head
from septum_client.screening.rules import judge

CT = "1.2.840.10008.5.1.4.1.1.2"


def volume(**fields):
    ds = Dataset()
    values = {
        "SOPClassUID": CT,
        "Modality": "CT",
        "Rows": 512,
        "Columns": 512,
        "PixelSpacing": [0.5, 0.5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    for keyword, value in (values | fields).items():
        # As a scanner may write it: pydicom would warn of what the standard forbids.
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=0))
    return ds


def coded(value, keyword="AnatomicRegionSequence"):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", "x"
    return {keyword: Sequence([code])}


@pytest.mark.parametrize("part", ["HEAD", "BRAIN", "SKULL", "NECK", "CSPINE", "WHOLEBODY", "JAW"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_scan_of_the_head_or_beside_it_shows_a_face(part, modality):
    assert is_head(volume(BodyPartExamined=part, Modality=modality))


@pytest.mark.parametrize("part", ["CHEST", "ABDOMEN", "KNEE", "LSPINE", "chest "])
def test_a_part_that_has_no_face_shows_none(part):
    assert not is_head(volume(BodyPartExamined=part))


@pytest.mark.parametrize("part", [None, "", "UNKNOWN", "CHEST\\HEAD", "XYZ", "DOE^JANE"])
def test_absent_and_unknown_parts_count_as_a_face(part):
    assert is_head(volume() if part is None else volume(BodyPartExamined=part))


def test_a_coded_region_decides_as_well_and_both_must_agree():
    assert not is_head(volume(**coded("816094009")))
    assert is_head(volume(**coded("69536005")))
    assert is_head(volume(BodyPartExamined="CHEST", **coded("69536005")))


def test_the_region_of_an_enhanced_image_lies_in_its_functional_groups():
    anatomy = Dataset()
    for keyword, value in coded("69536005").items():
        setattr(anatomy, keyword, value)
    group = Dataset()
    group.FrameAnatomySequence = Sequence([anatomy])
    ds = volume(BodyPartExamined="CHEST", SharedFunctionalGroupsSequence=Sequence([group]))
    assert is_head(ds)


def test_an_image_without_modality_is_known_by_its_class():
    ds = volume()
    del ds.Modality
    assert is_head(ds)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    assert not is_head(ds)


@pytest.mark.parametrize("modality", ["DX", "MG", "US", "XA"])
def test_projections_and_ultrasound_show_no_surface(modality):
    assert not is_head(volume(SOPClassUID="1.2", Modality=modality, BodyPartExamined="HEAD"))


def test_a_field_smaller_than_a_face_holds_none_unless_a_head_is_named():
    assert not is_head(volume(Rows=128, Columns=128))
    assert is_head(volume(Rows=128, Columns=128, BodyPartExamined="HEAD"))
    assert is_head(volume(Rows=128, Columns=128, PixelSpacing=[-0.5, 0.5]))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"RecognizableVisualFeatures": "YES", "BodyPartExamined": "KNEE"}, True),
        ({"RecognizableVisualFeatures": "NO"}, False),
        ({"RecognizableVisualFeatures": "NO", "BodyPartExamined": "HEAD"}, True),
        (
            {
                "RecognizableVisualFeatures": "NO",
                "BodyPartExamined": "HEAD",
                **coded("113102", "DeidentificationMethodCodeSequence"),
            },
            False,
        ),
        (
            {
                "BodyPartExamined": "HEAD",
                **coded("113102", "DeidentificationMethodCodeSequence"),
            },
            True,
        ),
    ],
)
def test_a_declaration_counts_for_a_head_only_with_the_method_on_record(fields, shown):
    assert is_head(volume(**fields)) is shown


def test_a_photograph_of_the_skin_may_be_one_of_a_face():
    assert is_head(volume(SOPClassUID="1.2", Modality="XC"))
    assert not is_head(volume(SOPClassUID="1.2", Modality="US"))


@pytest.mark.parametrize(
    ("policy", "code", "reason"),
    [("refuse", Quarantine.FACE, "face"), ("deface", None, "face"), ("allow", None, "no-rule")],
)
def test_the_policy_decides_what_becomes_of_a_face(policy, code, reason):
    ruling = judge(volume(BodyPartExamined="HEAD"), synthetic="exclude", faces=policy)
    assert (ruling.code, ruling.reason) == (code, reason)


def test_a_real_head_scan_is_recognised():
    assert is_head(pydicom.dcmread(get_testdata_file("J2K_pixelrep_mismatch.dcm")))


def test_the_coded_parts_are_snomeds_own():
    standard = {
        code.value: code.meaning
        for name in codedict.codes.cid4031.dir()
        for code in [getattr(codedict.codes.cid4031, name)]
    }
    listed = faceless().codes
    faces = {"Head", "Neck", "Head and Neck", "Skull", "Face", "Entire body", "Cervical spine"}
    assert not {standard[code] for code in listed & set(standard)} & faces
    earlier = {"113345001", "51185008", "12921003"}
    assert listed - set(standard) == earlier


def test_no_listed_term_names_a_part_of_the_head():
    forbidden = ("HEAD", "BRAIN", "SKULL", "FACE", "NECK", "CSPINE", "EYE", "NOSE", "JAW", "BODY")
    assert not [term for term in faceless().terms if any(word in term for word in forbidden)]
    assert np.all([term == term.upper() for term in faceless().terms])
