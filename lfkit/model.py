"""DeoccNet: from the views of a light field to the disparity of what lies behind its occluders."""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce as fold
from numbers import Integral

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from lfkit.disparity import MAX_DISP, STEP, disparity_levels, on_levels
from lfkit.equations import GRADIENT_FLOOR, block_equations, normal_equations, plane_fit, trusted, window_correction
from lfkit.evidence import RIVAL_FEATURES, ViewEvidence, block_sums, competition, detail, log_score
from lfkit.layers import ChannelNorm, Hourglass, ImageBlock, LevelBlock, bilateral, extremes, in_full, pointwise, sum_blocks, window_mean
from lfkit.rims import with_rims
from lfkit.sweep import ViewSweep, look_closer

FINE = 2        # candidates per disparity level: the network looks at step / FINE, and reports at step
DOUBT_SCALE = 3.0      # a correction's log variance, which runs from -12 to 12, falls between -4 and 4
HEAD_GAIN = 0.2        # an untrained network's scores stay below the plain votes, about 1
POOLING = 8     # crops agree with the whole image where they start at multiples of this
REACH = 4       # pixels within which the second look takes its neighbours' least and greatest estimate for its own
CLOSE_GAIN = 3.0  # scores differ less between close candidates than between far ones
SCALES = (0.5, 0.3, 0.15)  # corrections that the closer looks expect, in distances of two first candidates
REPEATED = 0.3  # the closer look that is taken a second time in use
AT_PLACE = 1 / 3  # of its scale: what it moves by this or more goes all the way; what it moves by half of it or less is at its place, and stays
ENLARGED = 1, 1.5, 2  # by how much views may be enlarged for the looks after the first
ENLARGE = 1.5   # of a network that is loaded for use; `benchmarks/model.md` has others
EARLIER = ("first", "second", "third", "fourth", "fifth")  # the disparity maps of all looks but the last
LATER = ("second_look.", "closer_look.", "outline_look.")  # what the names of the later looks' weights begin with
JOLT = 0.8      # by how many distances of two first candidates a jolted estimate is moved, at most
WINDOWS = ((1, 1), (1, 3), (1, 7), (4, 3), (8, 5))  # over which a closer look gathers its normal equations: pixels a cell, cells a side
EQUATIONS = 3   # sets of them: of the colours, of their detail, and of the detail within blocks of views
WIDE = 4        # from this cell on, also a plane is fitted to the corrected estimates
NO_TRUST = 1e-12  # weight of a place that is not to be trusted at all
OUTLINE_REACH = 3  # pixels within which the last look takes its neighbours' least and greatest estimate for its own
OUTLINE_BLOCKS = 4
FINE_FLOOR = 2e-6  # of its evidence: a tenth of the other looks', as beside an outline a difference of a hundredth may be all there is
CONTRAST = 10.0    # by which small differences of colour are multiplied, before a network sees them
SMOOTH = 3, 2.0, 0.1  # in use: reach and spread in pixels, and likeness in pixels per view step, of the `bilateral` filter of the last disparity map; `benchmarks/model.md` has others
MIX_REACH = 2   # pixels between a pixel and the neighbours that are mixed into it
OWN_WEIGHT = 4.0  # an untrained network keeps nine tenths of its own estimate
LAST_SHARE = 0.7   # of the background's part of the distributions that is the last estimate's where the network is used; `benchmarks/peaks.py` has others
SAME_BLOCK = 0.02   # blocks whose mean colours differ by much more have no say where each one's own motion is read


def check_views_num(views_num: int) -> int:
    """views_num when it is an odd number from 3; ValueError otherwise."""
    if not isinstance(views_num, Integral) or views_num < 3 or views_num % 2 == 0:
        raise ValueError(f"views_num must be odd and at least 3, so that there is a centre view: got {views_num}; "
                         f"use {max(3, int(views_num - 1) // 2 * 2 + 1)}, the middle views of the grid")
    return views_num


def check_enlarge(enlarge: float) -> float:
    """enlarge when it is one of ENLARGED; ValueError otherwise."""
    if enlarge not in ENLARGED:
        raise ValueError(f"enlarge must be {', '.join(map(str, ENLARGED[:-1]))} or {ENLARGED[-1]}: got {enlarge!r}")
    return ENLARGED[ENLARGED.index(enlarge)]


