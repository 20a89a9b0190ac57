"""Disparity levels and distributions over them: the one home of the level grid."""

import math

import numpy as np
import torch

MAX_DISP = 4  # levels run from -MAX_DISP to +MAX_DISP, in pixels per view step; HCI scenes lie within it
STEP = 1.0    # distance of two neighbouring levels, in pixels per view step


def disparity_levels(max_disp: float = MAX_DISP, step: float = STEP) -> torch.Tensor:
    """The disparity levels -max_disp, -max_disp + step, ..., +max_disp.

    Args:
        max_disp: largest level, in pixels per view step, above 0.
        step: distance of two levels, in pixels per view step; max_disp is a whole multiple of it.

    Returns:
        float32 tensor of D = 2 * max_disp / step + 1 levels, ascending.

    Raises:
        ValueError: when either is not positive, or max_disp is not a multiple of step.

    >>> disparity_levels(1, 0.5).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if not (math.isfinite(max_disp) and math.isfinite(step) and max_disp > 0 and step > 0):
        raise ValueError(f"max_disp and step must be positive numbers: got {max_disp} and {step}")
    steps = round(max_disp / step)
    if steps < 1 or abs(steps * step - max_disp) > 1e-6 * max_disp:
        raise ValueError(f"max_disp must be a whole multiple of step: got max_disp {max_disp:g} and step {step:g}; "
                         f"try --max_disp {max(1, steps) * step:g}")
    return torch.arange(-steps, steps + 1, dtype=torch.float32) * step


def inside_levels(disp, max_disp: float = MAX_DISP, step: float = STEP):
    """Which pixels have a disparity within the levels, ends included.

    Args:
        disp: tensor or array of disparities, any shape, in pixels per view step.

    Returns:
        Boolean of the same kind and shape; False for NaN.
    """
    disparity_levels(max_disp, step)
    return (disp >= -max_disp) & (disp <= max_disp)


def on_levels(disp: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """What `get_disp_distribution` gives, unchecked, on evenly spaced levels 'd': 'b h w' to 'b d h w'."""
    return (1 - (disp.clamp(levels[0], levels[-1])[:, None] - levels[:, None, None]).abs() / (levels[1] - levels[0])).clamp(min=0)


def get_disp_distribution(disp, max_disp: float = MAX_DISP, step: float = STEP) -> torch.Tensor:
    """The two-bin distribution whose expectation is the disparity.

    A disparity's mass lies on its two nearest levels, each weighted by its nearness. A disparity outside the
    levels is clamped to the end level (`inside_levels` tells which pixels those are).

    Args:
        disp: 'b h w' tensor or array of disparities, in pixels per view step.

    Returns:
        float32 tensor 'b d h w' on disp's device; sums to 1 over d.

    Raises:
        ValueError: when disp is not 'b h w', or holds a NaN.

    >>> get_disp_distribution(torch.full((1, 1, 1), 0.25), max_disp=1, step=1).flatten().tolist()
    [0.0, 0.75, 0.25]
    """
    levels = disparity_levels(max_disp, step)
    disp = torch.as_tensor(disp if isinstance(disp, torch.Tensor) else np.ascontiguousarray(disp, np.float32))
    if disp.ndim != 3:
        raise ValueError(f"disp must be 'b h w': got shape {tuple(disp.shape)}; give a single map a batch axis, disp[None]")
    if torch.isnan(disp).any():
        raise ValueError(f"disp has {int(torch.isnan(disp).sum())} NaN pixels of {disp.numel()}; fill or mask them first")
    return on_levels(disp.float(), levels.to(disp.device))


def disp_expectation(distribution: torch.Tensor, max_disp: float = MAX_DISP, step: float = STEP) -> torch.Tensor:
    """The mean disparity of a distribution 'b d h w', as 'b h w' in pixels per view step.

    >>> disp_expectation(get_disp_distribution(torch.full((1, 1, 1), 0.25))).item()
    0.25
    """
    distribution = torch.as_tensor(distribution)
    levels = disparity_levels(max_disp, step).to(distribution)
    if distribution.ndim != 4 or distribution.shape[1] != len(levels):
        raise ValueError(f"distribution must be 'b d h w' with d = {len(levels)} levels: got shape {tuple(distribution.shape)}; "
                         "pass the max_disp and step that it was made with")
    return torch.einsum("bdhw,d->bhw", distribution, levels)


def disp_deviation(distribution: torch.Tensor, max_disp: float = MAX_DISP, step: float = STEP) -> torch.Tensor:
    """The standard deviation of a distribution 'b d h w' about its mean, as 'b h w' in pixels per view step: how much it doubts.

    >>> disp_deviation(get_disp_distribution(torch.full((1, 1, 1), 0.5))).item()
    0.5
    """
    mean = disp_expectation(distribution, max_disp, step)
    levels = disparity_levels(max_disp, step).to(distribution)[None, :, None, None]
    return (distribution * (levels - mean[:, None]) ** 2).sum(1).clamp(min=0).sqrt()


LIKELY_MASS = 0.3  # of a layer that a map shows; depDistT gives each of two sure layers a half, and an occluder some beside its outline; `benchmarks/peaks.py` has others
PEAK_MASS = 0.15  # least mass of a peak; two equal layers have 0.5 each, so that this leaves room for doubt


def find_peaks(distribution: torch.Tensor, max_disp: float = MAX_DISP, step: float = STEP,
               threshold: float = PEAK_MASS) -> tuple[torch.Tensor, torch.Tensor]:
    """Which levels are peaks, and the disparity of a peak at each level.

    A peak is a level with at least `threshold` of the mass in itself and its two neighbours, not lower than either neighbour;
    its disparity is the expectation over the three.

    Args:
        distribution: 'b d h w', sums to 1 over d.
        threshold: least mass of a peak, from 0 to 1.

    Returns:
        'b d h w' booleans; 'b d h w' disparities in pixels per view step, those of levels without mass being 0.
    """
    disp_expectation(distribution, max_disp, step)  # checks the shape
    levels = disparity_levels(max_disp, step).to(distribution)[None, :, None, None]
    padded = torch.nn.functional.pad(distribution, (0, 0, 0, 0, 1, 1))
    below, above = padded[:, :-2], padded[:, 2:]
    mass = below + distribution + above
    is_peak = (distribution >= below) & (distribution >= above) & (mass >= threshold)
    moment = below * (levels - step) + distribution * levels + above * (levels + step)
    return is_peak, moment / mass.clamp(min=1e-12)


def nearest_peak(distribution: torch.Tensor, max_disp: float = MAX_DISP, step: float = STEP,
                 threshold: float = LIKELY_MASS) -> torch.Tensor:
    """The disparity of the nearer peak: the foreground's, read from a two-peaked distribution.

    Args:
        distribution: 'b d h w', sums to 1 over d.
        threshold: least mass of a peak, see `find_peaks`; where no level is one the highest counts. Fewer pixels of a map are wrong with LIKELY_MASS than with
            PEAK_MASS, and what is seen through is nearer to the truth.

    Returns:
        'b h w' in pixels per view step.
    """
    distribution = torch.as_tensor(distribution)
    is_peak, disps = find_peaks(distribution, max_disp, step, threshold)
    order = torch.arange(distribution.shape[1], device=distribution.device)[None, :, None, None]
    index = torch.where(is_peak, order, -1).amax(1, keepdim=True)
    index = torch.where(index < 0, distribution.argmax(1, keepdim=True), index)
    return disps.gather(1, index)[:, 0]
