import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import LedgerError
from septum.ledger import ROOT, append, export, parse, verify

values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
bodies = st.dictionaries(st.text(max_size=8), values, max_size=4)


def chain(said):
    entries = []
    for fields in said:
        entries.append(append(entries[-1] if entries else None, fields))
    return entries


@settings(max_examples=50)
@given(st.lists(bodies, min_size=1, max_size=6))
def test_an_honest_chain_verifies_and_survives_export(said):
    entries = chain(said)
    assert verify(entries) == entries[-1]
    assert parse(export(entries)) == entries
    assert [entry.fields for entry in entries] == said


@settings(max_examples=150)
@given(said=st.lists(bodies, min_size=1, max_size=4), data=st.data())
def test_any_flipped_byte_of_an_export_is_detected(said, data):
    entries = chain(said)
    raw = bytearray(export(entries).encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = parse(raw.decode())
        verify(read)
    except (LedgerError, UnicodeDecodeError):
        return
    # What is left are other spellings of the same JSON, such as a tab for a blank.
    assert read == entries


@given(
    said=st.lists(bodies, min_size=2, max_size=5),
    part=st.sampled_from(["sequence", "previous", "body", "digest"]),
    data=st.data(),
)
def test_any_altered_field_is_detected(said, part, data):
    entries = chain(said)
    place = data.draw(st.integers(0, len(entries) - 1))
    value = getattr(entries[place], part)
    other = data.draw(
        (st.integers() if part == "sequence" else st.text()).filter(lambda v: v != value)
    )
    entries[place] = dataclasses.replace(entries[place], **{part: other})
    with pytest.raises(LedgerError, match="broken at entry"):
        verify(entries)


@given(said=st.lists(bodies, min_size=3, max_size=6), data=st.data())
def test_a_removed_entry_is_detected_unless_it_is_the_last(said, data):
    entries = chain(said)
    del entries[data.draw(st.integers(0, len(entries) - 2))]
    with pytest.raises(LedgerError):
        verify(entries)


@given(said=st.lists(bodies, min_size=2, max_size=6), data=st.data())
def test_reordered_entries_are_detected(said, data):
    entries = chain(said)
    other = data.draw(st.permutations(entries).filter(lambda order: order != entries))
    with pytest.raises(LedgerError):
        verify(other)


@given(said=st.lists(bodies, min_size=1, max_size=5), extra=bodies, data=st.data())
def test_an_inserted_entry_is_detected_wherever_it_does_not_extend_the_chain(said, extra, data):
    entries = chain(said)
    place = data.draw(st.integers(0, len(entries) - 1))
    forged = append(entries[place - 1] if place else None, extra)
    with pytest.raises(LedgerError):
        verify([*entries[:place], forged, *entries[place:]])


@given(said=st.lists(bodies, min_size=2, max_size=6), data=st.data())
def test_truncation_is_detected_against_a_recorded_head(said, data):
    entries = chain(said)
    kept = data.draw(st.integers(1, len(entries) - 1))
    recorded = entries[data.draw(st.integers(kept, len(entries) - 1))].digest
    verify(entries[:kept])
    assert verify(entries, head=recorded) == entries[-1]
    with pytest.raises(LedgerError, match="before the head recorded"):
        verify(entries[:kept], head=recorded)


def test_an_empty_ledger_is_refused():
    with pytest.raises(LedgerError, match="empty"):
        verify([])


def test_the_first_entry_follows_the_root():
    first = append(None, {"kind": "genesis"})
    assert (first.sequence, first.previous) == (0, ROOT)


def test_a_number_that_is_not_finite_cannot_be_recorded():
    with pytest.raises(ValueError, match="JSON compliant"):
        append(None, {"epsilon": float("nan")})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "1",
        "{}",
        '{"sequence": 0}',
        '{"sequence":"0","previous":"","body":"","digest":""}',
    ],
)
def test_a_line_that_is_no_entry_is_named(line):
    good = export(chain([{"kind": "genesis"}]))
    with pytest.raises(LedgerError, match="line 2 "):
        parse(good + line + "\n")
