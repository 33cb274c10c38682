"""Whole studies of three tiny hospitals, through Flower's two apps on the local engine."""

import shutil

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from septum.accounting import epsilon
from septum.errors import EngineError
from septum_bench import engine
from septum_bench.seeded import SeededSource
from septum_client.budget import Ledger
from septum_client.site import Site
from septum_server import checkpoint, rounds
from septum_server.app import server_app


class Federation:
    """Three sites, one server folder, and what the server saw."""

    def __init__(self, tiny, folder, *, study=None, sites=3, policy=None):
        self.tiny, self.folder = tiny, folder
        signed = tiny.signed(study)
        self.study = signed.study
        self.sites = [
            tiny.site(folder / name, signed, name=name, seed=number, policy=policy)
            for number, name in enumerate(tiny.names[:sites])
        ]
        self.seen = []

    def run(self, *, then=lambda record: None, resume=False, workers=2, seed=7):
        def watch(record, model, releases):
            self.seen.append((record, model, tuple(releases)))
            then(record)

        server = server_app(
            self.study,
            folder=self.folder / "server",
            resume=resume,
            watch=watch,
            key=self.tiny.key("coordinator"),
        )
        engine.run(
            server,
            [site.folder for site in self.sites],
            engine="local",
            workers=workers,
            source=SeededSource(seed),
            home=self.folder / "flower",
        )
        return self

    @property
    def records(self):
        return rounds.read(self.folder / "server")

    @property
    def model(self):
        return checkpoint.latest(self.folder / "server", digest=self.study.digest).model

    def ledger(self, number):
        return Ledger(self.sites[number].ledger_path)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Return an uninterrupted study of three rounds."""
    return Federation(tiny, tmp_path_factory.mktemp("whole")).run()


def test_a_study_runs_to_its_last_round_with_everybody(whole):
    assert [record.round for record in whole.records] == [1, 2, 3]
    assert all(record.complete for record in whole.records)
    assert not np.array_equal(whole.model, whole.tiny.instruction(whole.study).model)
    assert np.isfinite(whole.model).all()


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(whole, tiny, tmp_path):
    again = Federation(tiny, tmp_path).run(workers=3)
    assert again.model.tobytes() == whole.model.tobytes()


def test_another_seed_gives_other_noise(whole, tiny, tmp_path):
    study = tiny.study(rounds=1)
    assert Federation(tiny, tmp_path, study=study).run(seed=8).model.tobytes() not in {
        model.tobytes() for _, model, _ in whole.seen
    }


def test_epsilon_composes_over_rounds_instead_of_starting_anew(whole):
    step = dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(1.0))
    reference = PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(step, 3 * 2))
    for number in range(3):
        charges = whole.ledger(number).charges()
        assert len(charges) == 3
        spent = epsilon(charges, delta=1e-4)
        assert spent == pytest.approx(reference.get_epsilon(1e-4), abs=1e-3)
        assert spent > 1.2 * epsilon(charges[:1], delta=1e-4)


def test_each_ledger_passes_through_every_head_that_the_coordinator_recorded(whole):
    for number, name in enumerate(whole.tiny.names):
        for record in whole.records:
            whole.ledger(number).verify(head=record.heads[name])


def test_every_release_is_an_update_with_the_mechanisms_noise(whole):
    for _, _, releases in whole.seen:
        for release in releases:
            assert_noised(whole.study, release)


def assert_noised(study, release):
    mechanism = study.mechanism(release.site)
    std = (
        study.training.learning_rate
        * mechanism.noise_std
        / mechanism.expected_patients
        * np.sqrt(mechanism.steps)
    )
    spread = np.median(np.abs(release.update)) / 0.6745  # robust: signal sits in few coordinates
    assert 0.8 * std < spread < 1.6 * std


def test_a_site_that_joins_late_trains_privately_and_is_charged_from_its_first_round(
    tiny, tmp_path
):
    federation = Federation(tiny, tmp_path)
    late = federation.sites[2]
    policy = (late.folder / "policy.toml").read_text()
    (late.folder / "policy.toml").unlink()

    def let_in(record):
        (late.folder / "policy.toml").write_text(policy)

    federation.run(then=let_in)
    assert [record.refused for record in federation.records] == [{"west": "SITE_201"}, {}, {}]
    debits = [e.fields for e in federation.ledger(2).entries() if e.fields["kind"] == "debit"]
    assert [debit["round"] for debit in debits] == [2, 3]
    assert federation.ledger(2).charges() == [federation.study.mechanism("west").charge()] * 2
    joined = [r for _, _, releases in federation.seen for r in releases if r.site == "west"]
    assert len(joined) == 2
    for release in joined:
        assert_noised(federation.study, release)


def test_a_subset_is_recorded_as_a_subset(tiny, tmp_path):
    federation = Federation(tiny, tmp_path)
    broken = federation.sites[1]
    (broken.cohort_path / "index.npz").write_bytes(b"damaged")
    federation.run()
    for record in federation.records:
        assert record.asked == ("north", "south", "west")
        assert record.answered == ("north", "west")
        assert record.refused == {"south": "SITE_209"}
        assert not record.complete
    assert federation.ledger(1).charges() == []


def test_a_hospital_out_of_budget_stops_and_the_others_go_on(tiny, tmp_path):
    federation = Federation(tiny, tmp_path)
    one = federation.study.mechanism("north").charge()
    limit = epsilon([one] * 2, delta=1e-4)
    (federation.sites[0].folder / "policy.toml").write_text(
        tiny.policy(epsilon_per_study=limit).to_toml()
    )
    federation.run()
    assert [record.refused for record in federation.records] == [{}, {}, {"north": "SITE_210"}]
    assert epsilon(federation.ledger(0).charges(), delta=1e-4) <= limit


def test_too_few_hospitals_end_the_run_with_reasons_and_no_new_model(tiny, tmp_path):
    federation = Federation(tiny, tmp_path)
    for site in federation.sites[:2]:
        (site.folder / "policy.toml").unlink()
    with pytest.raises(EngineError, match="north: SITE_201, south: SITE_201"):
        federation.run()
    assert federation.model.tobytes() == tiny.instruction(federation.study).model.tobytes()
    for site in federation.sites[:2]:
        (site.folder / "policy.toml").write_text(tiny.policy().to_toml())
    federation.run(resume=True)
    assert len(federation.ledger(2).charges()) == 3, "the round that failed is not charged again"


class Crash(BaseException):
    """A crash of the coordinator, which no handler may swallow."""


@pytest.mark.parametrize("lost", ["nothing", "the checkpoint"])
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedavgm", "momentum": 0.9, "ema": 0.5, "minimum_sites": 2},
        {"name": "fedadam", "momentum": 0.9, "learning_rate": 0.01, "minimum_sites": 2},
    ],
    ids=["momentum and average", "adam"],
)
def test_momentum_adam_and_average_survive_a_crash_and_another_machine(
    tiny, tmp_path, strategy, lost
):
    study = tiny.study(
        strategy=strategy,
        training={"optimizer": "adam", "learning_rate": 0.01, "augmentation": "radiograph"},
    )
    whole = Federation(tiny, tmp_path / "whole", study=study).run()
    stopped = Federation(tiny, tmp_path / "stopped", study=study)

    def crash(record):
        if record.round == 2:
            raise Crash

    with pytest.raises(Crash):
        stopped.run(then=crash)
    # Everything that a machine had is in the folder: what is moved goes on elsewhere.
    moved = shutil.move(stopped.folder, tmp_path / "moved")
    if lost == "the checkpoint":
        (moved / "server" / "round-00002.npz").unlink()
    other = Federation.__new__(Federation)
    other.__dict__ |= stopped.__dict__ | {"folder": moved}
    other.sites = [Site.open(moved / name) for name in tiny.names]
    other.run(resume=True)
    ends = [
        checkpoint.latest(each.folder / "server", digest=each.study.digest)
        for each in (whole, other)
    ]
    assert ends[0].model.tobytes() == ends[1].model.tobytes()
    assert ends[0].published.tobytes() == ends[1].published.tobytes()
    assert {k: v.tobytes() for k, v in ends[0].state.items()} == {
        k: v.tobytes() for k, v in ends[1].state.items()
    }
    assert ("average" in ends[0].state) == (ends[0].published.tobytes() != ends[0].model.tobytes())
    for number in range(3):
        assert other.ledger(number).charges() == whole.ledger(number).charges()


@pytest.mark.parametrize("lost", ["nothing", "the checkpoint", "the record's tail", "both"])
def test_a_resumed_study_ends_in_the_same_model_at_the_same_charge(whole, tiny, tmp_path, lost):
    federation = Federation(tiny, tmp_path)

    def crash(record):
        if record.round == 2:
            raise Crash

    with pytest.raises(Crash):
        federation.run(then=crash)
    server = tmp_path / "server"
    if lost in {"the checkpoint", "both"}:
        (server / "round-00002.npz").unlink()
    if lost in {"the record's tail", "both"}:
        raw = (server / "rounds.jsonl").read_bytes()
        (server / "rounds.jsonl").write_bytes(raw[:-40])
    federation.run(resume=True)
    assert federation.model.tobytes() == whole.model.tobytes()
    for number in range(3):
        assert federation.ledger(number).charges() == whole.ledger(number).charges()
    if lost != "the record's tail":
        assert [record.round for record in federation.records] == [1, 2, 3]
    else:
        assert [record.round for record in federation.records] == [1, 3]


def test_a_finished_study_resumed_does_nothing(tiny, tmp_path):
    federation = Federation(tiny, tmp_path, study=tiny.study(rounds=1)).run()
    before = federation.model.tobytes()
    federation.run(resume=True)
    assert federation.model.tobytes() == before
    assert len(federation.ledger(0).charges()) == 1


def test_fedprox_runs_at_the_same_charge(tiny, tmp_path):
    study = tiny.study(
        rounds=1,
        strategy={"name": "fedprox", "minimum_sites": 2},
        training={"proximal_mu": 0.1},
    )
    federation = Federation(tiny, tmp_path, study=study).run()
    assert federation.ledger(0).charges() == [study.mechanism("north").charge()]


def test_the_local_engine_writes_nothing_outside_the_run(tiny, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    Federation(tiny, tmp_path / "run", study=tiny.study(rounds=1), sites=3).run()
    assert list(home.iterdir()) == []
    assert not (tmp_path / "run" / "flower").exists()
