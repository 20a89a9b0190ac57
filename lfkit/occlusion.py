"""Occluders put in front of clean light fields, so that any scene with a disparity map has the exact truth of two layers.

Source: mask embedding, DeOccNet (WACV 2020), section 3.2; here the occluders are sheets with a disparity that varies, seen by every view's rays.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from lfkit.canvas import OCCLUDERS, Canvas
from lfkit.disparity import MAX_DISP
from lfkit.files import IMAGE_SUFFIXES, read_pixels
from lfkit.see_through import splat
from lfkit.sheets import blend, nearest, sheet_layers
from lfkit.synthetic import MIN_GAP, NEAREST, THINNEST, make_occluders

FRONT = (0.6, 1.0)      # parts of the scene's pixels that lie behind every occluder; the nearer rest may hide it
SMALLEST_MASK = 16      # pixels a side of an alpha image; less is no shape
ZOOM = (0.5, 1.5)       # alpha image pixels a pixel of the scene
COVERAGE = (0.02, 0.6)  # of a placed alpha image over the canvas: something to see past, and something to see
PLACEMENTS = 8          # tries to place an alpha image so
SPLAT_REACH = 0.15      # a splatted pixel's reach beyond its own square: closes the cracks of surfaces that a view sees stretched


def read_mask(path: Path) -> torch.Tensor:
    """The coverage 'h w' in [0, 1] of one alpha image: its alpha where that is not opaque all over, else its grey value.

    Raises:
        ValueError: when it is damaged, not of 1, 8 or 16 bits, under 16 pixels a side, or covers nothing or everything.
    """
    image = read_pixels(path)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: pixels are {image.dtype}, expected 1, 8 or 16 bits a channel; save it as a PNG of 8 bits")
    if min(image.shape[:2]) < SMALLEST_MASK:
        raise ValueError(f"{path}: {image.shape[0]} x {image.shape[1]} pixels; an alpha image needs at least "
                         f"{SMALLEST_MASK} a side: use a larger one or leave it out")
    full = np.iinfo(image.dtype).max if image.max() > 1 else 1  # an array of 0 and 1, as of booleans
    channels = image.reshape(*image.shape[:2], -1)
    alpha = channels.shape[-1] in (2, 4) and (channels[..., -1] < full).any()
    colours = channels[..., :-1] if channels.shape[-1] in (2, 4) else channels
    coverage = (channels[..., -1] if alpha else colours.mean(-1)).astype(np.float32) / full
    covered = coverage >= 0.5
    if covered.all() or not covered.any():
        raise ValueError(f"{path}: covers {'all' if covered.all() else 'none'} of its pixels, expected an occluder with gaps (its alpha, or white on black); leave it out")
    return torch.from_numpy(coverage)


def read_masks(folder: str | Path) -> list[torch.Tensor]:
    """The coverages of a folder's alpha images, all of one size, in the order of their names.

    Raises:
        FileNotFoundError: when the folder is missing, or has no picture.
        ValueError: when a picture is damaged, too small, or of another size than the first.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of alpha images; correct --mask_dir, or leave it out to draw occluders")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder}: no alpha image in it; put pictures there ({', '.join(IMAGE_SUFFIXES)}), or leave out --mask_dir to draw occluders")
    masks = [read_mask(file) for file in files]
    for file, mask in zip(files, masks):
        if mask.shape != masks[0].shape:
            raise ValueError(f"{file}: {mask.shape[0]} x {mask.shape[1]} pixels, but {files[0].name} has {masks[0].shape[0]} x "
                             f"{masks[0].shape[1]}; all alpha images of a folder must be of one size")
    return masks


def mask_support(picture: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """An alpha image over the canvas: zoomed, mirrored at its ends, at a random sub-pixel place, 'h w' coverage in [0, 1]."""
    (h, w), tried = picture.shape, []
    for _ in range(PLACEMENTS):
        zoom, signs = canvas.uniform(*ZOOM), (canvas.choose([-1, 1]), canvas.choose([-1, 1]))
        y, x = (sign * zoom * axis + canvas.uniform(0, extent) for sign, axis, extent in zip(signs, (canvas.y, canvas.x), (h, w)))
        grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1)
        support = F.grid_sample(picture[None, None], grid[None], padding_mode="reflection", align_corners=False)[0, 0]
        covered = float((support >= 0.5).float().mean())
        tried.append((max(COVERAGE[0] - covered, covered - COVERAGE[1], 0.0), support))
        if tried[-1][0] == 0:
            break
    return min(tried, key=lambda one: one[0])[1]


