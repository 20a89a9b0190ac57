"""What a training step minimises."""

import torch
from einops import rearrange
from torch import Tensor, nn

from lfkit.disparity import disparity_levels, get_disp_distribution, inside_levels
from lfkit.layers import extremes

WEIGHT_NAMES = ("loss1_weight", "loss2_weight", "loss3_weight")


class DistributionCrossEntropy(nn.Module):
    """Cross-entropy of a predicted against a target distribution, both 'p d' and summing to 1 over d; the mean over p."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return -(target * pred.clamp(min=1e-6).log()).sum(-1).mean()


class JensenShannon(nn.Module):
    """Jensen-Shannon divergence, in nats, of a predicted and a target distribution, both 'p d' and summing to 1 over d; the mean over p, from 0 to log 2.

    Source: Lin, Divergence measures based on the Shannon entropy, IEEE Transactions on Information Theory, 1991.
    """

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        pred = pred.clamp(min=1e-6)
        mean = ((pred + target) / 2).log()
        return sum(nn.functional.kl_div(mean, part, reduction="batchmean") for part in (pred, target)) / 2


LOG_ERROR_SCALE = 0.1  # pixels per view step from which on an error counts less than in proportion


class LogError(nn.Module):
    """The mean of s log(1 + |pred - target| / s), s = LOG_ERROR_SCALE: as L1 for small errors, while gross ones, which no small step mends, don't drown them."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return LOG_ERROR_SCALE * torch.log1p((pred - target).abs() / LOG_ERROR_SCALE).mean()


HUBER_WEIGHT = 8.0  # of Huber's loss beside L1: the square of an error below one pixel weighs four times the error itself


class L1Huber(nn.Module):
    """L1 and HUBER_WEIGHT times Huber's loss, which turns from the square to a line at an error of one pixel.

    Where it is open which of two surfaces a pixel shows, as along outlines, L1 is least on the likelier one; this one lies between them, which costs less mean square error.
    Where it is all but sure it stays on the surface, unlike the mean square error.
    """

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return nn.functional.l1_loss(pred, target) + HUBER_WEIGHT * nn.functional.huber_loss(pred, target)


EARLIER_WEIGHT = 0.3  # of each earlier disparity map, in parts of the last one's
DISP_CRITERIA = {"l1": nn.L1Loss, "log": LogError, "l1_huber": L1Huber}
CRITERIA = {"l1": nn.L1Loss, "ce": DistributionCrossEntropy, "js": JensenShannon}
OUTLINE_JUMP = 0.5  # pixels per view step: what differs by more, from one pixel to the next, has an outline there


def at_outlines(disp: Tensor) -> Tensor:
    """Which pixels of 'b h w' lie at an outline: among themselves and the eight around them disparities differ by more than OUTLINE_JUMP."""
    return extremes(disp, 1).diff(dim=1)[:, 0] > OUTLINE_JUMP


def training_loss(outputs: tuple[Tensor, ...], fg_disp: Tensor, bg_disp: Tensor, criterion: nn.Module,
                  criterion1: nn.Module, weights: dict[str, float], max_disp: float, step: float,
                  hidden_weight: float = 0.0, outline_weight: float = 0.0) -> tuple[Tensor, dict]:
    """The weighted sum of the losses on depDistT, depDistS and depth_map, and on the earlier looks' maps where outputs hold them.

    Pixels of which a layer lies outside the levels are left out of the terms that use that layer.

    Args:
        outputs: depDistT and depDistS 'b d h w', depth_map 'b h w', and any number of earlier disparity maps 'b h w', which are trained too.
        fg_disp, bg_disp: 'b h w' in pixels per view step.
        criterion: on disparities (p,) and (p,); for the earlier maps LogError takes the place of L1Huber, since the looks after them read the views there, and between two surfaces lies nothing.
        criterion1: on distributions 'p d' and 'p d'.
        weights: loss1_weight (depDistT), loss2_weight (depDistS), loss3_weight (depth_map).
        max_disp, step: the levels.
        hidden_weight: how much of each term over the hidden pixels alone, those with fg_disp above bg_disp, is added to it.
        outline_weight: likewise over the pixels at outlines of the background.

    Returns:
        The loss, and a dict of floats: loss, loss1, loss2, loss3, and out_of_range, the percent of pixels left out.

    Raises:
        ValueError: when the shapes of outputs and truth differ, the distributions have other levels, or a weight is missing.
    """
    both, background, depth_map, *earlier = outputs
    levels = len(disparity_levels(max_disp, step))
    if any(part.shape != (len(depth_map), levels, *depth_map.shape[1:]) for part in (both, background)):
        raise ValueError(f"depDistT and depDistS must be 'b d h w' with d = {levels} levels and the size of depth_map {tuple(depth_map.shape)}: got {tuple(both.shape)} "
                         f"and {tuple(background.shape)}; pass the max_disp and step that the network has")
    if not depth_map.shape == fg_disp.shape == bg_disp.shape:
        raise ValueError(f"depth_map, fg_disp and bg_disp differ in shape: {tuple(depth_map.shape)}, {tuple(fg_disp.shape)} "
                         f"and {tuple(bg_disp.shape)}; pass all as 'b h w'")
    if missing := [name for name in WEIGHT_NAMES if name not in weights]:
        raise ValueError(f"weights lacks {', '.join(missing)}: got {sorted(weights)}; pass all of {', '.join(WEIGHT_NAMES)}")
    target_bg = get_disp_distribution(bg_disp, max_disp, step)
    target_both = (get_disp_distribution(fg_disp, max_disp, step) + target_bg) / 2
    valid_bg = inside_levels(bg_disp, max_disp, step)
    valid_both = valid_bg & inside_levels(fg_disp, max_disp, step)
    more = [(weight, chosen()) for weight, chosen in ((hidden_weight, lambda: fg_disp > bg_disp), (outline_weight, lambda: at_outlines(bg_disp))) if weight]
    def term(function, pred, target, valid):
        """The mean over the valid pixels, and again over those of them that count for more; 0 where there are none to learn from."""
        over = lambda pixels: function(pred[pixels], target[pixels]) if pixels.any() else depth_map.sum() * 0
        return over(valid) + sum(weight * over(valid & pixels) for weight, pixels in more)
    levels_last = lambda distribution: rearrange(distribution, "b d h w -> b h w d")
    loss1 = term(criterion1, levels_last(both), levels_last(target_both), valid_both)
    loss2 = term(criterion1, levels_last(background), levels_last(target_bg), valid_bg)
    loss3 = term(criterion, depth_map, bg_disp, valid_bg)
    loss = sum(weights[name] * value for name, value in zip(WEIGHT_NAMES, (loss1, loss2, loss3)))
    sharp = LogError() if isinstance(criterion, L1Huber) else criterion
    loss = loss + EARLIER_WEIGHT * weights["loss3_weight"] * sum(term(sharp, disp, bg_disp, valid_bg) for disp in earlier)
    report = {name: float(value.detach()) for name, value in zip(("loss", "loss1", "loss2", "loss3"), (loss, loss1, loss2, loss3))}
    return loss, report | {"out_of_range": 100 * float((~valid_both).float().mean())}
