"""Errors of a disparity map."""

import numpy as np
import torch

BORDER = 11           # pixels left out at each side while training and validating: the note's crop
BENCHMARK_BORDER = 15  # in tables: the HCI toolkit's, see Johannsen et al., CVPR Workshops 2017
BAD_PIX = 0.07        # pixels per view step; the HCI benchmark's main threshold


def _errors(pred, gt, border: int, mask) -> np.ndarray:
    """The errors pred - gt of the pixels that count, as float64; ValueError when they can't be compared."""
    to_array = lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    pred, gt = to_array(pred), to_array(gt)
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt differ in shape: {pred.shape} and {gt.shape}; pass both as 'h w'")
    if pred.ndim != 2:
        raise ValueError(f"pred and gt must be 'h w' maps: got shape {pred.shape}; pass one map at a time")
    if border < 0 or 2 * border >= min(pred.shape):
        raise ValueError(f"a map of {pred.shape[0]} x {pred.shape[1]} pixels is too small for a border of {border} at each side; "
                         f"pass border={max(0, (min(pred.shape) - 1) // 2)} or less")
    inner = tuple(slice(border, size - border) for size in pred.shape)
    errors = pred[inner].astype(np.float64) - gt[inner].astype(np.float64)
    if mask is not None:
        mask = to_array(mask)
        if mask.shape != pred.shape:
            raise ValueError(f"mask has shape {mask.shape}, pred {pred.shape}; pass both as 'h w'")
        errors = errors[mask[inner].astype(bool)]
        if not errors.size:
            raise ValueError(f"the mask leaves no pixel inside the border of {border}; pass another mask or border")
    if np.isnan(errors).any():
        raise ValueError(f"pred or gt has {int(np.isnan(errors).sum())} NaN pixels of {errors.size}; mask them out")
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
        ValueError: when the shapes differ or are no maps, the map is too small for the border, no pixel is left, or one is NaN.

    >>> compute_mse(np.zeros((4, 4)), np.full((4, 4), 0.5), border=1)
    0.25
    """
    return float(np.mean(_errors(pred, gt, border, mask) ** 2))


def compute_bad_pix(pred, gt, threshold: float = BAD_PIX, border: int = BORDER, mask=None) -> float:
    """Percent of pixels with an absolute error strictly greater than the threshold.

    Args and Raises as in `compute_mse`; threshold in pixels per view step.

    Source: HCI 4D Light Field Benchmark, Honauer et al., ACCV 2016, section 4.

    >>> compute_bad_pix(np.array([[0, 0.5], [0.25, 0]]), np.zeros((2, 2)), threshold=0.25, border=0)
    25.0
    """
    return float(100 * np.mean(np.abs(_errors(pred, gt, border, mask)) > threshold))
