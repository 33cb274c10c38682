"""The ziggurat's numbers are normal in the core, in the wedges and in the tail."""

import math

import numpy as np
import pytest
from scipy import stats

from septum_client import ziggurat
from septum_client.randomness import grid
from septum_client.ziggurat import Ziggurat

START = 3.6541528853610088
EDGES = ziggurat._EDGES


class Words:
    """Gives the words that it was told to give, then a generator's."""

    def __init__(self, *words, seed=0):
        self.told = list(words)
        self.rng = np.random.default_rng(seed)

    def __call__(self, count):
        told, self.told = self.told[:count], self.told[count:]
        more = self.rng.integers(0, 2**64, count - len(told), dtype=np.uint64)
        return np.concatenate([np.array(told, dtype=np.uint64), more]).view(np.int64)


def word(strip, place):
    """Return the word that names this place, from -1 to 1, of this strip's width."""
    return (math.floor(place * 2**55) << 8 | strip) % 2**64


def drawn(count, words):
    out = np.empty(count)
    Ziggurat(words).fill(out)
    return out


@pytest.fixture(scope="module")
def many():
    return drawn(4_000_000, Words())


def test_the_strips_have_equal_areas_and_close_at_the_top():
    heights = np.exp(-0.5 * EDGES**2)
    areas = EDGES[1:-1] * (heights[2:] - heights[1:-1])
    lowest = START * heights[1] + math.sqrt(math.pi / 2) * math.erfc(START / math.sqrt(2))
    assert areas == pytest.approx(np.full(255, lowest), rel=1e-12)
    assert EDGES[0] * heights[1] == pytest.approx(lowest, rel=1e-15)
    assert np.all(np.diff(EDGES) < 0)


@pytest.mark.parametrize("strip", [0, 1, 100, 200])
@pytest.mark.parametrize("place", [0.0, 0.25, -0.25, 0.5, -0.875])
def test_a_place_in_the_core_is_taken_as_it_is(strip, place):
    assert drawn(1, Words(word(strip, place))) == [place * EDGES[strip]]


@pytest.mark.parametrize("strip", [1, 100, 254, 255])
def test_a_place_in_the_wedge_is_kept_under_the_curve_and_drawn_anew_above_it(strip):
    inner, outer = EDGES[strip + 1], EDGES[strip]
    place = (inner + outer) / 2 / outer
    x = math.floor(place * 2**55) / 2**55 * outer
    low, high = np.exp(-0.5 * EDGES[strip] ** 2), np.exp(-0.5 * EDGES[strip + 1] ** 2)
    curve = (math.exp(-0.5 * x * x) - low) / (high - low)
    for shift, kept in ((-1e-6, True), (1e-6, False)):
        height = math.floor((curve + shift) * 2**64)
        number = drawn(1, Words(word(strip, place), height, word(200, 0.125)))
        assert number == [x if kept else 0.125 * EDGES[200]]


@pytest.mark.parametrize(("sign", "place"), [(1, 0), (-1, 2**63)])
def test_a_place_beyond_the_lowest_strip_is_drawn_from_the_tail(sign, place):
    half = [2**63, 2**63 - 1, 0, 0]  # both uniform numbers of the tail, in two words each
    told = [word(0, 0.999), 0, place, *half]
    past = math.log(2) / START
    assert drawn(1, Words(*told)) == pytest.approx([sign * (START + past)], rel=1e-12)


def test_the_rarest_words_reach_further_than_anybody_could_wait_for():
    told = [word(0, 0.999), 0, 0, 0, 0, 2**60 - 1, 0]
    number = drawn(1, Words(*told))[0]
    assert number == pytest.approx(START + 68 * math.log(2) / START, rel=1e-12)
    assert stats.norm.sf(number) < 1e-60


def test_all_strips_together_are_normal(many):
    assert stats.kstest(many, "norm").pvalue > 0.001
    bins = stats.norm.ppf(np.linspace(0, 1, 2001)[1:-1])
    counts = np.bincount(np.searchsorted(bins, many), minlength=2000)
    assert stats.chisquare(counts).pvalue > 0.001


def test_the_tail_is_as_heavy_and_as_long_as_a_normal_one(many):
    tail = np.abs(many[np.abs(many) > START]) - START
    expected = 2 * stats.norm.sf(START) * len(many)
    assert abs(len(tail) - expected) < 3.3 * math.sqrt(expected)
    beyond = 1 - stats.norm.sf(tail + START) / stats.norm.sf(START)
    assert stats.kstest(beyond, "uniform").pvalue > 0.001


def test_the_wedges_hold_their_share(many):
    # Of the strip from 3.32 to 3.45 only a wedge lies beyond the next edge's core.
    for inner, outer in ((EDGES[3], EDGES[2]), (EDGES[255], EDGES[254]), (0, EDGES[255])):
        expected = 2 * (stats.norm.cdf(outer) - stats.norm.cdf(inner)) * len(many)
        found = np.count_nonzero((np.abs(many) >= inner) & (np.abs(many) < outer))
        assert abs(found - expected) < 3.3 * math.sqrt(expected)


def test_a_sampler_without_wedges_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Ziggurat, "_settled", lambda _self, numbers, _strips: numbers)
    bins = stats.norm.ppf(np.linspace(0, 1, 2001)[1:-1])
    counts = np.bincount(np.searchsorted(bins, drawn(4_000_000, Words())), minlength=2000)
    assert stats.chisquare(counts).pvalue < 1e-6


@pytest.mark.parametrize("count", [0, 1, 31, (1 << 15) + 1, (1 << 17) + 3])
def test_every_length_is_filled(count):
    out = np.full(count, np.nan)
    Ziggurat(Words()).fill(out)
    assert np.isfinite(out).all()
    assert len(np.unique(out)) == count


def test_a_step_of_the_grid_holds_the_places_that_are_promised(many):
    finest = grid(1.9999999) / 1.9999999
    for low, high in ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0)):
        drawn_here = np.abs(many[(np.abs(many) >= low) & (np.abs(many) < high)])
        places = drawn_here * 2.0**51
        assert np.any(places != 2 * np.floor(places / 2))  # not all on a lattice twice as coarse
    assert finest / 2.0**-51 >= 2**24
