"""Changes to a training crop (lf, gt_data, mask, fg_disp, bg_disp) that keep its geometry exact.

Each takes such an item ('u v h w c', 'h w c' and three 'h w') and gives a new one; only `shear` and `reduce_by` change a disparity,
and `augment_geometry` and `augment_colour` string the others together at random.
"""

import math

import numpy as np

from lfkit.disparity import MAX_DISP
from lfkit.sweep import cubic_weights

NOISE_MAX = 0.03         # standard deviation of added noise, in parts of the full range
GAMMA = (0.8, 1.25)      # the field's range, see EPINET (CVPR 2018), section 3.3
BRIGHTNESS = (0.6, 1.3)
CONTRAST = (0.7, 1.3)
GREY_SHARE = 0.2         # of the crops turned grey
NOISE_SHARE = 0.5        # of the crops with added noise
ERASE_SHARE = 0.2        # of the crops with a region of a view erased
ERASED = (0.1, 0.5)      # sides of that region, in parts of the crop's
SHEAR_SHARE = 0.1        # of the crops refocused, and
REDUCE_SHARE = 0.1       # of the crops reduced by 2, where the scene is large enough: a crop in ten keeps the disparities mostly as they came
SHEAR_MAX = 0.75         # largest refocusing, in pixels per view step: more than half a level, and a margin that small scenes still have
TAPS = 2                 # pixels that the cubic kernel reads beyond a position


# geometry

def flip(item: tuple, axis: int) -> tuple:
    """Upside down (axis 0) or left to right (axis 1), views and pixels together."""
    lf, *maps = item
    return (np.flip(lf, (axis, axis + 2)), *(np.flip(m, axis) for m in maps))


def transpose(item: tuple) -> tuple:
    """Rows and columns exchanged, of views and of pixels."""
    lf, *maps = item
    return (lf.transpose(1, 0, 3, 2, 4), *(m.swapaxes(0, 1) for m in maps))


def rotate(item: tuple, quarters: int) -> tuple:
    """Turned counterclockwise by quarters of a turn, the grid of views as the pixels."""
    lf, *maps = item
    return (np.rot90(np.rot90(lf, quarters, (0, 1)), quarters, (2, 3)), *(np.rot90(m, quarters) for m in maps))


