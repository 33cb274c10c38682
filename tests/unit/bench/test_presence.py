"""Who is in a release: the regression, its ends, and what stands out over rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import ConfigError
from septum_bench.attacks.likelihood import StepNoise
from septum_bench.attacks.presence import ReleaseView, all_for_one, cosines, presence
from septum_bench.audit.measured_rounds import COORDINATOR
from septum_bench.audit.roc import Stratum, area

PEOPLE, WEIGHTS = 40, 300


def gradients(seed=0):
    """Gradients as networks have them: most of each is what all share."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=WEIGHTS) * 3 + rng.normal(size=(PEOPLE, WEIGHTS))


def look(released, made, *, std, rate=0.5, steps=1):
    return ReleaseView(
        threat=COORDINATOR,
        released=released,
        candidates=made,
        noise=StepNoise(std=std, rate=rate, steps=steps),
        patients=PEOPLE,
    )


def test_without_noise_the_draws_are_read_off_exactly():
    made = gradients()
    drawn = np.random.default_rng(1).binomial(3, 0.4, size=(2, PEOPLE))
    found = presence(look(drawn @ made, made, std=0.0, rate=0.4, steps=3))
    assert np.allclose(found.draws, drawn, atol=0.2)
    for row, odds in zip(drawn, found.log_odds, strict=True):
        assert area([Stratum(inside=odds[row > 0], outside=odds[row == 0])]) == 1.0


def test_it_sees_through_what_all_share_where_a_plain_cosine_does_not():
    made, rng = gradients(), np.random.default_rng(2)
    regression, plain = [], []
    for _ in range(20):
        inside = rng.random(PEOPLE) < 0.5
        seen = (inside @ made + rng.normal(size=WEIGHTS) * 4.0)[None]
        view = look(seen, made, std=4.0)
        for scores, kept in ((presence(view).log_odds[0], regression), (cosines(view)[0], plain)):
            kept.append(Stratum(inside=scores[inside], outside=scores[~inside]))
    assert area(regression) > area(plain) + 0.1
    assert area(regression) > 0.85


def test_a_release_that_holds_nobody_ranks_nobody():
    made, rng = gradients(), np.random.default_rng(3)
    strata = []
    for _ in range(40):
        inside = rng.random(PEOPLE) < 0.5
        odds = presence(look(rng.normal(size=(1, WEIGHTS)), made, std=1.0)).log_odds[0]
        strata.append(Stratum(inside=odds[inside], outside=odds[~inside]))
    assert abs(area(strata) - 0.5) < 0.05


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(PEOPLE)))
def test_permuting_candidates_permutes_the_result(order):
    made = gradients()
    seen = made[:9].sum(axis=0)[None] + np.random.default_rng(4).normal(size=(1, WEIGHTS))
    plain = presence(look(seen, made, std=1.0)).draws[0]
    assert np.allclose(presence(look(seen, made[order], std=1.0)).draws[0], plain[order], atol=1e-6)


def test_a_candidate_stands_out_by_what_other_hospitals_do_not_show():
    measured = np.random.default_rng(5).normal(size=(6, 3, PEOPLE)) + np.linspace(0, 9, PEOPLE)
    measured[:, 0, :4] += 3.0
    scores = all_for_one(measured, own=0)
    assert scores[:4].min() > scores[4:].max()
    assert (measured[:, 0].sum(axis=0)[:4] < measured[:, 0].sum(axis=0)[-4:]).all()
    with pytest.raises(ConfigError, match="one hospital"):
        all_for_one(measured[:, :1], own=0)


def test_a_release_of_another_network_is_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        look(np.ones((1, WEIGHTS - 1)), gradients(), std=1.0)
