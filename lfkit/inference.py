"""A whole scene through a network that is run on crops."""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm.auto import tqdm

from lfkit.lightfield import as_float

SHOW_PROGRESS_FROM = 30  # crops


def crop_axis(size: int, max_length: int, shave: int, mod: int) -> list[tuple[int, int, int, int]]:
    """How one axis is cut: for each crop (start, stop, keep_from, keep_to), in pixels of the whole.

    Starts are multiples of mod; neighbouring crops overlap by at least 2 * shave, and what is kept of each lies at least
    shave pixels inside it, except at the ends of the axis.

    Raises:
        ValueError: when no such crops exist.

    >>> crop_axis(10, 6, 1, 2)
    [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    if size <= max_length:
        return [(0, size, 0, size)]
    stride = (max_length - 2 * shave) // mod * mod
    if stride < 1:
        raise ValueError(f"max_length {max_length} can't cover an axis of {size} pixels with shave {shave} and mod {mod}: a crop must exceed "
                         f"2 * shave by at least mod; use max_length {2 * shave + mod} or more")
    starts = list(range(0, size - max_length + stride, stride))
    starts = [s for k, s in enumerate(starts) if k == 0 or starts[k - 1] + max_length < size]
    crops = [(s, min(s + max_length, size)) for s in starts]
    cuts = [0, *((crops[k][1] + crops[k + 1][0]) // 2 for k in range(len(crops) - 1)), size]
    return [(*crop, cuts[k], cuts[k + 1]) for k, crop in enumerate(crops)]


class _Stitcher:
    """Collects what the model gives for each crop into outputs of the whole size, whatever their structure."""

    def __init__(self, size: tuple[int, int], scale: int):
        self.size, self.scale, self.whole = size, scale, None

    def _map(self, function, *structures):
        first = structures[0]
        if isinstance(first, Tensor):
            return function(*structures)
        if isinstance(first, dict):
            return type(first)({key: self._map(function, *(s[key] for s in structures)) for key in first})
        if isinstance(first, (tuple, list)):
            parts = [self._map(function, *parts) for parts in zip(*structures)]
            return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
        raise ValueError(f"the model gave a {type(first).__name__}; it must give a tensor, or a tuple, list or dict of tensors")

    def _empty(self, out: Tensor, crop: tuple[int, int]) -> Tensor:
        expected = tuple(self.scale * extent for extent in crop)
        if tuple(out.shape[-2:]) != expected:
            raise ValueError(f"the model made {tuple(out.shape[-2:])} pixels of a crop of {crop} at scale {self.scale}; expected {expected} as "
                             "each output's last two axes: pass the model's own scale")
        return out.new_empty(*out.shape[:-2], *(self.scale * extent for extent in self.size))

    def add(self, out, rows: tuple, cols: tuple) -> None:
        """Keeps the part of a crop's output that is its own."""
        crop = rows[1] - rows[0], cols[1] - cols[0]
        checked = self._map(lambda o: self._empty(o, crop) if self.whole is None else o, out)
        if self.whole is None:
            self.whole = checked
        def copy(whole, part):
            (y0, _, ya, yb), (x0, _, xa, xb) = (tuple(self.scale * k for k in axis) for axis in (rows, cols))
            whole[..., ya:yb, xa:xb] = part[..., ya - y0:yb - y0, xa - x0:xb - x0]
            return whole
        self._map(copy, self.whole, out)


def overlap_crop_forward(x: Tensor, model: Callable, scale: int = 1, max_length: int = 96, shave: int = 16, mod: int = 8):
    """Runs a model over overlapping crops and stitches every output to the whole size.

    Equal to the model on the whole image where shave covers the model's receptive field and mod its pooling.

    Args:
        x: views 'b n h w c', float in [0, 1].
        model: any callable, called with 'b n c h w' crops; gives a tensor, or a tuple, list or dict of tensors, whose
            last two axes are `scale` times the crop's.
        scale: output pixels a pixel.
        max_length: longest side of a crop, in pixels.
        shave: pixels at a crop's inner sides that are not trusted.
        mod: crops start at multiples of it; the last crop may have any size.

    Returns:
        What the model returns, with the last two axes of the whole.

    Raises:
        ValueError: when x is not 'b n h w c', max_length can't work with shave and mod, or an output has another size.
    """
    if x.ndim != 5:
        raise ValueError(f"x must be 'b n h w c': got shape {tuple(x.shape)}; rearrange with 'b u v h w c -> b (u v) h w c'")
    if scale < 1 or shave < 0 or mod < 1 or max_length < 1:
        raise ValueError(f"scale, max_length and mod must be at least 1 and shave at least 0: got {scale}, {max_length}, {mod} and {shave}")
    size = tuple(x.shape[2:4])
    crops = list(product(*(crop_axis(extent, max_length, shave, mod) for extent in size)))
    stitcher = _Stitcher(size, scale)
    for rows, cols in tqdm(crops, desc="crops", leave=False, disable=len(crops) < SHOW_PROGRESS_FROM):
        crop = rearrange(x[:, :, rows[0]:rows[1], cols[0]:cols[1]], "b n h w c -> b n c h w")
        with torch.inference_mode():
            out = model(crop)
        stitcher.add(out, rows, cols)  # outside, so that the result is an ordinary tensor
    return stitcher.whole


def predict_scene(lf: np.ndarray, model: Callable, device: torch.device, max_length: int = 96, shave: int = 16, mod: int = 8) -> tuple:
    """A whole light field 'u v h w c' through the model.

    Returns:
        (depDistT 'd h w', depDistS 'd h w', depth_map 'h w'), tensors on the CPU.
    """
    x = torch.from_numpy(as_float(lf)).to(device)
    outputs = overlap_crop_forward(rearrange(x, "u v h w c -> 1 (u v) h w c"), model, 1, max_length, shave, mod)
    return tuple(out[0].cpu() for out in outputs)
