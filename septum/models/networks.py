"""The registered networks: how each is made, what it takes, and what it can learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from torch import nn

from septum.catalogue import TAKES, Takes
from septum.models.oriented import OrientedLinear
from septum.models.small import SmallCNN
from septum.models.transformer import VisionTransformer

_GROUP_NORM: Final = ("group", {"num_groups": 4})

_B0: Final = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""EfficientNet-B0's blocks (Tan and Le 2019, arXiv:1905.11946, table 1) as MONAI writes them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network is made for: channels in, outputs, and sides ``([depth,] h, w)``."""

    channels: int
    outputs: int
    size: tuple[int, ...]

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 for pictures, 3 for volumes."""
        return len(self.size)


@dataclass(frozen=True, kw_only=True)
class Network(Takes):
    """A registered network: what it takes, and how it is made.

    Attributes:
      make: From a shape to the network as its authors wrote it.
      head: Name of its last layer, after conversion.
      gates: Last names of convolutions that, like the head, no normalisation follows.
      source: Where it comes from.
    """

    make: Callable[[Shape], nn.Module]
    head: str
    gates: tuple[str, ...] = ()
    source: str


def _nets() -> Any:
    """Return MONAI's networks; importing them takes longer than a round of a small network."""
    from monai.networks import nets  # noqa: PLC0415 - see above

    return nets


def _small_cnn(shape: Shape) -> nn.Module:
    return SmallCNN(shape.channels, shape.outputs, dims=shape.dims)


def _oriented_linear(shape: Shape) -> nn.Module:
    return OrientedLinear(shape.channels, shape.outputs)


def _resnet18(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().ResNet(
            block="basic",
            layers=[2, 2, 2, 2],
            block_inplanes=_nets().resnet.get_inplanes(),
            spatial_dims=shape.dims,
            n_input_channels=shape.channels,
            num_classes=shape.outputs,
        ),
    )


def _densenet121(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().DenseNet121(
            spatial_dims=shape.dims, in_channels=shape.channels, out_channels=shape.outputs
        ),
    )


def _efficientnet_b0(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().EfficientNet(
            blocks_args_str=list(_B0),
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            num_classes=shape.outputs,
            dropout_rate=0.0,
            drop_connect_rate=0.0,
            image_size=shape.size[-1],
        ),
    )


def _seresnet50(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().SEResNet50(
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            num_classes=shape.outputs,
            dropout_prob=None,
            pretrained=False,
        ),
    )


def _vit(shape: Shape) -> nn.Module:
    return VisionTransformer(shape.channels, shape.outputs, size=shape.size)


def _unet(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().UNet(
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            out_channels=shape.outputs,
            channels=(16, 32, 64, 128),
            strides=(2, 2, 2),
            act="relu",
            norm=_GROUP_NORM,
        ),
    )


def _segresnet(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().SegResNet(
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            out_channels=shape.outputs,
            init_filters=8,
        ),
    )


def _dynunet(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().DynUNet(
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            out_channels=shape.outputs,
            kernel_size=[3, 3, 3, 3],
            strides=[1, 2, 2, 2],
            upsample_kernel_size=[2, 2, 2],
            filters=[16, 32, 64, 128],
            norm_name=_GROUP_NORM,
        ),
    )


def _swin_unetr(shape: Shape) -> nn.Module:
    return cast(
        nn.Module,
        _nets().SwinUNETR(
            spatial_dims=shape.dims,
            in_channels=shape.channels,
            out_channels=shape.outputs,
            feature_size=12,
            norm_name=_GROUP_NORM,
        ),
    )


def _network(
    name: str,
    make: Callable[[Shape], nn.Module],
    *,
    head: str,
    source: str,
    gates: tuple[str, ...] = (),
) -> tuple[str, Network]:
    return name, Network(**vars(TAKES[name]), make=make, head=head, source=source, gates=gates)


_SQUEEZE: Final = ("_se_reduce", "_se_expand")

MODELS: Final[Mapping[str, Network]] = MappingProxyType(
    dict(
        (
            _network("small_cnn", _small_cnn, head="head", source="Septum"),
            _network("oriented_linear", _oriented_linear, head="head", source="Septum"),
            _network("resnet18", _resnet18, head="fc", source="MONAI ResNet"),
            _network(
                "densenet121", _densenet121, head="class_layers.out", source="MONAI DenseNet121"
            ),
            _network(
                "efficientnet_b0",
                _efficientnet_b0,
                head="_fc",
                source="MONAI EfficientNet",
                gates=_SQUEEZE,
            ),
            _network("seresnet50", _seresnet50, head="last_linear", source="MONAI SEResNet50"),
            _network("vit", _vit, head="head", source="Septum"),
            _network("unet", _unet, head="model.2.conv.conv", source="MONAI UNet"),
            _network("segresnet", _segresnet, head="conv_final.2.conv", source="MONAI SegResNet"),
            _network("dynunet", _dynunet, head="output_block.conv.conv", source="MONAI DynUNet"),
            _network("swin_unetr", _swin_unetr, head="out.conv.conv", source="MONAI SwinUNETR"),
        )
    )
)
"""Every network that a study may name; a coordinator cannot bring another."""
