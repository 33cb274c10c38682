"""Pure functions of releases, in numpy. Strategies are chosen by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from septum_strategies.base import Contribution, Strategy
from septum_strategies.mean import weighted_mean

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    # FedProx differs in the hospital (a pull towards the global model), not here.
    {"fedavg": weighted_mean, "fedprox": weighted_mean}
)

__all__ = ["STRATEGIES", "Contribution", "Strategy"]
