import pytest

from septum.errors import ConfigError
from septum.models import MODELS, unfit
from septum.recipes import RECIPES, recipe_for
from septum.study import Data, Model, Task

every = pytest.mark.parametrize("name", RECIPES)


@pytest.mark.parametrize("task", Task.__args__)
def test_every_task_has_a_default_recipe_whose_network_can_learn_it(task):
    extra = {"ranges": ((0.0, 1.0), (0.0, 1.0))} if task == "regression" else {}
    recipe = recipe_for(task)
    data = Data(task=task, labels=("one", "two"), **extra)
    assert unfit(Model(name=recipe.model), data) == ""


def test_an_unknown_task_has_none():
    with pytest.raises(ConfigError, match="multilabel"):
        recipe_for("poetry")


@every
def test_a_recipe_says_why_and_on_what_it_was_chosen(name):
    recipe = RECIPES[name]
    assert recipe.model in MODELS
    assert recipe.why
    assert "test" not in recipe.chosen_on
    assert recipe.chosen_on


@every
def test_more_epsilon_never_means_a_smaller_clip(name):
    clips = [RECIPES[name].max_grad_norm(epsilon) for epsilon in (0.5, 1, 3, 8, 100)]
    assert clips == sorted(clips)
    assert clips[0] > 0
