"""Recipes: settings by name, why, and on what data they were chosen.

A recipe is a start, not a promise: what serves chest films of 28 pixels may
not serve another task. None was chosen on test data, and the search is counted
in no epsilon because it ran on a published data set; on patients' own data it
would have to be.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from septum.errors import ConfigError
from septum.training import Aggregation, Training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that go together.

    Attributes:
      model: Registered network.
      training: Local training.
      strategy: The server's.
      rounds: Rounds.
      steps_per_round: Steps of each hospital in a round.
      sampling_rate: Chance of a patient to be drawn in a step.
      clips: Pairs of (largest epsilon, clip norm), by rising epsilon.
      why: The reasoning.
      chosen_on: Data and score.
    """

    model: str
    training: Training
    strategy: Aggregation
    rounds: int
    steps_per_round: int
    sampling_rate: float
    clips: tuple[tuple[float, float], ...]
    why: str
    chosen_on: str

    def max_grad_norm(self, epsilon: float) -> float:
        """Return the clip norm for a target ``epsilon``: the noisier, the smaller.

        >>> RECIPES["film-labels"].max_grad_norm(1.0)
        0.5
        """
        return next((clip for most, clip in self.clips if epsilon <= most), self.clips[-1][1])


RECIPES: Final = MappingProxyType(
    {
        "film-labels": Recipe(
            model="oriented_linear",
            training=Training(
                learning_rate=10.0,
                images_per_patient=2,
                views=2,
                augmentation="radiograph",
                mirror=True,
            ),
            strategy=Aggregation(name="fedavgm", momentum=0.9),
            rounds=40,
            steps_per_round=1,
            sampling_rate=0.5,
            clips=((2.0, 0.5), (5.0, 0.7), (1000.0, 1.0)),
            why=(
                "Labels of chest films, few thousand patients over a few hospitals. Public "
                "features and 1,226 weights leave noise little to cover; half of the patients "
                "in every step and one step a round let the server's momentum do what the "
                "optimizer of one place would; views make the model care less about pose and "
                "exposure. Findings that have a side need mirror = false."
            ),
            chosen_on=(
                "PneumoniaMNIST, published training images, scored on the published validation "
                "images and ten corruptions of them; 6 hospitals, delta 1e-5, seeds 100 to 102"
            ),
        ),
        "masks": Recipe(
            model="unet",
            training=Training(learning_rate=0.5, images_per_patient=2),
            strategy=Aggregation(name="fedavgm", momentum=0.9),
            rounds=40,
            steps_per_round=1,
            sampling_rate=0.5,
            clips=((1000.0, 1.0),),
            why="Many patients in a step and the server's momentum, by analogy with labels.",
            chosen_on="nothing: no search was made for masks",
        ),
    }
)


def recipe_for(task: str) -> Recipe:
    """Return the default recipe of a study's ``data.task``.

    Raises:
      ConfigError: No such task.
    """
    names = {
        "multilabel": "film-labels",
        "classification": "film-labels",
        "regression": "film-labels",
        "segmentation": "masks",
    }
    if task not in names:
        raise ConfigError(
            f"there is no task {task!r}.", remedy=f"Choose one of {', '.join(names)}."
        )
    return RECIPES[names[task]]
