"""What each registered network takes and can learn: facts, told without torch.

A study is read by much that never trains: the coordinator's server, a status, a
signature. Whether its network fits its data is decided here, so that none of
them waits for torch or holds its memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from septum.study import Data, Model

LABELS: Final = frozenset({"multilabel", "classification", "regression"})
MASKS: Final = frozenset({"segmentation"})


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What a network takes.

    Attributes:
      tasks: What it can learn.
      dims: Spatial dimensions it takes.
      multiple: Every side of an image is a multiple of this.
      least: Least side of an image.
      linear: Whether its backbone has linear layers, which LoRA needs.
      normalised: Whether normalisations follow its convolutions, which weight
        standardisation needs.
    """

    tasks: frozenset[str] = LABELS
    dims: tuple[int, ...] = (2, 3)
    multiple: int = 1
    least: int = 1
    linear: bool = False
    normalised: bool = True


TAKES: Final[Mapping[str, Takes]] = MappingProxyType(
    {
        "small_cnn": Takes(),
        "oriented_linear": Takes(dims=(2,), least=28, normalised=False),
        "resnet18": Takes(),
        "densenet121": Takes(least=32),
        "efficientnet_b0": Takes(dims=(2,)),
        "seresnet50": Takes(dims=(2,), linear=True),
        "vit": Takes(multiple=8, linear=True, normalised=False),
        "unet": Takes(tasks=MASKS, multiple=8),
        "segresnet": Takes(tasks=MASKS, multiple=8),
        "dynunet": Takes(tasks=MASKS, multiple=8),
        "swin_unetr": Takes(tasks=MASKS, multiple=32, linear=True),
    }
)
"""By the name that a study gives; :data:`septum.models.MODELS` has how each is made."""


def unfit(model: "Model", data: "Data") -> str:
    """Return why the network cannot take this study's data, or an empty string."""
    if model.name not in TAKES:
        return f"model.name is {model.name!r}; choose one of {list(TAKES)}"
    network, name = TAKES[model.name], f"model.name {model.name!r}"
    dims = 2 if data.depth == 1 else 3
    if data.task not in network.tasks:
        return f"{name} cannot do data.task {data.task!r}; it does {sorted(network.tasks)}"
    if dims not in network.dims:
        return f"{name} takes no volumes, and data.depth is {data.depth}"
    sides = {"image_size": data.image_size} | ({"depth": data.depth} if dims == 3 else {})
    for key, side in sides.items():
        if side < network.least or side % network.multiple:
            return (
                f"data.{key} is {side}; {name} needs at least {network.least} "
                f"and a multiple of {network.multiple}"
            )
    needs = (
        ("lora_rank", model.lora_rank, "linear layers", network.linear),
        (
            "weight_standardisation",
            model.weight_standardisation,
            "convolutions that a normalisation follows",
            network.normalised,
        ),
    )
    for key, asked, what, has in needs:
        if asked and not has:
            return f"model.{key} needs {what}, which {name} has none of"
    return ""
