"""Views read where a point at a given disparity is seen: the plane sweep, and one disparity a pixel."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce


def cubic_weights(fraction: float) -> list[float]:
    """The four taps that read a signal `fraction` of a sample after tap 1; they sum to 1. Keys' cubic convolution, a = -1/2 (IEEE TASSP 29(6), 1981): little blur.

    >>> cubic_weights(0.0)
    [0.0, 1.0, 0.0, 0.0]
    """
    t, square, cube = fraction, fraction**2, fraction**3
    return [(2 * square - t - cube) / 2, (2 - 5 * square + 3 * cube) / 2, (t + 4 * square - 3 * cube) / 2, (cube - square) / 2]


@cache
def even_weights(fraction: float) -> list[float]:
    """The same, smoothed by [a, 1 - 2 a, a] so that of white noise as much is left as half way between two samples, where least is: six taps, read from tap 2.

    Reading between samples smooths the noise, and would make every second candidate look the better one.
    """
    taps, target = cubic_weights(fraction), np.square(cubic_weights(0.5)).sum()
    own, bend = np.pad(taps, 1), np.convolve(taps, [1, -2, 1])  # the taps are own + a bend, and their energy a parabola in a
    square, cross = bend @ bend, own @ bend
    a = (-cross - math.sqrt(max(cross**2 - square * (own @ own - target), 0.0))) / square
    return (own + a * bend).tolist()


def interpolate_axis(x: torch.Tensor, taps: list[float], axis: int) -> torch.Tensor:
    """x weighted by taps along an axis, the middle ones before and after the place that is read; same shape, 0 where a tap is missing."""
    size, before = x.shape[axis] - len(taps) + 1, len(taps) // 2 - 1
    (k, weight), *rest = ((k, weight) for k, weight in enumerate(taps) if weight)
    out = x.narrow(axis, k, size) * weight
    for k, weight in rest:
        out.add_(x.narrow(axis, k, size), alpha=weight)
    return F.pad(out, (before, before + 1) if axis == -1 else (0, 0, before, before + 1))


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


def look_closer(x: torch.Tensor, disp: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The views read where a point at a disparity of its own for every pixel is seen, by cubic convolution.

    Args:
        x: views 'b n c h w'.
        disp: 'b h w', in pixels per view step.
        at: rows and columns of the pixels when they are not all, each 'p'; h is then 1 and w is p.

    Returns:
        Colours 'b n c h w', 0 where a view doesn't reach, and 'b n h w', whether it does.
    """
    n, (h, w) = math.isqrt(x.shape[1]), x.shape[-2:]
    count = lambda size: torch.arange(size, device=x.device, dtype=disp.dtype)
    offset, (rows, columns) = (n // 2 - count(n))[:, None, None], at or (count(h)[:, None], count(w))
    y, x0 = (places + offset * disp[:, None] for places in (rows, columns))  # of a row of views alike, and of a column
    inside = lambda place, size: (place >= 0) & (place <= size - 1)
    reach = rearrange(inside(y, h)[:, :, None] & inside(x0, w)[:, None], "b u v h w -> b (u v) h w")
    grid = torch.stack(torch.broadcast_tensors(((2 * x0 + 1) / w - 1)[:, None], ((2 * y + 1) / h - 1)[:, :, None]), -1)
    views = F.grid_sample(rearrange(x, "b n c h w -> (b n) c h w"), rearrange(grid, "b u v h w k -> (b u v) h w k"), "bicubic", "border", align_corners=False)
    return rearrange(views, "(b n) c h w -> b n c h w", n=n * n).mul_(reach[:, :, None]), reach