def occluder_supports(masks: Sequence[torch.Tensor] = ()) -> tuple[Callable, ...]:
    """What occluders are drawn from: the alpha images, or the procedural shapes where there are none."""
    return tuple(partial(mask_support, picture) for picture in masks) or tuple(OCCLUDERS.values())


def embed_occluders(lf: np.ndarray, bg_disp: np.ndarray, rng: np.random.Generator, max_disp: float = MAX_DISP,
                    supports: Sequence[Callable] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts one to three occluders in front of a clean scene.

    Each has a texture, soft edges and a disparity of its own that may vary over it, all of them over that of at least FRONT[0] of
    the scene's pixels. Where the scene is nearer it hides the occluder. In the centre view that is exact; the other views take
    the scene's disparity from the centre's (see `splat`). Where no room is left under max_disp the scene stays as it is: mask is
    empty and fg_disp is bg_disp.

    Args:
        lf: 'u v h w c' float32 in [0, 1], a clean scene or a crop of one.
        bg_disp: 'h w' float32, its disparity in pixels per view step.
        rng: source of every random number.
        max_disp: no occluder is nearer, in pixels per view step.
        supports: functions of a `Canvas` that give an occluder's coverage, see `occluder_supports`; procedural where not given.

    Returns:
        lf as before, with the occluders; mask 'h w' bool, where one covers at least `sheets.TOUCHED` of the centre's pixel; fg_disp 'h w'.

    Raises:
        ValueError: when lf and bg_disp are of different sizes.
    """
    if lf.ndim != 5 or lf.shape[2:4] != bg_disp.shape:
        raise ValueError(f"lf and bg_disp differ in size: {lf.shape} and {bg_disp.shape}; pass 'u v h w c' and 'h w'")
    views_num, h, w = lf.shape[0], *bg_disp.shape
    c = views_num // 2
    high = NEAREST * max_disp
    room = high - THINNEST - MIN_GAP
    low, full = (float(np.quantile(bg_disp, part)) for part in FRONT)
    if low > room:
        return lf, np.zeros((h, w), bool), bg_disp
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: more threads would round otherwise, and a loader's workers have one each
    try:
        canvas = Canvas(max(h, w), math.ceil(c * max_disp) + 1, torch.Generator().manual_seed(int(rng.integers(1 << 62))), torch.device("cpu"))
        front = min(canvas.choose([full, canvas.uniform(low, full)]), room)
        sheets = make_occluders(canvas, front + MIN_GAP, high, supports or occluder_supports())
        truth = torch.from_numpy(np.ascontiguousarray(bg_disp))
        i, j = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
        fg_disp, _ = nearest(canvas, sheets, i, j)
        mask = fg_disp > truth
        out = _before(torch.from_numpy(np.ascontiguousarray(lf)), splat(truth, views_num, front, SPLAT_REACH), canvas, sheets, i[None], j[None])
    finally:
        torch.set_num_threads(threads)
    return out.numpy(), mask.numpy(), torch.where(mask, fg_disp, truth).numpy()


def _before(lf: torch.Tensor, scene_disp: torch.Tensor, canvas: Canvas, sheets: list, i, j) -> torch.Tensor:
    """The sheets over every view; the scene is one more layer, opaque, at its own disparity."""
    c = lf.shape[0] // 2
    dv = c - torch.arange(lf.shape[1], dtype=torch.float32)[:, None, None]
    rows = []
    for u, row in enumerate(rearrange(lf, "u v h w c -> u 1 c v h w")):
        disps, covers, colours = sheet_layers(canvas, sheets, i, j, c - u, dv)
        rows.append(blend(torch.cat([scene_disp[u][None], disps]), torch.cat([torch.ones_like(covers[:1]), covers]), torch.cat([row, colours])))
    return rearrange(torch.stack(rows), "u v c h w -> u v h w c").clamp(0, 1)
