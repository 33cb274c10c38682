"""Momentum, Adam and the moving average at the server: post-processing that can be resumed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from septum.training import Aggregation
from septum_strategies import AVERAGE, STRATEGIES, Contribution, advance

LENGTH = 4
vectors = hnp.arrays(np.float32, LENGTH, elements=st.floats(-100, 100, width=32))
rounds = st.lists(
    st.lists(st.tuples(vectors, st.integers(1, 1000)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)
KINDS = {
    "fedavg": {"name": "fedavg"},
    "fedavg with average": {"name": "fedavg", "ema": 0.7},
    "fedprox": {"name": "fedprox"},
    "fedavgm": {"name": "fedavgm", "momentum": 0.9, "learning_rate": 0.5},
    "fedadam": {"name": "fedadam", "momentum": 0.9, "learning_rate": 0.1, "ema": 0.9},
}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def parts(contributions):
    return [
        Contribution(site=f"site-{index}", update=update, patients=patients)
        for index, (update, patients) in enumerate(contributions)
    ]


def run(kind, history, model=None, state=None, first=1):
    model = np.zeros(LENGTH, np.float32) if model is None else model
    state = {} if state is None else state
    for number, contributions in enumerate(history, start=first):
        model, state = advance(
            Aggregation(**kind), model, parts(contributions), state=state, round=number
        )
    return model, state


def same(one, other):
    (model, state), (again, carried) = one, other
    return model.tobytes() == again.tobytes() and {k: v.tobytes() for k, v in state.items()} == {
        k: v.tobytes() for k, v in carried.items()
    }


def test_every_strategy_that_a_study_can_name_exists():
    named = Aggregation.model_fields["name"].annotation.__args__
    assert set(named) == set(STRATEGIES)


@every
@settings(max_examples=25)
@given(model=vectors, contributions=rounds, data=st.data())
def test_the_order_of_contributions_never_changes_a_byte(kind, model, contributions, data):
    given_order = parts(contributions[0])
    other = data.draw(st.permutations(given_order))
    chosen = Aggregation(**kind)
    assert same(
        advance(chosen, model, given_order, state={}, round=1),
        advance(chosen, model, other, state={}, round=1),
    )


@every
@settings(max_examples=25)
@given(history=rounds, data=st.data())
def test_rounds_with_a_checkpoint_between_give_the_same_bytes(kind, history, data):
    cut = data.draw(st.integers(0, len(history)))
    model, state = run(kind, history[:cut])
    stored = {name: np.array(vector) for name, vector in state.items()}  # what a file gives back
    assert same(run(kind, history), run(kind, history[cut:], model, stored, first=cut + 1))


@every
def test_no_argument_is_changed(kind):
    model = np.ones(LENGTH, np.float32)
    model, state = run(kind, [[(np.full(LENGTH, 2, np.float32), 3)]], model)
    for array in (model, *state.values()):
        array.setflags(write=False)
    run(kind, [[(np.full(LENGTH, 2, np.float32), 3)]], model, state, first=2)


def test_server_momentum_is_torchs_sgd_on_the_mean_update():
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(6, LENGTH)).astype(np.float32)
    weight = torch.zeros(LENGTH, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    for update in updates:
        weight.grad = -torch.from_numpy(update)
        optimizer.step()
    model, _ = run(KINDS["fedavgm"], [[(update, 10)] for update in updates])
    assert np.allclose(model, weight.detach().numpy(), atol=1e-5)


def test_server_adam_is_the_published_algorithm():
    history = [np.array([1.0, -2.0, 0.0, 10.0]), np.array([0.5, 0.5, 0.0, -10.0])]
    first, second, expected = np.zeros(LENGTH), np.zeros(LENGTH), np.zeros(LENGTH)
    for update in history:
        first = 0.9 * first + 0.1 * update
        second = 0.99 * second + 0.01 * update**2
        expected += 0.1 * first / (np.sqrt(second) + 1e-3)
    model, _ = run(KINDS["fedadam"], [[(u.astype(np.float32), 1)] for u in history])
    assert np.allclose(model, expected, rtol=1e-5)


def test_the_average_lies_among_the_models_and_lags_behind_the_last():
    steady = [[(np.ones(LENGTH, np.float32), 1)]] * 20
    model, state = run(KINDS["fedavg with average"], steady)
    assert np.all(state[AVERAGE] < model)
    assert np.all(state[AVERAGE] > 10)


def test_without_an_average_none_is_kept():
    _, state = run(KINDS["fedavgm"], [[(np.ones(LENGTH, np.float32), 1)]])
    assert set(state) == {"momentum"}


@every
def test_an_update_of_another_shape_is_refused(kind):
    with pytest.raises(ValueError, match="shape"):
        run(kind, [[(np.ones(1, np.float32), 1)]])
