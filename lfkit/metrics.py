"""Errors of a disparity map, of two layers, and of the distributions that they are read from."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch

from lfkit.disparity import MAX_DISP, PEAK_MASS, STEP, find_peaks, get_disp_distribution, inside_levels

BORDER = 11           # pixels left out at each side while training and validating: the note's crop
BENCHMARK_BORDER = 15  # in tables: the HCI toolkit's, see Johannsen et al., CVPR Workshops 2017
BAD_PIX = 0.07        # pixels per view step; the HCI benchmark's main threshold
FINER_BAD_PIX = (0.03, 0.01)  # the benchmark's two others
PEAK_REACH = 0.5      # parts of a step between a peak and a layer that it still stands for: nearer than to the next level
LEAST_DENSITY = 1e-12  # of a truth that the distribution rules out; bounds its negative log-likelihood at 27.6 nats
SPARSE_STEPS = 50     # points of a sparsification curve


def fitting_border(shape: Sequence[int], border: int = BORDER) -> int:
    """The border, or as much of it as leaves the middle of a small map '... h w'."""
    return min(border, (min(shape[-2:]) - 1) // 2)


def _errors(pred, gt, border: int, mask) -> np.ndarray:
    """The errors pred - gt of the pixels that count, as float64; ValueError when they can't be compared."""
    to_array = lambda x: x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    pred, gt = to_array(pred), to_array(gt)
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt differ in shape: {pred.shape} and {gt.shape}; pass both as 'h w'")
    if pred.ndim != 2:
        raise ValueError(f"pred and gt must be 'h w' maps: got shape {pred.shape}; pass one map at a time")
    if not isinstance(border, Integral):
        raise ValueError(f"border must be a whole number of pixels: got {border!r}")
    if border < 0 or 2 * border >= min(pred.shape):
        raise ValueError(f"a map of {pred.shape[0]} x {pred.shape[1]} pixels is too small for a border of {border} at each side; "
                         f"pass border={max(0, fitting_border(pred.shape, border))} (--border) or less")
    inner = tuple(slice(border, size - border) for size in pred.shape)
    errors = pred[inner].astype(np.float64) - gt[inner].astype(np.float64)
    if mask is not None:
        mask = to_array(mask)
        if mask.shape != pred.shape:
            raise ValueError(f"mask has shape {mask.shape}, pred {pred.shape}; pass both as 'h w'")
        errors = errors[mask[inner].astype(bool)]
        if not errors.size:
            raise ValueError(f"the mask leaves no pixel inside the border of {border}; pass another mask or border")
    if not np.isfinite(errors).all():
        raise ValueError(f"pred or gt has {int((~np.isfinite(errors)).sum())} NaN or infinite pixels of {errors.size}; mask them out")
    return errors


def compute_mse(pred, gt, border: int = BORDER, mask=None) -> float:
    """Mean squared disparity error; tables show it times 100.

    Args:
        pred, gt: 'h w' arrays or tensors, in pixels per view step.
        border: pixels left out at each side.
        mask: 'h w' booleans, the pixels that count; all by default.

    Returns:
        The mean of (pred - gt) ** 2, in squared pixels.

    Raises:
        ValueError: when the shapes differ or are no maps, the border is no whole number, the map is too small for the border, no pixel is left, or one is NaN or infinite.

    >>> compute_mse(np.zeros((4, 4)), np.full((4, 4), 0.5), border=1)
    0.25
    """
    return float(np.mean(_errors(pred, gt, border, mask) ** 2))


