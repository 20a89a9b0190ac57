"""DeoccNet: from the views of a light field to the disparity of what lies behind its occluders."""

import itertools
import math
from collections.abc import Iterator
from functools import cache, reduce as fold, wraps

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

from lfkit.disparity import MAX_DISP, STEP, disparity_levels

FINE = 2        # candidates per disparity level: the network looks at step / FINE, and reports at step
BLOCK = 3       # views a side of an angular block: the smallest that sees a contrast along rows, columns and diagonals
CUBIC = -0.5    # Keys' cubic convolution kernel (a = -1/2, IEEE TASSP 29(6), 1981): sub-pixel shifts with little blur
VARIANCE_FLOOR = 2e-5  # the variance of a sensor's noise of 0.0045
LOG_CENTRE, LOG_SCALE = 6.0, 2.0  # log variances run from log(2e-5) = -11 to -2
DOUBT_SCALE = 3.0      # from textured to faint, a correction's log variance runs over twice twelve
VOTE_WINDOW = 5        # side of the window over which plain votes are averaged, in pixels
HEAD_GAIN = 0.2        # an untrained network's scores stay below the plain votes, about 1
POOLING = 8     # crops agree with the whole image where they start at multiples of this
ROUNDING = 1e-6        # variance of colours that are rounded to bytes: 1 / 12 of a grey level squared
RIVALS = 5      # kinds of variance by which candidates compete
DETAIL = 2, 5   # window whose mean is taken from a picture, which leaves its detail: pixels a cell, cells a side; shading and gloss, which move otherwise
# than what they lie on, are smooth
SEARCH = ((1, 5, 20.0), (4, 3, 45.0), (8, 5, 150.0))  # windows in which candidates compete: pixels a cell, cells a side, and by how much the
# best one's variance must be lower to count: a third of what noise makes of the mean over so many pixels and views
ROBUST = SEARCH[1:] # windows in which they compete also by variances that are cut off
CUT = 2.0       # these, in parts of the pixel's least variance: an occluder then counts no more than what it hides, however much it differs from that
RIVAL_REACH = 1.0  # pixels per view step, within which they compete then: layers that lie farther apart are not each other's rivals
RIVAL_FEATURES = RIVALS * (len(SEARCH) + len(ROBUST))
SLANTED = 8     # from this cell on, candidates compete also as surfaces that are steep
SLANT = 1 / 16  # the steepest of these, along rows or columns, in pixels per view step a pixel; rendered scenes have floors of 0.02 to 0.06
REACH = 4       # pixels within which the second look takes its neighbours' least and greatest estimate for its own
CLOSE_GAIN = 3.0  # scores differ less between close candidates than between far ones
SCALES = (0.5, 0.3, 0.15)  # corrections that the closer looks expect, in distances of two first candidates
EARLIER = ("first", "second", "third", "fourth")  # the disparity maps of all looks but the last
CHOSEN = ("second_choices", "third_choices", "fourth_choices", "last_choices")  # of the looks after the first
JOLT = 0.8      # by how many distances of two first candidates a jolted estimate is moved, at most
WINDOWS = ((1, 1), (1, 3), (1, 7), (4, 3), (8, 5))  # over which a closer look gathers its normal equations: pixels a cell, cells a side
EQUATIONS = 3   # sets of them: of the colours, of their detail, and of the detail within blocks of views
WIDE = 4        # from this cell on, also a plane is fitted to the corrected estimates
GRADIENT_FLOOR = 1e-6  # mean squared change of colour per disparity under which there is nothing to see move: noise of 0.001
TILT_FLOOR = 0.03      # of a plane's moments, in parts of what a window evenly filled would have
MIX_REACH = 2   # pixels between a pixel and the neighbours that are mixed into it
OWN_WEIGHT = 4.0  # an untrained network keeps nine tenths of its own estimate
SAME_COLOUR = 0.06  # blocks whose mean colours differ by much more show different things: a few times a sensor's noise
SAME_BLOCK = 0.02   # the same where a block's own motion is to be read
BLOCK_EDGE = 3  # pixels about a place that shows something else, where it is not read either
SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)  # derivative of fourth order


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


@cache
def even_weights(fraction: float) -> list[float]:
    """The same, smoothed by [a, 1 - 2 a, a] so that of white noise as much is left as half way between two samples, where least is: six taps, read from tap 2.

    Reading between samples smooths the noise, and would make every second candidate look the better one.
    """
    taps, target = cubic_weights(fraction), sum(w * w for w in cubic_weights(0.5))
    def smoothed(a):
        padded = [0.0, 0.0, *taps, 0.0, 0.0]
        return [a * padded[k] + (1 - 2 * a) * padded[k + 1] + a * padded[k + 2] for k in range(6)]
    low, high = 0.0, 0.25  # the energy falls between them
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(w * w for w in smoothed(middle)) > target else (low, middle)
    return smoothed(low)


def interpolate_axis(x: torch.Tensor, taps: list[float], axis: int) -> torch.Tensor:
    """x weighted by taps along an axis, the middle ones before and after the place that is read; same shape, 0 where a tap is missing."""
    size, before = x.shape[axis] - len(taps) + 1, len(taps) // 2 - 1
    first, *rest = taps
    out = x.narrow(axis, 0, size) * first
    for k, weight in enumerate(rest, start=1):
        out.add_(x.narrow(axis, k, size), alpha=weight)
    return F.pad(out, (before, before + 1) if axis == -1 else (0, 0, before, before + 1))


def block_starts(views_num: int) -> list[int]:
    """Where blocks of BLOCK views begin along an axis of the grid: as few as cover it, evenly spread, the same from either end.

    >>> block_starts(9), block_starts(5)
    ([0, 3, 6], [0, 2])
    """
    count = math.ceil(views_num / BLOCK)
    return [round(k * (views_num - BLOCK) / max(count - 1, 1)) for k in range(count)]


