"""The centre view without its occluder: geometry alone, from the disparities of both layers.

A point of the background that the centre view has at p, with disparity d, is seen by view (u, v) at p + (c - u, c - v) d. That view's ray is free
unless a surface with more disparity stands on it; the colours of the free rays make the pixel.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from lfkit.layers import least
from lfkit.lightfield import as_float, check_map, check_views

GAP = 0.5        # pixels per view step; a surface that much nearer than the background is in its way, one less near is its own slant or noise
MARGIN = 1       # pixels around an occluder that are not trusted: its soft edge, and what bilinear reading mixes in
SAME_COLOUR = 0.1  # parts of the full range; rays that far from the median saw something else
CHUNK = 1 << 15  # pixels at a time: 81 rays of each take 32 MiB


def splat(disp: torch.Tensor, views_num: int, above: float = -math.inf, reach: float = 0.0) -> torch.Tensor:
    """A surface's disparity as each view sees it, 'u v h w': a z-buffer of the centre view's pixels.

    Pixels that no point with a disparity over `above` reaches hold -inf: what the centre view does not see counts as far. Beyond
    the sides the map goes on as at its edge, by the picture's own size at most. The centre view's own pixels are exact.

    Args:
        disp: 'h w', in pixels per view step.
        views_num: views a side.
        above: points with no more disparity than this are left out.
        reach: of a point beyond its own pixel, in pixels.
    """
    (h, w), c = disp.shape, views_num // 2
    pad = math.ceil(min(c * float(torch.where(disp > above, disp, 0).abs().max()), max(h, w))) + 1  # a disparity of 1000, which marks what is unknown, would else fill the memory
    padded = F.pad(disp[None, None], (pad,) * 4, mode="replicate")[0, 0]
    y, x = torch.nonzero(padded > above, as_tuple=True)
    values, v = padded[y, x], torch.arange(views_num)[:, None]
    out = torch.full((views_num, views_num * h * w), -math.inf)
    for u, views in enumerate(out):
        for dy, dx in itertools.product({-reach, reach}, repeat=2):
            row, col = (y - pad + (c - u) * values + dy).round().long(), (x - pad + (c - v) * values + dx).round().long()
            seen = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            views.scatter_reduce_(0, ((v * h + row) * w + col)[seen], values.expand_as(col)[seen], "amax")
    return out.reshape(views_num, views_num, h, w)


def _gather_rays(views: torch.Tensor, surfaces: torch.Tensor, y: torch.Tensor, x: torch.Tensor, disp: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The colours 'n p c' that n views have for p points, and which of those rays are free, 'n p'."""
    n, (h, w) = len(views), views.shape[-2:]
    side = math.isqrt(n)
    offset = side // 2 - torch.arange(side, dtype=torch.float32)
    du, dv = (axis.reshape(-1, 1) for axis in torch.meshgrid(offset, offset, indexing="ij"))
    row, col = y + du * disp, x + dv * disp
    inside = (row >= 0) & (row <= h - 1) & (col >= 0) & (col <= w - 1)
    grid = torch.stack([(2 * col + 1) / w - 1, (2 * row + 1) / h - 1], -1)[:, None]
    colours = F.grid_sample(views, grid, padding_mode="border", align_corners=False)[:, :, 0]
    near_y, near_x = row.round().long().clamp(0, h - 1), col.round().long().clamp(0, w - 1)
    in_the_way = surfaces[torch.arange(n)[:, None], near_y, near_x]
    return rearrange(colours, "n c p -> n p c"), inside & (in_the_way <= disp + GAP)


