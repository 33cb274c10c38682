import dataclasses

import numpy as np
import pytest

from septum.errors import AdmissionError
from septum.wire import Instruction, Release
from septum_server.admission import admit, share


@pytest.fixture
def answered(tiny):
    """Return a study, an instruction and an honest answer to it."""
    study = tiny.study()
    instruction = Instruction(study=study.digest, round=2, model=np.zeros(50, np.float32))
    release = Release(
        study=study.digest,
        site="north",
        round=2,
        instruction=instruction.digest,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        ledger_head="0" * 64,
        update=np.full(50, 0.1, np.float32),
    )
    return study, instruction, release


def refused(answered, words, **changes):
    study, instruction, release = answered
    with pytest.raises(AdmissionError) as error:
        admit(dataclasses.replace(release, **changes), study=study, instruction=instruction)
    assert error.value.message.startswith(f"{words}:")


def test_an_honest_release_is_admitted(answered):
    study, instruction, release = answered
    admit(release, study=study, instruction=instruction)
    stricter = dataclasses.replace(release, noise_multiplier=2.0, max_grad_norm=0.5)
    admit(stricter, study=study, instruction=instruction)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_refused(answered, value):
    update = np.zeros(50, np.float32)
    update[7] = value
    refused(answered, "NOT_FINITE", update=update)


@pytest.mark.parametrize("shape", [(49,), (51,), (1,), (50, 1), (1, 50), (), (0,)])
def test_another_shape_is_refused_even_where_numpy_would_broadcast(answered, shape):
    refused(answered, "SHAPE", update=np.zeros(shape, np.float32))


@pytest.mark.parametrize("scale", [1e2, 1e10, 3e38])
def test_a_norm_that_the_mechanism_cannot_have_made_is_refused(answered, scale):
    refused(answered, "NORM", update=np.full(50, scale, np.float32))


def test_the_norm_bound_is_the_mechanisms_own(answered):
    study, instruction, release = answered
    bound = study.mechanism("north").update_norm_bound(parameters=50, learning_rate=0.5)
    update = np.zeros(50, np.float32)
    update[0] = bound * 0.9999
    admit(dataclasses.replace(release, update=update), study=study, instruction=instruction)
    update[0] = bound * 1.0001
    refused(answered, "NORM", update=update)


def test_a_site_cannot_buy_a_longer_update_with_a_claim_of_more_noise(answered):
    for claim in (11.0, 1e9, 1.7e308):
        refused(
            answered,
            "TOO_MUCH_NOISE",
            noise_multiplier=claim,
            update=np.full(50, 1e20, np.float32),
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 0.999},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"max_grad_norm": 1.001},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": -1.0},
    ],
)
def test_a_privacy_promise_weaker_than_the_studys_is_refused(answered, changes):
    refused(answered, "WEAKER_PRIVACY", **changes)


@pytest.mark.parametrize("changes", [{"study": "f" * 64}, {"round": 3}, {"instruction": "f" * 64}])
def test_an_answer_to_something_else_is_refused(answered, changes):
    refused(answered, "OTHER_INSTRUCTION", **changes)


def test_an_answer_to_an_earlier_round_is_called_what_it_is(answered):
    refused(answered, "REPLAYED", round=1)


def test_a_site_outside_the_study_is_refused(answered):
    refused(answered, "UNKNOWN_SITE", site="elsewhere")


@pytest.mark.parametrize("clip", [1.0, 0.5])
@pytest.mark.parametrize("noise", [1.0, 1.5, 4.0, 10.0])
def test_a_claim_of_more_noise_moves_the_model_no_further_than_none(answered, noise, clip):
    study, instruction, release = answered
    own = study.mechanism("north").update_norm_bound(parameters=50, learning_rate=0.5)
    update = np.zeros(50, np.float32)
    stated = dataclasses.replace(release, noise_multiplier=noise, max_grad_norm=clip)
    # The longest update that is admitted, found by halving.
    low, high = 0.0, 1000.0
    for _ in range(60):
        update[0] = middle = (low + high) / 2
        try:
            longest = dataclasses.replace(stated, update=update)
            admit(longest, study=study, instruction=instruction)
            low = middle
        except AdmissionError:
            high = middle
    part = share(stated, study=study, parameters=50)
    assert low * part <= own * (1 + 1e-5)
    assert 0 < part <= 1
    assert part == 1 or noise * clip > 1, "who states no more noise in all counts in full"
    if noise == 10.0 and clip == 1.0:
        assert low > 3 * own, "the control: what would be gained"


def test_what_counts_of_a_release_that_states_more_noise_does_not_look_at_its_update(answered):
    study, _, release = answered
    stated = dataclasses.replace(release, noise_multiplier=2.0)
    other = dataclasses.replace(stated, update=np.full(50, 9.0, np.float32))
    assert share(stated, study=study, parameters=50) == share(other, study=study, parameters=50)
