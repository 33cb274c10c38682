import csv
import io
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from septum.errors import DataError
from septum_client.consent import table
from septum_client.consent.decisions import Rule

SECRET = "MUELLER^1957"


def read(text):
    return table.read(text.encode(), pseudonym=lambda patient: f"<{patient}>")


def test_a_row_becomes_a_dated_rule():
    (record,) = read(
        "patient_id,decision,purposes,studies,valid_from,valid_until,commercial\n"
        " P1 ,Permit,HRESCH; BIORCH,lung;f00d,2026-01-31,2027-01-31,No\n"
    )
    assert record.pseudonym == "<P1>"
    assert record.dated == date(2026, 1, 31)
    assert record.rule == Rule(
        permits=True,
        purposes=frozenset({"HRESCH", "BIORCH"}),
        studies=frozenset({"lung", "f00d"}),
        valid_from=date(2026, 1, 31),
        valid_until=date(2027, 1, 31),
        commercial=False,
    )


@pytest.mark.parametrize(("word", "permitted"), [("permit", 1), ("deny", 0), ("withdrawn", 0)])
def test_each_decision_is_a_permission_or_a_denial(word, permitted):
    (record,) = read(f"decision,patient_id\n{word},P1\n")
    assert record.rule == Rule(permits=bool(permitted))


def test_a_header_alone_is_a_register_of_nobody():
    assert read("patient_id,decision\n") == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (",permit,,,,,", "row 2, column patient_id"),
        (f"{SECRET},maybe,,,,,", "row 2, column decision"),
        (f"{SECRET},permit,TREAT,,,,", "row 2, column purposes"),
        (f"{SECRET},permit,hresch,,,,", "row 2, column purposes"),
        (f"{SECRET},permit,,,31.01.2026,,", "row 2, column valid_from"),
        (f"{SECRET},permit,,,2026-W01-1,,", "row 2, column valid_from"),
        (f"{SECRET},permit,,,2026-02-30,,", "row 2, column valid_from"),
        (f"{SECRET},permit,,,2026-02-01,2026-01-01,", "before valid_from"),
        (f"{SECRET},deny,,,,2026-01-01,", "does not lapse"),
        (f"{SECRET},permit,,,,,perhaps", "row 2, column commercial"),
        (f"{SECRET},permit,,,,", "row 2 of a consent CSV has 6 cells"),
        (f'"{SECRET},permit,,,,,', "not UTF-8 text"),
    ],
)
def test_a_bad_row_is_named_by_its_number_and_never_by_what_it_says(row, words):
    with pytest.raises(DataError, match=words) as refused:
        read(",".join(table.COLUMNS) + "\n" + row + "\n")
    assert SECRET not in f"{refused.value}{refused.value.__cause__}"
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize(
    "header",
    ["", "patient_id", f"{SECRET},permit", "patient_id,decision,decision", "patient_id,decision,x"],
)
def test_a_table_without_the_columns_is_refused_unshown(header):
    with pytest.raises(DataError, match="columns") as refused:
        read(header + "\n")
    assert SECRET not in str(refused.value)


@example("patient_id,decision\nP1,permit\n".encode("utf-16"))
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: f"patient_id,decision\n{t}".encode(errors="replace"))
)
def test_any_bytes_are_records_or_one_clear_error(content):
    try:
        found = table.read(content, pseudonym=str)
    except DataError:
        found = []
    assert all(each.pseudonym and each.pseudonym in content.decode() for each in found)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1).filter(
            str.strip
        ),
        min_size=1,
        unique_by=str.strip,
    )
)
def test_every_row_is_read_whatever_the_identifiers(patients):
    out = io.StringIO()
    csv.writer(out).writerows([("patient_id", "decision"), *((p, "deny") for p in patients)])
    found = table.read(out.getvalue().encode(), pseudonym=str)
    assert [each.pseudonym for each in found] == [p.strip() for p in patients]
