import dataclasses
import sqlite3

import numpy as np
import pytest

from septum.accounting import epsilon
from septum.errors import BudgetExceeded, Code, GateRefusal, LedgerError, Refusal
from septum.wire import encode_release, payload_digest
from septum_bench.seeded import SeededSource
from septum_client import gate
from septum_client.budget import Ledger
from septum_client.train import Update
from septum_client.train import train as real_train

SOURCE = SeededSource(5)


class Training:
    """Stands in for training: counts its calls and returns the update it was given."""

    def __init__(self, vector=None):
        self.calls = []
        self.vector = vector

    def __call__(self, study, **given):
        self.calls.append(given)
        vector = np.zeros_like(given["model"]) if self.vector is None else self.vector
        return Update(vector=vector, drawn=())


def answer(site, instruction, train=real_train):
    return gate.answer(site, instruction, source=SOURCE, train=train)


def ledger(site):
    return Ledger(site.ledger_path)


def refused_free(site, instruction, code):
    """Check that the instruction is refused with ``code``, untrained and uncharged."""
    train = Training()
    with pytest.raises(Refusal) as refused:
        answer(site, instruction, train)
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
    refused_free(site, tiny.instruction(tiny.study()), Code.STUDY_NOT_ALLOWED)


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
    limit = epsilon([studies[0].mechanism("north").charge()] * 2, delta=1e-4)
    site = tiny.site(tmp_path / "s", studies[0], policy=tiny.policy(epsilon_total=limit))
    for study in studies[:2]:
        site.approve(study)
        answer(site, tiny.instruction(study), Training())
    site.approve(studies[2])
    with pytest.raises(BudgetExceeded, match="all studies"):
        answer(site, tiny.instruction(studies[2]), Training())


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
