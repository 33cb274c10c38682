"""``segments.csv``: every segment is named, or it is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import DataError, Quarantine
from septum_client.masks.segments import Segments, named_in
from septum_client.reject import Rejected

SECRET = "Abernathy"


def parse(text, classes=("lung", "nodule")):
    return Segments.parse(text.encode(), classes)


TABLE = (
    "class,value,label,scheme,code\nlung,7,Lung,,\nlung,8,,SCT,39607008\nnodule,2,,,\n,9,Rib,,\n"
)


def test_a_segment_is_known_by_its_label_or_its_code_letter_by_letter():
    segments = parse(TABLE)
    assert segments.of_segment("Lung", []) == 1
    assert segments.of_segment("whatever", [("SCT", "39607008")]) == 1
    assert segments.of_segment("Rib", []) == 0
    for label, types in (("lung", []), ("", [("99X", "39607008")]), ("", [])):
        with pytest.raises(Rejected) as caught:
            segments.of_segment(label, types)
        assert caught.value.code is Quarantine.UNKNOWN_SEGMENT


def test_a_label_and_a_code_that_contradict_each_other_are_refused():
    with pytest.raises(Rejected):
        parse(TABLE).of_segment("Rib", [("SCT", "39607008")])


@given(st.lists(st.sampled_from([0, 2, 7, 8, 9]), min_size=1, max_size=40))
def test_each_pixel_becomes_the_class_of_its_value(values):
    stored = np.array(values)
    classes = parse(TABLE).of_pixels(stored)
    assert classes.tolist() == [{0: 0, 2: 2, 7: 1, 8: 1, 9: 0}[value] for value in values]
    assert classes.dtype == np.uint8


@pytest.mark.parametrize("value", [1, 3, -1, 65536])
def test_a_value_in_no_row_refuses_the_mask(value):
    with pytest.raises(Rejected) as caught:
        parse(TABLE).of_pixels(np.array([[0, 2, value]]))
    assert caught.value.code is Quarantine.UNKNOWN_SEGMENT


def test_what_is_told_to_a_child_is_what_it_reads():
    segments = parse(TABLE)
    read = Segments.of(json.loads(json.dumps(segments.told())))
    assert (read.values, read.labels, read.codes) == (
        segments.values,
        segments.labels,
        segments.codes,
    )


def test_a_class_that_the_study_does_not_ask_for_is_background():
    assert parse(TABLE, ("nodule",)).of_segment("Lung", []) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("value,label\n1,x\n", "no column class"),
        ("class,class\na,b\n", "two columns"),
        (f"class,value\nlung,{SECRET}\nnodule,2\n", "Row 2"),
        ("class,value\nlung,0\nnodule,2\n", "Row 2"),
        ("class,value\nlung,1\nnodule,1\n", "Row 3"),
        ("class,value\nlung,1\nnodule,\n", "Row 3"),
        ("class,scheme,code\nlung,SCT,\nnodule,SCT,1\n", "Row 2"),
        ("class,value\nlung,1,2\nnodule,2\n", "Row 2"),
        ("class,value\nlung,1\n", "no segment of nodule"),
        ("class\0,\xff", "UTF-8|no column"),
    ],
)
def test_a_table_that_leaves_anything_open_is_refused_without_its_cells(text, said):
    with pytest.raises(DataError, match=said) as caught:
        Segments.parse(text.encode("latin-1"), ("lung", "nodule"))
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


def test_a_simulation_learns_the_classes_in_the_order_of_the_table():
    assert named_in(TABLE.encode()) == ("lung", "nodule")
    with pytest.raises(DataError, match="no column class"):
        named_in(b"value\n1\n")
