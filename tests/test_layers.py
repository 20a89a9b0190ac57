import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from lfkit.layers import ChannelNorm, LevelBlock, bilateral, in_full, pointwise, window_mean


def test_window_means_are_those_of_the_part_inside():
    x = torch.rand(1, 2, 9, 7)
    for side in (1, 3, 5):
        ours, r = window_mean(x, side), side // 2
        assert torch.allclose(ours[0, 1, 4, 3], x[0, 1, 4 - r:5 + r, 3 - r:4 + r].mean()) and torch.allclose(ours[0, 0, 0, 6], x[0, 0, :1 + r, 6 - r:].mean())


def same_with_gradients(ours, theirs, inputs):
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, other in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)):
        assert torch.allclose(mine, other, rtol=0, atol=1e-12)


def random(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pointwise_product_is_the_convolution_and_has_its_gradients(memory_format):
    x, weight, bias = random((3, 5, 4, 6), (2, 5, 1, 1), 2)
    ours = pointwise(x.contiguous(memory_format=memory_format), weight, bias)
    same_with_gradients(ours, F.conv2d(x, weight, bias), (x, weight, bias))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise(x.float(), weight.float(), bias.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_channel_norm_gives_each_pixel_a_mean_square_of_one_times_the_gain(memory_format):
    (x,), norm = random((2, 5, 4, 6)), ChannelNorm(5).double()
    nn.init.uniform_(norm.gain)
    ours = norm(x.contiguous(memory_format=memory_format))
    same_with_gradients(ours.double(), x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.gain[:, None, None], (x, norm.gain))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert norm.float()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_a_level_block_is_a_3d_convolution_along_the_levels_then_a_2d_one(levels):
    x, block = torch.randn(2 * levels, 4, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True), LevelBlock(4).double()
    nn.init.uniform_(block.norm.gain)
    along = rearrange(block.along.weight, "o (k f) 1 1 -> o f k 1 1", k=3)
    normed = rearrange(block.norm(x), "(b d) f h w -> b f d h w", d=levels)
    after = rearrange(F.relu(F.conv3d(normed, along, block.along.bias, padding=(1, 0, 0))), "b f d h w -> (b d) f h w")
    same_with_gradients(block(x, levels), x + block.across(after), (x, *block.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(block.float()(x.float(), levels).double(), x + block.across.double()(after), rtol=0, atol=0.05)


def test_in_full_reaches_tensors_within_pairs():
    half, kinds = torch.ones(2, dtype=torch.bfloat16), []
    in_full(lambda alone, pair, *, named: kinds.extend(part.dtype for part in (alone, pair[0], named)))(half, (half, None), named=half)
    assert kinds == [torch.float32] * 3


def test_a_bilateral_filter_is_what_a_loop_over_pixels_gives():
    x = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0))
    found, around = bilateral(x, 2, 1.5, 0.2), lambda k, size: min(max(k, 0), size - 1)
    for b in range(2):
        for i in range(9):
            for j in range(7):
                total = weights = 0.0
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        other = float(x[b, around(i + dy, 9), around(j + dx, 7)])
                        weight = math.exp(-(dy**2 + dx**2) / (2 * 1.5**2)) * math.exp(-(other - float(x[b, i, j]))**2 / (2 * 0.2**2))
                        total, weights = total + weight * other, weights + weight
                assert abs(float(found[b, i, j]) - total / weights) < 1e-5


def test_a_bilateral_filter_takes_noise_away_and_leaves_an_edge():
    wall = torch.where(torch.arange(32) < 16, -1.0, 1.0).expand(1, 32, 32)
    noisy = wall + 0.05 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    left = bilateral(noisy, 3, 2.0, 0.1) - wall
    assert left.std() < 0.4 * (noisy - wall).std() and left.abs().max() < 0.1
    assert torch.equal(bilateral(wall, 3, 2.0, 0.1), wall)
