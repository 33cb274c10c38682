"""A folder of DICOM in, a folder of de-identified DICOM out."""

import errno
import json
import os
import re
import zipfile

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum.errors import ConfigError, DataError, EngineError, Quarantine
from septum_client import deidentification
from septum_client.deidentification import REPORT
from septum_client.pseudonyms import pseudonym, uid
from septum_client.rules import Intake
from septum_client.sandbox.pool import Answer, Pool

KEY = bytes(range(32))
RULES = Intake(burned_in_text="header")
NAME = re.compile(r"[0-9a-f]{32}/2\.25\.[0-9]{1,39}\.dcm")


def run(source, folder, **kwargs):
    settings = {"key": KEY, "rules": RULES, "decisions": {}, "withdrawn": ()} | kwargs
    return deidentification.deidentify(source, folder, **settings)


def names_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def source(tmp_path, dcm):
    folder = tmp_path / "export"
    for p in range(3):
        dcm.write(
            folder / f"Meier{p}" / f"Meier{p}.dcm", patient=f"Meier{p}", instance=f"1.2.3.{p + 1}"
        )
    return folder


def test_names_and_bytes_of_the_output_are_made_of_keyed_hashes(source, tmp_path):
    out = tmp_path / "out"
    calls = []
    summary = run(source, out, progress=lambda *call: calls.append(call))
    assert (summary.files, summary.written, summary.duplicates) == (3, 3, 0)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    files = names_in(out)
    assert files.pop() == REPORT
    assert all(map(NAME.fullmatch, files))
    for p in range(3):
        path = out / pseudonym(KEY, f"Meier{p}") / f"{uid(KEY, f'1.2.3.{p + 1}')}.dcm"
        assert pydicom.dcmread(path).PatientID == pseudonym(KEY, f"Meier{p}")
        assert path.stat().st_mode & 0o777 == 0o600
    assert out.stat().st_mode & 0o777 == 0o700
    written = b"".join((out / name).read_bytes() for name in [*files, REPORT])
    assert b"Meier" not in written
    assert b"1.2.3.1" not in written


