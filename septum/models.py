"""Registry of DP-safe networks, and the one flat vector that crosses the wall.

Every network here normalises within one image (GroupNorm), holds no buffer
that training changes and uses no in-place operation, so a patient's gradient
is a function of that patient alone. A name outside the registry is refused: a
coordinator cannot hand a hospital an architecture made for extracting images
(Fowl et al. 2022, arXiv:2110.13057).
"""

import math
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import DenseNet121
from monai.networks.nets.resnet import ResNet, ResNetBlock, get_inplanes
from torch import nn
from torch.nn import functional

from septum.errors import Code, ConfigError, Refusal

if TYPE_CHECKING:
    from septum.study import Study

Vector = npt.NDArray[np.float32]

_GROUPS: Final = 8

# torch initialises layers from its one global generator, which threads would interleave.
_SEEDING: Final = threading.Lock()


class BandPass(nn.Module):
    """A public front end: differences of Gaussians at four scales, each of unit contrast.

    The filters are constants, the same in every study, so they cost no
    privacy, and what is left to learn under noise is small. With little data,
    DP-SGD on fixed features beats DP-SGD on pixels (Tramèr and Boneh 2021,
    arXiv:2011.11660). Scales are in pixels of the training image.
    """

    SCALES_PX: Final = (0.7, 1.1, 1.7, 2.6, 4.0)

    def __init__(self) -> None:
        super().__init__()
        for index, scale in enumerate(self.SCALES_PX):
            reach = int(3 * scale + 0.5)
            offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
            kernel = torch.exp(-(offsets**2) / (2 * scale**2))
            self.register_buffer(f"kernel_{index}", kernel / kernel.sum(), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return bands ``(batch, 4 * channels, h, w)`` of images ``(batch, channels, h, w)``."""
        smooth = [self._blur(image, kernel) for kernel in self.buffers()]
        bands = torch.cat([fine - coarse for fine, coarse in pairwise(smooth)], dim=1)
        contrast = bands.square().mean(dim=(2, 3), keepdim=True).sqrt()
        return bands / (contrast + 1e-3)

    @staticmethod
    def _blur(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        channels, reach = image.shape[1], len(kernel) // 2
        padded = functional.pad(image, (reach, reach, reach, reach), mode="replicate")
        across = functional.conv2d(
            padded, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels
        )
        down = kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
        return functional.conv2d(across, down, groups=channels)


class SmallCNN(nn.Module):
    """Public band-pass filters, four convolutions, a smooth maximum over positions.

    About 20 thousand parameters, and so few are a privacy feature: the norm of
    DP-SGD's noise grows with the square root of their number. The activation
    is smooth (Papernot et al. 2021, arXiv:2007.14191), and the log-sum-exp
    over positions lets one small finding decide an image.

    Args:
      channels: Channels of the input image.
      outputs: Number of logits.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [BandPass()]
        before = channels * (len(BandPass.SCALES_PX) - 1)
        for width, stride in ((16, 2), (24, 2), (32, 2), (32, 1)):
            layers += [
                nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1),
                nn.GroupNorm(4, width),
                nn.SiLU(),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(before, outputs, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, channels, h, w)``."""
        evidence: torch.Tensor = self.head(self.features(image)).flatten(2)
        return torch.logsumexp(evidence, dim=2) - math.log(evidence.shape[2])


class _ResidualBlock(ResNetBlock):  # type: ignore[misc]
    """MONAI's basic block without its in-place sum, which per-patient hooks cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.act(self.bn1(self.conv1(x)))
        return cast(torch.Tensor, self.act(self.bn2(self.conv2(out)) + shortcut))


def _resnet18(channels: int, outputs: int) -> nn.Module:
    return cast(
        nn.Module,
        ResNet(
            block=_ResidualBlock,
            layers=[2, 2, 2, 2],
            block_inplanes=get_inplanes(),
            spatial_dims=2,
            n_input_channels=channels,
            num_classes=outputs,
        ),
    )


def _densenet121(channels: int, outputs: int) -> nn.Module:
    return cast(nn.Module, DenseNet121(spatial_dims=2, in_channels=channels, out_channels=outputs))


MODELS: Final[Mapping[str, Callable[[int, int], nn.Module]]] = MappingProxyType(
    {"small_cnn": SmallCNN, "resnet18": _resnet18, "densenet121": _densenet121}
)


def build(name: str, *, channels: int, outputs: int, seed: int) -> nn.Module:
    """Return a registered network, initialised from ``seed`` alone.

    Args:
      name: A key of :data:`MODELS`.
      channels: Channels of the input image.
      outputs: Number of logits.
      seed: Seed of the initial weights, a public constant of the study.

    Guarantees:
      - Equal arguments give equal weights, and torch's global generator is
        left as it was.
      - No batch normalisation, no in-place activation, no buffer.

    Raises:
      ConfigError: The name is not registered.
    """
    if name not in MODELS:
        raise ConfigError(
            f"model.name is {name!r}, which is not registered.",
            remedy=f"Choose one of {', '.join(MODELS)}.",
        )
    with _SEEDING, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would note a stack trace for every absent accelerator at each call.
        torch.default_generator.manual_seed(seed)
        model = _without_batch_statistics(MODELS[name](channels, outputs))
    for module in model.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - typed as a submodule otherwise
    check_private(model)
    return model


def network_of(study: "Study") -> nn.Module:
    """Return the network of ``study`` with its initial weights: grey images in, one logit a label.

    Raises:
      ConfigError: See :func:`build`.
    """
    return build(
        study.model.name, channels=1, outputs=len(study.data.labels), seed=study.model.seed
    )


def check_private(model: nn.Module) -> None:
    """Refuse a network in which one patient's gradient could depend on another patient.

    That is: any batch normalisation, and any buffer but the public filters'.
    Opacus' own validator lets a frozen or affine-free BatchNorm pass.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_LAYER`, naming the layer.
    """
    for name, module in model.named_modules():
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)
        keeps = next(module.buffers(recurse=False), None) is not None
        if mixes or (keeps and not isinstance(module, BandPass)):
            raise Refusal(
                Code.UNKNOWN_LAYER,
                f"layer {name or 'at the top'} ({type(module).__name__}) can keep statistics "
                "across patients.",
                remedy="Use GroupNorm or LayerNorm.",
            )


