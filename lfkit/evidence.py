"""How well the views agree at a disparity, and which of them: without a reference view and without learned numbers."""

import itertools
import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from lfkit.layers import in_full, inside, mean_along, pad_axis, pooled_mean, sum_blocks, sum_of_squares, unpooled, window_mean

BLOCK = 3       # views a side of an angular block: the smallest that sees a contrast along rows, columns and diagonals
VARIANCE_FLOOR = 2e-5  # the variance of a sensor's noise of 0.0045
LOG_CENTRE, LOG_SCALE = 6.0, 2.0  # log variances run from log(2e-5) = -11 to -2
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
SAME_COLOUR = 0.06  # blocks whose mean colours differ by much more show different things: a few times a sensor's noise


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


@in_full
def block_sums(views: torch.Tensor, reach: torch.Tensor, members: list[list[int]]) -> torch.Tensor:
    """What `ViewEvidence` takes, from views 'b n c h w' of centred colours, 0 where one doesn't reach, and reach 'b n h w': sums over blocks, as `sum_blocks` has it."""
    parts = views, reach[:, :, None].to(views.dtype), sum_of_squares(views.split(1, 2))
    return torch.cat([sum_blocks(part.unbind(1), members) for part in parts], 2)


def log_score(variance: torch.Tensor, floor: float = VARIANCE_FLOOR) -> torch.Tensor:
    """A variance on a logarithmic scale of about unit spread."""
    return (torch.log(variance + floor) + LOG_CENTRE) / LOG_SCALE


class ViewEvidence(nn.Module):
    """Says how well the views agree at a candidate, and which of them, without a reference view and without learned numbers.

    Per pixel: the log variance of the colours within each group of views (0 where fewer than two reach the pixel): small where all
    of the group see one point, so that small blocks find a background which only some views see, and large groups have the
    long baseline that makes a disparity precise. Then the blocks are taken together: starting from the ones that agree best
    within themselves, those of like colour are gathered; their share, the variance between them, and their colour, which tells
    a background that the centre view sees from one that it does not.

    Args:
        views_num: views a side.
        floor: the variance that is added to all, of what is taken for noise.

    Attributes:
        half_turn: the order that its features have for a light field that is half turned, views and pixels.
    """

    def __init__(self, views_num: int, floor: float = VARIANCE_FLOOR):
        super().__init__()
        self.floor = floor
        blocks = view_blocks(views_num)
        side = math.isqrt(len(blocks))
        groups = block_groups(side)
        self.features = len(groups) + 8
        self.fours = slice(side**2, side**2 + (side - 1) ** 2) if side > 1 else slice(len(groups) - 1, len(groups))
        self.members = [block.nonzero()[:, 0].tolist() for block in blocks]
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("groups", groups, persistent=False)
        rows = groups.tolist()  # the blocks of views that are half turned come in reverse
        self.register_buffer("half_turn", torch.tensor([*map(rows.index, groups.flip(1).tolist()), *range(len(rows), self.features)]), persistent=False)

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
        values, count, variance = self.group_variances(sums, self.groups)
        valid = count > 1.5
        score = torch.where(valid, log_score(variance, self.floor), 0.0)
        blocks = slice(0, sums.shape[1])
        means = values[:, blocks] / count[:, blocks, None].clamp(min=1e-6)
        together, like = self.together(means, variance[:, blocks], valid[:, blocks], centre)
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
        """Sum 'b g c h w', number of views and variance 'b g h w' of groups 'g k' of blocks; sums 'b k (c + 2) h w' of the values, of how many views reach, and of the squares."""
        total = torch.einsum("gk,bkchw->bgchw", groups, sums)
        values, count, squares = total[:, :, :-2], total[:, :, -2], total[:, :, -1]
        within = (squares - sum_of_squares(values.unbind(2)) / count.clamp(min=1e-6)).clamp(min=0)
        return values, count, within / (values.shape[2] * (count - 1).clamp(min=1))

    def together(self, mean: torch.Tensor, variance: torch.Tensor, valid: torch.Tensor, centre: torch.Tensor) -> tuple:
        """What the blocks say together, from their means 'b g c h w' and variances 'b g h w'; and the variance over all views of the like ones."""
        trust = valid / (variance + self.floor)
        least = log_score(1 / reduce(trust, "b g h w -> b 1 h w", "mean").clamp(min=1e-2), self.floor)
        colour = self.weighted(mean, trust.square())
        for _ in range(2):
            like = trust * self.likeness(mean, colour)
            colour = self.weighted(mean, like)
        unlike = self.unlikeness(mean, colour)
        between = self.weighted(unlike[:, :, None], like)
        inside = self.weighted(variance[:, :, None], like)
        share = reduce(valid * torch.exp(-unlike / (2 * SAME_COLOUR**2)), "b g h w -> b 1 h w", "mean")
        apart = reduce((colour - centre).square(), "b c h w -> b 1 h w", "mean")
        return (least, log_score(between, self.floor), share, log_score(apart, self.floor), colour), inside + between

    @staticmethod
    def unlikeness(colours: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """The mean squared difference of each of 'b g c h w' from one colour 'b c h w': 'b g h w'."""
        return sum_of_squares(one - other[:, None] for one, other in zip(colours.unbind(2), colour.unbind(1))) / colour.shape[1]

    @classmethod
    def likeness(cls, colours: torch.Tensor, colour: torch.Tensor, same: float = SAME_COLOUR) -> torch.Tensor:
        """How like one colour 'b c h w' each of 'b g c h w' is: 'b g h w' in [0, 1]."""
        return torch.exp(cls.unlikeness(colours, colour) / (-2 * same**2))

    @staticmethod
    def weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The mean over g of 'b g c h w', weighted by 'b g h w'."""
        total = reduce(weights, "b g h w -> b 1 h w", "sum")
        return reduce(values * weights[:, :, None], "b g c h w -> b c h w", "sum") / total.clamp(min=1e-6)


def detail(x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Grey detail of colours 'b n c h w', 'b n h w': what differs from the mean, by weights 'b n h w', over a window; scaled so that noise is as strong in it as in a colour."""
    grey, mean = reduce(x, "b n c h w -> b n h w", "sum") / math.sqrt(x.shape[2]), lambda part: pooled_mean(part, *DETAIL)
    smooth = mean(grey) if weights is None else mean(weights * grey) / mean(weights).clamp(min=1e-3)
    return grey - unpooled(smooth, DETAIL[0])


def steep_means(x: torch.Tensor, side: int, rise: float) -> torch.Tensor:
    """The least of the means over windows in which the candidate is the same, or rises or falls by `rise` candidates, or half as much, from cell to cell along rows or columns.

    'b d k h w' of cells to the same shape; beyond the last candidate there is the last one, beyond the image nothing.
    """
    least, d, half = window_mean(x, side), x.shape[1], side // 2
    levels = torch.arange(d, device=x.device)
    for axis in (-2, -1):
        across = mean_along(x, -3 - axis, side)  # along the other axis nothing changes
        padded, size = pad_axis(across, axis, half), x.shape[axis]
        for slant in (rise, -rise, rise / 2, -rise / 2):
            total = torch.zeros_like(x)
            for k in range(-half, half + 1):
                low, beside = math.floor(slant * k), padded.narrow(axis, half + k, size)
                moved = beside[:, (levels + low).clamp(0, d - 1)]
                if slant * k > low:
                    moved = moved + (slant * k - low) * (beside[:, (levels + low + 1).clamp(0, d - 1)] - moved)
                total.add_(moved)
            least = torch.minimum(least, total / inside(x, axis, half))
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
