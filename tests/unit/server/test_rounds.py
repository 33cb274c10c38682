import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import EngineError
from septum_server.rounds import RoundRecord, read, record


def entry(number, **changes):
    fields = {
        "round": number,
        "asked": ("a", "b"),
        "answered": ("a",),
        "refused": {"b": "SITE_210"},
        "heads": {"a": "0" * 64},
        "strays": ("FORM",),
        "seconds": 0.5,
        "at": "2026-01-01T00:00:00+00:00",
    }
    return RoundRecord(**(fields | changes))


def test_records_are_read_back_in_order_and_the_last_of_a_round_counts(tmp_path):
    for one in (entry(1), entry(2), entry(2, answered=("a", "b"), refused={})):
        record(tmp_path, one)
    first, second = read(tmp_path)
    assert first == entry(1)
    assert second.answered == ("a", "b")
    assert second.complete
    assert not first.complete


def test_a_run_that_has_no_record_has_no_rounds(tmp_path):
    assert read(tmp_path) == []


@given(st.data())
def test_a_line_torn_by_a_crash_neither_blocks_reading_nor_spoils_the_next_record(
    tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "rounds.jsonl"
    record(folder, entry(1))
    record(folder, entry(2))
    raw = path.read_bytes()
    first = raw.index(b"\n") + 1
    path.write_bytes(raw[: data.draw(st.integers(first, len(raw) - 1))])
    assert read(folder)[:1] == [entry(1)]
    record(folder, entry(2))
    record(folder, entry(3))
    assert read(folder) == [entry(1), entry(2), entry(3)]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"round": 1}', "3", "null"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    record(tmp_path, entry(1))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write(line + "\n")
    record(tmp_path, entry(2))
    with pytest.raises(EngineError, match="line 2 "):
        read(tmp_path)


def test_a_record_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(EngineError, match="record of round 1 could not be written"):
        record(tmp_path / "absent", entry(1))
