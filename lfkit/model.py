"""DeoccNet: from the views of a light field to the disparity of what lies behind its occluders."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

from lfkit.disparity import MAX_DISP, STEP, disparity_levels

FINE = 2        # candidates per disparity level: the network looks at step / FINE, and reports at step
BLOCK = 3       # views a side of an angular block: the smallest that sees a contrast along rows, columns and diagonals
CUBIC = -0.5    # Keys' cubic convolution kernel (a = -1/2, IEEE TASSP 29(6), 1981): sub-pixel shifts with little blur
CONTRAST_GAIN = 8.0    # brings the contrasts of views in [0, 1], about 0.1, near 1
VARIANCE_FLOOR = 1e-4  # the variance of a sensor's noise of 0.01
LOG_CENTRE, LOG_SCALE = 6.0, 2.0  # log variances run from log(1e-4) = -9 to -2
VOTE_WINDOW = 5        # side of the window over which plain votes are averaged, in pixels
HEAD_GAIN = 0.2        # an untrained network's scores stay below the plain votes, about 1
POOLING = 4     # crops agree with the whole image where they start at multiples of this


def check_views_num(views_num: int) -> int:
    """views_num when it is an odd number from 3; ValueError otherwise."""
    if views_num < 3 or views_num % 2 == 0:
        raise ValueError(f"views_num must be odd and at least 3, so that there is a centre view: got {views_num}; "
                         f"use {max(3, views_num - 1)}, the middle views of the grid")
    return views_num


def cubic_weights(fraction: float) -> list[float]:
    """The four taps that read a signal `fraction` of a sample after tap 1; they sum to 1.

    >>> cubic_weights(0.0)
    [0.0, 1.0, 0.0, 0.0]
    """
    def kernel(t):
        t = abs(t)
        if t <= 1:
            return (CUBIC + 2) * t**3 - (CUBIC + 3) * t**2 + 1
        return CUBIC * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0
    return [kernel(fraction - tap) + 0.0 for tap in (-1, 0, 1, 2)]


def interpolate_axis(x: torch.Tensor, fraction: float, axis: int) -> torch.Tensor:
    """x read `fraction` of a sample further along an axis, by cubic convolution; same shape, 0 where a tap is missing."""
    size = x.shape[axis] - 3
    first, *rest = cubic_weights(fraction)
    out = x.narrow(axis, 0, size) * first
    for k, weight in enumerate(rest, start=1):
        out.add_(x.narrow(axis, k, size), alpha=weight)
    return F.pad(out, (1, 2) if axis == -1 else (0, 0, 1, 2))


def view_groups(views_num: int) -> torch.Tensor:
    """The groups of views whose agreement is measured, 'g n', each row a mean over its views.

    Overlapping 3x3 blocks; the four quadrants, which share the middle row and column; every other view; all views.
    """
    n, c = views_num, views_num // 2
    spans = [(slice(u, u + BLOCK), slice(v, v + BLOCK)) for u in range(0, n - BLOCK + 1, 2) for v in range(0, n - BLOCK + 1, 2)]
    halves = (slice(0, c + 1), slice(c, n))
    spans += [(u, v) for u in halves for v in halves] + [(slice(0, n, 2), slice(0, n, 2)), (slice(0, n), slice(0, n))]
    groups = torch.zeros(len(spans), n, n)
    for group, span in zip(groups, spans):
        group[span] = 1 / group[span].numel()
    return rearrange(groups, "g u v -> g (u v)")


class ViewSweep:
    """The views shifted so that what lies at a candidate disparity falls on the pixel where the centre view sees it.

    Args:
        x: views 'b n c h w' with n = (u v).
        reach: largest shift that will be asked for, in pixels.
    """

    def __init__(self, x: torch.Tensor, reach: float):
        self.views_num = math.isqrt(x.shape[1])
        self.height, self.width = x.shape[-2:]
        self.pad = math.ceil(reach) + 2  # two more for the cubic taps
        self.moved = {(0.0, 0.0): F.pad(rearrange(x, "b n c h w -> (b n) c h w"), [self.pad] * 4)}
        self.count = x.shape[1]
        self.versions = {}

    def _moved(self, fy: float, fx: float) -> torch.Tensor:
        """All views, read at a fraction of a pixel."""
        if (fy, fx) not in self.moved:
            along_y = self._moved(fy, 0.0) if fx else interpolate_axis(self._moved(0.0, 0.0), fy, -2)
            self.moved[fy, fx] = interpolate_axis(along_y, fx, -1) if fx else along_y
        return self.moved[fy, fx]

    def _version(self, fy: float, fx: float) -> tuple:
        """The same, one tensor a view: slicing them apart spares the backward pass a gradient of the whole for each slice."""
        if (fy, fx) not in self.versions:
            self.versions[fy, fx] = rearrange(self._moved(fy, fx), "(b n) c h w -> n b c h w", n=self.count).unbind(0)
        return self.versions[fy, fx]

    def at(self, disp: float) -> torch.Tensor:
        """The views shifted by one candidate, 'b (n c) h w'; what lies outside a view is 0."""
        centre = self.views_num // 2
        shifted = []
        for n in range(self.count):
            u, v = divmod(n, self.views_num)
            dy, dx = (centre - u) * disp, (centre - v) * disp
            y, x = math.floor(dy + 1e-6), math.floor(dx + 1e-6)
            view = self._version(round(dy - y, 6), round(dx - x, 6))[n]
            y, x = y + self.pad, x + self.pad
            shifted.append(view[:, :, y:y + self.height, x:x + self.width])
        return torch.cat(shifted, 1)


class AngularMatch(nn.Module):
    """Says for one candidate how well the views agree, and which of them, without a reference view.

    Two kinds of evidence. The variance of the colours within a group of views, on a logarithmic scale: small where all views
    of the group see one point; overlapping 3x3 blocks find a background that only some of the views see, larger groups have
    the long baseline that makes a disparity precise. And learned contrasts, within the blocks (shared weights) and over all
    views; each has zero mean over its views, so that views which agree give 0 whatever their colour.

    Args:
        views_num: views a side.
        block_features: learned contrasts a block.
        wide_features: learned contrasts over all views.
        out_features: evidence a candidate.
    """

    def __init__(self, views_num: int, block_features: int, wide_features: int, out_features: int):
        super().__init__()
        self.views_num = views_num
        self.block = nn.Parameter(torch.empty(block_features, 4, BLOCK, BLOCK))
        self.wide = nn.Parameter(torch.empty(wide_features, 4, views_num, views_num))
        groups = view_groups(views_num)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("sizes", reduce(groups > 0, "g n -> g", "sum").float(), persistent=False)
        contrasts = ((views_num - 1) // 2) ** 2 * block_features + wide_features
        self.bias = nn.Parameter(torch.zeros(contrasts))
        self.mix = nn.Conv2d(contrasts + len(groups) + 4, out_features, 1)
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier-uniform weights, zero bias."""
        for weight in (self.block, self.wide):
            nn.init.xavier_uniform_(weight.flatten(1))
        nn.init.zeros_(self.bias)

    def kernel(self) -> torch.Tensor:
        """All contrasts as one 1x1 kernel 'o (n c) 1 1'."""
        n = self.views_num
        colour = torch.tensor([1, 1, 1, 0], device=self.block.device).reshape(1, 4, 1, 1)
        block = self.block - colour * self.block.mean((2, 3), keepdim=True)
        wide = self.wide - colour * self.wide.mean((2, 3), keepdim=True)
        rows = [F.pad(block, (v, n - BLOCK - v, u, n - BLOCK - u))
                for u in range(0, n - BLOCK + 1, 2) for v in range(0, n - BLOCK + 1, 2)]
        return CONTRAST_GAIN * rearrange(torch.cat([*rows, wide]), "o c u v -> o (u v c) 1 1")

    def spread(self, shifted: torch.Tensor) -> torch.Tensor:
        """Log variance of the colours of each group's views that reach the pixel (0 where fewer than two do), then the mean over all views,
        'b (g + 4) h w'."""
        views = rearrange(shifted.float(), "b (n c) h w -> b n c h w", c=4)
        mean = torch.einsum("gn,bnchw->bgchw", self.groups, views)
        square = torch.einsum("gn,bnhw->bghw", self.groups, reduce(views[:, :, :3].square(), "b n c h w -> b n h w", "sum"))
        count = mean[:, :, 3] * self.sizes[:, None, None]
        centred = square - reduce(mean[:, :, :3].square(), "b g c h w -> b g h w", "sum") / mean[:, :, 3].clamp(min=1e-6)
        variance = centred.clamp(min=0) * self.sizes[:, None, None] / (count - 1).clamp(min=1) / 3
        score = (torch.log(variance + VARIANCE_FLOOR) + LOG_CENTRE) / LOG_SCALE
        return torch.cat([torch.where(count > 1.5, score, 0.0), mean[:, -1]], 1)

    def forward(self, shifted: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """'b (n c) h w' of one candidate, c = RGB and whether the view reaches the pixel, to evidence 'b f h w'; the last is the mean vote."""
        contrasts = F.relu(F.conv2d(shifted, kernel, self.bias))
        with torch.autocast(shifted.device.type, enabled=False):  # half precision loses a small variance beside a large mean
            spread = self.spread(shifted)
        votes = -reduce(spread[:, :-4], "b g h w -> b 1 h w", "mean")
        return torch.cat([F.relu(self.mix(torch.cat([contrasts, spread], 1))), votes], 1)


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
    """A residual block over candidates and pixels: 3 along the candidates, then 3x3 along the image."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.along = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.across = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x):
        return x + self.across(F.relu(self.along(self.norm(x))))


class DeoccNet(nn.Module):
    """Two disparity distributions and the background's disparity map, from the views of a light field.

    A plane sweep without a reference view: for each candidate disparity the views are shifted and compared among
    themselves, so that the background votes also where the centre view sees the occluder; a small hourglass over
    candidates and pixels gathers the votes. The disparity is read near the background's peak alone, not as a mean over
    the whole distribution, which would lie in mid-air between two peaks.

    Args:
        channels: width; 32 for a laptop, 64 and more for a GPU.
        views_num: views a side of the grid, odd, at least 3.
        max_disp: largest disparity level, in pixels per view step.
        step: distance of two levels, in pixels per view step.

    Raises:
        ValueError: when channels is below 4, views_num is even or below 3, or max_disp is not a multiple of step.

    Source: plane sweep without a reference, peers of OACC-Net (CVPR 2022); sub-pixel levels, SubFocal (Chao et al., 2022).
    """

    def __init__(self, channels: int = 32, views_num: int = 9, max_disp: float = MAX_DISP, step: float = STEP):
        super().__init__()
        if channels < 4:
            raise ValueError(f"channels must be at least 4: got {channels}")
        self.channels, self.views_num = channels, check_views_num(views_num)
        self.max_disp, self.step = max_disp, step
        coarse, fine = disparity_levels(max_disp, step), disparity_levels(max_disp, step / FINE)
        self.register_buffer("fine_levels", fine, persistent=False)
        nearness = (1 - (fine[:, None] - coarse[None]).abs() / step).clamp(min=0)
        self.register_buffer("to_coarse", nearness, persistent=False)

        full, half, quarter = channels, channels, 2 * channels
        self.match = AngularMatch(views_num, channels // 8 + 1, channels, full)
        self.guide = nn.Sequential(nn.Conv2d(3, full, 3, padding=1), nn.ReLU(), nn.Conv2d(full, full, 3, padding=1))
        self.full_in = nn.Conv2d(full, full, 3, padding=1)
        self.down_half = nn.Conv2d(full, half, 3, stride=2, padding=1)
        self.half_in = nn.Sequential(LevelBlock(half), LevelBlock(half))
        self.down_quarter = nn.Conv3d(half, quarter, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.quarter = nn.Sequential(*[LevelBlock(quarter) for _ in range(3)])
        self.up_half = nn.Conv3d(quarter, half, 1)
        self.half_out = nn.Sequential(LevelBlock(half), LevelBlock(half))
        self.up_full = nn.Conv2d(half, full, 1)
        self.full_norm, self.out_norm = ChannelNorm(full), ChannelNorm(full)
        self.full_out = nn.Conv2d(full, full, 3, padding=1)
        self.heads = nn.Conv2d(full, 3, 3, padding=1)
        self.vote_gain = nn.Parameter(torch.full((2,), 1.5))  # trust in the plain votes, per distribution, where training starts

    def check_input(self, x: torch.Tensor) -> None:
        """ValueError unless x is 'b n c h w' with n = views_num ** 2 views of three colours."""
        n = self.views_num**2
        if x.ndim != 5 or x.shape[1] != n or x.shape[2] != 3:
            raise ValueError(f"the network takes 'b n c h w' with n = {n} views and c = 3 colours: got shape {tuple(x.shape)}")

    def cost_volume(self, x: torch.Tensor) -> torch.Tensor:
        """How the views agree on each candidate: 'b n c h w' to '(b d) f h w', the last of f the mean vote of the view groups."""
        x = torch.cat([x, torch.ones_like(x[:, :, :1])], 2)
        sweep = ViewSweep(x, self.views_num // 2 * self.max_disp)
        kernel = self.match.kernel()
        volume = [self.match(sweep.at(float(d)), kernel) for d in self.fine_levels.tolist()]
        return rearrange(torch.stack(volume, 1), "b d f h w -> (b d) f h w")

    def aggregate(self, volume: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """Votes gathered over pixels and candidates: '(b d) f h w' to '(b d) 3 h w' (two scores and an offset)."""
        b, d = len(centre), len(self.fine_levels)
        votes = F.avg_pool2d(volume[:, -1:], VOTE_WINDOW, 1, VOTE_WINDOW // 2, count_include_pad=False)
        volume = volume[:, :-1].contiguous(memory_format=torch.channels_last)
        guide = self.guide(centre - 0.5)
        skip = volume + F.relu(self.full_in(volume) + repeat(guide, "b f h w -> (b d) f h w", d=d))
        half = rearrange(self.down_half(skip), "(b d) f h w -> b f d h w", b=b)
        half = self.half_in(half.contiguous(memory_format=torch.channels_last_3d))
        low = self.quarter(self.down_quarter(half))
        low = F.interpolate(self.up_half(low), scale_factor=(1, 2, 2), mode="nearest")
        half = self.half_out(half + low)
        up = self.up_full(rearrange(half, "b f d h w -> (b d) f h w"))
        up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        full = skip + up
        full = full + F.relu(self.full_out(self.full_norm(full)))
        out = HEAD_GAIN * self.heads(self.out_norm(full))
        return torch.cat([out[:, :2] + votes * self.vote_gain[:, None, None], out[:, 2:]], 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sees through the occluders of a batch of light fields.

        Args:
            x: 'b n c h w', n = (u v), c = RGB, float in [0, 1]; any h and w.

        Returns:
            depDistT 'b d h w' (occluder and background), depDistS 'b d h w' (background), both sum to 1 over d;
            depth_map 'b h w', the background's disparity in pixels per view step.

        Raises:
            ValueError: when x has another number of axes, views or colours.
        """
        self.check_input(x)
        h, w = x.shape[-2:]
        x = F.pad(x, (0, -w % POOLING, 0, -h % POOLING, 0, 0), mode="replicate")
        out = self.aggregate(self.cost_volume(x), x[:, x.shape[1] // 2])
        out = rearrange(out, "(b d) k h w -> k b d h w", b=len(x))[..., :h, :w].float()
        both, background = out[0].softmax(1), out[1].softmax(1)
        depth_map = self.local_expectation(background, torch.tanh(out[2]) * self.step / FINE)
        return (*(torch.einsum("bfhw,fd->bdhw", p, self.to_coarse) for p in (both, background)), depth_map)

    def local_expectation(self, distribution: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """The expectation over the candidates within one step of the peak, each moved by its offset."""
        peak = distribution.argmax(1, keepdim=True)
        order = torch.arange(distribution.shape[1], device=peak.device)[None, :, None, None]
        near = distribution * ((order - peak).abs() <= FINE)
        disp = self.fine_levels[None, :, None, None] + offset
        return reduce(near * disp, "b d h w -> b h w", "sum") / reduce(near, "b d h w -> b h w", "sum")


def weights_init_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for one convolution or linear layer; use with `model.apply`.

    Source: Glorot and Bengio, AISTATS 2010.
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, AngularMatch):
        module.reset_parameters()


def get_parameter_number(model: nn.Module) -> dict[str, int]:
    """How many numbers a model holds, and how many of them are trained.

    >>> get_parameter_number(nn.Linear(2, 3))
    {'total': 9, 'trainable': 9}
    """
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in counts), "trainable": sum(n for n, trained in counts if trained)}