def compute_bad_pix(pred, gt, threshold: float = BAD_PIX, border: int = BORDER, mask=None) -> float:
    """Percent of pixels with an absolute error strictly greater than the threshold.

    Args and Raises as in `compute_mse`; threshold in pixels per view step, 0 at least.

    Source: HCI 4D Light Field Benchmark, Honauer et al., ACCV 2016, section 4.

    >>> compute_bad_pix(np.array([[0, 0.5], [0.25, 0]]), np.zeros((2, 2)), threshold=0.25, border=0)
    25.0
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be 0 or more pixels per view step: got {threshold}")
    return float(100 * np.mean(np.abs(_errors(pred, gt, border, mask)) > threshold))


def compute_quantile(pred, gt, percent: float = 25, border: int = BORDER, mask=None) -> float:
    """100 times a percentile of the absolute disparity error; the benchmark's Q25 by default, how exact the good pixels are.

    Args and Raises as in `compute_mse`; percent from 0 up to, not including, 100.

    Returns:
        100 * the error at place floor(n * percent / 100), counted from 0, of the n sorted ones, as the benchmark's toolkit has it: not interpolated.

    Source: 4D Light Field Benchmark, evaluation toolkit, Quantile; Johannsen et al., CVPR Workshops 2017.

    >>> compute_quantile(np.array([[0, 0.5], [0.25, 1]]), np.zeros((2, 2)), border=0)
    25.0
    """
    if not 0 <= percent < 100:
        raise ValueError(f"percent must lie in [0, 100): got {percent:g}")
    errors = np.abs(_errors(pred, gt, border, mask)).ravel()
    place = int(errors.size * percent / 100)
    return float(100 * np.partition(errors, place)[place])


def compute_scores(pred, gt, border: int = BENCHMARK_BORDER, mask=None) -> dict[str, float]:
    """The benchmark's errors of one map: mse_x100, bad_pix (0.07), bad_pix_003, bad_pix_001 and q25.

    Args and Raises as in `compute_mse`.
    """
    finer = {f"bad_pix_{100 * t:03.0f}": compute_bad_pix(pred, gt, t, border, mask) for t in FINER_BAD_PIX}
    return {"mse_x100": 100 * compute_mse(pred, gt, border, mask), "bad_pix": compute_bad_pix(pred, gt, BAD_PIX, border, mask), **finer,
            "q25": compute_quantile(pred, gt, 25, border, mask)}


# two layers and their distributions

def _counted(distribution, size: tuple, border: int, mask) -> torch.Tensor:
    """A distribution 'd h w' at the p pixels that count, as float64 '1 d 1 p'; ValueError when it is not of the maps' size, or not finite."""
    distribution = torch.as_tensor(distribution).detach().cpu().double()
    if distribution.ndim != 3 or tuple(distribution.shape[1:]) != size:
        raise ValueError(f"the distribution has shape {tuple(distribution.shape)}, the maps {size}; pass it as 'd h w', one scene at a time")
    rows, columns = (slice(border, extent - border) for extent in size)
    inner = distribution[:, rows, columns]
    if not torch.isfinite(inner).all():
        raise ValueError(f"the distribution has {int((~torch.isfinite(inner)).sum())} NaN or infinite values of {inner.numel()}; look for what the network was given")
    return (inner.flatten(1) if mask is None else inner[:, torch.from_numpy(np.array(mask, bool)[rows, columns])])[None, :, None]


def compute_peaks(both, fg_disp, bg_disp, max_disp: float = MAX_DISP, step: float = STEP, border: int = BORDER, mask=None) -> tuple[float, float]:
    """How well the peaks of the two-peaked distribution stand for the two layers.

    A peak (see `lfkit.disparity.find_peaks`) and a layer belong together when they are at most half a step apart.

    Args:
        both: depDistT of one scene, 'd h w', sums to 1 over d.
        fg_disp, bg_disp: 'h w' truth, in pixels per view step; mask: 'h w' booleans, the pixels that count: such as the occluder's.
        max_disp, step: the levels.
        border: pixels left out at each side.

    Returns:
        (recall, precision) in percent: of the layers, two a pixel, those with a peak; of the peaks, those at a layer (100 where there are none).

    Raises:
        ValueError: when shapes differ, or no pixel is left.
    """
    if np.shape(fg_disp) != np.shape(bg_disp):
        raise ValueError(f"fg_disp and bg_disp differ in shape: {np.shape(fg_disp)} and {np.shape(bg_disp)}; pass both as 'h w'")
    layers = [_errors(disp, np.zeros(np.shape(disp)), border, mask).ravel() for disp in (fg_disp, bg_disp)]
    is_peak, disps = (x[0, :, 0].numpy() for x in find_peaks(_counted(both, np.shape(fg_disp), border, mask), max_disp, step, PEAK_MASS))
    near = np.stack([np.abs(disps - layer) <= PEAK_REACH * step + 1e-9 for layer in layers])  # layer level pixel
    found, right = (near & is_peak).any(1), near.any(0)[is_peak]
    return float(100 * found.mean()), float(100 * right.mean()) if right.size else 100.0


