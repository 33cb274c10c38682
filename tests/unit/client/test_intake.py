"""What a PACS inbox is told of an image, by a site's rules, and what it remembers."""

import io
import json
from datetime import date

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from septum.errors import DataError, Quarantine
from septum_client import intake, reading
from septum_client.consent import FOLDER, Register, withdraw
from septum_client.deid.engine import Deidentifier
from septum_client.pseudonyms import pseudonym
from septum_client.review_pixels import queue_of
from septum_client.sandbox.pool import Answer, Pool

TODAY = date(2026, 6, 1)
CT = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}


@pytest.fixture
def site(tiny, tmp_path, monkeypatch):
    """A site whose child process is this one."""

    def answers(self, tasks, *, settings):
        told = reading.Settings.of(settings)
        for task in tasks:
            fields, body = reading.VERBS[task.verb](told, task.fields, task.body)
            yield Answer(fields=json.loads(json.dumps(fields)), body=body)

    monkeypatch.setattr(Pool, "map", answers)
    made = tiny.site(tmp_path / "site")
    rules = made.policy.intake.model_copy(update={"burned_in_text": "header", "consent": "waived"})
    policy = made.policy.model_copy(update={"intake": rules})
    (made.folder / "policy.toml").write_text(policy.to_toml())
    return made


@pytest.fixture
def deface(site, monkeypatch):
    rules = site.policy.intake.model_copy(update={"faces": "deface"})
    policy = site.policy.model_copy(update={"intake": rules})
    (site.folder / "policy.toml").write_text(policy.to_toml())
    monkeypatch.setattr(intake.deface, "require", lambda: None)
    return site


def bytes_of(ds):
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def denying(dcm, **fields):
    item = Dataset()
    item.DistributionType, item.ConsentForDistributionFlag = "NAMED_PROTOCOL", "NO"
    return bytes_of(dcm.header(ConsentForClinicalTrialUseSequence=Sequence([item]), **fields))


def admitted(site, patient):
    who, register = pseudonym(site.key, patient), Register.load(site.folder / FOLDER, site.key)
    return register.admits(who, basis="waived", today=TODAY, declared=0)


def test_a_plain_image_is_written_and_its_patient_admitted(site, dcm):
    assert isinstance(intake.inbox_engine(site)(bytes_of(dcm.header())), bytes)
    assert admitted(site, "P1")


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({}, 0),
        ({"BurnedInAnnotation": "YES"}, 0),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, 0),
        ({}, 9),
    ],
)
def test_an_image_that_denies_is_not_kept_and_denies_for_its_patient_though_it_be_refused(
    site, dcm, fields, cut
):
    engine = intake.inbox_engine(site)
    data = denying(dcm, **fields)
    assert engine(data[: len(data) - cut]) is Quarantine.NO_CONSENT
    assert not admitted(site, "P1")
    assert admitted(site, "P2")
    assert queue_of(site.folder).items() == ()


def test_a_denial_of_nobody_is_a_refusal_and_no_record(site, dcm):
    assert intake.inbox_engine(site)(denying(dcm, patient="")) is Quarantine.NO_CONSENT
    assert not (site.folder / FOLDER / "denied").exists()


def test_a_refused_image_waits_for_review(site, dcm):
    data = bytes_of(dcm.header(BurnedInAnnotation="YES"))
    assert intake.inbox_engine(site)(data) is Quarantine.BURNED_IN_TEXT
    assert len(queue_of(site.folder).items()) == 1


def test_a_withdrawn_patient_is_refused_at_the_door(site, dcm):
    withdraw(site.folder / FOLDER, pseudonym(site.key, "P1"), key=site.key, on=TODAY)
    assert intake.inbox_engine(site)(bytes_of(dcm.header())) is Quarantine.NO_CONSENT


def test_a_lying_child_cannot_choose_what_the_register_is_told(site, dcm, monkeypatch):
    owner = {"patient": "../../key", "declared": 2}
    lie = Answer(fields={"owner": owner, "code": "DATA_114"})
    monkeypatch.setattr(Pool, "map", lambda *_, **__: iter([lie]))
    with pytest.raises(DataError, match="no pseudonym"):
        intake.inbox_engine(site)(b"")
    assert not any((site.folder / FOLDER).iterdir())


@pytest.mark.parametrize("part", ["HEAD", "SCHAEDEL", None])
def test_where_faces_are_to_be_removed_no_head_is_written_whatever_its_copy_would_say(
    deface, dcm, part
):
    fields = CT | {"BodyPartExamined": part}
    # Of an unlisted part, the copy keeps only the claim that no face is to be seen.
    fields |= {"RecognizableVisualFeatures": "NO"} if part else {}
    data = bytes_of(dcm.header(**fields))
    assert intake.inbox_engine(deface)(data) is Quarantine.FACE
    assert Deidentifier(key=deface.key, rules=deface.policy.intake)(data).face
