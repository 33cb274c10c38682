import dataclasses
import hashlib
import os
import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from septum.accounting import epsilon
from septum.errors import BudgetExceeded, Code, DataError, GateRefusal, LedgerError, Refusal
from septum.privacy_filter import Filter
from septum.wire import encode_release, payload_digest
from septum_bench.seeded import SeededSource
from septum_client import consent, gate, lineage, storage
from septum_client.budget import Ledger
from septum_client.cohort import Cohort, Split
from septum_client.pseudonyms import key_check, pseudonym
from septum_client.rules import Intake
from septum_client.train import Update
from septum_client.train import train as real_train

SOURCE = SeededSource(5)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PATIENTS = tuple(f"{patient:032x}" for patient in range(12))
"""Pseudonyms of the tiny cohort; the last two are held out."""


class Training:
    """Stands in for training: counts its calls and returns the update it was given."""

    def __init__(self, vector=None):
        self.calls = []
        self.vector = vector

    def __call__(self, study, **given):
        self.calls.append(given)
        vector = np.zeros_like(given["model"]) if self.vector is None else self.vector
        return Update(vector=vector, drawn=())


def answer(site, instruction, train=real_train, now=NOW):
    return gate.answer(site, instruction, source=SOURCE, train=train, clock=lambda: now)


def trained(train):
    """Return the pseudonyms of the patients that the last training could draw."""
    cohort = train.calls[-1]["cohort"]
    return {cohort.pseudonyms[patient] for patient in cohort.patients(Split.TRAIN)}


def ledger(site):
    return Ledger(site.ledger_path)


def refused_free(site, instruction, code, now=NOW):
    """Check that the instruction is refused with ``code``, untrained and uncharged."""
    train = Training()
    with pytest.raises(Refusal) as refused:
        answer(site, instruction, train, now=now)
    assert refused.value.code is code
    assert train.calls == []
    assert ledger(site).charges() == []


def test_a_release_says_what_the_ledger_recorded(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(metrics=("steps", "update_norm")))
    instruction = tiny.instruction(study)
    release = answer(site, instruction)
    genesis, debit, released = ledger(site).entries()
    assert genesis.fields["kind"] == "genesis"
    assert debit.fields["kind"] == "debit"
    assert debit.fields["randomness"] == "seeded"
    assert release.ledger_head == released.digest
    assert released.fields["payload"] == payload_digest(release.update)
    assert (release.study, release.round, release.instruction) == (
        study.digest, 1, instruction.digest,
    )  # fmt: skip
    assert release.metrics["steps"] == 2
    assert release.metrics["update_norm"] == pytest.approx(
        np.linalg.norm(release.update.astype(np.float64))
    )


def test_the_charge_is_on_disk_before_training_begins(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    seen = []

    def train(study, **given):
        seen.append(ledger(site).charges())
        return real_train(study, **given)

    answer(site, tiny.instruction(study), train)
    assert seen == [[study.mechanism("north").charge()]]


def test_what_is_trained_is_what_was_charged(tiny, tmp_path):
    study = tiny.study(privacy={"noise_multiplier": 0.2, "max_grad_norm": 5.0})
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(noise_floor=1.5, clip_ceiling=0.5))
    train = Training()
    release = answer(site, tiny.instruction(study), train)
    mechanism = train.calls[0]["mechanism"]
    assert (mechanism.noise_multiplier, mechanism.max_grad_norm) == (1.5, 0.5)
    assert ledger(site).charges() == [mechanism.charge()]
    assert (release.noise_multiplier, release.max_grad_norm) == (1.5, 0.5)


