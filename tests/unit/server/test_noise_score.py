"""The coordinator's cheap look: an un-noised site raises an alarm, a correct one does not."""

import dataclasses
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from septum.models import network_of, to_vector
from septum.wire import Release
from septum_bench.faulty_clients import OneLayerUnnoised, OverTheClip, quieter
from septum_bench.seeded import SeededRandomness
from septum_client.train import train
from septum_server import noise_score
from septum_server.arrivals import Arrivals
from septum_server.noise_score import Implied, scores
from septum_server.rounds import RoundRecord, read, record
from septum_server.tally import Part
from septum_strategies.mean import weighted_mean

NORTH, SOUTH = "north", "south"


@pytest.fixture
def make(tiny, tmp_path):
    cohort = tiny.cohort(tmp_path / "cohort", tiny.study(), images=(1,) * 14)

    def made(*, trainer=None, seed=0, site=NORTH, **parts):
        study = tiny.study(**parts)
        run = partial(train, trainer=trainer) if trainer else train
        update = run(
            study,
            mechanism=study.mechanism(site),
            cohort=cohort,
            model=to_vector(network_of(study)),
            randomness=SeededRandomness(seed),
        )
        return study, release(study, update.vector, site=site)

    return made


def release(study, vector, *, site=NORTH):
    return Release(
        study=study.digest,
        site=site,
        round=1,
        instruction="0" * 64,
        noise_multiplier=study.privacy.noise_multiplier,
        max_grad_norm=study.privacy.max_grad_norm,
        ledger_head="0" * 64,
        update=vector,
    )


PARTS = [
    {},
    {"training": {"momentum": 0.7}},
    {"training": {"proximal_mu": 0.5}, "strategy": {"name": "fedprox"}},
    {"privacy": {"steps_per_round": 8, "noise_multiplier": 0.6}},
]


@pytest.mark.parametrize("parts", PARTS, ids=["sgd", "momentum", "fedprox", "many steps"])
def test_a_correct_site_is_as_loud_as_it_states_and_raises_no_alarm(make, parts):
    study, north = make(**parts)
    _, south = make(site=SOUTH, seed=1, **parts)
    made, alarms = scores({NORTH: north, SOUTH: south}, study=study)
    assert alarms == ()
    for site in (NORTH, SOUTH):
        assert made[site]["noise"] == pytest.approx(1.0, abs=0.05)
        assert 0.7 < made[site]["noise_least"] < 1.0
        assert 0 < made[site]["norm"] < 1


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.8])
def test_a_site_with_too_little_noise_raises_an_alarm(make, share):
    study, north = make(trainer=quieter(share))
    made, alarms = scores({NORTH: north}, study=study)
    assert made[NORTH]["noise"] < 0.9
    assert any(alarm.startswith(f"north: {noise_score.NOISE_LOW} ") for alarm in alarms)


def test_a_layer_without_noise_raises_an_alarm_though_the_rest_is_as_stated(make):
    study, north = make(trainer=OneLayerUnnoised)
    made, alarms = scores({NORTH: north}, study=study)
    assert made[NORTH]["noise_least"] < 0.2
    assert any(noise_score.NOISE_LOW_SOMEWHERE in alarm for alarm in alarms)


def test_what_a_coordinator_cannot_see_raises_no_alarm(make):
    # Stated so that nobody takes silence for proof: this needs the hospital's data.
    study, north = make(trainer=OverTheClip)
    assert scores({NORTH: north}, study=study)[1] == ()


def test_the_same_noise_twice_raises_an_alarm(make):
    study, north = make()
    copied = dataclasses.replace(north, site=SOUTH)
    made, alarms = scores({NORTH: north, SOUTH: copied}, study=study)
    assert made[NORTH]["likeness"] == 1.0
    assert [alarm for alarm in alarms if noise_score.SAME_NOISE in alarm]
    _, alarms = scores({NORTH: north}, study=study, previous={NORTH: north})
    assert "with north's last's" in "".join(alarms)


def test_an_update_longer_than_the_mechanism_makes_raises_an_alarm(make):
    study, north = make()
    longer = dataclasses.replace(north, update=north.update * np.float32(3.0))
    made, alarms = scores({NORTH: longer}, study=study)
    assert made[NORTH]["norm"] > 1
    assert any(noise_score.NORM_HIGH in alarm for alarm in alarms)


