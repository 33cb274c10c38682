import json
import re
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from septum import cli
from septum.accounting import epsilon
from septum.registry import Record
from septum_bench.seeded import SeededSource
from septum_client import consent, gate, lineage
from septum_client.exposure import exposures
from septum_client.pseudonyms import pseudonym

NAMES = [pseudonym(b"k" * 32, f"P{patient}") for patient in range(12)]
WIDE = {"COLUMNS": "300", "NO_COLOR": "1"}


def run(*arguments, fails=None, **kwargs):
    done = CliRunner().invoke(cli.build_app(), ["site", *map(str, arguments)], env=WIDE, **kwargs)
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture
def trained(tiny, tmp_path):
    """Return a site with two rounds of one study and one of another; P3 left before the last."""
    one, two = tiny.study(name="one"), tiny.study(name="two")
    site = tiny.site(tmp_path / "s", one, names=NAMES)
    site.approve(two)

    def answer(study, number):
        now = datetime.now(UTC)
        order = tiny.instruction(study, round=number)
        gate.answer(site, order, source=SeededSource(1), clock=lambda: now)

    answer(one, 1)
    answer(two, 1)
    consent.withdraw(
        site.folder / consent.FOLDER, NAMES[3], key=site.key, on=datetime.now(UTC).date()
    )
    answer(one, 2)
    return site, one, two


def test_the_ledger_says_what_each_study_and_all_together_spent(trained):
    site, one, two = trained
    said = run("ledger", "--site", site.folder)
    charge = one.mechanism("north").charge()
    for study, rounds in ((one, 2), (two, 1)):
        spent = epsilon([charge] * rounds, delta=1e-4)
        assert re.search(rf"{study.digest[:16]} +{rounds} +ε {spent:.3f} +ε 50 +0\.0001", said)
    share = 100 * site.policy.total.share([charge] * 3)
    for name in ("365 days", "all studies"):
        assert re.search(rf"{name} +3 +{share:.0f} % +ε 50 +0\.0001", said)
    assert "chain verified" in said


@pytest.mark.parametrize(("patient", "rounds"), [("P0", (2, 1)), ("P3", (1, 1))])
def test_a_patients_reading_counts_the_rounds_that_could_draw_the_patient(trained, patient, rounds):
    site, one, two = trained
    said = run("ledger", "--patient", "--site", site.folder, input=f"{patient}\n")
    charge = one.mechanism("north").charge()
    for study, count in zip((one, two), rounds, strict=True):
        spent = epsilon([charge] * count, delta=1e-4)
        assert re.search(rf"{study.digest[:16]} +{count} +{count} +{spent:.3f}", said)
    every = [charge] * sum(rounds)
    assert f"All studies: ε {epsilon(every, delta=1e-4):.3f} at δ 0.0001" in said
    assert f"used {100 * site.policy.total.share(every):.0f} %" in said
    assert patient not in said.replace("Patient ID", "")


def test_whoever_was_in_no_round_spent_nothing(trained):
    site, _, _ = trained
    for patient in ("P10", "nobody"):  # held out, and unknown
        said = run("ledger", "--patient", "--site", site.folder, input=f"{patient}\n")
        assert "No round of any study" in said


def test_no_patient_spent_more_than_the_site_and_some_patient_spent_as_much(trained):
    site, _, _ = trained
    every = epsilon(site.ledger.charges(), delta=1e-4)
    spent = [exposures(lineage.rounds_of(site, name)).epsilon for name in NAMES]
    assert max(spent) == every
    assert spent[3] < every
    assert spent[10] == 0


def test_the_registry_gets_one_record_a_study_of_what_was_charged(trained):
    site, one, _ = trained
    records = json.loads(run("ledger", "--registry", "--site", site.folder))
    found = {record["deployment"]["name"]: Record.model_validate(record) for record in records}
    assert set(found) == {"one", "two"}
    charge = one.mechanism("north").charge()
    assert found["one"].guarantee.epsilon == epsilon([charge] * 2, delta=1e-4)
    assert found["two"].guarantee.epsilon == epsilon([charge], delta=1e-4)
    assert {record.details.randomness for record in found.values()} == {"seeded"}
    assert {record.deployment.organisation for record in found.values()} == {"north"}
