from datetime import UTC, datetime

import pytest

from septum.errors import DataError
from septum_bench.seeded import SeededSource
from septum_client import consent, gate
from septum_client.pseudonyms import pseudonym
from septum_client.review import card
from septum_client.rules import Intake

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = [pseudonym(b"k" * 32, f"P{patient}") for patient in range(12)]


def lines(site, study):
    return dict(card(site, study, now=NOW))


def test_the_card_says_what_the_study_is_for(tiny, tmp_path):
    study = tiny.study(purpose_of_use="CLINTRCH", commercial=True)
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(commercial=True))
    assert lines(site, study)["use"] == "CLINTRCH, commercial"
    assert lines(site, tiny.study())["use"] == "HRESCH, not commercial"


def test_the_card_says_what_was_spent_and_how_many_rounds_still_fit(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(epsilon_per_study=5.0))
    before = lines(site, study)
    assert before["this study"] == "spent epsilon 0.00 of 5 at delta 0.0001"
    assert before["this year"].startswith("spent 0 % of the Rényi filter for epsilon 50")
    assert before["budget"] == "pays for 1 of 3 rounds"
    assert before["model goes to"] == "participants"
    gate.answer(site, tiny.instruction(study), source=SeededSource(1), clock=lambda: NOW)
    after = lines(site, study)
    assert after["this study"].startswith("spent epsilon 4.06 of 5")
    assert after["budget"] == "pays for 0 of 3 rounds more"


def test_the_card_says_how_many_patients_permit_the_study(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(intake=Intake()), names=NAMES)
    assert lines(site, study)["consent"].startswith("opt-in; 0 of 10 training patients")
    folder = site.folder / consent.FOLDER
    folder.mkdir()
    rows = "P0,permit\nP1,permit\nP2,deny\nP11,permit\n"
    (folder / "r.csv").write_text("patient_id,decision\n" + rows)
    assert lines(site, study)["consent"] == (
        "opt-in; 2 of 10 training patients permit this today (1 registers)"
    )


def test_the_card_is_shown_before_there_is_a_cohort(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    (site.cohort_path / "cohort.json").unlink()
    assert lines(site, study)["consent"] == "waived; no cohort yet"


def test_a_register_that_cannot_be_read_is_said_before_anybody_approves(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    (site.folder / consent.FOLDER).mkdir()
    (site.folder / consent.FOLDER / "r.csv").write_text("x")
    with pytest.raises(DataError, match="columns of a register"):
        lines(site, tiny.study())
