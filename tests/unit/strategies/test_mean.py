import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from septum_strategies import STRATEGIES, Contribution, mean
from septum_strategies.mean import weighted_mean

LENGTH = 5
vectors = hnp.arrays(np.float32, LENGTH, elements=st.floats(-1e6, 1e6, width=32))
rounds = st.lists(st.tuples(vectors, st.integers(1, 10**6)), min_size=1, max_size=5)
every = pytest.mark.parametrize("strategy", [weighted_mean])


def parts(contributions):
    return [
        Contribution(site=f"site-{index}", update=update, patients=patients)
        for index, (update, patients) in enumerate(contributions)
    ]


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_fedavg_and_fedprox_are_this_mean_and_carry_nothing_along(name):
    model, updates = np.ones(LENGTH, np.float32), parts([(np.ones(LENGTH, np.float32), 3)])
    moved, state = STRATEGIES[name](model, updates, state={}, settings=None)
    assert moved.tobytes() == weighted_mean(model, updates).tobytes()
    assert state == {}


@every
@given(model=vectors, contributions=rounds, data=st.data())
def test_the_order_of_contributions_never_changes_a_byte(strategy, model, contributions, data):
    given_order = parts(contributions)
    other = data.draw(st.permutations(given_order))
    assert strategy(model, given_order).tobytes() == strategy(model, other).tobytes()


@every
def test_order_does_not_matter_where_floating_point_sums_depend_on_it(strategy):
    contributions = parts([(np.full(LENGTH, v, np.float32), 1) for v in (1e30, 1.0, -1e30, 7.0)])
    zero = np.zeros(LENGTH, np.float32)
    results = {strategy(zero, order).tobytes() for order in itertools.permutations(contributions)}
    assert len(results) == 1


@every
@given(model=vectors, update=vectors, patients=st.integers(1, 10**6))
def test_one_contribution_is_added_whole(strategy, model, update, patients):
    assert np.array_equal(strategy(model, parts([(update, patients)])), model + update)


@every
@given(model=vectors, contributions=rounds)
def test_the_result_lies_between_the_contributions(strategy, model, contributions):
    moved = strategy(model, parts(contributions))
    assert moved.dtype == np.float32
    every = np.stack([update for update, _ in contributions]).astype(np.float64) + model
    slack = 1e-6 * (np.abs(every).max() + np.abs(model).max() + 1)
    assert np.all(moved >= every.min(axis=0) - slack)
    assert np.all(moved <= every.max(axis=0) + slack)


@every
def test_a_strategy_changes_none_of_its_arguments(strategy):
    model, update = np.ones(LENGTH, np.float32), np.full(LENGTH, 2, np.float32)
    model.setflags(write=False)
    update.setflags(write=False)
    strategy(model, parts([(update, 3), (update, 4)]))


@every
@pytest.mark.parametrize("shape", [(1,), (LENGTH - 1,), (LENGTH, 1), ()])
def test_an_update_of_another_shape_is_refused_even_where_numpy_would_broadcast(strategy, shape):
    with pytest.raises(ValueError, match="shape"):
        strategy(
            np.ones(LENGTH, np.float32),
            parts([(np.ones(LENGTH, np.float32), 1), (np.ones(shape, np.float32), 1)]),
        )


@every
def test_no_contribution_is_no_mean(strategy):
    with pytest.raises(ValueError, match="at least one"):
        strategy(np.ones(LENGTH, np.float32), [])


@given(contributions=rounds)
def test_stretches_parts_and_how_many_are_held_change_no_byte(contributions):
    model = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    total = np.zeros(LENGTH)
    for update, patients in contributions:
        total += update.astype(np.float64) * patients
    whole = (total / sum(patients for _, patients in contributions) + model).astype(np.float32)
    with pytest.MonkeyPatch.context() as small:
        for name, size in {"_STRETCH": 3, "_PART": 2, "_TOGETHER": 2}.items():
            small.setattr(mean, name, size)
        assert weighted_mean(model, parts(contributions)).tobytes() == whole.tobytes()