def view_blocks(views_num: int) -> torch.Tensor:
    """Which views each angular block of BLOCK x BLOCK has, 'k n' of 0 and 1."""
    starts = block_starts(views_num)
    blocks = torch.zeros(len(starts) ** 2, views_num, views_num)
    for block, (u, v) in zip(blocks, itertools.product(starts, starts)):
        block[u:u + BLOCK, v:v + BLOCK] = 1
    return rearrange(blocks, "k u v -> k (u v)")


def block_groups(side: int) -> torch.Tensor:
    """The groups of blocks whose agreement is measured, 'g k' of 0 and 1: each block, 2 x 2 neighbours, each row, each column, all."""
    spans = [(slice(u, u + 1), slice(v, v + 1)) for u in range(side) for v in range(side)]
    spans += [(slice(u, u + 2), slice(v, v + 2)) for u in range(side - 1) for v in range(side - 1)]
    spans += [(slice(u, u + 1), slice(None)) for u in range(side)] + [(slice(None), slice(v, v + 1)) for v in range(side)]
    groups = torch.zeros(len(spans) + 1, side, side)
    groups[-1] = 1
    for group, span in zip(groups, spans):
        group[span] = 1
    return rearrange(groups, "g u v -> g (u v)")


def in_full(function):
    """The function, done in float32 also where autocast is on: half precision loses a small variance beside a large mean, and the hundredths of a disparity."""
    @wraps(function)
    def run(*args):
        with torch.autocast(next(a for a in args if isinstance(a, torch.Tensor)).device.type, enabled=False):
            return function(*(a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args))
    return run


class ViewSweep:
    """The views shifted so that what lies at a candidate disparity falls on the pixel where the centre view sees it.

    Args:
        x: views 'b n c h w' with n = (u v).
        reach: largest disparity, above or below 0, that will be asked for.
        spacing: distance of the candidates that are to be compared, for views of which c = RGB, ones and perhaps further channels; they become RGB, ones,
            the sum of the squares of RGB, the further channels and their squares; views that are read between samples at some of
            the candidates are read as smoothly at all. None for views as they are.
    """

    def __init__(self, x: torch.Tensor, reach: float, spacing: float | None = None):
        self.spacing, self.reach = spacing, reach
        self.views_num = math.isqrt(x.shape[1])
        self.height, self.width = x.shape[-2:]
        # one tensor a view: it stays in a processor's cache, and slices of it spare the backward pass a gradient of the whole for each
        self.views = x.unbind(1)
        self.versions = {}

    def _pad(self, offset: int) -> int:
        """Pixels that a view at this offset from the centre is moved at most, and three more for the taps."""
        return math.ceil(abs(offset) * self.reach) + 3

    def _version(self, n: int, ou: int, ov: int, fy: float, fx: float) -> torch.Tensor:
        """View n, padded by zeros and read at a fraction of a pixel."""
        if (n, fy, fx) not in self.versions:
            moved = F.pad(self.views[n], [self._pad(ov)] * 2 + [self._pad(ou)] * 2)
            for fraction, offset, axis in ((fy, ou, -2), (fx, ov, -1)):
                if self.spacing and offset * self.spacing % 1:
                    moved = interpolate_axis(moved, even_weights(fraction), axis)
                elif fraction:
                    moved = interpolate_axis(moved, cubic_weights(fraction), axis)
            if self.spacing:
                colours, others = moved[:, :4], moved[:, 4:]
                moved = torch.cat([colours, reduce(colours[:, :3].square(), "b c h w -> b 1 h w", "sum"), others, others.square()], 1)
            self.versions[n, fy, fx] = moved
        return self.versions[n, fy, fx]

    def shifted(self, disp: float) -> Iterator[torch.Tensor]:
        """Each view in turn, shifted by one candidate: 'b c h w'; what lies outside a view is 0."""
        centre = self.views_num // 2
        for n in range(len(self.views)):
            u, v = divmod(n, self.views_num)
            dy, dx = (centre - u) * disp, (centre - v) * disp
            y, x = math.floor(dy + 1e-6), math.floor(dx + 1e-6)
            view = self._version(n, centre - u, centre - v, round(dy - y, 6), round(dx - x, 6))
            y, x = y + self._pad(centre - u), x + self._pad(centre - v)
            yield view[:, :, y:y + self.height, x:x + self.width]

    def at(self, disp: float) -> torch.Tensor:
        """The views shifted by one candidate, 'b (n c) h w'; what lies outside a view is 0."""
        return torch.cat(list(self.shifted(disp)), 1)

    def sums(self, disp: float, members: list[list[int]]) -> torch.Tensor:
        """The shifted views summed over blocks, each given by the views that it has: 'b k c h w'. One view at a time, as that stays in a processor's cache."""
        views = list(self.shifted(disp))
        totals = [views[block[0]].clone() for block in members]
        for total, block in zip(totals, members):
            for n in block[1:]:
                total.add_(views[n])
        return torch.stack(totals, 1)


