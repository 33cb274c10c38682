import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from septum_bench.seeded import SeededRandomness, SeededSource
from septum_client import randomness
from septum_client.randomness import SystemRandomness, grid, noised, scratch_for, system_source

DRAWS = 200_000
ONCE_IN_A_BILLION = stats.norm.isf(0.5e-9)


@pytest.fixture
def fixed_key(monkeypatch):
    """Make the system generator repeatable: the tests' statistics must not fail once in a while."""
    monkeypatch.setattr(randomness.os, "urandom", lambda count: bytes(range(count)))


def standard_normal(drawn, *, alarm=ONCE_IN_A_BILLION):
    """Return what speaks against independent standard normals, at one false alarm in a billion."""
    n = len(drawn)
    z = {
        "mean": drawn.mean() * math.sqrt(n),
        "variance": (np.square(drawn).mean() - 1) * math.sqrt(n / 2),
        "skewness": (drawn**3).mean() * math.sqrt(n / 15),
        "kurtosis": ((drawn**4).mean() - 3) * math.sqrt(n / 96),
        "neighbours": (drawn[:-1] * drawn[1:]).mean() * math.sqrt(n - 1),
        # A chunk's numbers share buffers: the two halves must not be tied.
        "halves": (drawn[: n // 2] ** 2 - 1) @ (drawn[n // 2 :] ** 2 - 1) / math.sqrt(4 * n // 2),
    }
    found = [name for name, value in z.items() if abs(value) > alarm]
    return found + ["distribution"] * int(stats.kstest(drawn, "norm").pvalue < 1e-9)


@pytest.mark.usefixtures("fixed_key")
def test_system_normals_are_standard_normal_for_a_fixed_keystream():
    # One stream for all time: the alarm may be as loud as one in a thousand.
    assert standard_normal(SystemRandomness().normal(DRAWS), alarm=3.3) == []


def test_system_normals_of_a_fresh_key_are_standard_normal():
    assert standard_normal(SystemRandomness().normal(DRAWS)) == []


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda drawn: drawn + 0.02,
        lambda drawn: drawn * 1.02,
        lambda drawn: np.clip(drawn, -2.5, 2.5),
        lambda drawn: np.repeat(drawn[::2], 2),
        lambda drawn: np.tile(drawn[: len(drawn) // 2], 2),
    ],
    ids=["shifted", "too wide", "no tails", "repeated", "two halves alike"],
)
def test_the_tests_of_normality_would_notice(spoilt):
    assert standard_normal(spoilt(SystemRandomness().normal(DRAWS))) != []


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


def test_no_chunk_of_a_long_draw_repeats_another():
    assert len(np.unique(SystemRandomness().normal(3 * (1 << 16) + 5))) == 3 * (1 << 16) + 5


def test_the_system_source_ignores_what_it_is_told():
    first, again = (system_source("north", "s" * 64, 1) for _ in range(2))
    assert not np.array_equal(first.uniform(8), again.uniform(8))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1001, 65_535, 65_537])
def test_any_number_of_draws_can_be_asked(count):
    drawn = SystemRandomness()
    assert drawn.normal(count).shape == drawn.uniform(count).shape == (count,)


@given(st.floats(1e-9, 1e9))
def test_the_grid_is_a_power_of_two_far_below_the_noise(std):
    step = grid(std)
    assert math.frexp(step)[0] == 0.5
    assert 2.0**-27 * std < step <= 2.0**-26 * std


class Told:
    """Randomness whose normals are given."""

    seeded = True

    def __init__(self, normals):
        self.normals = np.asarray(normals, dtype=np.float64)

    def normal(self, count, out=None):
        given, self.normals = self.normals[:count], self.normals[count:]
        return given


numbers = st.floats(-1e3, 1e3)


@given(std=st.floats(1e-3, 1e3), pairs=st.lists(st.tuples(numbers, numbers), min_size=1))
def test_adding_noise_and_rounding_to_the_grid_commute(std, pairs):
    totals, normals = np.array(pairs).T * [[std], [1.0]]
    step = grid(std)
    # On the grid, a sum moved by n steps moves the result by n steps: nothing else shows.
    base = noised(torch.tensor(totals), std=std, randomness=Told(normals)).numpy()
    for steps in (1, -3, 2**20):
        moved = torch.tensor(np.rint(totals / step) * step + steps * step)
        result = noised(moved, std=std, randomness=Told(normals)).numpy()
        assert np.array_equal(np.rint((result - base) / step), np.full(len(base), steps))


@given(st.floats(0.01, 100), st.floats(0, 1e-3))
def test_a_result_does_not_show_how_fine_the_sum_was(std, small):
    totals = torch.tensor([0.0, small, 1e-30, 1.0])
    noise = SeededRandomness(1).normal(4) * 1e-9  # so small that precision would show
    result = noised(totals.double(), std=std, randomness=Told(noise)) / grid(std)
    assert torch.equal(result, result.round())


def test_rounding_moves_a_sum_by_at_most_half_a_grid_step():
    totals = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = noised(totals, std=0.7, randomness=Told(np.zeros(10_000)))
    assert (result - totals).abs().max() <= grid(0.7) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_the_stated_std_is_on_every_coordinate(dtype):
    totals = torch.full((70, 1000), 3.0, dtype=dtype)
    result = noised(totals, std=0.25, randomness=SystemRandomness())
    assert (result.dtype, result.shape) == (dtype, totals.shape)
    assert standard_normal((result.double().numpy().ravel() - 3.0) / 0.25) == []
    assert torch.equal(totals, torch.full((70, 1000), 3.0, dtype=dtype))


def test_a_sum_can_be_noised_where_it_lies():
    totals = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(0))
    apart = noised(totals, std=0.5, randomness=SeededRandomness(1))
    scratch = scratch_for()
    for _ in range(2):  # what the first call left in the scratch shows in nothing
        given = totals.clone()
        result = noised(given, std=0.5, randomness=SeededRandomness(1), scratch=scratch, out=given)
        assert result is given
        assert torch.equal(given, apart)


def test_an_empty_or_scalar_sum_can_be_noised():
    assert noised(torch.zeros(0, 3), std=1.0, randomness=SystemRandomness()).shape == (0, 3)
    assert noised(torch.tensor(1.0), std=1.0, randomness=SystemRandomness()).shape == ()


def test_a_seeded_source_repeats_and_never_shares_a_stream():
    source = SeededSource(3)
    assert source("a", "s", 1).seeded
    assert np.array_equal(source("a", "s", 1).normal(9), SeededSource(3)("a", "s", 1).normal(9))
    streams = [source(*key).normal(1)[0] for key in [
        ("a", "s", 1), ("a", "s", 2), ("b", "s", 1), ("a", "t", 1), ("a", "s", 11),
    ]] + [SeededSource(4)("a", "s", 1).normal(1)[0]]  # fmt: skip
    assert len(set(streams)) == len(streams)
