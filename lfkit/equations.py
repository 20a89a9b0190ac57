"""How far off a disparity is, from how the views that are read at it differ: normal equations, gathered over windows."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat

from lfkit.evidence import BLOCK, ROUNDING
from lfkit.layers import in_full, pooled_mean, unpooled

GRADIENT_FLOOR = 1e-6  # mean squared change of colour per disparity under which there is nothing to see move: noise of 0.001
TILT_FLOOR = 0.03      # of a plane's moments, in parts of what a window evenly filled would have
BLOCK_EDGE = 3  # pixels about a place that shows something else, where it is not read either
SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)  # derivative of fourth order


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