def shear_margin(views_num: int, disp: float) -> int:
    """Pixels that `shear` takes from each side."""
    return math.ceil(views_num // 2 * abs(disp)) + TAPS if disp else 0


def shear(item: tuple, disp: float) -> tuple:
    """Refocuses by a constant disparity: both disparities grow by disp, in pixels per view step.

    What was at view[p] goes to view[p + (c - u, c - v) * disp]; each view is read at sub-pixel places (cubic), the centre view stays.
    `shear_margin` pixels fall off each side, so that every view has what is read.
    """
    lf, *maps = item
    margin = shear_margin(len(lf), disp)
    if min(lf.shape[2:4]) <= 2 * margin:
        raise ValueError(f"a shear by {disp:g} takes {margin} pixels from each side of {lf.shape[2]} x {lf.shape[3]}; pass a larger crop or a smaller disp")
    if not margin:
        return item
    c = len(lf) // 2
    rows = np.stack([_shifted(view, (u - c) * disp, margin, 1) for u, view in enumerate(lf)])
    views = np.stack([_shifted(rows[:, v], (v - c) * disp, margin, 2) for v in range(lf.shape[1])], axis=1)
    gt_data, mask, fg_disp, bg_disp = (m[margin:-margin, margin:-margin] for m in maps)
    return np.clip(views, 0, 1), gt_data, mask, fg_disp + np.float32(disp), bg_disp + np.float32(disp)


def _shifted(views: np.ndarray, shift: float, margin: int, axis: int) -> np.ndarray:
    """Pixels p + shift along an axis, margin <= p < extent - margin, by cubic convolution."""
    whole = math.floor(shift)
    weights = cubic_weights(shift - whole)
    extent = views.shape[axis] - 2 * margin
    first = margin + whole - 1
    parts = (np.float32(weight) * views.take(range(first + k, first + k + extent), axis) for k, weight in enumerate(weights) if weight)
    return sum(parts)


def reduce_by(item: tuple, k: int) -> tuple:
    """Every k x k block of pixels becomes one: colours are averaged, disparities divided by k; rows and columns left over fall off.

    mask and disparities are those of one pixel of the block, row and column k // 2 (for an odd k its middle), so that no edge is averaged.
    """
    lf, gt_data, *maps = item
    if not 1 <= k <= min(gt_data.shape[:2]):
        raise ValueError(f"a crop of {gt_data.shape[0]} x {gt_data.shape[1]} can't be reduced by {k}; use a whole number from 1 to {min(gt_data.shape[:2])}")
    h, w = (extent // k for extent in gt_data.shape[:2])
    def average(image):
        blocks = image[..., :h * k, :w * k, :].reshape(*image.shape[:-3], h, k, w, k, image.shape[-1])
        return blocks.mean((-4, -2), dtype=np.float32)
    mask, fg_disp, bg_disp = (m[k // 2::k, k // 2::k][:h, :w] for m in maps)
    return average(lf), average(gt_data), mask, fg_disp / np.float32(k), bg_disp / np.float32(k)


# colour: one change for all views and gt_data, but for noise and erasure

def _recoloured(item: tuple, change) -> tuple:
    lf, gt_data, *maps = item
    return (np.clip(change(lf), 0, 1), np.clip(change(gt_data), 0, 1), *maps)


def mix_colours(item: tuple, mix: np.ndarray) -> tuple:
    """Each new colour a weighted sum of the old, weights 'new old': a permutation, or three equal rows for grey."""
    return _recoloured(item, lambda image: image @ np.asarray(mix, np.float32).T)


def change_light(item: tuple, brightness: float = 1.0, contrast: float = 1.0, gamma: float = 1.0) -> tuple:
    """Contrast about the mean of all views, then a factor, then a power."""
    mean = item[0].mean(dtype=np.float32) * np.float32(1 - contrast)
    def change(image):
        return np.clip((image * np.float32(contrast) + mean) * np.float32(brightness), 0, 1) ** np.float32(gamma)
    return _recoloured(item, change)


def add_noise(item: tuple, sigma: float, rng: np.random.Generator) -> tuple:
    """Normal noise of standard deviation sigma on every view; gt_data stays clean."""
    lf, *rest = item
    return (np.clip(lf + np.float32(sigma) * rng.standard_normal(lf.shape, np.float32), 0, 1), *rest)


def erase(item: tuple, rng: np.random.Generator) -> tuple:
    """A random rectangle of one view, never the centre's, filled with one colour or with noise."""
    lf, *rest = item
    others = [(u, v) for u, v in np.ndindex(lf.shape[:2]) if (u, v) != (len(lf) // 2, len(lf) // 2)]
    tall, wide = (max(1, round(extent * rng.uniform(*ERASED))) for extent in lf.shape[2:4])
    top, left = int(rng.integers(lf.shape[2] - tall + 1)), int(rng.integers(lf.shape[3] - wide + 1))
    fill = rng.random((1, 1, 3) if rng.random() < 0.5 else (tall, wide, 3), np.float32)
    lf = lf.copy()
    lf[others[rng.integers(len(others))]][top:top + tall, left:left + wide] = fill
    return (lf, *rest)


# at random

def augment_geometry(item: tuple, rng: np.random.Generator) -> tuple:
    """A random one of the eight symmetries of the square; no disparity changes."""
    item = rotate(item, int(rng.integers(4)))
    for axis in (0, 1):
        if rng.random() < 0.5:
            item = flip(item, axis)
    return transpose(item) if rng.random() < 0.5 else item


def augment_colour(item: tuple, rng: np.random.Generator) -> tuple:
    """Random colour order or grey, brightness, contrast and gamma; on some crops noise, on some an erased region."""
    mix = np.eye(3)[rng.permutation(3)]
    if rng.random() < GREY_SHARE:
        mix = np.repeat(rng.dirichlet(np.ones(3))[None], 3, axis=0)
    item = change_light(mix_colours(item, mix), rng.uniform(*BRIGHTNESS), rng.uniform(*CONTRAST), rng.uniform(*GAMMA))
    if rng.random() < NOISE_SHARE:
        item = add_noise(item, rng.uniform(0, NOISE_MAX), rng)
    return erase(item, rng) if rng.random() < ERASE_SHARE else item


def random_shear(item: tuple, rng: np.random.Generator, max_disp: float = MAX_DISP) -> tuple:
    """A random shear that leaves no disparity beyond max_disp where none was; the sides that the largest one takes fall off in any case."""
    disps = np.stack(item[3:])
    low, high = max(-SHEAR_MAX, -max_disp - disps.min()), min(SHEAR_MAX, max_disp - disps.max())
    margin = shear_margin(len(item[0]), SHEAR_MAX)
    if low < high:
        disp = rng.uniform(low, high)
        margin -= shear_margin(len(item[0]), disp)
        item = shear(item, disp)
    lf, *maps = item
    inner = (slice(margin, lf.shape[2] - margin), slice(margin, lf.shape[3] - margin))
    return (lf[(slice(None), slice(None), *inner)], *(m[inner] for m in maps))
