import itertools
import math

import pytest
import torch

from lfkit.evidence import ViewEvidence, block_starts, block_sums, competition, detail, steep_means
from lfkit.layers import sum_blocks
from lfkit.sweep import ViewSweep


def look(evidence, views, reach=None, centre=None):
    """The evidence for one pixel whose views have the colours 'n c', and the rivals' variances."""
    reach = torch.ones(len(views)) if reach is None else reach
    centre = views[len(views) // 2] if centre is None else centre
    sums = block_sums(((views - 0.5) * reach[:, None])[None, :, :, None, None], reach[None, :, None, None], evidence.members)
    return tuple(part[0, :, 0, 0] for part in evidence(sums, centre[None, :, None, None] - 0.5))


def score(variance):
    return (float(torch.log(variance + 2e-5)) + 6) / 2


@pytest.mark.parametrize("views_num, starts", [(3, [0]), (5, [0, 2]), (7, [0, 2, 4]), (9, [0, 3, 6]), (11, [0, 3, 5, 8])])
def test_blocks_cover_the_grid_the_same_from_either_end(views_num, starts):
    assert block_starts(views_num) == starts == [views_num - 3 - s for s in reversed(starts)]
    assert {u for s in starts for u in range(s, s + 3)} == set(range(views_num))


def test_evidence_of_groups_is_the_log_variance_of_the_views_that_reach_the_pixel():
    """Against torch.var over the very views; 9 views a side, so that no block shares a view with another."""
    torch.manual_seed(0)
    evidence, views, reach = ViewEvidence(9), torch.rand(81, 3), torch.ones(81)
    reach[[0, 7, 24]] = 0
    out, rivals = look(evidence, views, reach)
    assert len(out) == evidence.features == 9 + 4 + 3 + 3 + 1 + 8
    variances = []
    for value, group in zip(out, evidence.groups):
        members = views[(group @ evidence.blocks > 0) & (reach > 0)].double()
        variances.append(float(members.var(0).mean()))
        assert float(value) == pytest.approx(score(torch.tensor(variances[-1])), abs=1e-4)
    assert float(out[-1]) == pytest.approx(78 / 81)
    assert rivals[:2].tolist() == pytest.approx([variances[19], min(variances[9:13])], rel=1e-4)
    few = torch.zeros(81)
    few[40] = 1
    assert (look(evidence, views, few)[0][:20] == 0).all()


def test_blocks_of_like_colour_are_gathered_and_the_occluded_ones_left_out():
    """Rows 0 to 2 see a plain red background, the others a colourful occluder; 3 of 9 blocks lie in rows 0 to 2."""
    torch.manual_seed(0)
    evidence, red = ViewEvidence(9), torch.tensor([0.9, 0.1, 0.1])
    views = red.repeat(81, 1)
    views[27:] = torch.rand(54, 3)
    out, rivals = look(evidence, views)
    least, between, share, apart, *colour, reached = out[20:].tolist()
    assert torch.allclose(torch.tensor(colour), red - 0.5, atol=1e-3) and reached == pytest.approx(1)
    assert share == pytest.approx(1 / 3, abs=0.05) and least < -1 and between == pytest.approx(score(torch.tensor(0.0)), abs=0.1)
    assert apart == pytest.approx(score(torch.tensor((0.81 + 0.01 + 0.01) / 3)), abs=0.8)  # of a random occluder
    assert rivals[2] < 1e-3 < 0.05 < rivals[0]
    hidden, _ = look(evidence, views, centre=torch.tensor([0.1, 0.9, 0.1]))
    assert float(hidden[23]) == pytest.approx(score(torch.tensor((0.64 + 0.64) / 3)), abs=0.02)


def test_like_blocks_compete_by_what_differs_within_them_and_between_them():
    """Nine blocks with one and the same pattern of 3 x 3 colours: nothing differs between them, and within them what torch.var says."""
    torch.manual_seed(0)
    evidence, pattern = ViewEvidence(9), 0.5 + 0.02 * torch.randn(3, 3, 3)
    views = pattern.repeat(3, 3, 1).reshape(81, 3)
    _, rivals = look(evidence, views)
    assert float(rivals[2]) == pytest.approx(float(pattern.reshape(9, 3).var(0).mean()), rel=1e-3)
    shifted = views.reshape(9, 9, 3).clone()
    shifted[:3] += 0.03  # three blocks a little brighter: still like the others, and no longer the same
    assert float(look(evidence, shifted.reshape(81, 3))[1][2]) > 1.2 * float(rivals[2])


@pytest.mark.parametrize("views_num, disp", [(9, 1.5), (9, -4.0), (5, 0.5), (3, 2.0)])
def test_block_sums_of_the_sweep_are_those_of_its_views(views_num, disp):
    torch.manual_seed(0)
    evidence, x = ViewEvidence(views_num), torch.rand(2, views_num**2, 3, 20, 14) - 0.5
    sweep = ViewSweep(torch.cat([x, torch.ones_like(x[:, :, :1])], 2), 4, spacing=0.5)
    views = torch.cat(list(sweep.shifted(disp)), 1).reshape(2, views_num**2, 5, 20, 14)
    starts = block_starts(views_num)
    grid = views.reshape(2, views_num, views_num, 5, 20, 14)
    expected = torch.stack([grid[:, u:u + 3, v:v + 3].sum((1, 2)) for u in starts for v in starts], 1)
    ours = sum_blocks([*sweep.shifted(disp)], evidence.members)
    assert torch.allclose(ours, expected, atol=1e-4) and torch.allclose(views[:, :, 4], views[:, :, :3].square().sum(2))
    assert torch.allclose(block_sums(views[:, :, :3], views[:, :, 3], evidence.members), expected, atol=1e-4)


def test_candidates_compete_where_the_surface_is_too_faint_for_one_pixel():
    """Noise in every variance, and a hundredth less at candidate 3: no pixel shows it, the wide windows do."""
    torch.manual_seed(0)
    variances = 1e-4 * (1 + 0.05 * torch.randn(1, 9, 3, 64, 64))
    variances[:, 3] *= 0.99
    narrow, middle, wide, *_ = competition(variances, 0.5).split(3, 2)
    best = lambda part: (part[:, :, 0].argmin(1) == 3).float().mean()
    assert best(wide) > 0.98 and best(wide) > best(middle) > best(narrow) and best(variances) < 0.4
    assert torch.equal(narrow.amin(1), torch.zeros_like(narrow[:, 0])) and wide[:, 3].mean() < 0.01 and wide[:, 6:].mean() == pytest.approx(0.5 * float(torch.log1p(torch.tensor(1.5))), rel=0.15)


@pytest.mark.parametrize("slope, axis", [(1 / 16, 3), (-1 / 16, 4), (-1 / 32, 3), (0.0, 3)])
def test_steep_surfaces_compete_too(slope, axis):
    """Variances of a surface whose disparity rises along an axis, least at the nearest candidate; the window that is as steep has the least mean there."""
    levels, place = torch.arange(-4, 4.5, 0.5).reshape(1, 17, 1, 1, 1), torch.arange(96.0).reshape([1, 1, 1] + [-1 if k == axis else 1 for k in (3, 4)])
    truth = slope * (place - 47.5)
    variances = 1e-4 * (1 + 10 * (levels - truth).square()).expand(1, 17, 1, 96, 96)
    wide = competition(variances, 0.5)[:, :, 2]
    found = levels[:, :, 0] * 1.0
    best = found.expand(wide.shape).gather(1, wide.argmin(1, keepdim=True))[:, 0]
    away = (best - truth[:, 0, 0].expand(best.shape)).abs()[..., 16:-16, 16:-16]
    assert away.max() <= 0.25 + 0.5 * abs(slope) * 8 + 1e-4


def test_steep_means_against_a_loop():
    torch.manual_seed(0)
    x = torch.rand(1, 5, 1, 6, 7)
    ours = steep_means(x, 3, 0.5)
    level = lambda k: min(max(k, 0), 4)
    for d, i, j in itertools.product(range(5), range(6), range(7)):
        means = []
        for rise in (0.0, 0.5, -0.5, 0.25, -0.25):
            for along in (0, 1):
                values = []
                for p, q in itertools.product(range(max(i - 1, 0), min(i + 2, 6)), range(max(j - 1, 0), min(j + 2, 7))):
                    k = d + rise * ((p - i), (q - j))[along]
                    low = math.floor(k)
                    values.append((low + 1 - k) * x[0, level(low), 0, p, q] + (k - low) * x[0, level(low + 1), 0, p, q])
                means.append(float(sum(values) / len(values)))
        assert float(ours[0, d, 0, i, j]) == pytest.approx(min(means), abs=1e-5)


def test_detail_variances_are_those_of_the_views_that_reach_the_pixel():
    torch.manual_seed(0)
    evidence, values, reach = ViewEvidence(9), torch.rand(81), torch.ones(81)
    reach[[0, 7, 24]] = 0
    parts = torch.stack([values * reach, reach, values.square() * reach])
    out = evidence.detail((evidence.blocks @ parts.T)[None, :, :, None, None])[0, :, 0, 0]
    variance = lambda group: float(values[(group @ evidence.blocks > 0) & (reach > 0)].double().var())
    assert out.tolist() == pytest.approx([variance(evidence.groups[-1]), min(variance(g) for g in evidence.groups[9:13])], rel=1e-4)


def test_detail_is_what_differs_from_the_mean_around():
    """A ramp has none, a point keeps nearly all of its own, and views that have no weight blur nothing into it."""
    ramp = torch.arange(48.0).expand(1, 1, 3, 48, 48)
    assert detail(ramp)[..., 8:-8, 8:-8].abs().max() < 1e-4
    point = torch.zeros(1, 1, 3, 48, 48)
    point[..., 24, 24] = 1
    assert detail(point)[0, 0, 24, 24] == pytest.approx(3**0.5 * 0.99, abs=0.01)
    step, weights = torch.zeros(1, 1, 3, 48, 48), torch.ones(1, 1, 48, 48)
    step[..., 24:], weights[..., 24:] = 1, 0
    assert detail(step)[..., 22:24].abs().max() > 0.5 and detail(step, weights)[..., :22].abs().max() < 1e-6


def test_a_faint_background_competes_in_spite_of_its_occluder():
    """Of a third of the pixels the variance is a thousand times as large, but for the occluder's own candidate 7; behind is something faint at candidate 2."""
    torch.manual_seed(0)
    variances = 1e-4 * (1 + 0.05 * torch.randn(1, 9, 1, 96, 96)) * (1 + 0.1 * (torch.arange(9.0) - 2).abs())[None, :, None, None, None]
    leaf = torch.rand(96, 96) < 1 / 3
    variances[:, :, :, leaf] = 0.1 * (0.5 + torch.rand(1, 9, 1, int(leaf.sum())))
    variances[:, 7, :, leaf] = 1e-4
    *_, wide, robust_middle, robust = competition(variances, 0.5).unbind(2)
    found = lambda part: [float((part[:, d] == 0).float().mean()) for d in range(9)]
    assert found(wide)[2] < 0.1 and found(wide)[7] > 0.9
    for part in (robust_middle, robust):
        assert found(part)[2] > 0.9 and found(part)[7] > 0.9 and max(found(part)[d] for d in (1, 3, 6, 8)) < 0.1


def test_likeness_is_a_gaussian_of_the_mean_squared_difference():
    colours = torch.tensor([[0.5, 0.5, 0.5], [0.56, 0.56, 0.56], [0.5, 0.5, 0.5 + 0.06 * 3**0.5], [0.62, 0.5, 0.44]])[None, :, :, None, None]
    found = ViewEvidence.likeness(colours, torch.full((1, 3, 1, 1), 0.5))[0, :, 0, 0]
    assert found.tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-0.5), math.exp(-5 / 6)], rel=1e-4)