def mix(disp: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """'b h w' with each pixel's neighbours mixed into it; mixing 'b 9 h w' are scores, the middle one the pixel's own."""
    around = F.unfold(F.pad(disp[:, None], [MIX_REACH] * 4, mode="replicate"), 3, dilation=MIX_REACH)
    weights = torch.cat([mixing[:, :4], mixing[:, 4:5] + OWN_WEIGHT, mixing[:, 5:]], 1).softmax(1)
    return reduce(weights * rearrange(around, "b k (h w) -> b k h w", h=disp.shape[-2]), "b k h w -> b h w", "sum")


def jolts(disp: torch.Tensor, share: float) -> torch.Tensor:
    """Smooth random moves like 'b h w', in [-JOLT, JOLT], for about this share of the crops, and 0 for the rest."""
    moves = JOLT * (2 * torch.rand(len(disp), 1, 4, 4, device=disp.device) - 1) * (torch.rand(len(disp), 1, 1, 1, device=disp.device) < share)
    return F.interpolate(moves, disp.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def smaller(disp: torch.Tensor, factor: float) -> torch.Tensor:
    """Disparities 'b h w' of views that were enlarged by a factor, as of the views as they are."""
    return F.interpolate(disp[:, None], [round(extent / factor) for extent in disp.shape[-2:]], mode="bilinear")[:, 0] / factor


def revised(both: torch.Tensor, background: torch.Tensor, estimate: torch.Tensor, share: float = LAST_SHARE) -> tuple[torch.Tensor, torch.Tensor]:
    """Two distributions once more, after a closer look at the background.

    What both have in common is the background's. The estimate takes the place of a share of that, and the occluder's part stays.

    Args:
        both, background: 'b d h w', of both layers and of the background.
        estimate: 'b d h w', the background's disparity as a distribution.
        share: from 0 to 1.

    Returns:
        both and background, 'b d h w'.
    """
    common = torch.minimum(both, background)
    mass = reduce(common, "b d h w -> b 1 h w", "sum")
    return both + share * (mass * estimate - common), background + share * (estimate - background)


def with_half_turn(part: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """'b ... h w', and behind it another with its pixels half turned: '(2 b) ... h w'."""
    return torch.cat([part, other.flip(-2, -1)])


def ask(hourglass: Hourglass, evidence: Sequence[torch.Tensor], context: Sequence[torch.Tensor], features: torch.Tensor | None, after: Sequence[torch.Tensor],
        half_turn: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """What an hourglass says, and its features, of evidence, context, the features of the look before and what stands after them, all 'b f h w'; its last 9 outputs are scores of the 3 x 3 neighbours.

    With `half_turn`, the evidence's order for a light field that is half turned, it is the mean of what it says of the light field as it comes and half turned. No view
    has to be read again for that: all but the features, which are then of both, '(2 b) f h w', only turns with the pixels, and can turn once a pixel has been read.

    Source: geometric self-ensemble, Timofte et al., CVPR 2016.
    """
    if half_turn is None:
        return hourglass(torch.cat([*evidence, *context, *([] if features is None else [features]), *after], 1))
    weight, own = hourglass.read.weight, hourglass.read.bias[:, None, None]
    if features is not None:
        first, count = sum(part.shape[1] for part in (*evidence, *context)), features.shape[1]
        own, weight = pointwise(features, weight[:, first:first + count], hourglass.read.bias), torch.cat([weight[:, :first], weight[:, first + count:]], 1)
    order = torch.cat([k * len(half_turn) + half_turn for k in range(len(evidence))])  # groups that are the same may have one place for all
    other = torch.zeros_like(weight).index_add_(1, order, weight[:, :len(order)])
    other[:, len(order):] = weight[:, len(order):]
    read = pointwise(torch.cat([*evidence, *context, *after], 1), torch.cat([weight, other]), weight.new_zeros(1))
    out, features = hourglass.gather(with_half_turn(*read.chunk(2, 1)) + own)
    one, other = out.chunk(2)
    other = torch.cat([other[:, :-9], other[:, -9:].flip(1)], 1).flip(-2, -1)
    return (one + other) / 2, features


class SecondLook(nn.Module):
    """Chooses for each pixel between its own first estimate and the least and greatest of its neighbours'.

    A first look blurs the edge between two surfaces; one of its neighbours' estimates is then the right one, and the views tell which.

    Args:
        votes: weights '1 f 1 1' of the evidence for a first guess.
        context: number of features of the first look.
        channels: width.
    """

    CANDIDATES = 3
    OWN = 2.0  # an untrained network keeps its own estimate unless the views speak clearly for a neighbour's

    def __init__(self, votes: torch.Tensor, context: int, channels: int):
        super().__init__()
        self.vote_weights = nn.Parameter(votes)  # where training starts
        self.hourglass = Hourglass(self.CANDIDATES * (votes.shape[1] + 1) + context, self.CANDIDATES + 1 + 9, channels)

    @staticmethod
    def candidates(disp: torch.Tensor) -> torch.Tensor:
        """'b h w' to 'b k h w'."""
        return torch.cat([disp[:, None], extremes(disp, REACH)], 1)

    def forward(self, evidence: list[torch.Tensor], context: torch.Tensor, candidates: torch.Tensor, where: torch.Tensor,
                spacing: float, half_turn: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Evidence at each candidate and context 'b f h w', candidates 'b k h w' and the same as places to read at, to a better estimate 'b h w' and features; half_turn as of `ask`."""
        votes = window_mean(torch.cat([F.conv2d(e, self.vote_weights) for e in evidence], 1))
        beside = ((where - where[:, :1]) / spacing).clamp(-4, 4)
        out, features = ask(self.hourglass, evidence, [beside, context], None, [], half_turn)
        near, correction, mixing = (HEAD_GAIN * out).split([self.CANDIDATES, 1, 9], 1)
        scores = near + votes.float()
        scores = torch.cat([scores[:, :1] + self.OWN, scores[:, 1:]], 1)
        chosen = reduce(scores.softmax(1) * candidates, "b k h w -> b h w", "sum")
        return mix(chosen + spacing * correction[:, 0], mixing), features


class CloserLook(nn.Module):
    """Makes a disparity map precise from how the views differ where they are read at it.

    Each pixel's normal equations are summed over windows of several sides, which gives as many corrections; in wide windows
    also a plane is fitted to the corrected estimates. An hourglass chooses among them: narrow ones near edges, wide ones where there is little
    to see.

    Args:
        evidence, context: numbers of features of the evidence and of the looks before.
        channels: width.
    """

    def __init__(self, evidence: int, context: int, channels: int):
        super().__init__()
        windows = len(WINDOWS)
        self.choices = 1 + EQUATIONS * (windows + sum(cell >= WIDE for cell, _ in WINDOWS))
        self.hourglass = Hourglass(evidence + context + self.choices + 2 * EQUATIONS * windows, self.choices + 1 + 9, channels)

    def forward(self, equations: list[tuple[torch.Tensor, ...]], evidence: torch.Tensor, context: torch.Tensor, features: torch.Tensor, disp: torch.Tensor,
                where: torch.Tensor, scale: float, half_turn: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """EQUATIONS sets of normal equations a, b, s, share 'b 1 h w', evidence, context and the features of the look before 'b f h w', an estimate 'b h w' and the same as the place read at, to a better one and features; half_turn as of `ask`."""
        where, limit = where[:, None], 3 * scale
        changes, texture, doubt = [torch.zeros_like(where)], [], []
        for parts in map(trusted, equations):
            a, b, _, weight, _ = parts.split(1, 1)
            steep = a + GRADIENT_FLOOR * weight + NO_TRUST
            for cell, side in WINDOWS:
                change, energy, left = window_correction(parts, cell, side)
                texture.append(log_score(energy, 0.0))
                doubt.append((torch.log(left / energy / scale**2) / DOUBT_SCALE).clamp(-4, 4))  # the correction's variance, but for the number of views and pixels
                changes.append(change.clamp(-limit, limit))
                if cell >= WIDE:
                    changes.append((plane_fit(steep, b + steep * where, cell, side) - where).clamp(-2 * limit, 2 * limit))
        changes = torch.cat(changes, 1)
        out, features = ask(self.hourglass, [evidence], [context], features, [(changes / scale).clamp(-4, 4), *texture, *doubt], half_turn)
        choice, correction, mixing = (HEAD_GAIN * out).split([self.choices, 1, 9], 1)
        better = disp + reduce(choice.softmax(1) * changes, "b k h w -> b h w", "sum") + scale * correction[:, 0]
        return mix(better, mixing), features


class OutlineLook(nn.Module):
    """Decides for each pixel beside an outline on which side of it the pixel lies.

    The views are read at the least and the greatest of the estimates around, which by now are precise, and compared with the
    centre view. An outline is a matter of one pixel, so that all is done at full resolution. Where both are all but the pixel's own estimate
    there is no outline, and nothing is changed.

    Args:
        evidence, context: numbers of features of the evidence at one disparity, and of the looks before.
        channels: width.
    """

    OWN = 4.0  # an untrained network keeps its own estimate

    def __init__(self, evidence: int, context: int, channels: int):
        super().__init__()
        width = (5 * channels + 3) // 4
        self.read = nn.Conv2d(2 * (evidence + 1) + 6 + context, width, 1)
        self.blocks = nn.Sequential(*(ImageBlock(width) for _ in range(OUTLINE_BLOCKS)), ChannelNorm(width))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, evidence: list[torch.Tensor], context: torch.Tensor, disp: torch.Tensor, candidates: torch.Tensor, centre: torch.Tensor,
                spacing: float) -> torch.Tensor:
        """Evidence at both candidates and context 'b f h w', an estimate 'b h w', candidates 'b 2 h w' and the centre view 'b c h w' to a better estimate."""
        gap = candidates - disp[:, None]
        beside = (gap / spacing).clamp(-4, 4)
        picture = torch.cat([centre, (CONTRAST * (centre - window_mean(centre, 9))).clamp(-4, 4)], 1)
        read = pointwise(torch.cat([*evidence, beside, picture, context], 1), self.read.weight, self.read.bias)
        out = HEAD_GAIN * self.head(self.blocks(F.relu(read))).float().contiguous()
        others = torch.cat([out[:, :1] + self.OWN, out[:, 1:]], 1).softmax(1)[:, 1:]
        jump = (2 * beside.abs() - 1).clamp(0, 1)  # none where the gap is below half the spacing
        return disp + reduce(others * jump * gap, "b k h w -> b h w", "sum")


class DeoccNet(nn.Module):
    """Two disparity distributions and the background's disparity map, from the views of a light field.

    Six looks, each closer than the one before. First a plane sweep without a reference view: for each candidate disparity the
    views are shifted and compared among themselves, so that the background votes also where the centre view sees the occluder; a
    small hourglass over candidates and pixels gathers the votes into the distributions. The background's disparity is read
    near its peak alone, not as a mean over the whole distribution, which would lie in mid-air between two peaks. The second look
    reads the views at each pixel's own estimate and its neighbours', and chooses, which makes edges sharp. The next three read them
    at the estimate, and solve for the disparity at which they agree, in windows of many sizes; the last decides beside outlines. In use, the middle one of the three is taken once more where it moved
    the estimate, the second look and these three are also asked about the light field half turned, where `enlarge` is above 1 the later ones are taken once more on enlarged views, things get back the rims that were taken for what lies behind them (`rims`), a bilateral filter takes noise away, and
    what was found last takes most of the background's place in the distributions; while training these are the first look's own, which learns from them.

    Args:
        channels: width; 32 for a laptop, 64 and more for a GPU.
        views_num: views a side of the grid, odd, at least 3.
        max_disp: largest disparity level, in pixels per view step.
        step: distance of two levels, in pixels per view step.

    Raises:
        ValueError: when channels is no whole number from 4, views_num is even or below 3, or max_disp is not a multiple of step.

    Source: plane sweep, as OACC-Net's (Wang et al., CVPR 2022), but without a reference view; sub-pixel levels, SubFocal (Chao et al., 2022).
    """

    enlarge = 1  # one of ENLARGED; in use alone, as training has no time for it
    jolt = 0.0  # while training, the share of the crops whose estimates are moved before the closer looks, which learn to mend that

    def __init__(self, channels: int = 32, views_num: int = 9, max_disp: float = MAX_DISP, step: float = STEP):
        super().__init__()
        if not isinstance(channels, Integral) or channels < 4:
            raise ValueError(f"channels must be a whole number from 4: got {channels}")
        self.channels, self.views_num = channels, check_views_num(views_num)
        self.max_disp, self.step = max_disp, step
        coarse, fine = disparity_levels(max_disp, step), disparity_levels(max_disp, step / FINE)
        self.register_buffer("levels", coarse, persistent=False)
        self.register_buffer("fine_levels", fine, persistent=False)
        self.candidates = fine.tolist()  # the same as numbers, which no GPU has to be waited for
        nearness = (1 - (fine[:, None] - coarse[None]).abs() / step).clamp(min=0)
        self.register_buffer("to_coarse", nearness, persistent=False)

        fine_c, middle, low, lowest = (channels + 1) // 2, channels, 3 * channels // 2, 2 * channels
        self.evidence, self.fine_evidence = ViewEvidence(views_num), ViewEvidence(views_num, FINE_FLOOR)
        features = self.evidence.features + RIVAL_FEATURES
        self.guide = nn.Sequential(nn.Conv2d(3, fine_c, 3, padding=1), nn.ReLU(), nn.Conv2d(fine_c, fine_c, 3, padding=1))
        self.guide_middle = nn.Sequential(nn.ReLU(), nn.Conv2d(fine_c, middle, 3, stride=2, padding=1))
        self.match = nn.Conv2d(features, fine_c, 1)
        self.first_in = nn.Conv2d(fine_c, fine_c, 3, padding=1)
        self.down_middle = nn.Conv2d(fine_c, middle, 3, stride=2, padding=1)
        self.middle_in = nn.ModuleList(LevelBlock(middle) for _ in range(2))
        self.down_low = nn.Conv2d(middle, low, 3, stride=2, padding=1)
        self.low_in = nn.ModuleList(LevelBlock(low) for _ in range(2))
        self.down_lowest = nn.Conv2d(low, lowest, 3, stride=2, padding=1)
        self.lowest = nn.ModuleList(LevelBlock(lowest) for _ in range(2))
        self.up_low = nn.Conv2d(lowest, low, 1)
        self.low_out = nn.ModuleList(LevelBlock(low) for _ in range(2))
        self.up_middle = nn.Conv2d(low, middle, 1)
        self.middle_out = nn.ModuleList(LevelBlock(middle) for _ in range(2))
        self.up_first = nn.Conv2d(middle, fine_c, 1)
        self.first_norm, self.out_norm = ChannelNorm(fine_c), ChannelNorm(fine_c)
        self.first_out = nn.Conv2d(fine_c, fine_c, 3, padding=1)
        self.heads = nn.Conv2d(fine_c, 2, 3, padding=1)
        votes = self.evidence.plain_votes()
        self.vote_weights = nn.Parameter(torch.cat([votes, torch.full((2, RIVAL_FEATURES, 1, 1), -1 / RIVAL_FEATURES)], 1))  # where training starts
        context = 3 * fine_c + 4
        self.second_look = SecondLook(CLOSE_GAIN * votes[1:], context, channels)
        self.closer_look = CloserLook(self.evidence.features, context + self.second_look.hourglass.features, channels)
        self.outline_look = OutlineLook(self.evidence.features + 3 * len(self.evidence.blocks), context + self.closer_look.hourglass.features, channels)

    def extra_repr(self) -> str:
        """What weights and layers do not tell."""
        return f"enlarge={self.enlarge}"

    @property
    def factor(self) -> float:
        """By how much views are enlarged at present; ValueError when `enlarge` is none of ENLARGED."""
        return 1 if self.training else check_enlarge(self.enlarge)

    @property
    def pooling(self) -> int:
        """Pixels, at multiples of which crops start that agree with the whole image: the enlarged ones then do so too."""
        return POOLING * Fraction(self.factor).denominator

    def check_input(self, x: torch.Tensor) -> None:
        """ValueError unless x is 'b n c h w', floats, with n = views_num ** 2 views of three colours."""
        n = self.views_num**2
        if x.ndim != 5 or x.shape[1] != n or x.shape[2] != 3 or not x.numel():
            raise ValueError(f"the network takes 'b n c h w' with n = {n} views and c = 3 colours, and at least one pixel: got shape {tuple(x.shape)}")
        if x.dtype != torch.float32:
            raise ValueError(f"the network takes float32 in [0, 1]: got {x.dtype}; divide bytes by 255, and pass x.float()")

    def cost_volume(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """How the views agree on each candidate: centred views 'b n c h w' to the evidence at each, 'b f h w', and how much worse than the best one each is, 'b d f h w'."""
        centre, spacing = x[:, x.shape[1] // 2], self.step / FINE
        sweep = ViewSweep(torch.cat([x, torch.ones_like(x[:, :, :1]), detail(x)[:, :, None]], 2), self.max_disp, spacing)
        evidence, rivals = [], []
        for disp in self.candidates:
            sums = sum_blocks([*sweep.shifted(disp)], self.evidence.members)  # of RGB, ones, squares of RGB, detail, its squares
            seen, variances = self.evidence(sums[:, :, :5], centre)
            evidence.append(seen)
            rivals.append(torch.cat([variances, self.evidence.detail(torch.stack([sums[:, :, k] for k in (5, 3, 6)], 2))], 1))
        return evidence, competition(torch.stack(rivals, 1), spacing)

    def read(self, volume: tuple[list[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """What is made of each pixel and candidate of a cost volume, which needs never lie in one piece: features and votes, '(b d) f h w'."""
        evidence, rivals = volume
        own, beside = torch.cat([self.match.weight, self.vote_weights]).split([evidence[0].shape[1], rivals.shape[2]], 1)
        seen = torch.stack([pointwise(part, own, F.pad(self.match.bias, (0, len(self.vote_weights)))).movedim(1, -1) for part in evidence], 1)
        return pointwise(rivals.flatten(0, 1), beside, rearrange(seen, "b d h w k -> (b d) (h w) k")).split([len(self.match.bias), len(self.vote_weights)], 1)

    def aggregate(self, volume: tuple[list[torch.Tensor], torch.Tensor], guide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Votes of a cost volume gathered over pixels and candidates, to '(b d) 2 h w' scores and features '(b d) f h w'."""
        d = len(self.fine_levels)
        through = lambda blocks, x: fold(lambda y, block: block(y, d), blocks, x)
        with_guide = lambda x, guide: (x.unflatten(0, (-1, d)) + guide[:, None]).flatten(0, 1)
        wider = lambda x, mode: F.interpolate(x, scale_factor=2, mode=mode)
        skip, votes = self.read(volume)
        skip, votes = F.relu(skip), window_mean(votes)
        skip = skip + F.relu(with_guide(self.first_in(skip), guide))
        middle = through(self.middle_in, with_guide(self.down_middle(skip), self.guide_middle(guide)))
        low = through(self.low_in, self.down_low(middle))
        lowest = through(self.lowest, self.down_lowest(low))
        low = through(self.low_out, low + wider(self.up_low(lowest), "nearest"))
        middle = through(self.middle_out, middle + wider(self.up_middle(low), "nearest"))
        full = skip + wider(self.up_first(middle), "bilinear")
        full = self.out_norm(full + F.relu(self.first_out(self.first_norm(full))))
        return HEAD_GAIN * self.heads(full) + votes, full

    def forward(self, x: torch.Tensor, earlier: bool = False) -> tuple[torch.Tensor, ...]:
        """Sees through the occluders of a batch of light fields.

        Args:
            x: 'b n c h w', n = (u v), c = RGB, float32 in [0, 1]; any h and w.
            earlier: also give the disparity maps of the earlier looks, which training wants; each then learns from its own, and the last look from the last one alone.

        Returns:
            depDistT 'b d h w' (occluder and background), depDistS 'b d h w' (background), both sum to 1 over d;
            depth_map 'b h w', the background's disparity in pixels per view step; after these, if asked for, the earlier looks' 'b h w'.

        Raises:
            ValueError: when x has another number of axes, views or colours.
        """
        seen, _ = self.looks(x, apart=earlier)
        looks = tuple(seen[name] for name in EARLIER) if earlier else ()
        return *self.distributions(seen), seen["depth_map"], *looks

    def distributions(self, seen: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """depDistT and depDistS 'b d h w' of what the `stages` saw: the first look's over `levels`, in evaluation mode `revised` by what the last one found."""
        both, background = (in_full(torch.einsum)("bfhw,fd->bdhw", seen[name], self.to_coarse) for name in ("both", "background"))
        return (both, background) if self.training else revised(both, background, on_levels(seen["depth_map"], self.levels))

    def stages(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What each stage sees, in the order in which it comes.

        Args:
            x: as in `forward`.

        Returns:
            evidence 'b d f h w', at each candidate of `fine_levels`; both and background 'b d h w', the first look's distributions over these;
            EARLIER 'b h w' each, the disparity after these looks; depth_map 'b h w', after the last, where views are enlarged after those on enlarged views, and with rims, smoothed.
        """
        seen, evidence = self.looks(x)
        return {"evidence": torch.stack(evidence, 1)[..., :x.shape[-2], :x.shape[-1]]} | seen

    def looks(self, x: torch.Tensor, apart: bool = False) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """`stages` without the evidence, and that at each candidate, padded; with `apart`, no gradient runs from the last look to those before."""
        self.check_input(x)
        h, w = x.shape[-2:]
        x = F.pad(x, (0, -w % self.pooling, 0, -h % self.pooling, 0, 0), mode="replicate") - 0.5
        centre = x[:, x.shape[1] // 2]
        volume = self.cost_volume(x)
        seen, context, _ = self.first_look(volume, self.guide(centre))
        estimates, before = self.look_again(x, seen["first"], context)
        if self.factor > 1:
            last = self.look_enlarged(x, estimates[-1], context, apart)
        else:
            last = self.look_at_outlines(x, estimates[-1], before, apart)
        if not self.training:
            last = bilateral(with_rims(x, last, self.step / FINE, self.evidence), *SMOOTH)
        seen |= zip((*EARLIER[1:], "depth_map"), map(self.bounded, (*estimates, last)), strict=True)
        return {name: part[..., :h, :w] for name, part in seen.items()}, volume[0]

    def first_look(self, volume: tuple[list[torch.Tensor], torch.Tensor], guide: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """A cost volume and the picture's features 'b f h w' to `stages`' both, background and first, to the context 'b f h w' of the looks after it, and to features '(b d) f h w'."""
        out, full = self.aggregate(volume, guide)
        scores, features = (rearrange(part, "(b d) k h w -> b d h w k", b=len(guide)) for part in (out, full))
        both, background = scores.float().softmax(1).unbind(-1)
        first = self.local_expectation(background)
        peak = background.argmax(1, keepdim=True)
        gathered = torch.cat([torch.take_along_dim(features, peak[..., None], 1)[:, 0], features.mean(1)], -1).movedim(-1, 1)
        moments = [in_full(torch.einsum)("bdhw,d->bhw", p, self.fine_levels) - first for p in (both, background)]
        summary = torch.stack([first, *moments, background.amax(1)], 1)
        summary = summary if volume[1].requires_grad else summary.detach()
        context = torch.cat([gathered, guide, summary], 1)
        return {"both": both, "background": background, "first": first}, context, full

    def look_again(self, x: torch.Tensor, first: torch.Tensor, context: torch.Tensor, scales: Sequence[float] = SCALES) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The second look and the closer ones: a first estimate 'b h w' to better ones, and to what the last look is to know, 'b f h w'.

        In use one of all closer looks is taken twice, as behind dense occluders some estimates are still on their way, and the second and the closer looks are asked
        about the light field half turned, too; training learns without, and is quicker.
        A gradient runs through where the views are read only where that of the views themselves is wanted: it is slow, and training learns without.
        """
        fixed = (lambda d: d) if x.requires_grad else torch.Tensor.detach
        spacing, centre = self.step / FINE, x[:, x.shape[1] // 2]
        half_turn = None if self.training else self.evidence.half_turn
        candidates = self.second_look.candidates(first)
        evidence = [self.look(x, d, centre)[0] for d in fixed(candidates).unbind(1)]
        disp, features = self.second_look(evidence, context, candidates, fixed(candidates), spacing, half_turn)
        estimates = [disp]
        if self.training and self.jolt:
            disp = disp + spacing * jolts(disp, self.jolt)

        def closer(disp, features, scale):
            equations, evidence = self.equations(x, fixed(disp), centre)
            return self.closer_look(equations, evidence, context, features, disp, fixed(disp), scale, half_turn)

        for scale in scales:
            disp, features = closer(disp, features, scale * spacing)
            if scale == REPEATED and scales == SCALES and not self.training:
                again, changed = closer(disp, features, scale * spacing)
                share = (2 * (again - disp).abs() / (AT_PLACE * scale * spacing) - 1).clamp(0, 1)  # with one threshold, rounding would decide there
                disp, features = disp.lerp(again, share), features.lerp(changed, with_half_turn(share, share)[:, None].to(features))
            estimates.append(disp)
        return estimates, torch.cat([context, features[:len(context)]], 1)

    def look_at_outlines(self, x: torch.Tensor, disp: torch.Tensor, before: torch.Tensor, apart: bool = False) -> torch.Tensor:
        """The last look: an estimate and what `look_again` gives with it to a better one, 'b h w'; with `apart`, no gradient runs to the looks before."""
        if apart:
            disp, before = disp.detach(), before.detach()
        candidates, centre = extremes(disp, OUTLINE_REACH), x[:, x.shape[1] // 2]
        evidence = [self.look_apart(x, d, centre) for d in (candidates if x.requires_grad else candidates.detach()).unbind(1)]
        return self.outline_look(evidence, before, disp, candidates, centre, self.step / FINE)

    def look_enlarged(self, x: torch.Tensor, disp: torch.Tensor, context: torch.Tensor, apart: bool = False) -> torch.Tensor:
        """The second look, the later closer ones and the last one once more, on enlarged views: an estimate 'b h w' and the first look's context to a better one, with rims.

        What is a pixel wide is then wider, and a disparity that is off by a tenth is off by more, which the same weights tell better. With all looks once more, estimates
        would drift where dense leaves leave little to see. `apart` as of `look_at_outlines`.
        """
        estimates, before, views = self.look_again_enlarged(x, disp, context, self.factor)
        found = with_rims(views, self.look_at_outlines(views, estimates[-1], before, apart), self.factor * self.step / FINE, self.evidence)
        return smaller(found, self.factor)

    def look_again_enlarged(self, x: torch.Tensor, disp: torch.Tensor, context: torch.Tensor, factor: float) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """What `look_again` gives of the second look and the later closer ones on views enlarged by a factor, and these views."""
        larger = lambda part, **how: F.interpolate(part, scale_factor=factor, **{"mode": "bilinear"} | how)
        views = larger(x.flatten(0, 1), mode="bicubic", antialias=True).clamp(-0.5, 0.5).unflatten(0, x.shape[:2])
        in_pixels = torch.cat([context[:, :-4], factor * context[:, -4:-1], context[:, -1:]], 1)  # three disparities, of `first_look`'s summary
        return *self.look_again(views, larger(factor * disp[:, None])[:, 0], larger(in_pixels), SCALES[1:]), views

    def equations(self, x: torch.Tensor, disp: torch.Tensor, centre: torch.Tensor) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
        """`normal_equations` a, b, s and share of the views read at a disparity 'b h w', of their colours and of their detail, each view as far as it is like the blocks that agree,
        and `block_equations` of their detail; and the evidence there."""
        evidence, views, reach, sums = self.look(x, disp, centre)
        colour = evidence[:, -4:-1]
        weights = reach * self.evidence.likeness(views, colour)
        fine, means = detail(views, weights), sums[:, :, :3] / sums[:, :, 3:4].clamp(min=1)
        return [*normal_equations(weights, (views, colour), (fine[:, :, None], None)),
                block_equations(fine, reach, self.evidence.blocks, self.evidence.likeness(means, colour, SAME_BLOCK))], evidence

    def look_apart(self, x: torch.Tensor, disp: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """Evidence 'b f h w' at a disparity 'b h w', and how the blocks' mean colours differ from the centre view's."""
        evidence, _, _, sums = self.look(x, disp, centre, self.fine_evidence)
        count = sums[:, :, 3:4]
        apart = (CONTRAST * (sums[:, :, :3] / count.clamp(min=1) - centre[:, None]) * (count > 0.5)).clamp(-4, 4)
        return torch.cat([evidence, rearrange(apart, "b k c h w -> b (k c) h w")], 1)

    def look(self, x: torch.Tensor, disp: torch.Tensor, centre: torch.Tensor, evidence: ViewEvidence | None = None) -> tuple[torch.Tensor, ...]:
        """Evidence 'b f h w' at a disparity 'b h w', the network's or another one, and what it is of: `look_closer`'s views and reach, and their `block_sums`."""
        views, reach = look_closer(x, disp)
        sums = block_sums(views, reach, self.evidence.members)
        return (evidence or self.evidence)(sums, centre)[0], views, reach, sums

    def bounded(self, disp: torch.Tensor) -> torch.Tensor:
        """An estimate, no further than half a level beyond the last one."""
        limit = self.max_disp + self.step / FINE
        return disp.clamp(-limit, limit)

    def local_expectation(self, distribution: torch.Tensor) -> torch.Tensor:
        """The expectation over the candidates within one step of the peak, 'b d h w' to 'b h w'."""
        peak = distribution.argmax(1, keepdim=True)
        order = torch.arange(distribution.shape[1], device=peak.device)[None, :, None, None]
        near = distribution * ((order - peak).abs() <= FINE)
        return in_full(torch.einsum)("bdhw,d->bhw", near, self.fine_levels) / reduce(near, "b d h w -> b h w", "sum")


def weights_init_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for one convolution or linear layer; use with `model.apply`.

    Source: Glorot and Bengio, AISTATS 2010.
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def get_parameter_number(model: nn.Module) -> dict[str, int]:
    """How many numbers a model holds, and how many of them are trained.

    >>> get_parameter_number(nn.Linear(2, 3))
    {'total': 9, 'trainable': 9}
    """
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in counts), "trainable": sum(n for n, trained in counts if trained)}
