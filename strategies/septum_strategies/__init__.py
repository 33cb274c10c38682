"""Pure functions of releases, in numpy. Strategies are chosen by name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from septum_strategies.adaptive import AVERAGE, averaged, server_adam, server_momentum
from septum_strategies.base import Contribution, Settings, State, Strategy, Vector
from septum_strategies.mean import plain_mean

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        "fedavg": plain_mean,
        # FedProx differs in the hospital (a pull towards the global model), not here.
        "fedprox": plain_mean,
        "fedavgm": server_momentum,
        "fedadam": server_adam,
    }
)


def advance(
    settings: Settings,
    model: Vector,
    contributions: Sequence[Contribution],
    *,
    state: State,
    round: int,
) -> tuple[Vector, State]:
    """Return the next global model, and what the strategy carries to the round after.

    Args:
      settings: Name and numbers of the strategy.
      model: Global model, float32 (params,).
      contributions: At least one, each of the model's shape.
      state: What the round before returned; empty in the first.
      round: From 1.

    Guarantees:
      - The order of ``contributions`` never changes the result.
      - Rounds in a row give the same as rounds with a checkpoint between:
        model and state are all there is.
    """
    moved, carried = STRATEGIES[settings.name](model, contributions, state=state, settings=settings)
    if settings.ema:
        average = averaged(moved, state=state, ema=settings.ema, round=round)
        carried = {**carried, AVERAGE: average}
    return moved, carried


__all__ = ["AVERAGE", "STRATEGIES", "Contribution", "Settings", "State", "Strategy", "advance"]