def _robust_mean(colours: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """'p c': the mean of the free rays that are near their median in every channel; the median itself where none is."""
    median = colours.masked_fill(~free[..., None], math.nan).nanmedian(0).values
    alike = free & ((colours - median).abs() <= SAME_COLOUR).all(-1)
    count = alike.sum(0)
    mean = (colours * alike[..., None]).sum(0) / count.clamp(min=1)[:, None]
    return torch.where((count > 0)[:, None], mean, median)


def see_through(lf: np.ndarray, bg_disp: np.ndarray, fg_disp: np.ndarray, mask: np.ndarray | None = None,
                margin: int = MARGIN) -> tuple[np.ndarray, np.ndarray]:
    """The centre view without its occluder.

    Every pixel that the occluder covers, or lies within `margin` of one, is made from the rays of all views that reach the background there; the others stay the centre view's.

    Args:
        lf: 'u v h w c', uint8 or float in [0, 1].
        bg_disp: 'h w', the background's disparity in pixels per view step, such as the network's depth_map.
        fg_disp: 'h w', that of the first surface, such as `lfkit.nearest_peak` of its depDistT.
        mask: 'h w' booleans, where the occluder covers the centre view; where fg_disp is more than GAP over bg_disp by default.
        margin: pixels around the occluder, in every view, that are not trusted.

    Returns:
        'h w c' float32 in [0, 1]; 'h w' int32, how many rays reach the background in each covered pixel (0: none, it is the median of all rays,
        a guess), and 1 where the centre view itself does.

    Raises:
        ValueError: when lf is no light field or holds floats outside [0, 1], the maps are not of the views' size or hold a NaN, or margin is negative.
    """
    check_views(lf, "lf")
    if margin < 0:
        raise ValueError(f"margin must be 0 or more pixels: got {margin}")
    size, views_num = tuple(lf.shape[2:4]), lf.shape[0]
    for name, part in {"bg_disp": bg_disp, "fg_disp": fg_disp, "mask": mask}.items():
        if part is not None:
            check_map(part, size, name)
    mask = fg_disp - bg_disp > GAP if mask is None else np.asarray(mask, bool)
    back, front, cover = (torch.from_numpy(np.array(part, np.float32)) for part in (bg_disp, fg_disp, mask))
    out, rays = np.array(as_float(lf[views_num // 2, views_num // 2])), np.ones(size, np.int32)
    if not mask.any():
        return out, rays
    nearest = torch.maximum(splat(back, views_num), splat(torch.where(cover > 0, front, -math.inf), views_num))
    surfaces = -least(-nearest.flatten(0, 1), max(margin, 1))  # by one at least: closes the cracks of surfaces that a view sees stretched
    views = torch.tensor(as_float(rearrange(lf, "u v h w c -> (u v) c h w")))
    ys, xs = torch.nonzero(-least(-cover, margin), as_tuple=True)
    for y, x in zip(ys.split(CHUNK), xs.split(CHUNK)):
        colours, free = _gather_rays(views, surfaces, y.float(), x.float(), back[y, x])
        count, at = free.sum(0), (y.numpy(), x.numpy())  # an array takes a tensor of one place for a number
        out[at] = _robust_mean(colours, free | (count == 0)).numpy()
        rays[at] = count.int().numpy()
    return out, rays


def compute_psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, scikit-image's, of the pixels in the mask (all by default); infinite where the pictures are equal.

    Args:
        image, truth: 'h w c', uint8 or float in [0, 1].
        mask: 'h w' booleans, the pixels that count.

    Raises:
        ValueError: when shapes differ, or the mask is empty.
    """
    from skimage.metrics import peak_signal_noise_ratio  # here and below: it brings scipy.stats along, which no other command should wait for
    image, truth, mask = _pictures(image, truth, mask)
    if np.array_equal(image[mask], truth[mask]):
        return math.inf
    return float(peak_signal_noise_ratio(truth[mask], image[mask], data_range=1))


def compute_ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity, scikit-image's (windows of 7 x 7 pixels), as the mean of its map over the mask; 1 where the pictures are equal.

    Args and Raises as in `compute_psnr`; sides of 7 pixels at least.
    """
    from skimage.metrics import structural_similarity
    image, truth, mask = _pictures(image, truth, mask)
    if min(truth.shape[:2]) < 7:
        raise ValueError(f"pictures must be at least 7 pixels a side: got {truth.shape[0]} x {truth.shape[1]}")
    return float(structural_similarity(truth, image, data_range=1, channel_axis=2, full=True)[1][mask].mean())


def _pictures(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if image.shape != truth.shape or image.ndim != 3:
        raise ValueError(f"the pictures must be 'h w c' of one shape: got {image.shape} and {truth.shape}")
    mask = np.ones(image.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"the mask must be 'h w' with a pixel in it: got shape {mask.shape} with {int(mask.sum())} pixels for {image.shape}")
    return as_float(image).astype(np.float64), as_float(truth).astype(np.float64), mask