def test_a_site_with_more_noise_is_held_to_what_it_states(make):
    study, north = make()
    louder = dataclasses.replace(north, noise_multiplier=2 * study.privacy.noise_multiplier)
    assert any(noise_score.NOISE_LOW in alarm for alarm in scores({NORTH: louder}, study=study)[1])


def test_what_cannot_be_resolved_is_left_out_and_raises_nothing(tiny):
    adam = tiny.study(training={"optimizer": "adam", "learning_rate": 1e-3})
    nothing = release(adam, np.zeros(5000, np.float32))
    assert Implied.of(nothing, adam) is None
    assert scores({NORTH: nothing}, study=adam) == ({NORTH: {}}, ())
    few = release(tiny.study(), np.full(40, 1e-9, np.float32))
    made, alarms = scores({NORTH: few}, study=tiny.study())
    assert set(made[NORTH]) == {"norm"}
    assert alarms == ()


def test_scores_and_alarms_are_in_the_record_and_old_records_are_read(tmp_path):
    entry = RoundRecord(
        round=1,
        asked=("a",),
        answered=("a",),
        scores={"a": {"noise": 0.02}},
        alarms=("a: NOISE_LOW 0.020 of the stated noise (least 0.900)",),
        seconds=0.5,
        at="2026-01-01T00:00:00+00:00",
    )
    record(tmp_path, entry)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write(
            '{"round": 2, "asked": [], "answered": [], "strays": [], "seconds": 1, "at": ""}\n'
        )
    first, second = read(tmp_path)
    assert first == entry
    assert (second.scores, second.alarms) == ({}, ())


@pytest.mark.parametrize("count", [2048, 70_000, 200_001])
def test_the_quietest_block_is_the_one_that_sorting_every_block_finds(count):
    rng = np.random.default_rng(count)
    update = rng.standard_normal(count, dtype=np.float32)
    update[1024:2048] = np.round(update[1024:2048], 1)  # many of one size
    update[-3000:-1000] *= 0.8
    blocks = np.abs(update[: count // 1024 * 1024].reshape(-1, 1024))
    assert noise_score._least_median(update) == np.median(blocks, axis=1).min()


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1001])
def test_the_median_is_that_of_numpy_to_the_last_bit(count):
    sizes = np.abs(np.random.default_rng(count).standard_normal(count, dtype=np.float32))
    expected = float(np.median(sizes))
    assert noise_score._median(sizes) == expected


def test_many_are_compared_on_some_of_their_weights_and_a_copy_is_still_seen(monkeypatch):
    monkeypatch.setattr(noise_score, "_FEWEST", 4096)
    monkeypatch.setattr(noise_score, "_MOST", 8192)
    monkeypatch.setattr(noise_score, "_AT_ONCE", 20_000)
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(100_000, dtype=np.float32) for _ in range(5)]
    releases = [SimpleNamespace(update=vector) for vector in [*vectors, vectors[3]]]
    alike, compared = noise_score._likenesses(releases)
    assert 4096 <= compared <= 16384
    assert alike[3, 5] == pytest.approx(1.0)
    alike[3, 5] = alike[5, 3] = 0.0
    assert np.abs(alike - np.eye(6)).max() < 6 / np.sqrt(compared)


def test_memory_of_a_round_does_not_grow_with_the_number_of_releases(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(noise_score, "_AT_ONCE", 1 << 16)
    size, study = 250_000, tiny.study()
    rng = np.random.default_rng(0)

    def peak(count):
        arrivals = Arrivals(folder=tmp_path / str(count))
        noise = [rng.standard_normal(size, dtype=np.float32) for _ in range(2)]
        kept = {
            f"s{at}": arrivals.take(release(study, np.roll(noise[at % 2], at), site=NORTH))
            for at in range(count)
        }
        del noise
        tracemalloc.start()
        try:
            noise_score._likenesses(list(kept.values()))
            parts = [Part(arrived=arrived, patients=1) for arrived in kept.values()]
            weighted_mean(np.zeros(size, np.float32), parts)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(3), peak(30)
    assert many - few < 4 * size, "less than one more release"