@in_full
def block_sums(views: torch.Tensor, reach: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """What `ViewEvidence` takes, from views 'b n c h w' of centred colours, 0 where one doesn't reach, and reach 'b n h w': sums over blocks 'k n' of views."""
    parts = torch.cat([views, reach[:, :, None].to(views.dtype), reduce(views.square(), "b n c h w -> b n 1 h w", "sum")], 2)
    return torch.einsum("kn,bnchw->bkchw", blocks, parts)


def log_score(variance: torch.Tensor) -> torch.Tensor:
    """A variance on a logarithmic scale of about unit spread."""
    return (torch.log(variance + VARIANCE_FLOOR) + LOG_CENTRE) / LOG_SCALE


class ViewEvidence(nn.Module):
    """Says how well the views agree at a candidate, and which of them, without a reference view and without learned numbers.

    Per pixel: the log variance of the colours within each group of views (0 where fewer than two reach the pixel): small where all
    of the group see one point, so that small blocks find a background which only some views see, and large groups have the
    long baseline that makes a disparity precise. Then the blocks are taken together: starting from the ones that agree best
    within themselves, those of like colour are gathered; their share, the variance between them, and their colour, which tells
    a background that the centre view sees from one that it does not.

    Args:
        views_num: views a side.
    """

    def __init__(self, views_num: int):
        super().__init__()
        blocks = view_blocks(views_num)
        side = math.isqrt(len(blocks))
        groups = block_groups(side)
        self.features = len(groups) + 8
        self.fours = slice(side**2, side**2 + (side - 1) ** 2) if side > 1 else slice(len(groups) - 1, len(groups))
        self.members = [block.nonzero()[:, 0].tolist() for block in blocks]
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("groups", groups, persistent=False)

    def plain_votes(self) -> torch.Tensor:
        """Weights '2 f 1 1' of the evidence that make a first guess: for both layers where any views agree, for the background where many do."""
        votes = torch.zeros(2, self.features)
        groups = len(self.groups)
        votes[0, :groups] = -1.0 / groups
        votes[0, groups] = -0.5
        votes[1, :groups] = -0.3 / groups
        votes[1, groups:groups + 3] = torch.tensor([-0.5, -1.0, 1.0])
        return votes[:, :, None, None]

    @in_full
    def forward(self, sums: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The evidence at one candidate, in float32.

        Args:
            sums: 'b k 5 h w', over the views of each block: centred colours (3), how many views reach the pixel, squares of the colours.
            centre: 'b c h w', the centre view's centred colours.

        Returns:
            'b f h w': log variance of each group, least of the blocks, variance between like blocks, their share, distance of their
            colour from the centre's, their centred colour (3), and the share of the views that reach the pixel.
            'b 3 h w': the variances by which candidates compete over windows: of all views, of the best four blocks, and of the like blocks.
        """
        mean, count, variance = self.group_variances(sums, self.groups)
        valid = count > 1.5
        score = torch.where(valid, log_score(variance), 0.0)
        blocks = slice(0, sums.shape[1])
        together, like = self.together(mean[:, blocks], variance[:, blocks], valid[:, blocks], centre)
        best = torch.where(valid, variance, 1.0)[:, self.fours].amin(1, keepdim=True)
        return torch.cat([score, *together, count[:, -1:] / len(self.blocks) / BLOCK**2], 1), torch.cat([variance[:, -1:], best, like], 1)

    @in_full
    def detail(self, sums: torch.Tensor) -> torch.Tensor:
        """The variances 'b 2 h w' of all views and of the best four blocks, of one channel: sums 'b k 3 h w' of its values, of how many views reach, and of its squares."""
        _, count, variance = self.group_variances(sums, torch.cat([self.groups[self.fours], self.groups[-1:]]))
        variance = torch.where(count > 1.5, variance, 1.0)
        return torch.cat([variance[:, -1:], variance[:, :-1].amin(1, keepdim=True)], 1)

    @staticmethod
    def group_variances(sums: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean 'b g c h w', number of views and variance 'b g h w' of groups 'g k' of blocks; sums 'b k (c + 2) h w' of the values, of how many views reach, and of the squares."""
        total = torch.einsum("gk,bkchw->bgchw", groups, sums)
        values, count, squares = total[:, :, :-2], total[:, :, -2], total[:, :, -1]
        mean = values / count.clamp(min=1e-6)[:, :, None]
        within = (squares - count * reduce(mean.square(), "b g c h w -> b g h w", "sum")).clamp(min=0)
        return mean, count, within / (values.shape[2] * (count - 1).clamp(min=1))

    def together(self, mean: torch.Tensor, variance: torch.Tensor, valid: torch.Tensor, centre: torch.Tensor) -> tuple:
        """What the blocks say together, from their means 'b g c h w' and variances 'b g h w'; and the variance over all views of the like ones."""
        trust = valid / (variance + VARIANCE_FLOOR)
        least = log_score(1 / reduce(trust, "b g h w -> b 1 h w", "mean").clamp(min=1e-2))
        colour = self.weighted(mean, trust.square())
        for _ in range(2):
            like = trust * self.likeness(mean, colour)
            colour = self.weighted(mean, like)
        unlike = reduce((mean - colour[:, None]).square(), "b g c h w -> b g h w", "mean")
        between = self.weighted(unlike[:, :, None], like)
        inside = self.weighted(variance[:, :, None], like)
        share = reduce(valid * torch.exp(-unlike / (2 * SAME_COLOUR**2)), "b g h w -> b 1 h w", "mean")
        apart = reduce((colour - centre).square(), "b c h w -> b 1 h w", "mean")
        return (least, log_score(between), share, log_score(apart), colour), inside + between

    @staticmethod
    def likeness(colours: torch.Tensor, colour: torch.Tensor, same: float = SAME_COLOUR) -> torch.Tensor:
        """How like one colour 'b c h w' each of 'b g c h w' is: 'b g h w' in [0, 1]."""
        return torch.exp(-reduce((colours - colour[:, None]).square(), "b g c h w -> b g h w", "mean") / (2 * same**2))

    @staticmethod
    def weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The mean over g of 'b g c h w', weighted by 'b g h w'."""
        total = reduce(weights, "b g h w -> b 1 h w", "sum")
        return reduce(values * weights[:, :, None], "b g c h w -> b c h w", "sum") / total.clamp(min=1e-6)


def look_closer(x: torch.Tensor, disp: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The views read where a point at a disparity of its own for every pixel is seen, by cubic convolution.

    Args:
        x: views 'b n c h w'.
        disp: 'b h w', in pixels per view step.

    Returns:
        Colours 'b n c h w', 0 where a view doesn't reach, and 'b n h w', whether it does.
    """
    n, (h, w) = math.isqrt(x.shape[1]), x.shape[-2:]
    offset = n // 2 - torch.arange(n, device=x.device, dtype=disp.dtype)
    y = torch.arange(h, device=x.device, dtype=disp.dtype)[:, None] + repeat(offset, "u -> (u v) 1 1", v=n) * disp[:, None]
    x0 = torch.arange(w, device=x.device, dtype=disp.dtype) + repeat(offset, "v -> (u v) 1 1", u=n) * disp[:, None]
    reach = (y >= 0) & (y <= h - 1) & (x0 >= 0) & (x0 <= w - 1)
    grid = torch.stack([(2 * x0 + 1) / w - 1, (2 * y + 1) / h - 1], -1)
    views = F.grid_sample(rearrange(x, "b n c h w -> (b n) c h w"), rearrange(grid, "b n h w k -> (b n) h w k"), "bicubic", "border", align_corners=False)
    return rearrange(views, "(b n) c h w -> b n c h w", n=n * n) * reach[:, :, None], reach


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


def detail(x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Grey detail of colours 'b n c h w', 'b n h w': what differs from the mean, by weights 'b n h w', over a window; scaled so that noise is as strong in it as in a colour."""
    grey, mean = reduce(x, "b n c h w -> b n h w", "sum") / math.sqrt(x.shape[2]), lambda part: pooled_mean(part, *DETAIL)
    smooth = mean(grey) if weights is None else mean(weights * grey) / mean(weights).clamp(min=1e-3)
    return grey - unpooled(smooth, DETAIL[0])


def steep_means(x: torch.Tensor, side: int, rise: float) -> torch.Tensor:
    """The least of the means over windows in which the candidate is the same, or rises or falls by `rise` candidates, or half as much, from cell to cell along rows or columns.

    'b d k h w' of cells to the same shape; beyond the last candidate there is the last one, beyond the image nothing.
    """
    least, d, half = window_mean(x.flatten(0, 1), side).reshape(x.shape), x.shape[1], side // 2
    for axis in (-2, -1):
        around = (1, side) if axis == -2 else (side, 1)  # along the other axis nothing changes
        across = F.avg_pool2d(x.flatten(0, 1), around, 1, [k // 2 for k in around], count_include_pad=False).reshape(x.shape)
        size = x.shape[axis]
        place = torch.arange(size, device=x.device)
        count = (place + half).clamp(max=size - 1) - (place - half).clamp(min=0) + 1
        for slant in (rise, -rise, rise / 2, -rise / 2):
            total = torch.zeros_like(x)
            for k in range(-half, half + 1):
                start, stop = max(0, -k), min(size, size - k)  # cells that have a neighbour k further on
                if start >= stop:
                    continue
                low = math.floor(slant * k)
                levels = torch.arange(d, device=x.device) + low
                beside = across.narrow(axis, start + k, stop - start)
                moved = beside[:, levels.clamp(0, d - 1)]
                if slant * k > low:
                    moved = moved + (slant * k - low) * (beside[:, (levels + 1).clamp(0, d - 1)] - moved)
                total.narrow(axis, start, stop - start).add_(moved)
            least = torch.minimum(least, total / count.reshape(-1, *[1] * (-1 - axis)))
    return least


def competition(variances: torch.Tensor, spacing: float) -> torch.Tensor:
    """How much worse than the best candidate each one is, over windows of several sides: 'b d k h w' to 'b d f h w', 0 for the best.

    Where a surface is faint, no pixel can tell candidates apart from the noise; sums of squares over many pixels can. In the widest windows also
    surfaces that are as steep as a floor compete; candidates lie `spacing` apart. Behind an occluder its own pixels, which vary by far the most at every
    candidate but its own, would decide for the whole window: so candidates compete once more, by variances in parts of the least of each pixel, cut off at CUT, each with those within RIVAL_REACH alone.

    Source: truncated quadratic, Black and Rangarajan, IJCV 19, 1996.
    """
    floored, features = variances + ROUNDING, []
    around = max(1, round(RIVAL_REACH / spacing))
    relative = (floored / floored.amin(1, keepdim=True)).clamp(max=CUT)
    for values, windows in ((floored, SEARCH), (relative, ROBUST)):
        for cell, side, gain in windows:
            score = torch.log(candidate_means(values, cell, side, spacing))
            best = -F.max_pool2d(-score.flatten(2), (2 * around + 1, 1), 1, (around, 0)).reshape(score.shape) if values is relative else score.amin(1, keepdim=True)
            worse = torch.log1p(gain * (score - best)) / 2
            features.append(unpooled(worse.flatten(0, 1), cell))
    return rearrange(torch.cat(features, 1), "(b d) f h w -> b d f h w", b=len(variances))


def candidate_means(values: torch.Tensor, cell: int, side: int, spacing: float) -> torch.Tensor:
    """Means of 'b d k h w' over windows, one a cell; in those of large cells the least of level and steep ones."""
    cells = rearrange(pooled_mean(values.flatten(0, 1), cell, side if cell < SLANTED else 1), "(b d) k h w -> b d k h w", b=len(values))
    return cells if cell < SLANTED else steep_means(cells, side, SLANT * cell / spacing)


def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of 'b c h w' along rows and columns, a pixel apart; the edge repeated."""
    taps = x.new_tensor(SLOPE)
    planes = F.pad(rearrange(x, "b c h w -> (b c) 1 h w"), [2] * 4, mode="replicate")
    back = lambda part: rearrange(part, "(b c) 1 h w -> b c h w", b=len(x))
    return back(F.conv2d(planes[..., 2:-2], taps.reshape(1, 1, 5, 1))), back(F.conv2d(planes[..., 2:-2, :], taps.reshape(1, 1, 1, 5)))


@in_full
def normal_equations(views: torch.Tensor, weights: torch.Tensor, near: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """What each pixel's views say about how far the disparity at which they were read is from the one at which they agree.

    Least squares over the views of a pixel: read at a disparity too low by e, the view at offset o = (c - u, c - v) shows what the mean of all shows o e pixels
    before. The slopes are the mean's, in which noise has averaged out.

    Args:
        views: 'b n c h w'.
        weights: 'b n h w', how far each view is believed to see the point.
        near: 'b c h w', colours near the views', black by default: differences from near ones lose the fewest digits.

    Returns:
        a, b and s, 'b 1 h w': the correction is b / a, the views' weighted variance s, and s - b^2 / a what of it the correction leaves; the sums of each
        over several pixels give their common one; the weighted mean colour 'b c h w'.

    Source: Lucas and Kanade, IJCAI 1981, along the lines of a light field.
    """
    n = math.isqrt(views.shape[1])
    o = n // 2 - torch.arange(n, device=views.device, dtype=views.dtype)
    u, v = repeat(o, "u -> (u v)", v=n), repeat(o, "v -> (u v)", u=n)
    moments = torch.stack([torch.ones_like(u), u, v])
    total = reduce(weights, "b n h w -> b 1 h w", "sum").clamp(min=1e-6)
    m = torch.einsum("kn,bnhw->bkhw", torch.cat([moments[1:], (moments[1:, None] * moments[None, 1:]).flatten(0, 1)[[0, 1, 3]]]), weights) / total
    mu, mv, uu, uv, vv = m[:, :1], m[:, 1:2], m[:, 2:3], m[:, 3:4], m[:, 4:5]
    near = torch.zeros_like(views[:, 0]) if near is None else near
    apart = views - near[:, None]
    weighted = apart * weights[:, :, None]
    mean, along_u, along_v = (torch.einsum("kn,bnchw->kbchw", moments, weighted) / total).unbind(0)
    s = reduce(weighted * apart, "b n c h w -> b c h w", "sum") / total - mean * mean
    along_u, along_v = along_u - mu * mean, along_v - mv * mean
    mean = mean + near  # whose slopes are the picture's; those of the differences alone would be next to none
    dy, dx = slopes(mean)
    a = (uu - mu * mu) * dy * dy + 2 * (uv - mu * mv) * dy * dx + (vv - mv * mv) * dx * dx
    b = -(along_u * dy + along_v * dx)
    over_colours = lambda x: reduce(x, "b c h w -> b 1 h w", "mean")
    return over_colours(a).clamp(min=0), over_colours(b), over_colours(s).clamp(min=0), mean


@in_full
def block_equations(views: torch.Tensor, reach: torch.Tensor, blocks: torch.Tensor, likeness: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`normal_equations` of each angular block of BLOCK x BLOCK views for itself, over its own mean's slopes, and the mean over the blocks.

    Views side by side differ a quarter as much as those at the grid's opposite sides: less precise, these find the way from a disparity that is further off.

    Args:
        views: 'b n h w', of one channel.
        reach: 'b n h w', whether each view reaches the pixel; a block of which one does not has no say there.
        blocks: 'k n' of 0 and 1.
        likeness: 'b k h w' in [0, 1], how like each block is to what is looked for; it has a say as far as all pixels within BLOCK_EDGE are.

    Returns:
        a, b and s, 'b 1 h w'.
    """
    n = math.isqrt(blocks.shape[1])
    o = n // 2 - torch.arange(n, device=views.device, dtype=views.dtype)
    offsets = torch.stack([repeat(o, "u -> (u v)", v=n), repeat(o, "v -> (u v)", u=n)])
    share = blocks / BLOCK**2
    inside = blocks * (offsets[:, None] - torch.einsum("on,kn->ok", offsets, share)[:, :, None])  # of each view from its block's middle
    mean, squares = (torch.einsum("kn,bnhw->bkhw", share, part) for part in (views, views.square()))
    along_u, along_v = torch.einsum("okn,bnhw->obkhw", inside, views) / BLOCK**2
    dy, dx = slopes(mean)
    weights = likeness * (torch.einsum("kn,bnhw->bkhw", share, reach.to(views.dtype)) > 1 - 0.5 / BLOCK**2)
    for axis in (0, 1):
        weights = -F.max_pool2d(-weights, [1 + 2 * BLOCK_EDGE * (axis == k) for k in (0, 1)], 1, [BLOCK_EDGE * (axis == k) for k in (0, 1)])
    spread = (BLOCK**2 - 1) / 12  # of the offsets along an axis
    parts = spread * (dy.square() + dx.square()), -(along_u * dy + along_v * dx), (squares - mean.square()).clamp(min=0)
    return tuple(reduce(weights * part, "b k h w -> b 1 h w", "mean") for part in parts)


def window_correction(equations: tuple[torch.Tensor, ...], cell: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normal equations a, b, s gathered over each window: the common correction, the slopes' energy and the variance that the correction leaves, 'b 1 h w', both floored.

    For n views of independent noise the correction's own variance is what it leaves over energy, n and the window's pixels.
    """
    a, b, s = unpooled(pooled_mean(torch.cat(equations, 1), cell, side), cell).split(1, 1)
    energy = a + GRADIENT_FLOOR
    return b / energy, energy, (s - b.square() / energy).clamp(min=0) + ROUNDING / 3


def plane_fit(weight: torch.Tensor, target: torch.Tensor, cell: int, side: int) -> torch.Tensor:
    """A plane through the values of each window of side x side cells, read at each pixel: 'b 1 h w' of weights and weighted values to 'b 1 h w'.

    Weighted least squares; a small ridge keeps the plane level where a window is too uneven to tell its tilt.
    """
    h, w = weight.shape[-2:]
    reach = cell * side / 2  # coordinates in half windows
    y, x = torch.meshgrid(torch.arange(h, device=weight.device) / reach, torch.arange(w, device=weight.device) / reach, indexing="ij")
    parts = torch.cat([weight, weight * y, weight * x, weight * y * y, weight * y * x, weight * x * x, target, target * y, target * x], 1)
    s, sy, sx, syy, syx, sxx, t, ty, tx = pooled_mean(parts, cell, side).split(1, 1)
    my, mx, mt = sy / s, sx / s, t / s
    ridge = TILT_FLOOR / 3
    vyy, vxx, vyx = (syy / s - my * my).clamp(min=0) + ridge, (sxx / s - mx * mx).clamp(min=0) + ridge, syx / s - my * mx
    cy, cx = ty / s - my * mt, tx / s - mx * mt
    det = (vyy * vxx - vyx * vyx).clamp(min=ridge * ridge)
    ky, kx = (vxx * cy - vyx * cx) / det, (vyy * cx - vyx * cy) / det
    level, ky, kx = unpooled(torch.cat([mt - ky * my - kx * mx, ky, kx], 1), cell).split(1, 1)
    return level + ky * y + kx * x


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


def mix(disp: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """'b h w' with each pixel's neighbours mixed into it; mixing 'b 9 h w' are scores, the middle one the pixel's own."""
    around = F.unfold(F.pad(disp[:, None], [MIX_REACH] * 4, mode="replicate"), 3, dilation=MIX_REACH)
    weights = torch.cat([mixing[:, :4], mixing[:, 4:5] + OWN_WEIGHT, mixing[:, 5:]], 1).softmax(1)
    return reduce(weights * rearrange(around, "b k (h w) -> b k h w", h=disp.shape[-2]), "b k h w -> b h w", "sum")


def chances(estimates: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """What a look chooses among, and the log probability of each: 'b 2 k h w' from both 'b k h w'. Only the scores have a gradient."""
    return torch.stack([estimates.detach().float(), scores.float().log_softmax(1)], 1)


def jolts(disp: torch.Tensor, share: float) -> torch.Tensor:
    """Smooth random moves like 'b h w', in [-JOLT, JOLT], for about this share of the crops, and 0 for the rest."""
    moves = JOLT * (2 * torch.rand(len(disp), 1, 4, 4, device=disp.device) - 1) * (torch.rand(len(disp), 1, 1, 1, device=disp.device) < share)
    return F.interpolate(moves, disp.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


class SecondLook(nn.Module):
    """Chooses for each pixel between its own first estimate and the least and greatest of its neighbours'.

    A first look blurs the edge between two surfaces; one of its neighbours' estimates is then the right one, and the views tell which.

    Args:
        votes: weights '1 f 1 1' of the evidence for a first guess.
        context: features of the first look.
        channels: width.
    """

    CANDIDATES = 3
    OWN = 2.0  # an untrained network keeps its own estimate unless the views speak clearly for a neighbour's

    def __init__(self, votes: torch.Tensor, context: int, channels: int):
        super().__init__()
        self.vote_weights = nn.Parameter(votes)  # where training starts
        self.hourglass = Hourglass(self.CANDIDATES * (votes.shape[1] + 1) + context, self.CANDIDATES + 1 + 9, channels)

    @staticmethod
    def candidates(disp: torch.Tensor) -> torch.Tensor:
        """'b h w' to 'b k h w'."""
        greatest = lambda x: F.max_pool2d(x[:, None], 2 * REACH + 1, 1, REACH)[:, 0]
        return torch.stack([disp, -greatest(-disp), greatest(disp)], 1)

    def forward(self, evidence: list[torch.Tensor], context: torch.Tensor, candidates: torch.Tensor, where: torch.Tensor,
                spacing: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evidence at each candidate and context 'b f h w', candidates 'b k h w' and the same as places to read at, to a better estimate 'b h w', features, and `chances`."""
        votes = window_mean(torch.cat([F.conv2d(e, self.vote_weights) for e in evidence], 1))
        beside = ((where - where[:, :1]) / spacing).clamp(-4, 4)
        out, features = self.hourglass(torch.cat([*evidence, beside, context], 1))
        near, correction, mixing = (HEAD_GAIN * out).split([self.CANDIDATES, 1, 9], 1)
        scores = near + votes.float()
        scores = torch.cat([scores[:, :1] + self.OWN, scores[:, 1:]], 1)
        chosen = reduce(scores.softmax(1) * candidates, "b k h w -> b h w", "sum")
        return mix(chosen + spacing * correction[:, 0], mixing), features, chances(candidates, scores)


class CloserLook(nn.Module):
    """Makes a disparity map precise from how the views differ where they are read at it.

    Each pixel's normal equations are summed over windows of several sides, which gives as many corrections; in wide windows
    also a plane is fitted to the corrected estimates. An hourglass chooses among them: narrow ones near edges, wide ones where there is little
    to see.

    Args:
        evidence, context: numbers of features.
        channels: width.
    """

    def __init__(self, evidence: int, context: int, channels: int):
        super().__init__()
        windows = len(WINDOWS)
        self.choices = 1 + EQUATIONS * (windows + sum(cell >= WIDE for cell, _ in WINDOWS))
        self.hourglass = Hourglass(evidence + context + self.choices + 2 * EQUATIONS * windows, self.choices + 1 + 9, channels)

    def forward(self, equations: list[tuple[torch.Tensor, ...]], evidence: torch.Tensor, context: torch.Tensor, disp: torch.Tensor,
                where: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """EQUATIONS sets of normal equations a, b, s 'b 1 h w', evidence and context 'b f h w', an estimate 'b h w' and the same as the place read at, to a better one, features, and `chances`."""
        where, limit = where[:, None], 3 * scale
        changes, texture, doubt = [torch.zeros_like(where)], [], []
        for a, b, s in equations:
            weight = a + GRADIENT_FLOOR
            for cell, side in WINDOWS:
                change, energy, left = window_correction((a, b, s), cell, side)
                texture.append((torch.log(energy) + LOG_CENTRE) / LOG_SCALE)
                doubt.append((torch.log(left / energy / scale**2) / DOUBT_SCALE).clamp(-4, 4))  # the correction's variance, but for the number of views and pixels
                changes.append(change.clamp(-limit, limit))
                if cell >= WIDE:
                    changes.append((plane_fit(weight, b + weight * where, cell, side) - where).clamp(-2 * limit, 2 * limit))
        changes = torch.cat(changes, 1)
        out, features = self.hourglass(torch.cat([evidence, context, (changes / scale).clamp(-4, 4), *texture, *doubt], 1))
        choice, correction, mixing = (HEAD_GAIN * out).split([self.choices, 1, 9], 1)
        better = disp + reduce(choice.softmax(1) * changes, "b k h w -> b h w", "sum") + scale * correction[:, 0]
        return mix(better, mixing), features, chances(where + changes, choice)


class DeoccNet(nn.Module):
    """Two disparity distributions and the background's disparity map, from the views of a light field.

    Five looks, each closer than the one before. First a plane sweep without a reference view: for each candidate disparity the
    views are shifted and compared among themselves, so that the background votes also where the centre view sees the occluder; a
    small hourglass over candidates and pixels gathers the votes into the distributions. The background's disparity is read
    near its peak alone, not as a mean over the whole distribution, which would lie in mid-air between two peaks. The second look
    reads the views at each pixel's own estimate and its neighbours', and chooses, which makes edges sharp. The last three read them
    at the estimate, and solve for the disparity at which they agree, in windows of many sizes.

    Args:
        channels: width; 32 for a laptop, 64 and more for a GPU.
        views_num: views a side of the grid, odd, at least 3.
        max_disp: largest disparity level, in pixels per view step.
        step: distance of two levels, in pixels per view step.

    Raises:
        ValueError: when channels is below 4, views_num is even or below 3, or max_disp is not a multiple of step.

    Source: plane sweep without a reference, peers of OACC-Net (CVPR 2022); sub-pixel levels, SubFocal (Chao et al., 2022).
    """

    jolt = 0.0  # while training, the share of the crops whose estimates are moved before the closer looks, which learn to mend that

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

        fine_c, middle, low, lowest = (channels + 1) // 2, channels, 3 * channels // 2, 2 * channels
        self.evidence = ViewEvidence(views_num)
        features = self.evidence.features + RIVAL_FEATURES
        self.guide = nn.Sequential(nn.Conv2d(3, fine_c, 3, padding=1), nn.ReLU(), nn.Conv2d(fine_c, fine_c, 3, padding=1))
        self.guide_middle = nn.Sequential(nn.ReLU(), nn.Conv2d(fine_c, middle, 3, stride=2, padding=1))
        self.match = nn.Conv2d(features, fine_c, 1)
        self.first_in = nn.Conv2d(fine_c, fine_c, 3, padding=1)
        self.down_middle = nn.Conv2d(fine_c, middle, 3, stride=2, padding=1)
        self.middle_in = nn.ModuleList(LevelBlock(middle) for _ in range(2))
        self.down_low = nn.Conv2d(middle, low, 3, stride=2, padding=1)
        self.low_in = nn.ModuleList(LevelBlock(low) for _ in range(2))
        self.down_lowest = nn.Conv2d(low, lowest, 3, stride=2, padding=1)
        self.lowest = nn.ModuleList(LevelBlock(lowest) for _ in range(2))
        self.up_low = nn.Conv2d(lowest, low, 1)
        self.low_out = nn.ModuleList(LevelBlock(low) for _ in range(2))
        self.up_middle = nn.Conv2d(low, middle, 1)
        self.middle_out = nn.ModuleList(LevelBlock(middle) for _ in range(2))
        self.up_first = nn.Conv2d(middle, fine_c, 1)
        self.first_norm, self.out_norm = ChannelNorm(fine_c), ChannelNorm(fine_c)
        self.first_out = nn.Conv2d(fine_c, fine_c, 3, padding=1)
        self.heads = nn.Conv2d(fine_c, 2, 3, padding=1)
        votes = self.evidence.plain_votes()
        self.vote_weights = nn.Parameter(torch.cat([votes, torch.full((2, RIVAL_FEATURES, 1, 1), -1 / RIVAL_FEATURES)], 1))  # where training starts
        context = 3 * fine_c + 4
        self.second_look = SecondLook(CLOSE_GAIN * votes[1:], context, channels)
        self.closer_look = CloserLook(self.evidence.features, context + self.second_look.hourglass.features, channels)

    def check_input(self, x: torch.Tensor) -> None:
        """ValueError unless x is 'b n c h w' with n = views_num ** 2 views of three colours."""
        n = self.views_num**2
        if x.ndim != 5 or x.shape[1] != n or x.shape[2] != 3:
            raise ValueError(f"the network takes 'b n c h w' with n = {n} views and c = 3 colours: got shape {tuple(x.shape)}")

    def cost_volume(self, x: torch.Tensor) -> torch.Tensor:
        """How the views agree on each candidate: centred views 'b n c h w' to '(b d) f h w'."""
        centre, spacing = x[:, x.shape[1] // 2], self.step / FINE
        sweep = ViewSweep(torch.cat([x, torch.ones_like(x[:, :, :1]), detail(x)[:, :, None]], 2), self.max_disp, spacing)
        evidence, rivals = [], []
        for disp in self.fine_levels.tolist():
            sums = sweep.sums(disp, self.evidence.members)  # of RGB, ones, squares of RGB, detail, its squares
            seen, variances = self.evidence(sums[:, :, :5], centre)
            evidence.append(seen)
            rivals.append(torch.cat([variances, self.evidence.detail(sums[:, :, [5, 3, 6]])], 1))
        return rearrange(torch.cat([torch.stack(evidence, 1), competition(torch.stack(rivals, 1), spacing)], 2), "b d f h w -> (b d) f h w")

    def aggregate(self, volume: torch.Tensor, guide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Votes gathered over pixels and candidates: '(b d) f h w' to '(b d) 2 h w' scores and features '(b d) f h w'."""
        d = len(self.fine_levels)
        through = lambda blocks, x: fold(lambda y, block: block(y, d), blocks, x)
        for_all = lambda x: repeat(x, "b f h w -> (b d) f h w", d=d)
        wider = lambda x, mode: F.interpolate(x, scale_factor=2, mode=mode)
        votes = window_mean(F.conv2d(volume, self.vote_weights))
        skip = F.relu(self.match(volume))
        skip = skip + F.relu(self.first_in(skip) + for_all(guide))
        middle = through(self.middle_in, self.down_middle(skip) + for_all(self.guide_middle(guide)))
        low = through(self.low_in, self.down_low(middle))
        lowest = through(self.lowest, self.down_lowest(low))
        low = through(self.low_out, low + wider(self.up_low(lowest), "nearest"))
        middle = through(self.middle_out, middle + wider(self.up_middle(low), "nearest"))
        full = skip + wider(self.up_first(middle), "bilinear")
        full = self.out_norm(full + F.relu(self.first_out(self.first_norm(full))))
        return HEAD_GAIN * self.heads(full) + votes, full

    def forward(self, x: torch.Tensor, earlier: bool = False) -> tuple[torch.Tensor, ...]:
        """Sees through the occluders of a batch of light fields.

        Args:
            x: 'b n c h w', n = (u v), c = RGB, float in [0, 1]; any h and w.
            earlier: also give the disparity maps of the earlier looks and what all but the first chose among, which training wants.

        Returns:
            depDistT 'b d h w' (occluder and background), depDistS 'b d h w' (background), both sum to 1 over d;
            depth_map 'b h w', the background's disparity in pixels per view step; after these, if asked for, the earlier looks' 'b h w' and the `chances`
            of all but the first, 'b 2 k h w'.

        Raises:
            ValueError: when x has another number of axes, views or colours.
        """
        seen = self.stages(x, earlier)
        both, background = (in_full(torch.einsum)("bfhw,fd->bdhw", seen[name], self.to_coarse) for name in ("both", "background"))
        looks = tuple(seen[name] for name in EARLIER + CHOSEN) if earlier else ()
        return both, background, seen["depth_map"], *looks

    def stages(self, x: torch.Tensor, choices: bool = False) -> dict[str, torch.Tensor]:
        """What each stage sees, in the order in which it comes.

        Args:
            x: as in `forward`.
            choices: also give what the looks after the first chose among.

        Returns:
            volume 'b d f h w', the evidence at each candidate of `fine_levels`; both and background 'b d h w', the distributions over these; EARLIER 'b h w' each, the disparity after these looks; depth_map 'b h w', after the last; if asked for, CHOSEN
            'b 2 k h w' each, the `chances` of these looks.
        """
        self.check_input(x)
        b, h, w = len(x), *x.shape[-2:]
        x = F.pad(x, (0, -w % POOLING, 0, -h % POOLING, 0, 0), mode="replicate") - 0.5
        centre = x[:, x.shape[1] // 2]
        guide = self.guide(centre)
        volume = self.cost_volume(x)
        out, features = (rearrange(part, "(b d) k h w -> k b d h w", b=b) for part in self.aggregate(volume, guide))
        both, background = out.float().softmax(2)
        first = self.local_expectation(background)
        peak = background.argmax(1, keepdim=True)
        at_peak = torch.stack([f.gather(1, peak)[:, 0] for f in features], 1)
        moments = [in_full(torch.einsum)("bdhw,d->bhw", p, self.fine_levels) - first for p in (both, background)]
        summary = torch.stack([first, *moments, background.amax(1)], 1)
        summary = summary if x.requires_grad else summary.detach()
        context = torch.cat([at_peak, reduce(features, "f b d h w -> b f h w", "mean"), guide, summary], 1)
        seen = {"volume": rearrange(volume, "(b d) f h w -> b d f h w", b=b), "both": both, "background": background, "first": first}
        estimates, chosen = self.look_again(x, first, context, choices)
        seen |= zip((*EARLIER[1:], "depth_map"), estimates, strict=True)
        seen |= zip(CHOSEN, chosen, strict=choices)
        return {name: part[..., :h, :w] for name, part in seen.items()}

    def look_again(self, x: torch.Tensor, first: torch.Tensor, context: torch.Tensor, choices: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The second look and those after it: a first estimate 'b h w' to better ones, and, if asked for, the `chances` of each look.

        A gradient runs through where the views are read only where that of the views themselves is wanted: it is slow, and training learns without.
        """
        fixed = (lambda d: d) if x.requires_grad else torch.Tensor.detach
        spacing, centre = self.step / FINE, x[:, x.shape[1] // 2]
        candidates = self.second_look.candidates(first)
        evidence = [self.look(x, d, centre)[0] for d in fixed(candidates).unbind(1)]
        disp, features, choice = self.second_look(evidence, context, candidates, fixed(candidates), spacing)
        estimates, chosen = [disp], [choice] * choices
        if self.training and self.jolt:
            disp = disp + spacing * jolts(disp, self.jolt)
        for scale in SCALES:
            equations, evidence = self.equations(x, fixed(disp), centre)
            disp, features, choice = self.closer_look(equations, evidence, torch.cat([context, features], 1), disp, fixed(disp), scale * spacing)
            estimates.append(disp)
            chosen += [choice] * choices
        limit = self.max_disp + spacing
        return [disp.clamp(-limit, limit) for disp in estimates], chosen

    def equations(self, x: torch.Tensor, disp: torch.Tensor, centre: torch.Tensor) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
        """`normal_equations` a, b, s of the views read at a disparity 'b h w', of their colours and of their detail, each view as far as it is like the blocks that agree,
        and `block_equations` of their detail; and the evidence there."""
        evidence, views, reach, sums = self.look(x, disp, centre)
        colour = evidence[:, -4:-1]
        weights = reach * self.evidence.likeness(views, colour)
        fine, means = detail(views, weights), sums[:, :, :3] / sums[:, :, 3:4].clamp(min=1)
        return [normal_equations(views, weights, colour)[:3], normal_equations(fine[:, :, None], weights)[:3],
                block_equations(fine, reach, self.evidence.blocks, self.evidence.likeness(means, colour, SAME_BLOCK))], evidence

    def look(self, x: torch.Tensor, disp: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Evidence 'b f h w' at a disparity 'b h w', and what it is of: `look_closer`'s views and reach, and their `block_sums`."""
        views, reach = look_closer(x, disp)
        sums = block_sums(views, reach, self.evidence.blocks)
        return self.evidence(sums, centre)[0], views, reach, sums

    def local_expectation(self, distribution: torch.Tensor) -> torch.Tensor:
        """The expectation over the candidates within one step of the peak, 'b d h w' to 'b h w'."""
        peak = distribution.argmax(1, keepdim=True)
        order = torch.arange(distribution.shape[1], device=peak.device)[None, :, None, None]
        near = distribution * ((order - peak).abs() <= FINE)
        return in_full(torch.einsum)("bdhw,d->bhw", near, self.fine_levels) / reduce(near, "b d h w -> b h w", "sum")


def weights_init_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for one convolution or linear layer; use with `model.apply`.

    Source: Glorot and Bengio, AISTATS 2010.
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def get_parameter_number(model: nn.Module) -> dict[str, int]:
    """How many numbers a model holds, and how many of them are trained.

    >>> get_parameter_number(nn.Linear(2, 3))
    {'total': 9, 'trainable': 9}
    """
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in counts), "trainable": sum(n for n, trained in counts if trained)}
