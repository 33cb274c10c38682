import json
import stat
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from septum.errors import DataError, Quarantine
from septum_client.review_pixels.queue import Queue
from septum_client.screening.boxes import Box

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
WORD = Box(2, 3, 6, 20)


def name_of(seed):
    return f"{seed + 1:032x}"


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (16, 24)).astype(np.uint8)


@pytest.fixture
def queue(tmp_path):
    return Queue(folder=tmp_path / "review")


def waiting(queue, seed=0):
    name = name_of(seed)
    queue.put(name, picture(seed), Quarantine.BURNED_IN_TEXT, [WORD])
    return name


def test_what_was_put_waits_with_its_reason_boxes_and_size(queue):
    name = waiting(queue)
    (item,) = queue.pending()
    assert (item.name, item.code, item.boxes) == (name, Quarantine.BURNED_IN_TEXT, (WORD,))
    assert (item.rows, item.columns) == (16, 24)
    assert queue.picture(name).startswith(b"\x89PNG")


def test_the_folder_and_its_files_are_the_owners_alone(queue):
    queue.decide(waiting(queue), "accept", at=NOON, by="anna")
    assert stat.S_IMODE(queue.folder.stat().st_mode) == 0o700
    files = list(queue.folder.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize(("verdict", "boxes"), [("accept", ()), ("reject", ()), ("blank", (WORD,))])
def test_a_decision_survives_and_its_image_no_longer_waits(queue, verdict, boxes):
    name = waiting(queue)
    queue.decide(name, verdict, at=NOON, by="anna", boxes=boxes)
    again = Queue(folder=queue.folder)
    decision = again.decision(name)
    assert (decision.verdict, decision.boxes) == (verdict, boxes)
    assert (decision.at, decision.by) == (NOON, "anna")
    assert again.pending() == ()


def test_the_last_decision_counts_and_every_one_stays_on_record(queue):
    name = waiting(queue)
    for hours, verdict in enumerate(["accept", "undo", "reject"]):
        queue.decide(name, verdict, at=NOON + timedelta(hours=hours), by="anna")
    assert queue.decision(name).verdict == "reject"
    lines = (queue.folder / "decisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["entry"] for line in lines] == ["accept", "undo", "reject"]


def test_an_undone_image_waits_again(queue):
    name = waiting(queue)
    queue.decide(name, "accept", at=NOON, by="anna")
    queue.decide(name, "undo", at=NOON, by="anna")
    assert queue.decision(name) is None
    assert [item.name for item in queue.pending()] == [name]


def test_a_decided_image_does_not_wait_again_and_its_picture_can_be_forgotten(queue):
    kept, done = waiting(queue, 1), waiting(queue, 2)
    queue.decide(done, "reject", at=NOON, by="anna")
    assert queue.forget_decided() == 1
    with pytest.raises(KeyError):
        queue.picture(done)
    assert waiting(queue, 2) == done
    assert [item.name for item in queue.items()] == [kept]
    assert queue.decision(done).verdict == "reject"


@pytest.mark.parametrize(
    "name", ["../key", "a" * 31, "A" * 32, "", "a" * 32 + "/../x", "0" * 32 + "\n"]
)
def test_no_name_leads_out_of_the_folder(queue, name):
    waiting(queue)
    (queue.folder.parent / "key").write_bytes(b"secret")
    with pytest.raises(ValueError, match="not the name"):
        queue.put(name, picture(), Quarantine.BURNED_IN_TEXT, [])
    with pytest.raises(KeyError):
        queue.picture(name)
    with pytest.raises(KeyError):
        queue.decide(name, "accept", at=NOON, by="anna")


@pytest.mark.parametrize(
    ("verdict", "boxes"),
    [
        ("maybe", ()),
        ("blank", ()),
        ("blank", (Box(0, 0, 17, 5),)),
        ("blank", (Box(-1, 0, 5, 5),)),
        ("blank", (Box(5, 5, 5, 9),)),
        ("blank", (WORD,) * 201),
    ],
)
def test_a_decision_that_means_nothing_is_not_written(queue, verdict, boxes):
    name = waiting(queue)
    with pytest.raises(ValueError, match=r"verdict|blank|outside"):
        queue.decide(name, verdict, at=NOON, by="anna", boxes=boxes)
    assert queue.decision(name) is None


def test_a_line_cut_short_by_a_crash_does_not_count_and_does_not_spoil_the_next(queue):
    first, second = waiting(queue, 1), waiting(queue, 2)
    queue.decide(first, "accept", at=NOON, by="anna")
    log = queue.folder / "decisions.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:-9].replace(first.encode(), second.encode()))
    assert queue.decision(second) is None
    queue.decide(second, "reject", at=NOON, by="anna")
    assert (queue.decision(first).verdict, queue.decision(second).verdict) == ("accept", "reject")


def test_an_altered_log_decides_nothing(queue):
    name = waiting(queue)
    queue.decide(name, "accept", at=NOON, by="anna")
    log = queue.folder / "decisions.jsonl"
    log.write_bytes(b"garbage\n" + log.read_bytes())
    with pytest.raises(DataError, match="cannot be read"):
        queue.decision(name)


@pytest.mark.parametrize(
    "line",
    [b"[]", b'{"entry":"accept"}', b'{"name":"a","entry":"yes","boxes":[],"at":"x","by":"y"}'],
)
def test_a_line_of_another_form_decides_nothing(queue, line):
    name = waiting(queue)
    queue.decide(name, "accept", at=NOON, by="anna")
    log = queue.folder / "decisions.jsonl"
    log.write_bytes(log.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match="cannot be read"):
        queue.decisions()


def test_an_empty_site_has_nothing_to_review(queue):
    assert (queue.items(), queue.pending(), queue.decisions()) == ((), (), {})


def test_boxes_drawn_on_a_smaller_picture_cover_the_same_part_of_the_image(queue):
    name = name_of(0)
    queue.put(name, picture()[::2, ::2], Quarantine.BURNED_IN_TEXT, [], scale=2)
    queue.decide(name, "blank", at=NOON, by="anna", boxes=[Box(1, 2, 5, 12)])
    assert queue.decision(name).boxes == (Box(2, 4, 10, 24),)
