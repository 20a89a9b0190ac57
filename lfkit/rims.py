"""The rims of things, which a look took for what lies behind them: told by what the views show, without learned numbers.

Where a round thing turns away from the camera it is shaded, often as dark as the wall behind it, and looks like a wire before that wall: a thin thing, through
which to see. But a wire has a disparity of its own, while a rim goes on where the thing beside it ends.
"""

import torch
import torch.nn.functional as F
from einops import reduce

from lfkit.evidence import ROUNDING, ViewEvidence, block_sums
from lfkit.layers import in_full, least
from lfkit.sweep import look_closer

WIDEST = 3       # pixels of a rim that are given back at a time, at most
FALLS = 0.0, 0.1, 0.2, 0.3, 0.4  # by how much the disparity of a rim's pixel may lie below that of the one beside it, in pixels per view step
ALONG = 1.5      # by how many times a thing's difference from what lies behind it a rim's colour may go either way; what goes further is something else
COVERED = 0.5    # a pixel that mixes both colours is the thing's from this share on
ASIDE = 0.1      # most of a mixture's squared difference that is not along the line between both colours
AGREED = 0.5     # how unlike the centre view the views may be where the pixel is the thing's, in parts of its squared difference from what lies behind
DISAGREED = 0.05 # and in parts of how unlike it they are where the pixel is what lies behind, which the thing hides from some of them


def with_rims(x: torch.Tensor, disp: torch.Tensor, spacing: float, evidence: ViewEvidence) -> torch.Tensor:
    """A disparity map whose things have their rims.

    A pixel beside a nearer surface is given to it where the views show what the centre view shows at that surface's disparity, or somewhat below, and at what lies behind
    they do not, nor do those of them that see it. A pixel that mixes the two colours, and has more of what lies behind, stays.

    Args:
        x: centred views 'b n c h w'.
        disp: the background's disparity, 'b h w'.
        spacing: by how much a surface is nearer, at least, in pixels per view step.
        evidence: which tells the colour of what lies behind.

    Returns:
        'b h w'.
    """
    return torch.cat([_with_rims(*parts, spacing, evidence) for parts in zip(x.split(1), disp.split(1), strict=True)])


@in_full
def _with_rims(x: torch.Tensor, disp: torch.Tensor, spacing: float, evidence: ViewEvidence) -> torch.Tensor:
    centre = x[:, x.shape[1] // 2]
    changed = torch.ones_like(disp)
    things = centre.flatten(2)  # a rim's pixel has the colour of the thing that it was given to, for those beside it to be compared with
    for _ in range(WIDEST):
        nearer, beside = F.max_pool2d(disp, 3, 1, 1, return_indices=True)
        at = rows, columns = ((nearer - disp > spacing) & (F.max_pool2d(changed, 3, 1, 1) > 0))[0].nonzero(as_tuple=True)
        pick = lambda part: part[..., rows, columns]
        own, thing = pick(disp), things[..., pick(beside)[0]]
        found = torch.maximum(_claimed(x, own, pick(least(disp, 1)), pick(nearer), at, pick(centre), thing, evidence), own)
        new = (found > own)[0]
        if not new.any():
            break
        changed = torch.zeros_like(disp).index_put((torch.zeros_like(rows), rows, columns), new.to(disp))
        disp = disp.index_put((torch.zeros_like(rows), rows, columns), found[0])
        things = things.index_copy(2, (rows * disp.shape[-1] + columns)[new], thing[..., new])
    return disp


def _claimed(x: torch.Tensor, own: torch.Tensor, farther: torch.Tensor, nearer: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor], colour: torch.Tensor, thing: torch.Tensor,
             evidence: ViewEvidence) -> torch.Tensor:
    """Of p pixels at rows and columns `at`: disparities '1 p', their own, of what lies behind and of the thing; colours '1 c p', their own and the thing's. To better disparities."""
    views, reach = look_closer(x, farther[:, None], at)
    behind = evidence(block_sums(views, reach, evidence.members), colour[:, :, None])[0][:, -4:-1, 0]
    dot = lambda one, other: reduce(one * other, "b c p -> b p", "mean")
    apart, whole = colour - behind, thing - behind
    square, along = dot(apart, apart), dot(apart, whole) / dot(whole, whole).clamp(min=1e-8)
    rest = apart - along[:, None] * whole
    mixed = (along > 0) & (along < COVERED) & (dot(rest, rest) < ASIDE * square)
    some = ((along.abs() < ALONG) & ~mixed)[0].nonzero()[:, 0]
    at, colour, better, nearer = tuple(part[some] for part in at), colour[..., some], own[:, some], nearer[:, some]
    limit = torch.minimum(AGREED * square[:, some], DISAGREED * _unlike(views[..., some], reach[..., some], colour)) - ROUNDING
    for fall in FALLS:
        left = _unlike(*look_closer(x, (nearer - fall)[:, None], at), colour)
        better, limit = torch.where(left < limit, nearer - fall, better), torch.minimum(left, limit)
    return own.index_copy(1, some, better)


def _unlike(views: torch.Tensor, reach: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the views that reach, 'b n c 1 p' and 'b n 1 p', from the centre view's 'b c p': 'b p', infinite where no more than one reaches."""
    squares = reduce((views[:, :, :, 0] - colour[:, None]).square(), "b n c p -> b n p", "mean") * reach[:, :, 0]
    count = reduce(reach, "b n 1 p -> b p", "sum")
    return torch.where(count > 1, reduce(squares, "b n p -> b p", "sum") / count.clamp(min=1), torch.inf)
