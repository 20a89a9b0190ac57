"""How far off a disparity is, from how the views that are read at it differ: normal equations, gathered over windows."""

import math

import torch
import torch.nn.functional as F
from einops import reduce, repeat

from lfkit.evidence import BLOCK, ROUNDING
from lfkit.layers import in_full, least, pooled_mean, unpooled

GRADIENT_FLOOR = 1e-6  # mean squared change of colour per disparity under which there is nothing to see move: noise of 0.001
TILT_FLOOR = 0.03      # of a plane's moments, in parts of what a window evenly filled would have
TRUST_FLOOR = 2e-6     # variance that is left of a place that is to be trusted: somewhat more than that of colours that are rounded to bytes
FEW = 1e-6             # that and this over the share of views: one or two views leave nothing, whatever they show, and are not to be trusted for it
LEAST_SHARE = 3e-3     # of the views, a quarter of one of 81; where fewer have a say nothing is corrected
BLOCK_EDGE = 3  # pixels about a place that shows something else, where it is not read either
REACH = 2       # pixels that a slope reads on either side
SLOPE = 2 / 3   # by which differences become slopes


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of '... h w' along rows and columns in parts of SLOPE, of fourth order, a pixel apart; the edge repeated. Differences of slices: on a CPU a convolution of so many single channels takes 25 times as long."""
    h, w = x.shape[-2:]
    padded = F.pad(x.reshape(-1, 1, h, w), [REACH] * 4, mode="replicate")
    def along(axis, part):
        at = lambda k: part.narrow(axis, REACH + k, x.shape[axis])
        return torch.sub(at(1), at(-1)).add_(at(2), alpha=-1 / 8).add_(at(-2), alpha=1 / 8).reshape(x.shape)
    return along(-2, padded.narrow(-1, REACH, w)), along(-1, padded.narrow(-2, REACH, h))


@in_full
def normal_equations(weights: torch.Tensor, *pictures: tuple[torch.Tensor, torch.Tensor | None]) -> list[tuple[torch.Tensor, ...]]:
    """What each pixel's views say about how far the disparity at which they were read is from the one at which they agree.

    Least squares over the views of a pixel: read at a disparity too low by e, the view at offset o = (c - u, c - v) shows what the mean of all shows o e pixels
    before. The slopes are the mean of the views' own, in which noise has averaged out. Those of the mean picture would not do: from one pixel to the next
    other views see the point, and where an occluder is believed beside a faint sky, that step is all there is.

    Args:
        weights: 'b n h w' in [0, 1], how far each view is believed to see the point; it has a say as far as all pixels that its slopes are made of are.
        pictures: pairs of views 'b n c h w', such as their colours or their detail, and what is near to all of them, 'b c h w' or None for black: differences from
            near ones lose the fewest digits.

    Returns:
        Of each pair a, b and s, 'b 1 h w': the correction is b / a, the views' weighted variance s, and s - b^2 / a what of it the correction leaves; and the share of the
        views that have a say, beside LEAST_SHARE that say that nothing is to be corrected.

    Source: Lucas and Kanade, IJCAI 1981, along the lines of a light field.
    """
    n = math.isqrt(weights.shape[1])
    o = n // 2 - torch.arange(n, device=weights.device, dtype=weights.dtype)
    weights, powers = least(weights, REACH).split(n, 1), torch.stack([torch.ones_like(o), o, o * o])
    moments = 0
    for u, some in zip(o, weights):
        say = torch.einsum("kn,bnhw->bkhw", powers, some)
        moments = moments + torch.cat([say, u * say[:, :2], u * u * say[:, :1]], 1)  # of 1, v, v^2, u, u v, u^2
    total = moments[:, :1].clamp(min=1e-6)
    _, mv, vv, mu, uv, uu = (moments / total).split(1, 1)
    share, over_colours, found = total / n**2, lambda x: reduce(x, "b c h w -> b 1 h w", "mean"), []
    for views, near in pictures:
        values = 0
        for u, row, some in zip(o, views.split(n, 1), weights):  # of views, one at a time: they stay in a processor's cache
            part = row if near is None else row - near[:, None]
            each, some = some[:, :, None], some[:, :, None] * part
            read = torch.einsum("kn,bnchw->kbchw", powers[:2], some)
            sums = torch.stack([reduce(x, "b n c h w -> b c h w", "sum") for x in (some * part, *(each * along for along in differences(row)))])
            values = values + torch.cat([read, u * read[:1], sums])  # of the values, times v, times u; their squares; differences along rows and columns
        mean, along_v, along_u, squares, dy, dx = values / total
        dy, dx, s = SLOPE * dy, SLOPE * dx, squares - mean * mean
        along_u, along_v = along_u - mu * mean, along_v - mv * mean
        a = (uu - mu * mu) * dy * dy + 2 * (uv - mu * mv) * dy * dx + (vv - mv * mv) * dx * dx
        b = -(along_u * dy + along_v * dx)
        found.append((over_colours(a).clamp(min=0), over_colours(b) * share / (share + LEAST_SHARE), over_colours(s).clamp(min=0), share))
    return found


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
        a, b, s and the share of the blocks that have a say, 'b 1 h w'.
    """
    n = math.isqrt(blocks.shape[1])
    o = n // 2 - torch.arange(n, device=views.device, dtype=views.dtype)
    offsets = torch.stack([repeat(o, "u -> (u v)", v=n), repeat(o, "v -> (u v)", u=n)])
    share = blocks / BLOCK**2
    inside = blocks * (offsets[:, None] - torch.einsum("on,kn->ok", offsets, share)[:, :, None])  # of each view from its block's middle
    mean, squares = (torch.einsum("kn,bnhw->bkhw", share, part) for part in (views, views.square()))
    along_u, along_v = torch.einsum("okn,bnhw->obkhw", inside, views) / BLOCK**2
    dy, dx = (SLOPE * along for along in differences(mean))
    weights = least(likeness * (torch.einsum("kn,bnhw->bkhw", share, reach.to(views.dtype)) > 1 - 0.5 / BLOCK**2), BLOCK_EDGE)
    said = reduce(weights, "b k h w -> b 1 h w", "mean")
    spread = (BLOCK**2 - 1) / 12  # of the offsets along an axis
    parts = spread * (dy.square() + dx.square()), -(along_u * dy + along_v * dx), (squares - mean.square()).clamp(min=0)
    return *(reduce(weights * part, "b k h w -> b 1 h w", "mean") / said.clamp(min=1e-6) for part in parts), said


