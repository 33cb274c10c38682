"""Layers whose per-patient gradients are known: one rule for each, by exact class."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import nn

from septum.models.standardised import STANDARDISED
from septum_client.clipping.convolution import Convolution
from septum_client.clipping.linear import Embedding, Linear, PReLU
from septum_client.clipping.norms import ChannelNorm, LayerNorm
from septum_client.clipping.rules import Rule
from septum_client.clipping.standardised import StandardisedConvolution

RULES: Final[Mapping[type[nn.Module], Rule]] = MappingProxyType(
    {
        nn.Conv1d: Convolution(),
        nn.Conv2d: Convolution(),
        nn.Conv3d: Convolution(),
        nn.ConvTranspose1d: Convolution(),
        nn.ConvTranspose2d: Convolution(),
        nn.ConvTranspose3d: Convolution(),
        nn.Linear: Linear(),
        nn.GroupNorm: ChannelNorm(),
        nn.InstanceNorm1d: ChannelNorm(),
        nn.InstanceNorm2d: ChannelNorm(),
        nn.InstanceNorm3d: ChannelNorm(),
        nn.LayerNorm: LayerNorm(),
        nn.Embedding: Embedding(),
        nn.PReLU: PReLU(),
    }
    | {kind: StandardisedConvolution() for kind in STANDARDISED.values()}
)
"""The exact classes: a subclass may compute something else, so it is not covered."""
