import json
import shutil
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from septum.errors import DataError, Quarantine
from septum_client import retention, review_pixels
from septum_client.cohort import Cohort
from septum_client.rules import Intake

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LAST = date(2026, 3, 1)
LINEAGE = {"made": "2026-01-01", "expires": LAST.isoformat()}


def test_a_cohort_is_due_on_the_day_after_its_last(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", lineage=LINEAGE)
    assert not retention.due(site, LAST)
    assert retention.due(site, LAST + timedelta(days=1))


@pytest.mark.parametrize(("days", "last"), [(10, date(2026, 1, 11)), (36_500, LAST)])
def test_the_stricter_of_cohort_and_policy_decides(tiny, tmp_path, days, last):
    policy = tiny.policy(intake=Intake(consent="waived", keep_days=days))
    site = tiny.site(tmp_path / "s", policy=policy, lineage=LINEAGE)
    cohort = Cohort.open(site.cohort_path)
    assert retention.expires(cohort, keep_days=days) == last
    assert not retention.due(site, last)
    assert retention.due(site, last + timedelta(days=1))


def test_a_site_without_a_cohort_owes_nothing(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    shutil.rmtree(site.cohort_path)
    assert not retention.due(site, date.max)


def litter(site):
    """Put beside the cohort what crashed runs and a review leave; return where."""
    places = [
        site.cohort_path.with_name(".cohort-x.partial"),
        site.cohort_path.with_name(".cohort-y.old"),
        review_pixels.queue_of(site.folder).folder,
    ]
    for place in places:
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "pixels").write_bytes(b"12345")
    return places


def test_a_purge_leaves_no_path_of_the_cohort_and_keeps_the_rest(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    (site.folder / "outbox" / "a.npy").write_bytes(b"release")
    expected = sorted(p.name for p in site.folder.iterdir() if p != site.cohort_path)
    files = list(site.cohort_path.iterdir())
    size = sum(path.stat().st_size for path in files) + 15
    digest = Cohort.open(site.cohort_path).digest
    places = litter(site)
    done = retention.purge(site, at=NOW)
    assert (done.files, done.bytes, done.cohort) == (len(files) + 3, size, digest)
    assert not any(path.exists() for path in (site.cohort_path, *places))
    assert sorted(path.name for path in site.folder.iterdir()) == sorted([*expected, "purged"])
    assert (site.folder / "outbox" / "a.npy").read_bytes() == b"release"


def test_a_purge_is_recorded_and_says_what_it_cannot_promise(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    done = retention.purge(site, at=NOW)
    (record,) = (site.folder / retention.RECORDS).iterdir()
    said = json.loads(record.read_bytes())
    assert said == {
        "at": "2026-06-01T12:00:00+00:00",
        "bytes": done.bytes,
        "cohort": done.cohort,
        "files": 3,
    }
    text = "\n".join(done.lines())
    for words in ("3 files", "wear levelling", "backup", "snapshots"):
        assert words in text


def test_a_broken_cohort_is_purged_too(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    for path in site.cohort_path.iterdir():
        path.write_bytes(b"{}")
    assert retention.purge(site, at=NOW).cohort is None
    assert not site.cohort_path.exists()


def test_purging_again_finds_nothing_and_is_no_error(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    retention.purge(site, at=NOW)
    assert retention.purge(site, at=NOW + timedelta(seconds=1)).files == 0


def test_a_purge_that_does_not_succeed_says_so_and_records_nothing(tiny, tmp_path, monkeypatch):
    site = tiny.site(tmp_path / "s")
    litter(site)
    monkeypatch.setattr("septum_client.retention.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(DataError, match="could not be deleted"):
        retention.purge(site, at=NOW)
    assert not (site.folder / retention.RECORDS).exists()


def test_a_sweep_touches_what_is_beside_the_cohort_alone(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    partial, old, queue = litter(site)
    retention.sweep(site)
    assert not partial.exists()
    assert not old.exists()
    assert queue.exists()
    Cohort.open(site.cohort_path).verify()


def test_a_purge_keeps_what_people_decided_and_empties_the_inbox(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    queue = review_pixels.queue_of(site.folder)
    name = "0" * 32
    queue.put(name, np.zeros((4, 4), np.uint8), Quarantine.BURNED_IN_TEXT, [])
    queue.decide(name, "reject", at=NOW, by="someone")
    (site.folder / retention.INBOX).mkdir()
    (site.folder / retention.INBOX / "2.25.1.dcm").write_bytes(b"file")
    retention.purge(site, at=NOW)
    assert queue.decisions()[name].verdict == "reject"
    assert [path.name for path in queue.folder.iterdir()] == ["decisions.jsonl"]
    assert not (site.folder / retention.INBOX).exists()