def trusted(equations: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Normal equations a, b, s and share, each pixel's as far as it is to be trusted beside others': 'b 5 h w' of the weighted a, b and s, the weight, and how certain the pixel is.

    Certain it is by the inverse of the variance that its own correction leaves; the weight is that times the share. At an outline, where views that see two things are
    taken together, it is a thousandth of a faint sky's beside it.

    Source: weighted least squares, Aitken, Proc. R. Soc. Edinburgh 55, 1936.
    """
    a, b, s, share = equations
    floor = TRUST_FLOOR + FEW / share.clamp(min=LEAST_SHARE / 10)
    certain = TRUST_FLOOR / ((s - b.square() / (a + GRADIENT_FLOOR)).clamp(min=0) + floor)
    weight = certain * share
    return torch.cat([weight * a, weight * b, weight * s, weight, certain], 1)


def window_correction(parts: torch.Tensor, cell: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `trusted` gives, gathered over each window: the common correction, the slopes' energy and the
    variance that the correction leaves, as if all views had a say, 'b 1 h w', both floored.

    For n views of independent noise the correction's own variance is what it leaves over energy, n and the window's pixels.
    """
    a, b, s, total, most = unpooled(pooled_mean(parts, cell, side), cell).split(1, 1)
    share = (total / most).clamp(min=LEAST_SHARE)
    a, b, s = (part / (share * most) for part in (a, b, s))
    energy = a + GRADIENT_FLOOR
    return b / energy, energy, ((s - b.square() / energy).clamp(min=0) + ROUNDING / 3) / share


def plane_fit(weight: torch.Tensor, target: torch.Tensor, cell: int, side: int) -> torch.Tensor:
    """A plane through the values of each window of side x side cells, read at each pixel: 'b 1 h w' of weights and weighted values to 'b 1 h w'.

    Weighted least squares; a small ridge keeps the plane level where a window is too uneven to tell its tilt.
    """
    h, w = weight.shape[-2:]
    weight, target = weight.double(), target.double()  # far from the first pixel the moments are small differences of large numbers
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
    return (level + ky * y + kx * x).float()
