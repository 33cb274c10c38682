"""Registry of DP-safe networks, and the one flat vector that crosses the wall.

Every network here normalises within one image (GroupNorm or LayerNorm), holds
no buffer that training changes, draws no random number and uses no in-place
operation, so a patient's gradient is a function of that patient alone. A name
outside the registry is refused: a coordinator cannot hand a hospital an
architecture made for extracting images (Fowl et al. 2022, arXiv:2110.13057).
"""

from septum.catalogue import unfit
from septum.models.conversion import check_private
from septum.models.networks import MODELS
from septum.models.registry import Weights, build, network_of
from septum.models.vector import Vector, load_vector, parameter_count, to_vector, trained

__all__ = [
    "MODELS",
    "Vector",
    "Weights",
    "build",
    "check_private",
    "load_vector",
    "network_of",
    "parameter_count",
    "to_vector",
    "trained",
    "unfit",
]
