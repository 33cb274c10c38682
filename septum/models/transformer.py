"""A small vision transformer made of plain layers, for pictures and for volumes."""

import math
from typing import Final

import torch
from torch import nn

_WIDTH: Final = 192
_BLOCKS: Final = 6
_HEADS: Final = 3
_PATCH: Final = 8
_CONVOLUTIONS: Final = {2: nn.Conv2d, 3: nn.Conv3d}


class Positions(nn.Module):
    """Add a constant code of each patch's place: sines of each axis (Vaswani et al. 2017)."""

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        each = width // len(grid)
        rates = torch.exp(-math.log(10_000) * torch.arange(0, each, 2) / each)
        places = torch.stack(
            torch.meshgrid(*[torch.arange(side).float() for side in grid], indexing="ij"), dim=-1
        ).flatten(0, -2)
        angles = places[:, :, None] * rates
        code = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
        self.register_buffer("code", code[None], persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``tokens`` of shape ``(batch, patches, width)`` with the code added."""
        return tokens + self.get_buffer("code")


class Attention(nn.Module):
    """Self-attention as two linear layers, so that a per-patient rule for these is enough."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, patches, width)``; patches attend within one image only."""
        batch, patches, width = tokens.shape
        parts = self.qkv(tokens).view(batch, patches, 3, self._heads, width // self._heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Written out: the fused kernel has no second derivative, which the attack takes.
        weight = (query @ key.transpose(2, 3) / math.sqrt(width // self._heads)).softmax(dim=3)
        mixed = (weight @ value).transpose(1, 2).reshape(batch, patches, width)
        result: torch.Tensor = self.out(mixed)
        return result


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.between = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 4 * width)
        self.fall = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.before(tokens))
        mixed: torch.Tensor = self.fall(nn.functional.gelu(self.rise(self.between(tokens))))
        return tokens + mixed


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with a mean for a head.

    Six blocks, width 192, patches of 8 pixels a side; about 2.7 million
    parameters. It has no class token and its position code is constant: both
    would be parameters outside any layer, for which no per-patient rule exists.

    Args:
      channels: Channels of the input image.
      outputs: Number of logits.
      size: Sides of the image, ``([depth,] h, w)``, each a multiple of 8.
    """

    def __init__(self, channels: int, outputs: int, *, size: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = _CONVOLUTIONS[len(size)](channels, _WIDTH, kernel_size=_PATCH, stride=_PATCH)
        self.positions = Positions(tuple(side // _PATCH for side in size), _WIDTH)
        self.blocks = nn.Sequential(*[_Block(_WIDTH, _HEADS) for _ in range(_BLOCKS)])
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, outputs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, outputs)`` for images ``(batch, channels, [d,] h, w)``."""
        tokens = self.positions(self.patch(image).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits
