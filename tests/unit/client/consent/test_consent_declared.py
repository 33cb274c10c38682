import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum_client.consent.decisions import Declared
from septum_client.consent.declared import declared, of_patient

NOTHING, PERMITTED, DENIED = Declared


def item(kind, flag):
    ds = Dataset()
    if kind is not None:
        ds.DistributionType = kind
    if flag is not None:
        ds.ConsentForDistributionFlag = flag
    return ds


def image(*items):
    ds = Dataset()
    ds.ConsentForClinicalTrialUseSequence = Sequence([item(*each) for each in items])
    return ds


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], NOTHING),
        ([("NAMED_PROTOCOL", "YES")], NOTHING),
        ([("RESTRICTED_REUSE", "YES")], NOTHING),
        ([("PUBLIC_RELEASE", "YES")], PERMITTED),
        ([("NAMED_PROTOCOL", "YES"), ("PUBLIC_RELEASE", "YES")], PERMITTED),
        ([(None, "YES")], NOTHING),
        ([("SOMETHING_NEW", "YES")], NOTHING),
        ([("NAMED_PROTOCOL", "NO")], DENIED),
        ([(None, "NO")], DENIED),
        ([("PUBLIC_RELEASE", "WITHDRAWN")], DENIED),
        ([("PUBLIC_RELEASE", "YES"), ("NAMED_PROTOCOL", "NO")], DENIED),
        ([("PUBLIC_RELEASE", None)], DENIED),
        ([("PUBLIC_RELEASE", "Y")], DENIED),
        ([("PUBLIC_RELEASE", "PERHAPS")], DENIED),
    ],
)
def test_a_header_permits_only_what_it_says_in_full_and_denies_on_any_doubt(items, said):
    assert declared(image(*items)) == said


def test_a_header_without_the_attributes_says_nothing():
    assert declared(Dataset()) == NOTHING


def test_a_sequence_that_is_none_denies():
    ds = Dataset()
    ds[0x0012, 0x0083] = DataElement((0x0012, 0x0083), "LO", "YES")
    assert declared(ds) == DENIED


@given(st.lists(st.sampled_from([0, 1, 2, 3, 255]), max_size=6), st.randoms())
def test_one_denying_image_speaks_for_the_patient_and_a_permission_needs_all(images, random):
    said = of_patient(images)
    assert said == of_patient(random.sample(images, len(images)))
    if any(each > 1 for each in images):
        assert said == DENIED
    elif images and all(each == 1 for each in images):
        assert said == PERMITTED
    else:
        assert said == NOTHING
