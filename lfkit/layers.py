"""What the looks of the network are built of: convolutions over candidates and pixels, and means over windows."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce as fold, wraps

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils._pytree import tree_map

VOTE_WINDOW = 5        # side of the window over which plain votes are averaged, in pixels


def in_full(function):
    """The function, done in float32 at least, also where autocast is on: half precision loses a small variance beside a large mean, and the hundredths of a disparity."""
    @wraps(function)
    def run(*args, **named):
        full = lambda a: a.to(torch.promote_types(a.dtype, torch.float32)) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        with torch.autocast(next(a for a in (*args, *named.values()) if isinstance(a, torch.Tensor)).device.type, enabled=False):
            return function(*tree_map(full, args), **tree_map(full, named))
    return run


def sum_of_squares(channels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Of tensors alike; one at a time, so that none is made that is as large as all of them."""
    first, *rest = channels
    return fold(lambda total, channel: torch.addcmul(total, channel, channel), rest, first.square())


def sum_blocks(views: Sequence[torch.Tensor], members: list[list[int]]) -> torch.Tensor:
    """Views, tensors alike 'b c h w', summed over blocks, each given by the views that it has: 'b k c h w'. One view at a time, as that stays in a processor's cache."""
    totals = [views[block[0]].clone() for block in members]
    for total, block in zip(totals, members):
        for n in block[1:]:
            total.add_(views[n])
    return torch.stack(totals, 1)


def pad_axis(x: torch.Tensor, axis: int, reach: int, **how) -> torch.Tensor:
    """'... h w' with `reach` values more at either end of the axis -1 or -2; how: as torch's pad takes it, zeros by default."""
    return F.pad(x, [reach * (axis == side) for side in (-1, -1, -2, -2)], **how)


def inside(x: torch.Tensor, axis: int, reach: int) -> torch.Tensor:
    """How many values within `reach` of each along the axis -1 or -2 lie inside '... h w', in a shape that x can be divided by."""
    place, last = torch.arange(x.shape[axis], device=x.device), x.shape[axis] - 1
    return ((place + reach).clamp(max=last) - (place - reach).clamp(min=0) + 1).reshape(-1, *[1] * (-1 - axis))


def along_axis(x: torch.Tensor, axis: int, reach: int, combine: Callable, beyond: float) -> torch.Tensor:
    """Each value of '... h w' combined with all within `reach` along the axis -1 or -2, pair by pair; `beyond` the image's sides.

    By slices: on a CPU that takes a fifth to a tenth of a pooling's time.
    """
    padded = pad_axis(x, axis, reach, value=beyond)
    return fold(combine, (padded.narrow(axis, k, x.shape[axis]) for k in range(2 * reach + 1)))


def least(x: torch.Tensor, reach: int) -> torch.Tensor:
    """The least of '... h w' within `reach` pixels along rows and columns."""
    return fold(lambda part, axis: along_axis(part, axis, reach, torch.minimum, torch.inf), (-2, -1), x)


def extremes(disp: torch.Tensor, reach: int) -> torch.Tensor:
    """The least and the greatest of 'b h w' within `reach` pixels along rows and columns, 'b 2 h w'."""
    return torch.stack([least(disp, reach), -least(-disp, reach)], 1)


@in_full
def bilateral(x: torch.Tensor, reach: int, spread: float, alike: float) -> torch.Tensor:
    """'b h w' averaged over those of each value's neighbours that are like it, by a bilateral filter: differences of a few times `alike` stay as sharp as they are.

    Neighbours within `reach` pixels, weighted by normal curves of their distance, of deviation `spread` pixels, and of their difference, of deviation `alike`.

    Source: Tomasi and Manduchi, ICCV 1998.
    """
    h, w = x.shape[-2:]
    padded, sides = F.pad(x[:, None], [reach] * 4, mode="replicate")[:, 0], range(2 * reach + 1)
    near = (torch.arange(-reach, reach + 1, device=x.device) / spread).square()[:, None, None] / -2
    total = weights = 0
    for k in sides:  # of neighbours, a row at a time
        apart = torch.stack([padded[:, k:k + h, side:side + w] for side in sides], 1) - x[:, None]
        weight = torch.exp(torch.addcmul(near + near[k], apart, apart, value=-0.5 / alike**2))
        total, weights = total + (weight * apart).sum(1), weights + weight.sum(1)
    return x + total / weights


