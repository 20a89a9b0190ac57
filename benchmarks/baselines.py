"""Yardsticks, not part of lfkit: OACC-Net for its cost, an EPINET-like network with a discrete posterior for its accuracy.

Both take what DeoccNet takes, 'b n c h w' with n = 81 views.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

from lfkit.disparity import disparity_levels

VIEWS_NUM = 9


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation, and the input added."""

    def __init__(self, channels: int, conv: type, norm: type, kernel):
        super().__init__()
        padding = tuple(k // 2 for k in kernel)
        self.body = nn.Sequential(conv(channels, channels, kernel, padding=padding, bias=False), norm(channels), nn.LeakyReLU(0.1),
                                  conv(channels, channels, kernel, padding=padding, bias=False), norm(channels))

    def forward(self, x):
        return x + self.body(x)


class OACCNet(nn.Module):
    """OACC-Net as its paper describes it, with the widths that give its published number of parameters, 5.0 M. Untrained: for cost alone.

    Grey views; features of each view; at every integer disparity a 9x9 convolution over the views, whose dilation does the
    shift, modulated by masks of the views that agree with the centre; 3D aggregation; an expectation. As it is used, it runs twice: the
    first pass with masks of ones gives the disparity that the second one's masks are made from.

    Source: Wang et al., Occlusion-Aware Cost Constructor for Light Field Depth Estimation, CVPR 2022, section 3.
    """

    FEATURES, MATCHES, WIDTH = 8, 512, 160

    def __init__(self, max_disp: int = 4):
        super().__init__()
        self.levels = disparity_levels(max_disp, 1)
        first = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
        blocks = [ResidualBlock(16, nn.Conv2d, nn.BatchNorm2d, (3, 3)) for _ in range(8)]
        self.features = nn.Sequential(*first, *blocks, nn.Conv2d(16, self.FEATURES, 3, padding=1, bias=False))
        self.match = nn.Conv2d(self.FEATURES * VIEWS_NUM**2, self.MATCHES, 1, groups=self.FEATURES, bias=False)
        conv = lambda c_in, c_out: nn.Sequential(nn.Conv3d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm3d(c_out), nn.LeakyReLU(0.1))
        blocks = [ResidualBlock(self.WIDTH, nn.Conv3d, nn.BatchNorm3d, (3, 3, 3)) for _ in range(2)]
        self.aggregation = nn.Sequential(nn.Conv3d(self.MATCHES, self.WIDTH, 1, bias=False), nn.BatchNorm3d(self.WIDTH), nn.LeakyReLU(0.1),
                                         conv(self.WIDTH, self.WIDTH), *blocks, conv(self.WIDTH, self.WIDTH), conv(self.WIDTH, self.WIDTH),
                                         nn.Conv3d(self.WIDTH, 1, 3, padding=1, bias=False))

    def shifted(self, views: tuple, d: int, reach: int) -> torch.Tensor:
        """Features of all views, from padded ones, at whole pixels: 'b n f h w'."""
        h, w = (side - 2 * reach for side in views[0].shape[-2:])
        offsets = [((4 - n // 9) * d + reach, (4 - n % 9) * d + reach) for n in range(VIEWS_NUM**2)]
        return torch.stack([view[:, :, y:y + h, x:x + w] for view, (y, x) in zip(views, offsets)], 1)

    def one_pass(self, x: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        """Grey views 'b n h w' and masks 'b n h w' to a disparity 'b h w'."""
        b, reach = len(x), 4 * int(self.levels[-1])
        features = rearrange(self.features(rearrange(x, "b n h w -> (b n) 1 h w")), "(b n) f h w -> b n f h w", b=b)
        views = F.pad(features, [reach] * 4).unbind(1)
        costs = []
        for d in self.levels.int().tolist():
            seen = self.shifted(views, d, reach)
            if masks is not None:
                seen = seen * masks[:, :, None] * (VIEWS_NUM**2 / reduce(masks, "b n h w -> b 1 1 h w", "sum"))
            costs.append(self.match(rearrange(seen, "b n f h w -> b (f n) h w")))
        scores = self.aggregation(torch.stack(costs, 2))[:, 0]
        return torch.einsum("bdhw,d->bhw", scores.softmax(1), self.levels.to(x))

    def masks(self, x: torch.Tensor, disp: torch.Tensor) -> torch.Tensor:
        """How like the centre each view, warped by 'b h w' disparities, is: 'b n h w' in [0, 1]."""
        h, w = disp.shape[-2:]
        offset = repeat(4 - torch.arange(VIEWS_NUM), "u -> (u v)", v=VIEWS_NUM), repeat(4 - torch.arange(VIEWS_NUM), "v -> (u v)", u=VIEWS_NUM)
        y = torch.arange(h)[:, None] + offset[0][:, None, None] * disp[:, None]
        x0 = torch.arange(w) + offset[1][:, None, None] * disp[:, None]
        grid = rearrange(torch.stack([(2 * x0 + 1) / w - 1, (2 * y + 1) / h - 1], -1), "b n h w k -> (b n) h w k")
        warped = F.grid_sample(rearrange(x, "b n h w -> (b n) 1 h w"), grid, align_corners=False)
        return (1 - (rearrange(warped, "(b n) 1 h w -> b n h w", b=len(x)) - x[:, 40:41]).abs()) ** 2

    def forward(self, x: torch.Tensor, true_disp: torch.Tensor | None = None) -> torch.Tensor:
        """Two passes as it is used, or one with the masks of the true disparity as it is trained."""
        x = torch.einsum("bnchw,c->bnhw", x, torch.tensor([0.299, 0.587, 0.114]))
        if true_disp is not None:
            return self.one_pass(x, self.masks(x, true_disp))
        return self.one_pass(x, self.masks(x, self.one_pass(x, None)))


class EpinetPosterior(nn.Module):
    """EPINET's four streams over rows, columns and diagonals of views, and a discrete posterior over the background's disparity.

    Its pairs of 2x2 convolutions are zero-padded, so that the output has the size of the input. Gives what DeoccNet gives: depDistT from a
    second posterior, depDistS, and the disparity near the posterior's peak.

    Source: Shin et al., EPINET, CVPR 2018, section 3; Leistner et al., Towards Multimodal Depth Estimation from Light Fields, CVPR 2022, section 4.1 (108 bins).
    """

    def __init__(self, width: int = 70, max_disp: float = 4, step: float = 1, bins: int = 108):
        super().__init__()
        self.views_num, self.max_disp, self.step = VIEWS_NUM, max_disp, step
        lines = torch.arange(VIEWS_NUM)
        self.streams = [4 * 9 + lines, 9 * lines + 4, 10 * lines, 8 * (lines + 1)]
        self.register_buffer("levels", torch.linspace(-max_disp, max_disp, bins), persistent=False)
        coarse = disparity_levels(max_disp, step)
        self.register_buffer("to_coarse", (1 - (self.levels[:, None] - coarse).abs() / step).clamp(min=0), persistent=False)
        def block(c_in, c_out):
            return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(c_in, c_out, 2), nn.ReLU(),
                                 nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(c_out, c_out, 2), nn.BatchNorm2d(c_out), nn.ReLU())
        self.first = nn.ModuleList(nn.Sequential(block(27, width), block(width, width), block(width, width)) for _ in self.streams)
        self.merged = nn.Sequential(*[block(4 * width, 4 * width) for _ in range(7)], nn.Conv2d(4 * width, 2 * bins, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """'b n c h w' to depDistT and depDistS 'b d h w' and the background's disparity 'b h w'."""
        return self.read(*self.posteriors(x))

    def posteriors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """'b n c h w' to the posteriors of both layers and of the background, 'b bins h w'."""
        parts = [stream(rearrange(x[:, views] - 0.5, "b n c h w -> b (n c) h w")) for stream, views in zip(self.first, self.streams)]
        both, background = (scores.softmax(1) for scores in self.merged(torch.cat(parts, 1)).chunk(2, 1))
        return both, background

    def own_loss(self, both: torch.Tensor, background: torch.Tensor, fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of both posteriors against the true disparities 'b h w', each shared among its two nearest bins; pixels beyond the bins don't count."""
        logs = lambda posterior, disp: self.at(posterior.clamp(min=1e-6).log(), disp)
        inside = (fg_disp.abs() <= self.max_disp) & (bg_disp.abs() <= self.max_disp)
        loss = -(logs(background, bg_disp) + (logs(both, bg_disp) + logs(both, fg_disp)) / 2)
        return (loss * inside).sum() / inside.sum().clamp(min=1)

    def at(self, values: torch.Tensor, disp: torch.Tensor) -> torch.Tensor:
        """Values 'b bins h w' read at a disparity 'b h w', linearly between bins."""
        place = ((disp + self.max_disp) / (2 * self.max_disp) * (len(self.levels) - 1)).clamp(0, len(self.levels) - 1.001)
        low = place.floor()
        below, above = (values.gather(1, (low.long() + k)[:, None])[:, 0] for k in (0, 1))
        return below + (place - low) * (above - below)

    def read(self, both: torch.Tensor, background: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The posteriors at the levels of DeoccNet, and the background's disparity."""
        peak = background.argmax(1, keepdim=True)
        near = background * ((self.levels[None, :, None, None] - self.levels[peak]).abs() <= self.step)
        disp = torch.einsum("bdhw,d->bhw", near, self.levels) / reduce(near, "b d h w -> b h w", "sum")
        return *(torch.einsum("bfhw,fd->bdhw", p, self.to_coarse) for p in (both, background)), disp
