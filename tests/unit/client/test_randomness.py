import numpy as np
import pytest
from scipy import stats

from septum_bench.seeded import SeededSource
from septum_client import randomness
from septum_client.randomness import SystemRandomness, system_source

DRAWS = 200_000


@pytest.fixture
def fixed_key(monkeypatch):
    """Make the system generator repeatable: the tests' statistics must not fail once in a while."""
    monkeypatch.setattr(randomness.os, "urandom", lambda count: bytes(range(count)))


@pytest.mark.usefixtures("fixed_key")
def test_system_normals_are_standard_normal():
    drawn = SystemRandomness().normal(DRAWS)
    assert abs(drawn.mean()) < 4 / np.sqrt(DRAWS)
    assert abs(drawn.var() - 1) < 4 * np.sqrt(2 / DRAWS)
    assert stats.kstest(drawn, "norm").pvalue > 0.001
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(DRAWS)
    # Box-Muller makes pairs from one radius: the two halves must not be tied.
    halves = np.abs(drawn[: DRAWS // 2]), np.abs(drawn[DRAWS // 2 :])
    assert abs(np.corrcoef(*halves)[0, 1]) < 4 / np.sqrt(DRAWS // 2)


@pytest.mark.usefixtures("fixed_key")
def test_system_uniforms_are_uniform_on_zero_to_one():
    drawn = SystemRandomness().uniform(DRAWS)
    assert stats.kstest(drawn, "uniform").pvalue > 0.001
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.all(drawn * 2**53 == np.floor(drawn * 2**53))


def test_system_numbers_never_repeat():
    many = [SystemRandomness().normal(100) for _ in range(20)]
    one = SystemRandomness()
    many += [one.normal(100) for _ in range(20)]
    assert len(np.unique(np.concatenate(many))) == 4000
    assert not one.seeded


def test_the_system_source_ignores_what_it_is_told():
    first, again = (system_source("north", "s" * 64, 1) for _ in range(2))
    assert not np.array_equal(first.uniform(8), again.uniform(8))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1001])
def test_any_number_of_draws_can_be_asked(count):
    drawn = SystemRandomness()
    assert drawn.normal(count).shape == drawn.uniform(count).shape == (count,)


def test_a_seeded_source_repeats_and_never_shares_a_stream():
    source = SeededSource(3)
    assert source("a", "s", 1).seeded
    assert np.array_equal(source("a", "s", 1).normal(9), SeededSource(3)("a", "s", 1).normal(9))
    streams = [source(*key).normal(1)[0] for key in [
        ("a", "s", 1), ("a", "s", 2), ("b", "s", 1), ("a", "t", 1), ("a", "s", 11),
    ]] + [SeededSource(4)("a", "s", 1).normal(1)[0]]  # fmt: skip
    assert len(set(streams)) == len(streams)
