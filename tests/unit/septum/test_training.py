import pytest
from pydantic import ValidationError

from septum.errors import ConfigError
from septum.study import parse
from septum.training import Aggregation, Training


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "own momentum"),
        ({"proximal_mu": 0.1, "momentum": 0.9}, "needs optimizer"),
        ({"proximal_mu": 0.1, "optimizer": "adam"}, "needs optimizer"),
        ({"views": 2}, "augmentation"),
        ({"mirror": True}, "augmentation"),
        ({"momentum": 1.0}, "momentum"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"augmentation": "anything"}, "augmentation"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Training(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"momentum": 0.9}, "fedavgm"),
        ({"name": "fedprox", "learning_rate": 0.5}, "fedavgm"),
        ({"name": "fedavgm"}, "momentum above 0"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_a_strategy_with_settings_of_another_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Aggregation(**fields)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data": {"depth": 16}, "training": {"augmentation": "tone"}},
            "for pictures",
        ),
        (
            {
                "data": {"task": "classification", "labels": ["a", "b"]},
                "training": {"label_smoothing": 0.1},
            },
            "multilabel",
        ),
        (
            {"training": {"proximal_mu": 0.1}, "strategy": {"name": "fedavgm", "momentum": 0.5}},
            "not 'fedavgm'",
        ),
    ],
)
def test_what_does_not_fit_the_rest_of_the_study_is_refused(tiny, changes, said):
    with pytest.raises(ValidationError, match=said):
        tiny.study(**changes)


def test_every_switch_is_in_the_study_file_and_in_its_digest(tiny):
    base = tiny.study()
    training = {
        "optimizer": "adam",
        "views": 3,
        "augmentation": "radiograph",
        "mirror": True,
        "label_smoothing": 0.1,
    }
    strategy = {"name": "fedavgm", "momentum": 0.9, "learning_rate": 0.5, "ema": 0.9}
    study = tiny.study(training=training, strategy=strategy)
    assert parse(study.to_toml()) == study
    digests = {base.digest, study.digest}
    for name in ("views", "mirror", "label_smoothing", "optimizer"):
        fewer = {k: v for k, v in training.items() if k != name}
        digests.add(tiny.study(training=fewer, strategy=strategy).digest)
    assert len(digests) == 6


def test_an_unknown_switch_is_refused_by_name(tiny):
    text = tiny.study().to_toml().replace("[training]", "[training]\nlearn_faster = true")
    with pytest.raises(ConfigError, match="learn_faster"):
        parse(text)
