"""The four images and the four networks of every inversion figure, the same for everybody.

Images: pydicom's own test files, centre crop, the 0.5th to 99.5th percentile to
[0, 1], 64 x 64. Networks: random initialisation from a seed, four classes.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydicom import dcmread
from pydicom.data import get_testdata_file
from skimage.transform import resize
from torch import nn

Floats = npt.NDArray[np.float32]

FILES: Final = ("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "examples_overlay.dcm")
HELD_OUT: Final = (
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
    "examples_rgb_color.dcm",
)
"""Other patients' files of pydicom, to tune on: no setting is chosen on :data:`FILES`."""
SIDE: Final = 64
CLASSES: Final = 4


def image(name: str) -> Floats:
    """Return one of pydicom's test images, float32 (64, 64) in [0, 1]."""
    path = get_testdata_file(name, download=False)
    if path is None:
        raise FileNotFoundError(name)
    pixels = np.asarray(dcmread(str(path)).pixel_array, dtype=np.float64)
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        pixels = pixels.mean(axis=-1)
    side = min(pixels.shape[-2:])
    top, left = ((extent - side) // 2 for extent in pixels.shape[-2:])
    pixels = pixels[..., top : top + side, left : left + side].reshape(-1, side, side)[0]
    low, high = np.percentile(pixels, [0.5, 99.5])
    grey = np.clip((pixels - low) / (high - low), 0, 1)
    return np.asarray(resize(grey, (SIDE, SIDE), anti_aliasing=True), dtype=np.float32).clip(0, 1)


def images(files: tuple[str, ...] = FILES) -> Floats:
    """Return all four, float32 (4, 1, 64, 64)."""
    return np.stack([image(name) for name in files])[:, None]


def blind(others: Floats) -> Floats:
    """Return the blind guess: the mean of the images that are not attacked, (64, 64)."""
    return np.asarray(others.mean(axis=(0, 1)), dtype=np.float32)


def convolution(before: int, after: int, stride: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2)


def lenet() -> nn.Module:
    """DLG's LeNet: sigmoid, 20 thousand parameters (Zhu et al. 2019, arXiv:1906.08935)."""
    return nn.Sequential(
        convolution(1, 12, 2, 5),
        nn.Sigmoid(),
        convolution(12, 12, 2, 5),
        nn.Sigmoid(),
        convolution(12, 12, 1, 5),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(12 * 16 * 16, CLASSES),
    )


def convnet(norm: bool = False) -> nn.Module:
    """Four convolutions and a linear layer, ReLU: 81 thousand parameters."""
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 32, 1), (32, 32, 2), (32, 64, 2), (64, 64, 2)):
        layers.append(convolution(before, after, stride))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, CLASSES))


class Block(nn.Module):
    """Two 3 x 3 convolutions with GroupNorm and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(before, after, stride), convolution(after, after, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, after), nn.GroupNorm(8, after)])
        self.around: nn.Module = nn.Identity()
        if stride > 1:
            self.around = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, after, side, side)``."""
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.around(x))


def resnet8() -> nn.Module:
    """ResNet-8 with GroupNorm and average pooling: 78 thousand parameters."""
    return nn.Sequential(
        convolution(1, 16, 1),
        nn.GroupNorm(8, 16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


NETWORKS: Final[dict[str, Any]] = {
    "LeNet": lenet,
    "ConvNet": convnet,
    "ConvNet-BN": lambda: convnet(norm=True),
    "ResNet8-GN": resnet8,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """Return a network with random weights; the same for equal seeds."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: nn.Module = NETWORKS[name]()
    return made
