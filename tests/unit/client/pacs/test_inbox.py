"""The inbox: de-identified before the first write, and nothing kept of what is refused."""

import logging
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from septum.errors import ConfigError, Quarantine
from septum_client.pacs.inbox import Arrival


def files(pacs):
    return sorted(path.name for path in pacs.folder.iterdir())


def test_what_arrives_is_written_de_identified_under_the_keyed_name_alone(pacs):
    assert pacs.inbox().add(pacs.raw(instance="1.2.3.7")) is Arrival.STORED
    assert files(pacs) == [f"{pacs.alias('1.2.3.7')}.dcm"]
    (path,) = pacs.folder.iterdir()
    assert b"SECRET" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(pacs.folder.stat().st_mode) == 0o700


def test_no_byte_is_written_before_the_engine_has_answered(pacs):
    seen = []

    def watching(data):
        seen.append(files(pacs))
        return pacs.deidentify(data)

    pacs.inbox(watching).add(pacs.raw())
    assert seen == [[]]


def test_the_same_instance_again_is_counted_and_not_rewritten(pacs):
    inbox = pacs.inbox()
    inbox.add(pacs.raw(Rows=24))
    (path,) = pacs.folder.iterdir()
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    assert inbox.add(pacs.raw(StudyDescription="other")) is Arrival.HELD
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert inbox.counts() == {Arrival.STORED: 1, Arrival.HELD: 1}


def test_an_inbox_that_is_opened_again_knows_what_it_holds(pacs):
    pacs.inbox().add(pacs.raw(instance="1.2.3.7"))
    again = pacs.inbox()
    assert again.holds("1.2.3.7")
    assert not again.holds("1.2.3.8")
    assert again.add(pacs.raw(instance="1.2.3.7")) is Arrival.HELD


def test_of_a_refused_instance_nothing_is_kept_but_the_count(pacs):
    inbox = pacs.inbox()
    assert inbox.add(pacs.raw(Modality="OT")) is Quarantine.SECONDARY_CAPTURE
    assert files(pacs) == []
    assert inbox.counts() == {Quarantine.SECONDARY_CAPTURE: 1}
    assert not inbox.holds("1.2.3.1")


def test_an_engine_that_fails_is_a_failure_of_ours_and_keeps_nothing(pacs):
    def broken(data):
        raise RuntimeError(data.decode("latin-1"))

    inbox = pacs.inbox(broken)
    assert inbox.add(pacs.raw()) is Arrival.FAILED
    assert files(pacs) == []


@pytest.mark.parametrize("name", ["1.2.3.1", "2.25.01", "2.25.../../x", "2.25." + "9" * 40])
def test_a_name_that_is_not_a_keyed_one_is_never_written(pacs, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        misnamed = pacs.raw(instance=name)
    inbox = pacs.inbox(lambda data: misnamed)
    assert inbox.add(b"") is Quarantine.IDENTIFIER_LEFT
    assert files(pacs) == []


def test_a_quota_of_files_refuses_the_one_above_it(pacs):
    inbox = pacs.inbox(maximum_files=2)
    found = [inbox.add(pacs.raw(instance=f"1.2.{n}")) for n in range(1, 5)]
    assert found == [Arrival.STORED, Arrival.STORED, Arrival.FULL, Arrival.FULL]
    assert len(files(pacs)) == 2


def test_a_quota_of_bytes_holds_to_the_byte_and_over_a_restart(pacs):
    size = len(pacs.deidentify(pacs.raw(instance="1.2.1")))
    inbox = pacs.inbox(maximum_bytes=size)
    assert inbox.add(pacs.raw(instance="1.2.1")) is Arrival.STORED
    assert pacs.inbox(maximum_bytes=size).add(pacs.raw(instance="1.2.2")) is Arrival.FULL
    assert len(files(pacs)) == 1
    assert (
        pacs.inbox(maximum_bytes=size - 1, folder=pacs.folder / "x").add(pacs.raw(instance="1.2.1"))
        is Arrival.FULL
    )


def test_a_full_disk_is_a_full_inbox(pacs, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("septum_client.pacs.inbox.replace", full)
    inbox = pacs.inbox()
    assert inbox.add(pacs.raw()) is Arrival.FULL
    assert not inbox.holds("1.2.3.1")


def test_many_threads_with_the_same_instances_write_each_once(pacs):
    inbox = pacs.inbox()
    data = [pacs.raw(instance=f"1.2.{n % 10}") for n in range(80)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(inbox.add, data))
    assert inbox.counts() == {Arrival.STORED: 10, Arrival.HELD: 70}
    assert len(files(pacs)) == 10


def test_what_is_said_of_an_inbox_names_no_instance_and_logs_nothing(pacs, caplog):
    caplog.set_level(logging.DEBUG)
    inbox = pacs.inbox()
    for data in (pacs.raw(instance="1.2.3.7"), pacs.raw(Modality="OT"), b"SECRET"):
        inbox.add(data)
    said = "\n".join(inbox.lines())
    assert "1 refused: DATA_115 secondary capture" in said
    assert "1 written to the inbox, de-identified" in said
    assert not [word for word in ("1.2.3", "2.25", "SECRET", str(pacs.folder)) if word in said]
    assert caplog.text == ""


def test_an_inbox_that_cannot_be_made_says_so(pacs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="inbox cannot be opened"):
        pacs.inbox(folder=tmp_path / "file" / "inbox")
