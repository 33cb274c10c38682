import copy

import pytest
import torch
from monai.networks import nets
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.blocks.squeeze_and_excitation import ResidualSELayer
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from monai.networks.nets.senet import SEResNetBottleneck
from monai.networks.nets.swin_unetr import BasicLayer, SwinTransformerBlock, compute_mask
from torch import nn

from septum.models.conversion import ZeroInserted, convert
from septum.models.rewritten import REWRITTEN, rewrite


def double(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


BLOCKS = {
    "ResNetBlock": (lambda: ResNetBlock(4, 4, 2), (2, 4, 6, 6)),
    "ResNetBottleneck": (lambda: ResNetBottleneck(16, 4, 2), (2, 16, 6, 6)),
    "ResBlock": (lambda: ResBlock(3, 8, norm=("group", {"num_groups": 4})), (2, 8, 4, 4, 4)),
    "UnetResBlock": (lambda: UnetResBlock(2, 4, 8, 3, 2, "instance"), (2, 4, 8, 8)),
    "UnetResBlock without change": (lambda: UnetResBlock(2, 4, 4, 3, 1, "instance"), (2, 4, 8, 8)),
    "ResidualSELayer": (lambda: ResidualSELayer(2, 4), (2, 4, 5, 5)),
    "SEResNetBottleneck": (lambda: SEResNetBottleneck(2, 16, 4, 1, 2), (2, 16, 6, 6)),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_rewritten_block_computes_what_monai_s_does(block):
    make, shape = BLOCKS[block]
    theirs = double(make())
    ours = copy.deepcopy(theirs)
    for module in list(ours.modules()):
        rewrite(module)
    assert type(ours) in REWRITTEN.values()
    images = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(ours(images), theirs(images.clone()))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("sides", [(8, 8), (8, 12), (8, 8, 4)])
def test_a_window_of_one_image_attends_as_in_monai(shift, sides):
    dims = len(sides)
    theirs = double(SwinTransformerBlock(8, 2, window_size=(4,) * dims, shift_size=(shift,) * dims))
    ours = copy.deepcopy(theirs)
    for module in list(ours.modules()):
        rewrite(module)
    images = torch.randn((3, *sides, 8), dtype=torch.float64)
    shifts = [shift if side > 4 else 0 for side in sides]
    mask = compute_mask(list(sides), (4,) * dims, shifts, images.device)
    expected = theirs(images, mask)
    assert torch.allclose(ours(images, mask), expected, atol=1e-12)
    table = "relative_position_bias_table"
    assert table in dict(ours.attn.named_buffers())
    assert table not in dict(ours.attn.named_parameters())


def test_a_layer_of_windows_keeps_images_in_order():
    layer = double(BasicLayer(8, 2, 2, window_size=(4, 4), drop_path=[0.0, 0.0]))
    convert(layer)
    images = torch.randn((3, 8, 8, 12), dtype=torch.float64)
    together = layer(images)
    assert together.shape == images.shape
    for index in range(3):
        assert torch.allclose(layer(images[index : index + 1])[0], together[index], atol=1e-12)


@pytest.mark.parametrize(
    ("dims", "kernel", "stride", "padding", "more", "bias"),
    [
        (1, 3, 2, 1, 1, True),
        (2, 2, 2, 0, 0, False),
        (2, 2, 2, 0, 0, True),
        (2, 3, 2, 1, 1, True),
        (2, 4, 2, 1, 0, False),
        (2, (2, 3), (2, 3), 0, 0, False),
        (3, 2, 2, 0, 0, False),
        (3, (3, 2, 4), (2, 1, 3), (1, 0, 2), (1, 0, 0), True),
        (2, 1, 2, 1, 1, True),
    ],
)
def test_a_transposed_convolution_becomes_layers_that_compute_the_same(
    dims, kernel, stride, padding, more, bias
):
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
    options = {"stride": stride, "padding": padding, "output_padding": more, "bias": bias}
    theirs = double(nn.Sequential(kind(3, 5, kernel, **options)))
    ours = convert(copy.deepcopy(theirs))
    assert not isinstance(ours[0], kind)
    images = torch.randn((2, 3, *range(4, 4 + dims)), dtype=torch.float64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-12)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_grouped_or_dilated_transposed_convolution_is_left_for_the_check_of_layers():
    for options in ({"groups": 3}, {"dilation": 2}):
        layer = nn.Sequential(nn.ConvTranspose2d(3, 3, 3, **options))
        assert not isinstance(convert(layer)[0], ZeroInserted)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nets.UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=(8, 16, 32),
            strides=(2, 2),
            act="relu",
        ),
        lambda: nets.SegResNet(spatial_dims=2, in_channels=1, out_channels=2, init_filters=8),
        lambda: nets.DynUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            res_block=True,
        ),
    ],
    ids=["UNet", "SegResNet", "DynUNet"],
)
def test_a_converted_network_computes_what_monai_s_does(make):
    theirs = double(make())
    ours = convert(copy.deepcopy(theirs))
    images = torch.randn((2, 1, 16, 16), dtype=torch.float64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-10)


def test_group_norm_takes_over_the_weight_and_bias_of_batch_norm():
    before = nn.Sequential(nn.BatchNorm2d(12))
    nn.init.uniform_(before[0].weight)
    nn.init.uniform_(before[0].bias)
    weight, bias = before[0].weight.clone(), before[0].bias.clone()
    after = convert(before)[0]
    assert isinstance(after, nn.GroupNorm)
    assert after.num_groups == 4
    assert torch.equal(after.weight, weight)
    assert torch.equal(after.bias, bias)


def test_a_layer_that_is_used_twice_stays_one_layer():
    shared = nn.BatchNorm2d(8)
    after = convert(nn.Sequential(shared, nn.Sequential(shared), nn.Dropout(0.5)))
    assert after[0] is after[1][0]
    assert isinstance(after[0], nn.GroupNorm)
    assert isinstance(after[2], nn.Identity)
