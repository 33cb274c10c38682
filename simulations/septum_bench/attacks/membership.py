"""Was this patient in the training set, asked of a published model: three attacks of rising cost.

Scores are per patient: the losses of a patient's images are averaged first.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from septum.errors import ConfigError
from septum_bench.threat import Grant, View, granted

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FEWEST_SHADOWS: Final = 2
"""On each side of a candidate: with it, and without it."""

_LEAST_LOSS: Final = 1e-12
_NARROWEST: Final = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class MembershipView(View):
    """A model's losses on candidates, and those of shadow models that the attacker trained.

    Attributes:
      losses: Mean loss of each candidate's images under the attacked model,
        float64 ``(candidates,)``; the attacker computes it from model and candidates.
      shadow_losses: The same under each shadow model, float64 ``(shadows, candidates)``.
      shadow_members: Whether each shadow model was trained on each candidate, same shape.

    Raises:
      ConfigError: A field is not granted, shapes do not fit, or a candidate is on
        one side of fewer than two shadow models.
    """

    losses: Doubles = granted(Grant.CANDIDATES, repr=False)
    shadow_losses: Doubles | None = granted(Grant.SHADOW_POOL, default=None, repr=False)
    shadow_members: Bools | None = granted(Grant.SHADOW_POOL, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shadow_losses is None and self.shadow_members is None:
            return
        shadows, members = self.shadows
        if shadows.shape != members.shape or shadows.shape[1:] != self.losses.shape:
            raise ConfigError(
                f"shadow losses {shadows.shape}, their members {members.shape} and losses "
                f"{self.losses.shape} do not fit.",
                remedy="Give each shadow model one loss and one mark per candidate.",
            )
        sides = min(int(members.sum(axis=0).min()), int((~members).sum(axis=0).min()))
        if sides < FEWEST_SHADOWS:
            raise ConfigError(
                f"a candidate is on one side of {sides} shadow models; "
                f"{FEWEST_SHADOWS} are needed.",
                remedy="Train each candidate into half of at least four shadow models.",
            )

    @property
    def shadows(self) -> tuple[Doubles, Bools]:
        """The shadow models' losses and members.

        Raises:
          ConfigError: There are none.
        """
        if self.shadow_losses is None or self.shadow_members is None:
            raise ConfigError(
                f"{self.threat.name} gives no shadow models.",
                remedy="Use loss_threshold, or train shadow models.",
            )
        return self.shadow_losses, self.shadow_members


def loss_threshold(view: MembershipView) -> Doubles:
    """Return minus each candidate's loss (Yeom et al. 2018, arXiv:1709.01604)."""
    return np.asarray(-view.losses)


def lira(view: MembershipView) -> Doubles:
    """Return the log likelihood ratio of each candidate's logit with and without it.

    Carlini et al. (2022, arXiv:2112.03570), online, with one spread for all
    candidates, as they advise below 64 shadow models. With so few, what training
    on a candidate moves is mostly luck, so it is shrunk towards the mean of all
    (Efron and Morris 1973).
    """
    shadows, members = view.shadows
    seen, made = _logit(view.losses), _logit(shadows)
    inside, spread_in = _gaussian(made, members)
    outside, spread_out = _gaussian(made, ~members)
    counts = members.sum(axis=0), (~members).sum(axis=0)
    luck = float((spread_in**2 / counts[0] + spread_out**2 / counts[1]).mean())
    moved = inside - outside
    kept = max(0.0, 1 - luck / max(float(moved.var()), _NARROWEST))
    middle = (inside + outside) / 2
    moved = moved.mean() + kept * (moved - moved.mean())
    inside, outside = middle + moved / 2, middle - moved / 2
    return np.asarray(norm.logpdf(seen, inside, spread_in) - norm.logpdf(seen, outside, spread_out))


def rmia(view: MembershipView) -> Doubles:
    """Return against what share of the other candidates each one's likelihood ratio is larger.

    Zarifzadeh, Liu and Shokri (2024, arXiv:2312.03262), online, gamma = 1: the
    ratio is the model's probability of the true label over its mean under the
    shadow models, half of which knew the candidate.
    """
    shadows, members = view.shadows
    chances = np.exp(-shadows)
    inside = np.where(members, chances, 0).sum(axis=0) / members.sum(axis=0)
    outside = np.where(members, 0, chances).sum(axis=0) / (~members).sum(axis=0)
    ratio = np.exp(-view.losses) / np.maximum((inside + outside) / 2, np.finfo(np.float64).tiny)
    below = np.searchsorted(np.sort(ratio), ratio, side="right") - 1
    return np.asarray(below / max(1, len(ratio) - 1))


def _logit(losses: Doubles) -> Doubles:
    # A loss is -log p of the true label, so log(p / (1 - p)) is -log(exp(loss) - 1).
    return np.asarray(-np.log(np.expm1(np.maximum(losses, _LEAST_LOSS))))


def _gaussian(values: Doubles, kept: Bools) -> tuple[Doubles, float]:
    """Return each column's mean over kept rows, and one unbiased spread for all columns."""
    count = kept.sum(axis=0)
    centre = np.where(kept, values, 0).sum(axis=0) / count
    square = np.where(kept, (values - centre) ** 2, 0).sum()
    return centre, float(max(np.sqrt(square / max(1, int((count - 1).sum()))), _NARROWEST))