def _without_batch_statistics(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(model, name, nn.GroupNorm(_GROUPS, child.num_features))
        else:
            _without_batch_statistics(child)
    return model


def to_vector(model: nn.Module) -> Vector:
    """Return the parameters as one float32 vector of shape ``(params,)``, in registry order."""
    parts = [p.detach().reshape(-1).to("cpu", torch.float32) for p in model.parameters()]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def load_vector(model: nn.Module, vector: Vector) -> None:
    """Write ``vector`` of shape ``(params,)`` into the parameters of ``model``.

    Raises:
      Refusal: With :attr:`Code.MODEL_MISMATCH`, if the length or dtype differs
        or a value is not finite.
    """
    expected = parameter_count(model)
    if vector.dtype != np.float32 or vector.shape != (expected,):
        raise Refusal(
            Code.MODEL_MISMATCH,
            f"the model vector is {vector.dtype}{vector.shape}; "
            f"this network takes float32({expected},).",
            remedy="Start the round from the study's own model.",
        )
    if not np.isfinite(vector).all():
        raise Refusal(
            Code.MODEL_MISMATCH,
            "the model vector holds a value that is not finite.",
            remedy="Resume the study from its last good checkpoint.",
        )
    values = torch.from_numpy(vector.copy())
    offset = 0
    with torch.no_grad():
        for parameter in model.parameters():
            count = parameter.numel()
            parameter.copy_(values[offset : offset + count].view_as(parameter))
            offset += count


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(p.numel() for p in model.parameters())
