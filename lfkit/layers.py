"""What the looks of the network are built of: convolutions over candidates and pixels, and means over windows."""

from functools import wraps

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

VOTE_WINDOW = 5        # side of the window over which plain votes are averaged, in pixels


def in_full(function):
    """The function, done in float32 also where autocast is on: half precision loses a small variance beside a large mean, and the hundredths of a disparity."""
    @wraps(function)
    def run(*args, **named):
        full = lambda a: a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        with torch.autocast(next(a for a in (*args, *named.values()) if isinstance(a, torch.Tensor)).device.type, enabled=False):
            return function(*map(full, args), **{name: full(a) for name, a in named.items()})
    return run


def window_mean(x: torch.Tensor, side: int = VOTE_WINDOW) -> torch.Tensor:
    """'b f h w' averaged over a square window; at the image's sides over the part of it that lies inside."""
    if side == 1:
        return x
    along = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(along, (side, 1), 1, (side // 2, 0), count_include_pad=False)


def pooled_mean(x: torch.Tensor, cell: int, side: int) -> torch.Tensor:
    """Averages over side x side cells of cell x cell pixels, one a cell: 'b f h w' to 'b f h/cell w/cell'; h and w multiples of cell."""
    return window_mean(F.avg_pool2d(x, cell) if cell > 1 else x, side)


def unpooled(x: torch.Tensor, cell: int) -> torch.Tensor:
    """A value a cell back to pixels, bilinear."""
    return F.interpolate(x, scale_factor=cell, mode="bilinear", align_corners=False) if cell > 1 else x


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The 1x1 convolution of 'b f h w' by weight 'k f 1 1' and bias 'k', as a matrix product: with few outputs a CPU's convolution takes four times as long, as it first moves all that it reads."""
    weights, pixels = weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    out = torch.bmm(weights, pixels) if bias is None else torch.baddbmm(bias[:, None], weights, pixels)
    return out.unflatten(2, x.shape[2:])


class ChannelNorm(nn.Module):
    """Scales the channels of each pixel and candidate to unit mean square; no statistic over the image.

    Source: RMSNorm, Zhang and Sennrich, NeurIPS 2019.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        gain = self.gain.reshape(-1, *[1] * (x.ndim - 2))
        return x * (torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6).to(x.dtype) * gain)


class LevelBlock(nn.Module):
    """A residual block over candidates and pixels: 3 along the candidates, then 3x3 along the image.

    Both are 2D convolutions over '(b d) f h w': on one CPU thread PyTorch's 3D ones are several times slower.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.along = nn.Conv2d(3 * channels, channels, 1)
        self.across = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, levels: int):
        y = rearrange(self.norm(x), "(b d) f h w -> b d f h w", d=levels)
        none = torch.zeros_like(y[:, :1])
        y = torch.cat([torch.cat([none, y[:, :-1]], 1), y, torch.cat([y[:, 1:], none], 1)], 2)
        return x + self.across(F.relu(self.along(rearrange(y, "b d f h w -> (b d) f h w"))))


class ImageBlock(nn.Module):
    """A residual block over pixels: two 3x3 convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.second(F.relu(self.first(self.norm(x))))


class Hourglass(nn.Module):
    """Features 'b f h w' of each pixel's surroundings, over full, half and quarter resolution, and a head of its own; h and w multiples of 4."""

    def __init__(self, inputs: int, outputs: int, channels: int):
        super().__init__()
        full, half = (3 * channels + 3) // 4, 3 * channels // 2
        self.features = full
        self.read = nn.Conv2d(inputs, full, 1)
        self.full_in = ImageBlock(full)
        self.down_half = nn.Conv2d(full, half, 3, stride=2, padding=1)
        self.half_in = ImageBlock(half)
        self.down_quarter = nn.Conv2d(half, half, 3, stride=2, padding=1)
        self.quarter = nn.Sequential(ImageBlock(half), ImageBlock(half), ImageBlock(half))
        self.half_out = ImageBlock(half)
        self.up_full = nn.Conv2d(half, full, 1)
        self.full_out = nn.Sequential(ImageBlock(full), ChannelNorm(full))
        self.head = nn.Conv2d(full, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        full = self.full_in(F.relu(self.read(x)))
        half = self.half_in(self.down_half(full))
        half = half + F.interpolate(self.quarter(self.down_quarter(half)), scale_factor=2, mode="nearest")
        full = full + F.interpolate(self.up_full(self.half_out(half)), scale_factor=2, mode="bilinear", align_corners=False)
        full = self.full_out(full)
        return self.head(full).float(), full
