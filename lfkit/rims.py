"""The rim of a thing, which a look took for what lies behind it: told by what the views show, without learned numbers.

Where a round thing turns away from the camera it is shaded, often as dark as a wall behind it, and looks like a wire before that wall: a thin thing, through
which to see. But a wire has a disparity of its own; a rim goes on where the thing beside it ends.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from lfkit.evidence import ViewEvidence, block_sums
from lfkit.layers import in_full
from lfkit.sweep import look_closer

WIDEST = 3      # pixels of a rim, at most
FALLS = 0.0, 0.1, 0.2, 0.3, 0.4  # how far the disparity of a rim may lie below that of the pixel beside it, in pixels per view step
SEEN = 0.012    # difference of colour between a pixel and what lies behind it from which on the two are told apart: three grey levels
AGREED = 0.3    # most variance that is left on the rim, in parts of that difference's square
DISAGREED = 0.1 # and in parts of the variance that the views have at what lies behind, which the thing hides from many of them
SHARE = 0.35    # least share of the views that see what lies behind: past a straight outline half of them do, past a thin thing's or into a corner fewer
COVERED = 0.5   # a pixel of which the thing covers less is not called the thing's
ALONG = 1.5     # how far, in parts of the thing's difference from what lies behind it, a rim's colour may go either way; what goes further is something else
ASIDE = 0.1     # share of a pixel's own difference that lies beside the line between the two colours, above which it is no mixture of the two
OCCLUDED = 0.1  # mass of the nearer layer's distribution above the thing, from which on something hides the pixel


def with_rims(x: torch.Tensor, disp: torch.Tensor, both: torch.Tensor, levels: torch.Tensor, evidence: ViewEvidence) -> torch.Tensor:
    """A disparity map whose things have the rims that they had lost to what lies behind them.

    A pixel beside a nearer surface is given to it where all views show the same there, at the surface's disparity or somewhat below, while at the pixel's own they do not, and those that
    do show another colour there than the centre view has. No pixel that an occluder hides, and none that is a mixture of the two, mostly of what lies behind.

    Args:
        x: centred views 'b n c h w'.
        disp: the background's disparity, 'b h w'.
        both: 'b d h w', the distribution of both layers over `levels`.
        levels: 'd', evenly spaced disparities.
        evidence: of the network whose map it is.

    Returns:
        'b h w'.
    """
    return torch.cat([_with_rims(*parts, levels, evidence) for parts in zip(x.split(1), disp.split(1), both.split(1))])


@in_full
def _with_rims(x: torch.Tensor, disp: torch.Tensor, both: torch.Tensor, levels: torch.Tensor, evidence: ViewEvidence) -> torch.Tensor:
    centre, spacing = x[:, x.shape[1] // 2], float(levels[1] - levels[0])
    for _ in range(WIDEST):
        nearer, place = F.max_pool2d(disp[:, None], 3, 1, 1, return_indices=True)
        rows, columns = (nearer - disp[:, None] > spacing)[0, 0].nonzero(as_tuple=True)
        pixel = (slice(None), slice(None), rows, columns)
        found = _claimed(x, disp[:, None][pixel], nearer[pixel], (rows, columns), centre[pixel], centre.flatten(2)[..., place[0, 0, rows, columns]], both[pixel], levels, evidence)
        if not (found > disp[:, None][pixel]).any():
            return disp
        disp = disp.index_put((torch.zeros_like(rows), rows, columns), found[0, 0])
    return disp


def _claimed(x, own, nearer, at, colour, beside, both, levels, evidence) -> torch.Tensor:
    """Of p pixels at rows and columns `at`: their disparities and those of the nearer surface beside them '1 1 p', their colours and those there '1 c p', and the distribution of both layers '1 d p', to better disparities."""
    views, reach = look_closer(x, own, at)
    seen, _ = evidence(block_sums(views, reach, evidence.members), colour[:, :, None])
    share, behind = seen[:, -6], seen[:, -4:-1, 0]
    apart, thing = colour - behind, beside - behind
    dot = lambda one, other: reduce(one * other, "b c p -> b 1 p", "mean")
    square = dot(apart, apart)
    along = dot(apart, thing) / dot(thing, thing).clamp(min=1e-8)
    rest = apart - along * thing
    mixed = (along > 0) & (along < COVERED) & (dot(rest, rest) < ASIDE * square)
    above = reduce(both * (levels[:, None] > nearer + 1.5 * (levels[1] - levels[0])), "b d p -> b 1 p", "sum")
    found = (square > SEEN**2) & (share > SHARE) & (along.abs() < ALONG) & ~mixed & (above < OCCLUDED)
    some = found[0, 0].nonzero()[:, 0]
    pick = lambda part: part[..., some]
    most = torch.minimum(AGREED * pick(square), DISAGREED * pick(_variance(views, reach)))
    better = pick(own)
    for fall in FALLS:
        disp = pick(nearer) - fall
        left = _variance(*look_closer(x, disp, tuple(map(pick, at))))
        better, most = torch.where(left < most, disp, better), torch.minimum(left, most)
    return own.index_copy(-1, some, better)


def _variance(views: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """Of all views that reach: 'b n c h w', 0 where one doesn't, and 'b n h w', to 'b h w'."""
    share = reduce(reach.to(views.dtype), "b n h w -> b h w", "mean").clamp(min=1e-6)
    mean = reduce(views, "b n c h w -> b c h w", "mean") / share[:, None]
    rest = (views - mean[:, None]) * reach[:, :, None]
    return reduce(rest.square(), "b n c h w -> b h w", "mean") / share