def test_the_report_counts_and_names_nobody(source, tmp_path, dcm):
    dcm.write(source / "Meier9.dcm", patient="", instance="9.1")
    dcm.write(source / "copy.dcm", patient="Meier0", instance="1.2.3.1")
    (source / "Meier.csv").write_text("patient_id,sick\nMeier0,1\n")
    (source / "Meier.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    summary = run(source, tmp_path / "out", workers=2)
    said = json.loads((tmp_path / "out" / REPORT).read_text())
    assert (said["files"], said["written"], said["duplicates"]) == (7, 3, 1)
    assert said["quarantined"] == {"DATA_101": 2, "DATA_109": 1}
    assert summary.quarantined == {Quarantine.NOT_DICOM: 2, Quarantine.NO_PATIENT: 1}
    assert set(said) == {"septum", "rules", "files", "written", "duplicates", "quarantined"}
    assert "Meier" not in (tmp_path / "out" / REPORT).read_text()
    assert "Meier" not in repr(summary)


def test_a_second_run_leaves_what_is_there_as_it_is(source, tmp_path, dcm):
    out = tmp_path / "out"
    run(source, out)
    before = {name: (out / name).stat().st_mtime_ns for name in names_in(out) if name != REPORT}
    dcm.write(source / "new", patient="Meier0", instance="9.1")
    second = run(source, out)
    assert (second.written, second.duplicates) == (1, 3)
    assert before.items() <= {n: (out / n).stat().st_mtime_ns for n in names_in(out)}.items()


def test_what_was_deidentified_here_keeps_its_names(source, tmp_path):
    run(source, tmp_path / "out")
    again = run(tmp_path / "out", tmp_path / "again")
    assert again.quarantined == {Quarantine.NOT_DICOM: 1}
    assert names_in(tmp_path / "again") == names_in(tmp_path / "out")


def test_an_archive_is_a_source_too(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in sorted(source.rglob("*.dcm")):
            archive.write(path, path.relative_to(source).as_posix())
    run(source, tmp_path / "one")
    assert run(tmp_path / "export.zip", tmp_path / "two").written == 3
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")


def test_a_withdrawn_patient_is_counted_and_not_written(source, tmp_path):
    gone = pseudonym(KEY, "Meier1")
    summary = run(source, tmp_path / "out", withdrawn=frozenset({gone}))
    assert summary.quarantined == {Quarantine.NO_CONSENT: 1}
    assert summary.written == 2
    assert not (tmp_path / "out" / gone).exists()


def denying(dcm, path, **kwargs):
    item = Dataset()
    item.DistributionType, item.ConsentForDistributionFlag = "NAMED_PROTOCOL", "WITHDRAWN"
    dcm.write(path, dcm.header(ConsentForClinicalTrialUseSequence=Sequence([item]), **kwargs))


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_file_that_denies_consent_denies_it_for_all_of_its_patient(source, tmp_path, dcm, name):
    # Before and after the patient's other file.
    denying(dcm, source / name / "x.dcm", patient="Meier1", instance="1.2.3.9")
    summary = run(source, tmp_path / "out")
    assert summary.quarantined == {Quarantine.NO_CONSENT: 2}
    assert (summary.files, summary.written, summary.duplicates) == (4, 2, 0)
    assert not list((tmp_path / "out").glob(f"{pseudonym(KEY, 'Meier1')}/*"))


def test_a_denial_also_deletes_what_an_earlier_run_wrote_and_counts_each_file_once(
    source, tmp_path, dcm
):
    out = tmp_path / "out"
    dcm.write(source / "more.dcm", patient="Meier1", instance="1.2.3.8")
    assert run(source, out).written == 4
    (source / "more.dcm").unlink()
    denying(dcm, source / "x.dcm", patient="Meier1", instance="1.2.3.9")
    summary = run(source, out)
    assert (summary.files, summary.written, summary.duplicates) == (4, 0, 2)
    assert summary.quarantined == {Quarantine.NO_CONSENT: 2}
    assert not list((out / pseudonym(KEY, "Meier1")).glob("*"))


def test_where_faces_are_to_be_removed_a_head_is_not_written_with_its_face(source, tmp_path, dcm):
    ct = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}
    dcm.write(source / "head.dcm", patient="Meier0", instance="1.2.3.9", **ct)
    rules = RULES.model_copy(update={"faces": "deface"})
    summary = run(source, tmp_path / "out", rules=rules)
    assert summary.quarantined == {Quarantine.FACE: 1}
    assert summary.written == 3


@pytest.mark.parametrize("inside", ["export/out", "export", "."])
def test_source_and_output_stay_apart(source, tmp_path, inside):
    with pytest.raises(DataError, match="inside one another"):
        run(source, tmp_path / inside)


def test_a_short_key_makes_nothing(source, tmp_path):
    with pytest.raises(ConfigError):
        run(source, tmp_path / "out", key=b"short")
    assert not (tmp_path / "out").exists()


GOOD = {"patient": "a" * 32, "instance": "2.25.1"}


@pytest.mark.parametrize(
    "owner",
    [
        GOOD | {"patient": "../../../etc"},
        GOOD | {"patient": "A" * 32},
        GOOD | {"patient": "a" * 32 + "\n"},
        GOOD | {"patient": ["a" * 32]},
        GOOD | {"instance": "../2.25.1"},
        GOOD | {"instance": "2.25.1/../../x"},
        GOOD | {"instance": "2.25.١"},
        {"patient": "a" * 32},
    ],
)
def test_a_lying_child_cannot_choose_a_path(source, tmp_path, monkeypatch, owner):
    answer = Answer(fields={"owner": owner, "source": "x", "face": False}, body=b"evil")
    monkeypatch.setattr(Pool, "map", lambda *_, **__: iter([answer]))
    with pytest.raises(EngineError, match="not keyed") as caught:
        run(source, tmp_path / "out")
    assert caught.value.remedy
    assert "etc" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "out"]
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_is_one_sentence_and_leaves_no_half_file(
    source, tmp_path, monkeypatch, number
):
    def fail(*args):
        raise OSError(number, os.strerror(number), "/export/Meier")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=os.strerror(number)) as caught:
        run(source, tmp_path / "out")
    assert caught.value.remedy
    assert "Meier" not in str(caught.value)
    assert names_in(tmp_path / "out") == []