def mean_along(x: torch.Tensor, axis: int, side: int) -> torch.Tensor:
    """'... h w' averaged over `side` neighbours, an odd number, along the axis -1 or -2; at the image's sides over those that lie inside."""
    return along_axis(x, axis, side // 2, torch.add, 0.0) / inside(x, axis, side // 2)


@in_full
def window_mean(x: torch.Tensor, side: int = VOTE_WINDOW) -> torch.Tensor:
    """'b f h w' averaged over a square window; at the image's sides over the part of it that lies inside."""
    return x if side == 1 else mean_along(mean_along(x, -1, side), -2, side)


def pooled_mean(x: torch.Tensor, cell: int, side: int) -> torch.Tensor:
    """Averages over side x side cells of cell x cell pixels, one a cell: 'b f h w' to 'b f h/cell w/cell'; h and w multiples of cell."""
    return window_mean(F.avg_pool2d(x, cell) if cell > 1 else x, side)


def unpooled(x: torch.Tensor, cell: int) -> torch.Tensor:
    """A value a cell back to pixels, bilinear."""
    return F.interpolate(x, scale_factor=cell, mode="bilinear", align_corners=False) if cell > 1 else x


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The 1x1 convolution of 'b f h w' by weight 'k f 1 1' and bias 'k', or another for each pixel, 'b (h w) k', channels last, as a matrix product: with few outputs a CPU's convolution takes four times as long, as it first moves all that it reads."""
    pixels = x.movedim(1, -1).flatten(1, 2)
    return torch.baddbmm(bias, pixels, weight.flatten(1).T.expand(len(x), -1, -1)).unflatten(1, x.shape[2:]).movedim(-1, 1)


class ChannelNorm(nn.Module):
    """Scales the channels of each pixel and candidate to unit mean square; no statistic over the image. What comes out lies channels last, which a CPU's convolutions read faster.

    Source: RMSNorm, Zhang and Sennrich, NeurIPS 2019.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return in_full(F.rms_norm)(x.movedim(1, -1), self.gain.shape, self.gain, 1e-6).to(x.dtype).movedim(-1, 1)


class LevelBlock(nn.Module):
    """A residual block over candidates and pixels: 3 along the candidates, then 3x3 along the image.

    The second is a 2D convolution over '(b d) f h w', channels last, the first one matrix product a neighbour: on one CPU thread PyTorch's 3D convolutions are
    several times slower, and so is one of 1x1 over the neighbours' features put together, which are moved twice.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.along = nn.Conv2d(3 * channels, channels, 1)
        self.across = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, levels: int):
        pixels, (h, w) = rearrange(self.norm(x), "(b d) f h w -> b (d h w) f", d=levels), x.shape[2:]
        below, own, above = rearrange(self.along.weight, "o (k f) 1 1 -> k 1 f o", k=3).expand(-1, len(pixels), -1, -1)
        y = torch.baddbmm(self.along.bias, pixels, own)
        pixels, below, above = (part.to(y.dtype) for part in (pixels, below, above))  # autocast leaves what is done in place alone
        y[:, h * w:].baddbmm_(pixels[:, :-h * w], below)
        y[:, :-h * w].baddbmm_(pixels[:, h * w:], above)
        return x + self.across(rearrange(F.relu(y), "b (d h w) f -> (b d) f h w", h=h, w=w))


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
        return self.gather(pointwise(x, self.read.weight, self.read.bias))

    def gather(self, read: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is left to do once each pixel's inputs are read, which a caller may do in its own way."""
        full = self.full_in(F.relu(read))
        half = self.half_in(self.down_half(full))
        half = half + F.interpolate(self.quarter(self.down_quarter(half)), scale_factor=2, mode="nearest")
        full = full + F.interpolate(self.up_full(self.half_out(half)), scale_factor=2, mode="bilinear", align_corners=False)
        full = self.full_out(full)
        return self.head(full).float().contiguous(), full.contiguous()