def test_an_answered_round_is_sent_again_byte_for_byte_at_no_charge(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    instruction = tiny.instruction(study)
    first = answer(site, instruction)
    train = Training()
    again = answer(site, instruction, train)
    assert train.calls == []
    assert again.update.tobytes() == first.update.tobytes()
    assert dataclasses.replace(again, update=None).__dict__ == (
        dataclasses.replace(first, update=None).__dict__
    )
    assert encode_release(again)["release"] == encode_release(first)["release"]
    assert len(ledger(site).charges()) == 1


def test_another_model_for_an_answered_round_is_refused(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    instruction = tiny.instruction(study)
    answer(site, instruction)
    other = tiny.instruction(study, model=instruction.model + np.float32(1))
    train = Training()
    with pytest.raises(Refusal) as refused:
        answer(site, other, train)
    assert refused.value.code is Code.ROUND_ALREADY_CHARGED
    assert train.calls == []


def test_a_round_whose_training_failed_is_lost_not_repeated(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)

    def broken(study, **given):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        answer(site, tiny.instruction(study), broken)
    train = Training()
    with pytest.raises(Refusal) as refused:
        answer(site, tiny.instruction(study), train)
    assert refused.value.code is Code.ROUND_ALREADY_CHARGED
    assert train.calls == []
    assert len(ledger(site).charges()) == 1
    answer(site, tiny.instruction(study, round=2))


def test_a_stored_release_that_was_altered_is_not_sent(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    instruction = tiny.instruction(study)
    answer(site, instruction)
    stored = next((site.folder / "outbox").iterdir())
    np.save(stored, np.load(stored) + 1)
    with pytest.raises(LedgerError, match="differs"):
        answer(site, instruction)


def test_a_study_that_was_not_approved_is_refused(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", tiny.study())
    other = tiny.study(privacy={"noise_multiplier": 0.9})
    refused_free(site, tiny.instruction(other), Code.UNKNOWN_STUDY)


def test_without_a_policy_nothing_trains(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    (site.folder / "policy.toml").unlink()
    refused_free(site, tiny.instruction(tiny.study()), Code.NO_POLICY)


def test_a_study_outside_the_policy_is_refused(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", policy=tiny.policy(models=("resnet18",)))
    refused_free(site, tiny.instruction(tiny.study()), Code.MODEL_NOT_ALLOWED)


def test_without_a_cohort_nothing_trains(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    (site.cohort_path / "cohort.json").unlink()
    refused_free(site, tiny.instruction(tiny.study()), Code.NO_COHORT)


def test_a_cohort_made_for_another_study_is_refused(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    study = tiny.study(data={"labels": ["sick", "broken"]})
    site.approve(study)
    refused_free(site, tiny.instruction(study), Code.COHORT_MISMATCH)


def test_too_few_patients_are_refused(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", policy=tiny.policy(minimum_patients=11))
    refused_free(site, tiny.instruction(tiny.study()), Code.TOO_FEW_PATIENTS)


def test_a_round_beyond_the_study_is_refused(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    refused_free(site, tiny.instruction(study, round=4), Code.ROUND_OUT_OF_RANGE)


@pytest.mark.parametrize(
    "spoil",
    [lambda m: m[:-1], lambda m: np.append(m, np.float32(0)), lambda m: m * np.float32(np.nan)],
)
def test_a_model_that_does_not_fit_costs_no_budget(tiny, tmp_path, spoil):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    model = spoil(tiny.instruction(study).model)
    refused_free(site, tiny.instruction(study, model=model), Code.MODEL_MISMATCH)


def test_a_round_over_the_budget_is_refused_untrained(tiny, tmp_path):
    study = tiny.study()
    one = study.mechanism("north").charge()
    limit = epsilon([one, one], delta=1e-4)
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(epsilon_per_study=limit))
    for number in (1, 2):
        answer(site, tiny.instruction(study, round=number), Training())
    train = Training()
    with pytest.raises(BudgetExceeded):
        answer(site, tiny.instruction(study, round=3), train)
    assert train.calls == []
    assert epsilon(ledger(site).charges(), delta=1e-4) == limit


def test_budgets_add_up_over_studies_of_one_site(tiny, tmp_path):
    studies = [tiny.study(name=f"study-{n}") for n in range(3)]
    one = studies[0].mechanism("north").charge()
    limit = next(
        cap / 10
        for cap in range(1, 999)
        if Filter(epsilon=cap / 10, delta=1e-4).rounds_within(one, most=3) == 2
    )
    site = tiny.site(tmp_path / "s", studies[0], policy=tiny.policy(epsilon_total=limit))
    for study in studies[:2]:
        site.approve(study)
        answer(site, tiny.instruction(study), Training())
    site.approve(studies[2])
    with pytest.raises(BudgetExceeded, match="all studies"):
        answer(site, tiny.instruction(studies[2]), Training())


def test_a_year_of_a_site_is_limited_whatever_the_studies(tiny, tmp_path):
    studies = [tiny.study(name=f"study-{n}") for n in range(2)]
    site = tiny.site(tmp_path / "s", studies[0], policy=tiny.policy(epsilon_per_year=6.0))
    site.approve(studies[1])
    answer(site, tiny.instruction(studies[0]), Training())
    refusing = tiny.instruction(studies[1])
    with pytest.raises(BudgetExceeded, match="one year"):
        answer(site, refusing, Training(), now=NOW + timedelta(days=300))
    answer(site, refusing, Training(), now=NOW + timedelta(days=366))


HOSTILE = [
    ({"purpose_of_use": "POARCH"}, Code.PURPOSE_NOT_ALLOWED),
    ({"commercial": True}, Code.PURPOSE_NOT_ALLOWED),
    ({"recipients": ["participants", "public"]}, Code.RECIPIENT_NOT_ALLOWED),
    ({"model": {"name": "efficientnet_b0"}}, Code.MODEL_NOT_ALLOWED),
    ({"data": {"task": "classification", "labels": ["a", "b"]}}, Code.TASK_NOT_ALLOWED),
    ({"sites": [{"name": "elsewhere", "patients": 10}]}, Code.STUDY_NOT_ALLOWED),
    ({"privacy": {"noise_multiplier": 0.2, "steps_per_round": 500}}, Code.BUDGET_EXCEEDED),
]


@pytest.mark.parametrize(("wants", "code"), HOSTILE)
def test_a_hostile_study_is_refused_with_its_own_code_untrained_and_free(
    tiny, tmp_path, wants, code
):
    wants = {"strategy": {"minimum_sites": 1}} | wants
    policy = tiny.policy(
        models=("small_cnn",), tasks=("multilabel",), epsilon_per_study=3.0, noise_floor=0.1
    )
    site = tiny.site(tmp_path / "s", tiny.study(**wants), policy=policy)
    refused_free(site, tiny.instruction(tiny.study(**wants)), code)


@pytest.mark.parametrize(
    ("line", "hostile"),
    [
        ("noise_multiplier = 1.0", "noise_multiplier = 0.0"),
        ("max_grad_norm = 1.0", "max_grad_norm = inf"),
        ("rounds = 3", 'rounds = 3\nmetrics = ["weights"]'),
        ("steps_per_round = 2", "steps_per_round = 0"),
        ("[privacy]", "[no_privacy]"),
    ],
    ids=["no noise", "no clip", "weights as a metric", "no steps", "no privacy at all"],
)
def test_a_study_without_privacy_cannot_be_said_and_is_refused(tiny, tmp_path, line, hostile):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    path = site.folder / "approved" / f"{study.digest}.toml"
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, hostile))
    refused_free(site, tiny.instruction(study), Code.STUDY_INVALID)


def test_a_floor_lowered_on_the_way_does_not_weaken_a_study_that_began(tiny, tmp_path):
    study = tiny.study(privacy={"noise_multiplier": 0.5})
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(noise_floor=2.0))
    answer(site, tiny.instruction(study), Training())
    (site.folder / "policy.toml").write_text(tiny.policy(noise_floor=0.1).to_toml())
    release = answer(site, tiny.instruction(study, round=2), Training())
    assert release.noise_multiplier == 2.0
    assert {charge.noise_multiplier for charge in ledger(site).charges()} == {2.0}


def test_a_floor_raised_on_the_way_counts_at_once_and_lowers_no_charge(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    answer(site, tiny.instruction(study), Training())
    (site.folder / "policy.toml").write_text(tiny.policy(noise_floor=2.0).to_toml())
    release = answer(site, tiny.instruction(study, round=2), Training())
    assert release.noise_multiplier == 2.0
    assert {charge.noise_multiplier for charge in ledger(site).charges()} == {1.0}


def test_a_policy_tightened_between_two_rounds_counts_at_once(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    answer(site, tiny.instruction(study), Training())
    (site.folder / "policy.toml").write_text(tiny.policy(epsilon_total=0.01).to_toml())
    with pytest.raises(BudgetExceeded):
        answer(site, tiny.instruction(study, round=2), Training())


def test_nothing_is_trained_on_top_of_a_tampered_ledger(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    answer(site, tiny.instruction(study), Training())
    database = sqlite3.connect(site.ledger_path)
    database.executescript("DROP TRIGGER no_delete; DELETE FROM entries WHERE sequence = 1;")
    database.close()
    train = Training()
    with pytest.raises(LedgerError):
        answer(site, tiny.instruction(study, round=2), train)
    assert train.calls == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda v: np.full_like(v, np.nan), Code.UPDATE_NOT_FINITE),
        (lambda v: np.where(np.arange(len(v)) == 3, np.float32(np.inf), v), Code.UPDATE_NOT_FINITE),
        (lambda v: np.full_like(v, 1e3), Code.UPDATE_NORM),
        (lambda v: np.full_like(v, 1e30), Code.UPDATE_NORM),
        (lambda v: v.astype(np.float64), Code.FIELD_NOT_ALLOWED),
        (lambda v: v[None], Code.FIELD_NOT_ALLOWED),
    ],
    ids=["NaN", "one inf", "too long", "float32 overflow", "float64", "two axes"],
)
def test_an_update_that_the_mechanism_cannot_have_made_stays_inside(tiny, tmp_path, spoil, code):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    instruction = tiny.instruction(study)
    with pytest.raises(GateRefusal) as refused:
        answer(site, instruction, Training(spoil(np.zeros_like(instruction.model))))
    assert refused.value.code is code
    assert list((site.folder / "outbox").iterdir()) == []
    assert [entry.fields["kind"] for entry in ledger(site).entries()] == ["genesis", "debit"]


@pytest.mark.parametrize("metrics", [(), ("steps",), ("update_norm",), ("steps", "update_norm")])
def test_only_metrics_of_the_policy_leave(tiny, tmp_path, metrics):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(metrics=metrics))
    assert set(answer(site, tiny.instruction(study)).metrics) == set(metrics)


def test_neither_images_nor_patients_move_the_charge_or_the_divisor(tiny, tmp_path):
    study = tiny.study()
    seen = []
    for name, images in (
        ("base", (2,) * 12),
        ("doubled", (4,) * 12),
        ("one with many", (40,) + (2,) * 11),
        ("one more patient", (2,) * 13),
    ):
        site = tiny.site(tmp_path / name, study, images=images)
        train = Training()
        answer(site, tiny.instruction(study), train)
        seen.append((train.calls[0]["mechanism"], tuple(ledger(site).charges())))
    assert len(set(map(repr, seen))) == 1


def test_an_honest_round_passes_the_norm_bound_even_when_everybody_is_drawn(tiny, tmp_path):
    study = tiny.study(
        privacy={"sampling_rate": 1.0, "noise_multiplier": 0.5, "steps_per_round": 5},
        training={"learning_rate": 2.0},
    )
    site = tiny.site(tmp_path / "s", study)
    assert np.isfinite(answer(site, tiny.instruction(study)).update).all()


@pytest.fixture
def as_listed(monkeypatch):
    """Let a register name the tiny cohort's patients by the pseudonyms that they have there."""
    monkeypatch.setattr("septum_client.pseudonyms.pseudonym", lambda key, patient: patient)
    monkeypatch.setattr("septum_client.pseudonyms.is_own", lambda key, text: text in PATIENTS)


def register(site, *rows, columns="patient_id,decision"):
    folder = site.folder / consent.FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "register.csv").write_text("\n".join([columns, *rows, ""]))


def opt(tiny, basis, **changes):
    return tiny.policy(intake=Intake(consent=basis, keep_days=36_500), **changes)


def test_whoever_does_not_permit_the_study_is_absent_from_the_round(tiny, tmp_path, as_listed):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-in"))
    register(site, *(f"{who},permit" for who in PATIENTS[:4]), f"{PATIENTS[5]},deny")
    train = Training()
    answer(site, tiny.instruction(study), train)
    assert trained(train) == set(PATIENTS[:4])


def test_the_register_is_read_anew_at_every_round(tiny, tmp_path, as_listed):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-out"))
    train = Training()
    for number, denied in ((1, ()), (2, PATIENTS[:1]), (3, PATIENTS[:2])):
        register(site, *(f"{who},deny" for who in denied))
        answer(site, tiny.instruction(study, round=number), train)
        assert trained(train) == set(PATIENTS[:10]) - set(denied)


def test_a_withdrawn_patient_is_absent_from_the_next_round_even_under_a_waiver(tiny, tmp_path):
    study = tiny.study()
    names = tuple(pseudonym(b"k" * 32, f"P{patient}") for patient in range(12))
    site = tiny.site(tmp_path / "s", study, names=list(names))
    train = Training()
    answer(site, tiny.instruction(study), train)
    assert names[3] in trained(train)
    consent.withdraw(site.folder / consent.FOLDER, names[3], key=site.key, on=NOW.date())
    answer(site, tiny.instruction(study, round=2), train)
    assert trained(train) == set(names[:10]) - {names[3]}


def test_real_training_never_draws_whoever_does_not_permit(tiny, tmp_path, as_listed):
    study = tiny.study(privacy={"sampling_rate": 1.0, "steps_per_round": 1})
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-out"))
    register(site, *(f"{who},deny" for who in PATIENTS[:7]))
    drawn = []

    def train(study, **given):
        drawn.extend(real_train(study, **given).drawn)
        return Update(vector=np.zeros_like(given["model"]), drawn=())

    answer(site, tiny.instruction(study), train)
    assert drawn == [3]


def test_consent_is_asked_for_the_purpose_of_the_study(tiny, tmp_path, as_listed):
    policy = opt(tiny, "opt-in", commercial=True)
    for code, commercial, some in (
        ("CLINTRCH", False, PATIENTS[:2]),
        ("HRESCH", False, PATIENTS[1:2]),
        ("HRESCH", True, ()),
    ):
        study = tiny.study(purpose_of_use=code, commercial=commercial)
        site = tiny.site(tmp_path / f"{code}{commercial}", study, policy=policy)
        rows = (f"{PATIENTS[0]},permit,CLINTRCH", f"{PATIENTS[1]},permit,HRESCH")
        register(site, *rows, columns="patient_id,decision,purposes")
        train = Training()
        if not some:
            refused_free(site, tiny.instruction(study), Code.TOO_FEW_PATIENTS)
            continue
        answer(site, tiny.instruction(study), train)
        assert trained(train) == set(some)


def test_what_the_images_declare_counts(tiny, tmp_path):
    study = tiny.study()
    declared = [1, 2, *[0] * 10]
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-in"), declared=declared)
    register(site)
    train = Training()
    answer(site, tiny.instruction(study), train)
    assert trained(train) == {PATIENTS[0]}


@pytest.mark.parametrize("basis", ["opt-in", "opt-out"])
def test_without_a_register_nobody_is_permitted(tiny, tmp_path, basis):
    site = tiny.site(tmp_path / "s", policy=opt(tiny, basis))
    refused_free(site, tiny.instruction(tiny.study()), Code.TOO_FEW_PATIENTS)


def test_the_minimum_counts_those_who_permit(tiny, tmp_path, as_listed):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-in", minimum_patients=4))
    # The last two are held out and count for nothing.
    register(site, *(f"{who},permit" for who in (*PATIENTS[:3], *PATIENTS[10:])))
    refused_free(site, tiny.instruction(study), Code.TOO_FEW_PATIENTS)
    register(site, *(f"{who},permit" for who in PATIENTS[:4]))
    answer(site, tiny.instruction(study), Training())


def test_a_register_that_cannot_be_read_costs_nothing_and_trains_nothing(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    register(site, "MUELLER-1957,perhaps")
    train = Training()
    with pytest.raises(DataError, match="row 2") as refused:
        answer(site, tiny.instruction(tiny.study()), train)
    assert "MUELLER" not in str(refused.value)
    assert train.calls == []
    assert ledger(site).charges() == []


def test_neither_consent_nor_its_refusal_moves_the_charge_or_the_divisor(tiny, tmp_path, as_listed):
    study = tiny.study()
    seen = []
    for denied in (0, 1, 9):
        site = tiny.site(tmp_path / str(denied), study, policy=opt(tiny, "opt-out"))
        register(site, *(f"{who},deny" for who in PATIENTS[:denied]))
        train = Training()
        answer(site, tiny.instruction(study), train)
        seen.append((train.calls[0]["mechanism"], tuple(ledger(site).charges())))
    assert len(set(map(repr, seen))) == 1


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_byte_changed_after_the_ingest_is_found_before_the_next_round(tiny, tmp_path, place):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    answer(site, tiny.instruction(study), Training())
    path = site.cohort_path / storage.IMAGES
    content = bytearray(path.read_bytes())
    pixels = 24 * 16 * 16 * 2
    at = {"first": -pixels, "middle": -pixels // 2, "last": -1}[place]
    content[at] ^= 1
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    train = Training()
    with pytest.raises(Refusal) as refused:
        answer(site, tiny.instruction(study, round=2), train)
    assert refused.value.code is Code.COHORT_ALTERED
    assert train.calls == []
    assert len(ledger(site).charges()) == 1


@pytest.mark.parametrize("name", [storage.INDEX, storage.IMAGES, storage.MANIFEST])
def test_a_cohort_that_was_cut_off_is_refused_free(tiny, tmp_path, name):
    site = tiny.site(tmp_path / "s")
    path = site.cohort_path / name
    path.write_bytes(path.read_bytes()[:-100])
    refused_free(site, tiny.instruction(tiny.study()), Code.COHORT_ALTERED)


def test_a_cohort_trains_on_its_last_day_and_not_on_the_next(tiny, tmp_path):
    study = tiny.study()
    made = {"made": "2026-01-01", "expires": NOW.date().isoformat(), "key": key_check(b"k" * 32)}
    site = tiny.site(tmp_path / "s", study, lineage=made)
    tomorrow = NOW + timedelta(days=1)
    refused_free(site, tiny.instruction(study), Code.COHORT_EXPIRED, now=tomorrow)
    answer(site, tiny.instruction(study), Training())


def test_a_shorter_retention_in_the_policy_counts_at_once(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    age = (NOW.date() - datetime(2026, 1, 1, tzinfo=UTC).date()).days
    for days, code in ((age - 1, Code.COHORT_EXPIRED), (age, None)):
        policy = tiny.policy(intake=Intake(consent="waived", keep_days=days))
        (site.folder / "policy.toml").write_text(policy.to_toml())
        if code:
            refused_free(site, tiny.instruction(study), code)
    answer(site, tiny.instruction(study), Training())


def test_the_ledger_says_by_which_register_and_over_whom_a_round_was_charged(
    tiny, tmp_path, as_listed
):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=opt(tiny, "opt-in"))
    register(site, *(f"{who},permit" for who in PATIENTS[:4]))
    seen = []

    def train(study, **given):
        debit = ledger(site).entries()[-1].fields
        seen.append((site.folder / lineage.FOLDER / debit[lineage.NOTE]).read_text())
        return Training()(study, **given)

    answer(site, tiny.instruction(study), train)
    debit = ledger(site).entries()[1].fields
    loaded = consent.Register.load(site.folder / consent.FOLDER, site.key)
    assert debit["consent"] == loaded.digest
    assert seen == ["".join(f"{who}\n" for who in PATIENTS[:4])]
    assert debit[lineage.NOTE] == hashlib.sha256(seen[0].encode()).hexdigest()


def test_an_unconsenting_view_copies_no_image(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    cohort = Cohort.open(site.cohort_path)
    assert cohort.only(np.zeros(12, dtype=bool)).images is cohort.images


def test_a_cohort_made_under_another_key_trains_nothing(tiny, tmp_path):
    study = tiny.study()
    made = {"made": "2026-01-01", "expires": "2126-01-01", "key": key_check(b"j" * 32)}
    site = tiny.site(tmp_path / "s", study, lineage=made)
    refused_free(site, tiny.instruction(study), Code.COHORT_MISMATCH)