def compute_nll(distribution, gt, max_disp: float = MAX_DISP, step: float = STEP, border: int = BORDER, mask=None) -> float:
    """Mean negative log-likelihood of the true disparity, in nats a pixel: low where the distribution is sharp and right.

    Between two levels the density is linear, each level's mass being a hat of two steps' width, as in the targets; it integrates to 1.

    Args:
        distribution: depDistS of one scene, 'd h w', sums to 1 over d.
        gt: 'h w' in pixels per view step; pixels outside the levels are left out.
        max_disp, step: the levels.
        border, mask: as in `compute_mse`.

    Raises:
        ValueError: when shapes differ, or no pixel is left.
    """
    truth = _errors(gt, np.zeros(np.shape(gt)), border, mask).ravel()
    probabilities = _counted(distribution, np.shape(gt), border, mask)
    inside = inside_levels(truth, max_disp, step)
    if not inside.any():
        raise ValueError(f"no true disparity lies within the levels, -{max_disp:g} to {max_disp:g}; pass the max_disp that the distribution has")
    hats = get_disp_distribution(truth[None, None], max_disp, step).double()
    if hats.shape != probabilities.shape:
        raise ValueError(f"the distribution has {probabilities.shape[1]} levels, expected {hats.shape[1]}; pass the max_disp and step that it has")
    density = (hats * probabilities).sum(1)[0, 0].numpy()[inside] / step
    return float(-np.log(np.maximum(density, LEAST_DENSITY)).mean())


def compute_sparsification(pred, gt, doubt, border: int = BORDER, mask=None, steps: int = SPARSE_STEPS) -> dict:
    """How the mean absolute error falls as the most doubtful pixels are taken away, beside the best order of all: that of the errors.

    Args:
        pred, gt: 'h w' in pixels per view step.
        doubt: 'h w', larger where the network trusts itself less, such as `lfkit.disparity.disp_deviation` of depDistS.
        border, mask: as in `compute_mse`.
        steps: points of the curve.

    Returns:
        removed: shares of the pixels taken away, 0, 1 / steps ...; error and oracle: mean absolute error of the rest, in pixels per view step, by
        doubt and by the errors themselves; area: between both over removed, in parts of the whole error (0: the doubt is perfectly ordered).

    Raises:
        ValueError: as `compute_mse`, and when doubt is of another shape.

    Source: Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, ECCV 2018 (AUSE).
    """
    if np.shape(doubt) != np.shape(gt):
        raise ValueError(f"doubt has shape {tuple(np.shape(doubt))}, gt {tuple(np.shape(gt))}; pass both as 'h w'")
    errors = np.abs(_errors(pred, gt, border, mask)).ravel()
    doubts = _errors(doubt, np.zeros(np.shape(doubt)), border, mask).ravel()
    removed = np.arange(steps) / steps
    kept = np.maximum(-(-errors.size * np.arange(steps, 0, -1) // steps), 1)
    means = lambda ordered: np.cumsum(ordered)[kept - 1] / kept
    _, tie, size = np.unique(doubts, return_inverse=True, return_counts=True)
    tied = np.bincount(tie, errors) / size  # those of equal doubt leave together, in no order
    curve, oracle = means(np.repeat(tied, size)), means(np.sort(errors))
    area = float(np.trapezoid(curve - oracle, removed) / errors.mean()) if errors.any() else 0.0
    return {"removed": removed, "error": curve, "oracle": oracle, "area": area}
