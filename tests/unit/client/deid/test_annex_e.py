"""The allow-list against the standard's table, every row of it."""

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum_client.deid import annex_e, method
from septum_client.deid.annex_e import ACTIONS, TABLE, Option
from septum_client.deid.profile import SECTIONS
from septum_client.deid.rebuild import Options, rebuild

KEY = b"k" * 32
BASIC = Options()
ALL = Options(dates="shift", patient_characteristics=True, pixels_checked=True, faces_removed=True)
MARK = "QZXMARKED"

# Values that would be carried if nothing were done: each of the kind that its VR holds.
MARKED = {
    "DA": "20190304",
    "TM": "112233",
    "DT": "20190304112233",
    "AS": "047Y",
    "DS": "71.3",
    "IS": "47",
    "UI": "1.2.3.4.5.6.7.8",
    "AE": MARK,
    "CS": "F",
    "PN": f"{MARK}^{MARK}",
    "US": 47,
    "UL": 47,
    "SS": 47,
    "FD": 47.25,
    "FL": 47.25,
    "OB": MARK.encode() + b" ",
    "OW": MARK.encode() + b" ",
    "UN": MARK.encode() + b" ",
}
# What the table's own attributes that make a file a file are for.
FILE_META = 0x0002


def _tag(row):
    if row.tag == annex_e.PRIVATE:
        return 0x00091001
    return int(row.tag.replace("x", "0"), 16)


def _vr(tag):
    return dictionary_VR(tag).split(" or ")[-1] if dictionary_has_tag(tag) else "LO"


def _element(tag):
    vr = _vr(tag)
    if vr == "SQ":
        item = Dataset()
        item.add(DataElement(0x00080104, "LO", MARK))
        item.add(DataElement(0x00081155, "UI", MARKED["UI"]))
        return DataElement(tag, "SQ", Sequence([item]))
    return DataElement(tag, vr, MARKED.get(vr, MARK))


def _base():
    return pydicom.dcmread(get_testdata_file("CT_small.dcm"))


def _outcome(before, after):
    if after is None:
        return "absent"
    if after.VR == "SQ":
        text = str(after.value)
        return "kept" if MARK in text or MARKED["UI"] in text else "replaced"
    if after.is_empty:
        return "empty"
    return "kept" if str(after.value) == str(before.value) else "replaced"


ROWS = [row for row in TABLE if _tag(row) >> 16 not in {FILE_META, 0x0000, 0x0004}]


@pytest.mark.parametrize("options", [BASIC, ALL], ids=["basic", "all"])
@pytest.mark.parametrize("nested", [False, True], ids=["top", "nested"])
def test_every_row_of_the_table_is_satisfied(nested, options):
    faults = []
    for row in ROWS:
        tag = _tag(row)
        original = _base()
        element = _element(tag)
        if nested:
            item = Dataset()
            item.add(element)
            original.SourceImageSequence = [item]
        else:
            original.add(element)
        clean = rebuild(original, key=KEY, options=options)
        at = clean.SourceImageSequence[0] if nested else clean
        found = _outcome(element, at.get(tag, None))
        asked = annex_e.action(tag, options.annex_e)
        if found not in ACTIONS[asked]:
            faults.append((row.tag, row.name, asked, found))
    assert not faults


def test_the_walk_would_see_a_value_that_is_kept():
    before = _base()["Modality"]
    assert _outcome(before, before) == "kept"
    assert "kept" not in ACTIONS["X"] | ACTIONS["Z"] | ACTIONS["D"] | ACTIONS["U"] | ACTIONS["C"]


def test_a_uid_of_the_table_is_mapped_and_not_lost():
    original = _base()
    original.SynchronizationFrameOfReferenceUID = "1.2.3.4"
    clean = rebuild(original, key=KEY, options=BASIC)
    for keyword in (
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SynchronizationFrameOfReferenceUID",
    ):
        assert annex_e.action(clean[keyword].tag) == "U"
        assert clean[keyword].value.startswith("2.25.")
        assert clean[keyword].value != original[keyword].value
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID


REPLACING = {"uid", "none", "text"}


def test_whatever_the_standard_would_change_is_replaced_or_behind_an_option():
    faults = []
    for section, rows in SECTIONS.items():
        for row in rows.values():
            basic = annex_e.action(row.tag)
            if basic == "K" or row.rule in REPLACING:
                continue
            if row.rule in {"items", "code"}:
                # A sequence that the table names is rebuilt from the profile's own items.
                if annex_e.action(row.tag) not in {"X/Z/U*", "X/Z", "Z", "D"}:
                    faults.append((section, row.keyword, basic))
                continue
            if row.option is None or annex_e.action(row.tag, {row.option}) not in {"C", "K"}:
                faults.append((section, row.keyword, basic))
    assert not faults


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (BASIC, {"113100"}),
        (Options(dates="shift"), {"113100", "113107"}),
        (Options(patient_characteristics=True), {"113100", "113108"}),
        (Options(pixels_checked=True), {"113100", "113101"}),
        (ALL, {"113100", "113101", "113102", "113107", "113108"}),
    ],
)
def test_the_coded_method_follows_from_the_options(options, said):
    clean = rebuild(_base(), key=KEY, options=options)
    coded = clean.DeidentificationMethodCodeSequence
    assert {item.CodeValue for item in coded} == said
    assert {item.CodingSchemeDesignator for item in coded} == {"DCM"}
    assert clean.PatientIdentityRemoved == "YES"
    shifted = "113107" in said
    temporal = clean.LongitudinalTemporalInformationModified
    assert temporal == ("MODIFIED" if shifted else "REMOVED")
    assert ("BurnedInAnnotation" in clean) == options.pixels_checked
    assert ("RecognizableVisualFeatures" in clean) == options.faces_removed


def test_code_meanings_are_those_of_the_standard():
    concepts = pytest.importorskip("pydicom.sr.codedict").Collection("CID7050").concepts
    standard = {code.value: code.meaning for code in concepts.values()}
    assert {code: standard[code] for code in method.MEANINGS} == method.MEANINGS


def test_the_table_names_its_edition_and_holds_every_row():
    assert "2025" in annex_e.EDITION
    assert "2026c" in annex_e.EDITION
    assert len(TABLE) == 621 + 35
    assert len({row.tag for row in TABLE}) == len(TABLE)
    assert {row.basic for row in TABLE} <= set(ACTIONS)
    assert annex_e.row(0x00100044).name == "Gender Identity Code Sequence"
    assert annex_e.row(0x50000010).name == "Curve Data"
    assert annex_e.row(0x00091010).basic == "X"
    assert annex_e.row(0x00280010) is None


def test_of_two_options_the_stricter_speaks():
    both = {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}
    assert annex_e.action(0x00080020, {Option.RETAIN_FULL_DATES}) == "K"
    assert annex_e.action(0x00080020, both) == "C"
