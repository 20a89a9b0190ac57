import itertools
import math

import numpy as np
import pytest
import torch
from einops import rearrange

from lfkit import DeoccNet, compute_bad_pix, get_parameter_number, synthesize, training_loss, weights_init_xavier
from lfkit.losses import DistributionCrossEntropy
from lfkit.model import (BLOCK_EDGE, CHOSEN, JOLT, RIVAL_FEATURES, CloserLook, SecondLook, ViewEvidence, ViewSweep, block_equations, block_starts, block_sums, competition, cubic_weights, detail, even_weights,
                         jolts, look_closer, mix, normal_equations, plane_fit, slopes, steep_means, window_correction, window_mean)


@pytest.mark.parametrize("views_num, size, max_disp, step", [(3, (17, 5), 4, 1), (5, (8, 8), 2, 0.5), (9, (1, 9), 4, 1), (7, (10, 13), 1, 1)])
def test_shapes_and_distributions(views_num, size, max_disp, step):
    net = DeoccNet(4, views_num, max_disp, step)
    both, background, depth_map = net(torch.rand(2, views_num**2, 3, *size))
    levels = int(2 * max_disp / step) + 1
    assert both.shape == background.shape == (2, levels, *size) and depth_map.shape == (2, *size)
    for distribution in (both, background):
        assert torch.allclose(distribution.sum(1), torch.ones(2, *size), atol=1e-5) and distribution.min() >= 0
    assert depth_map.abs().max() <= max_disp + step


def test_what_lies_at_a_disparity_falls_on_the_centres_pixel():
    """views[u, v][y + (c - u) d, x + (c - v) d] = centre[y, x], so the shifted view equals the centre at whole shifts."""
    torch.manual_seed(0)
    world, n, d = torch.rand(3, 60, 60), 5, 2
    views = torch.stack([world[:, 20 - (2 - u) * d:40 - (2 - u) * d, 20 - (2 - v) * d:40 - (2 - v) * d] for u in range(n) for v in range(n)])[None]
    shifted = ViewSweep(views, 4).at(float(d)).reshape(1, n * n, 3, 20, 20)
    inside = (slice(None), slice(None), slice(None), slice(8, 12), slice(8, 12))
    assert torch.equal(shifted[inside], views[:, 12:13].expand_as(shifted)[inside])
    assert not torch.allclose(ViewSweep(views, 4).at(-2.0).reshape(shifted.shape)[inside], shifted[inside])


def test_half_pixel_shifts_of_a_smooth_picture():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    smooth = lambda y, x: torch.sin(0.4 * y + 0.2) + torch.cos(0.3 * x)
    views = smooth(y, x).expand(1, 9, 3, 40, 40)
    shifted = ViewSweep(views, 4).at(0.5).reshape(9, 3, 40, 40)
    for n, (u, v) in enumerate((u, v) for u in range(3) for v in range(3)):
        expected = smooth(y + (1 - u) * 0.5, x + (1 - v) * 0.5)
        assert torch.allclose(shifted[n, 0, 5:-5, 5:-5], expected[5:-5, 5:-5], atol=3e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_cubic_taps(fraction):
    taps = cubic_weights(fraction)
    assert sum(taps) == pytest.approx(1)
    assert sum(t * k for t, k in zip(taps, (-1, 0, 1, 2))) == pytest.approx(fraction)  # exact on a straight line
    assert sum(t * k * k for t, k in zip(taps, (-1, 0, 1, 2))) == pytest.approx(fraction**2)  # and on a parabola


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_even_taps_leave_as_much_noise_at_every_place(fraction):
    taps = even_weights(fraction)
    assert sum(taps) == pytest.approx(1) and sum(t * (k - 2) for k, t in enumerate(taps)) == pytest.approx(fraction)
    assert sum(t * t for t in taps) == pytest.approx(2 * (9 / 16) ** 2 + 2 * (1 / 16) ** 2)


def test_no_candidate_looks_better_for_being_read_between_samples():
    """Views of nothing but noise: their variance is the same at whole and half candidates, which it is not as they are read elsewhere."""
    torch.manual_seed(0)
    noise = torch.randn(1, 81, 1, 96, 96)
    spread = lambda spacing, disp: float(ViewSweep(noise.expand(-1, -1, 2, -1, -1), 2, spacing).at(disp).unflatten(1, (81, -1))[0, :, 0, 20:-20, 20:-20].var(0).mean())
    assert spread(0.5, 1.0) == pytest.approx(spread(0.5, 0.5), rel=0.02) and spread(None, 0.5) < 0.8 * spread(None, 1.0)


def look(evidence, views, reach=None, centre=None):
    """The evidence for one pixel whose views have the colours 'n c', and the rivals' variances."""
    reach = torch.ones(len(views)) if reach is None else reach
    centre = views[len(views) // 2] if centre is None else centre
    sums = block_sums(((views - 0.5) * reach[:, None])[None, :, :, None, None], reach[None, :, None, None], evidence.blocks)
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
    views = sweep.at(disp).reshape(2, views_num**2, 5, 20, 14)
    starts = block_starts(views_num)
    grid = views.reshape(2, views_num, views_num, 5, 20, 14)
    expected = torch.stack([grid[:, u:u + 3, v:v + 3].sum((1, 2)) for u in starts for v in starts], 1)
    ours = sweep.sums(disp, evidence.members)
    assert torch.allclose(ours, expected, atol=1e-4) and torch.allclose(views[:, :, 4], views[:, :, :3].square().sum(2))
    assert torch.allclose(block_sums(views[:, :, :3], views[:, :, 3], evidence.blocks), expected, atol=1e-4)


def test_candidates_compete_where_the_surface_is_too_faint_for_one_pixel():
    """Noise in every variance, and a hundredth less at candidate 3: no pixel shows it, the wide windows do."""
    torch.manual_seed(0)
    variances = 1e-4 * (1 + 0.05 * torch.randn(1, 9, 3, 64, 64))
    variances[:, 3] *= 0.99
    narrow, middle, wide, *_ = competition(variances, 0.5).split(3, 2)
    best = lambda part: (part[:, :, 0].argmin(1) == 3).float().mean()
    assert best(wide) > 0.98 and best(wide) > best(middle) > best(narrow) and best(variances) < 0.4
    assert torch.equal(narrow.amin(1), torch.zeros_like(narrow[:, 0])) and wide[:, 3].mean() < 0.01 and wide[:, 6:].mean() == pytest.approx(0.5 * float(torch.log1p(torch.tensor(1.5))), rel=0.15)


def test_a_closer_look_reads_each_view_where_the_pixel_is_seen():
    """A disparity of its own at every pixel, against the sweep's shift by whole and half pixels."""
    torch.manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(75, 1, 32, 32), 3, 1, 1).reshape(1, 25, 3, 32, 32)
    disp = torch.where(torch.arange(32)[None, None] < 16, 1.0, -0.5).expand(1, 32, 32)
    views, reach = look_closer(x, disp)
    for d, columns in ((1.0, slice(0, 16)), (-0.5, slice(16, 32))):
        swept = ViewSweep(x, 2).at(d).reshape(1, 25, 3, 32, 32)
        inside = (*[slice(None)] * 3, slice(6, 26), slice(max(6, columns.start), min(26, columns.stop)))
        # torch's cubic kernel has a = -3/4, the sweep's -1/2: they differ by at most a fraction of the picture's roughness
        assert torch.allclose(views[inside], swept[inside], atol=0.0 if d == 1 else 0.03, rtol=1e-5)
    assert reach[0, 12].all() and not reach[0, 0, -1].all() and (views * ~reach[:, :, None] == 0).all()
    u, v = 0, 4  # two rows up, two columns right: reaches y + 2 d, x - 2 d
    assert reach[0, 5 * u + v, :, 8].tolist() == [y + 2 <= 31 for y in range(32)]


def test_no_statistic_over_the_image():
    """A change in one corner leaves the other corner untouched."""
    torch.manual_seed(0)
    net = DeoccNet(4, 3, 1, 1).eval()
    x = torch.rand(1, 9, 3, 448, 448)
    changed = x.clone()
    changed[..., :4, :4] = 0
    with torch.inference_mode():
        for a, b in zip(net(x), net(changed)):
            assert torch.equal(a[..., 408:, 408:], b[..., 408:, 408:]) and not torch.equal(a, b)


def test_every_parameter_learns_and_gradients_are_finite():
    torch.manual_seed(0)
    net = DeoccNet(8, 5, 4, 1)
    net.apply(weights_init_xavier)
    out = net(torch.rand(1, 25, 3, 24, 24))
    (out[0].square().sum() + out[1].square().sum() + out[2].square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_disparity_is_read_at_the_peak_not_between_two():
    net = DeoccNet(4)
    distribution = torch.zeros(1, 17, 1, 1)
    distribution[0, 2], distribution[0, 3], distribution[0, 14] = 0.3, 0.3, 0.4  # -3, -2.5 and +3
    assert net.local_expectation(distribution).item() == pytest.approx(3.0)
    distribution[0, 2] = 0.45
    assert net.local_expectation(distribution).item() == pytest.approx((0.45 * -3 + 0.3 * -2.5) / 0.75)


def plane(disp: float, size: int = 40, n: int = 5) -> torch.Tensor:
    """A smooth picture at one disparity, 'b n c h w', written down from the definition of disparity."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    views = []
    for u in range(n):
        for v in range(n):
            i, j = y - (n // 2 - u) * disp, x - (n // 2 - v) * disp  # the centre's pixel that this view's pixel shows
            views.append(torch.stack([torch.sin(0.4 * i + 0.2 * j), torch.cos(0.3 * j), torch.sin(0.25 * (i - j))]) * 0.3 + 0.5)
    return torch.stack(views)[None]


@pytest.mark.parametrize("off", [-0.2, -0.05, 0.0, 0.05, 0.2])
def test_normal_equations_say_how_far_off_a_disparity_is(off):
    disp, views_num = 0.37, 5
    views, reach = look_closer(plane(disp) - 0.5, torch.full((1, 40, 40), disp - off))
    a, b, s, mean = normal_equations(views, reach.float())
    correction = (b / a)[0, 0, 8:-8, 8:-8]
    assert correction.median() == pytest.approx(off, abs=0.015 + 0.1 * abs(off))
    assert ((s - b * b / a)[0, 0, 8:-8, 8:-8].mean() < 0.1 * s[0, 0, 8:-8, 8:-8].mean()) == (abs(off) > 0.1)  # the correction explains what differs, if that is more than the reading's own error
    assert torch.allclose(mean[..., 8:-8, 8:-8], plane(disp)[:, 12, :, 8:-8, 8:-8] - 0.5, atol=0.03)


def test_normal_equations_against_least_squares():
    """Common correction and one colour a channel, fitted by numpy's solver at one pixel with the slopes of the mean picture."""
    import numpy as np
    torch.manual_seed(0)
    views, weights = torch.rand(1, 9, 3, 9, 9), torch.rand(1, 9, 9, 9)
    a, b, s, mean = normal_equations(views, weights)
    dy, dx = slopes(mean)
    at = (0, slice(None), 4, 4)
    root, values = weights[at].numpy() ** 0.5, views[0, :, :, 4, 4].numpy()
    rows, right = [], []
    for n in range(9):
        u, v = 1 - n // 3, 1 - n % 3
        for c in range(3):  # colour - e (o . slope) = view
            rows.append(np.concatenate([[-(u * dy[at][c].item() + v * dx[at][c].item()) * root[n]], np.eye(3)[c] * root[n]]))
            right.append(values[n, c] * root[n])
    (expected, *_), (left,), *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    assert (b / a)[0, 0, 4, 4].item() == pytest.approx(expected, rel=1e-3)
    assert (s - b * b / a)[0, 0, 4, 4].item() == pytest.approx(left / 3 / weights[at].sum().item(), rel=1e-3)


def test_hidden_views_have_no_say_in_the_normal_equations():
    torch.manual_seed(0)
    views, weights = torch.rand(1, 9, 3, 8, 8), torch.rand(1, 9, 8, 8)
    weights[:, 5:] = 0
    changed = views.clone()
    changed[:, 5:] = 7
    for ours, theirs in zip(normal_equations(views, weights), normal_equations(changed, weights)):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("off", [-0.2, -0.05, 0.1])
def test_the_network_measures_how_far_off_an_estimate_is(off):
    """On a faint picture read at estimates too far and too near; the blocks' colour, which is subtracted on the way, must not take the picture's slopes with it."""
    disp, net = 0.37, DeoccNet(4, 5)
    x = 0.2 * (plane(disp) - 0.5)
    equations, _ = net.equations(x, torch.full((1, 40, 40), disp - off), x[:, 12])
    inside = (0, 0, slice(8, -8), slice(8, -8))
    for k, (a, b, _) in enumerate(equations):  # the third set, of blocks, has a sixth of the others' baseline
        assert (b[inside].sum() / a[inside].sum()).item() == pytest.approx(off, abs=(0.015, 0.015, 0.025)[k] + 0.1 * abs(off))


def test_gloss_that_moves_otherwise_misleads_the_colours_and_not_their_detail():
    """On a faint picture lies the reflection of a lamp, wide and smooth, that moves as if it were a pixel farther."""
    disp, net, (y, x) = 0.5, DeoccNet(4, 5), torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    torch.manual_seed(0)
    picture, views = torch.nn.functional.avg_pool2d(torch.randn(3, 56, 56), 3, 1, 1), []
    for n in range(25):
        du, dv = 2 - n // 5, 2 - n % 5
        rows, cols = (torch.stack([(k + 4 - o * disp)]).clamp(0, 55) for k, o in ((y, du), (x, dv)))
        grid = torch.stack([(2 * cols + 1) / 56 - 1, (2 * rows + 1) / 56 - 1], -1)
        seen = torch.nn.functional.grid_sample(picture[None], grid, "bicubic", "border", align_corners=False)[0]
        lamp = torch.exp(-((y - 24 - du * (disp - 1)).square() + (x - 20 - dv * (disp - 1)).square()) / (2 * 12.0**2))
        views.append(0.02 * seen + 0.2 * lamp)
    views = torch.stack(views)[None]
    equations, _ = net.equations(views, torch.full((1, 48, 48), disp), views[:, 12])
    inside = (0, 0, slice(8, -8), slice(8, -8))
    colours, *details = (abs((b[inside].sum() / a[inside].sum()).item()) for a, b, _ in equations)
    assert max(details) < 0.05 < 0.1 < colours
    rivals = net.cost_volume(views)[:, net.evidence.features:].unflatten(1, (-1, 5))[:, 0, :, 8:-8, 8:-8]  # 'd k h w', the narrowest windows
    right = [float((net.fine_levels[kind.argmin(0)] == disp).float().mean()) for kind in rivals.unbind(1)]
    assert min(right[3:]) > 0.9 > 0.6 > right[0]


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


def test_jolts_are_bounded_and_touch_their_share_of_the_crops():
    torch.manual_seed(0)
    disp = torch.zeros(200, 16, 24)
    assert not jolts(disp, 0.0).any()
    moves = jolts(disp, 0.25)
    touched = moves.flatten(1).abs().amax(1) > 0
    assert 30 <= touched.sum() <= 70 and 0.5 * JOLT < moves.abs().max() <= JOLT
    assert abs(moves[touched].mean()) < 0.1 * JOLT  # to both sides alike


def test_estimates_are_jolted_while_training_alone_and_after_the_second_look():
    torch.manual_seed(0)
    net, x = DeoccNet(4, 3), torch.rand(1, 9, 3, 16, 16)
    with torch.no_grad():
        plain = net.stages(x)
        net.jolt = 1.0
        jolted, net = net.stages(x), net.eval()
        used = net.stages(x)
    for name in ("first", "second"):
        assert torch.equal(jolted[name], plain[name])
    assert not torch.allclose(jolted["third"], plain["third"], atol=1e-3) and torch.equal(used["depth_map"], plain["depth_map"])


def test_a_near_colour_changes_no_equation():
    torch.manual_seed(0)
    views, weights, near = torch.rand(1, 9, 3, 8, 8), torch.rand(1, 9, 8, 8), torch.rand(1, 3, 8, 8)
    for plain, apart in zip(normal_equations(views, weights), normal_equations(views, weights, near)):
        assert torch.allclose(plain, apart, atol=1e-5)


def test_slopes_are_exact_on_a_cubic():
    y, x = torch.meshgrid(torch.arange(12.0) / 6, torch.arange(10.0) / 5, indexing="ij")
    dy, dx = slopes((y**3 - 2 * y * x + x**2)[None, None])
    inside = (0, 0, slice(2, -2), slice(2, -2))
    assert torch.allclose(dy[inside], ((3 * y**2 - 2 * x) / 6)[2:-2, 2:-2], atol=1e-5) and torch.allclose(dx[inside], ((2 * x - 2 * y) / 5)[2:-2, 2:-2], atol=1e-5)


@pytest.mark.parametrize("cell, side", [(4, 3), (8, 5)])
def test_a_plane_is_fitted_to_uneven_weights(cell, side):
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    truth, weight = (0.5 + 0.02 * y - 0.01 * x)[None, None], torch.rand(1, 1, 64, 64) + 0.05
    fitted, level = plane_fit(weight, weight * truth, cell, side), (truth * weight).mean() / weight.mean()
    assert (fitted - truth)[..., 16:-16, 16:-16].abs().max() < 3e-3 < 0.1 * (truth - level).abs().mean()


def test_window_means_are_those_of_the_part_inside():
    x = torch.rand(1, 2, 9, 7)
    for side in (1, 3, 5):
        ours, r = window_mean(x, side), side // 2
        assert torch.allclose(ours[0, 1, 4, 3], x[0, 1, 4 - r:5 + r, 3 - r:4 + r].mean()) and torch.allclose(ours[0, 0, 0, 6], x[0, 0, :1 + r, 6 - r:].mean())


def test_the_second_look_considers_what_its_neighbours_found():
    disp = torch.zeros(1, 16, 16)
    disp[..., 8:] = 2.0
    own, least, greatest = SecondLook.candidates(disp).unbind(1)
    assert torch.equal(own, disp)
    assert (least[..., :12] == 0).all() and (least[..., 12:] == 2).all() and (greatest[..., 4:] == 2).all() and (greatest[..., :4] == 0).all()


def test_a_closer_look_at_rest_gathers_corrections_and_planes():
    """With a head of zeros every choice counts the same: no change, and for each set of equations each window's correction and each wide window's plane."""
    look = CloserLook(1, 1, 8)
    torch.nn.init.zeros_(look.hourglass.head.weight)
    torch.nn.init.zeros_(look.hourglass.head.bias)
    a, none = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 1, 40, 40)
    better, _, chances = look([(a, a * 0.04, a), (a, a * 0.01, a), (a, none, a)], none, none, torch.full((1, 40, 40), 1.0), torch.full((1, 40, 40), 1.0), 0.1)
    assert torch.allclose(better, torch.full_like(better, 1 + 0.05 * 7 / 22), atol=1e-4)  # 1 of the 22 choices is to stay
    estimates, log_chance = chances.unbind(1)
    assert estimates.shape == (1, 22, 40, 40) and torch.allclose(log_chance.exp(), torch.tensor(1 / 22)) and torch.allclose(estimates.mean(1), better, atol=1e-4)


def test_mixing_keeps_a_flat_map_and_takes_from_the_neighbour_it_is_told():
    flat, scores = torch.full((1, 8, 8), 1.5), torch.randn(1, 9, 8, 8)
    assert torch.allclose(mix(flat, scores), flat)
    ramp = torch.arange(8.0).expand(1, 8, 8)
    right = torch.full((1, 9, 8, 8), -30.0)
    right[:, 5] = 30.0  # the middle row's last
    assert torch.allclose(mix(ramp, right)[..., :6], ramp[..., :6] + 2)


def test_the_stages_are_those_of_the_result():
    torch.manual_seed(0)
    net, x = DeoccNet(4, 3, 2, 1).eval(), torch.rand(2, 9, 3, 14, 11)
    with torch.inference_mode():
        seen, (both, background, depth_map) = net.stages(x), net(x)
    assert seen["volume"].shape == (2, 9, net.evidence.features + RIVAL_FEATURES, 14, 11)
    assert torch.equal(seen["depth_map"], depth_map)
    assert not set(CHOSEN) & set(seen)
    _, _, _, *earlier = net(x, earlier=True)
    assert [part.shape for part in earlier] == [(2, 14, 11)] * 4 + [(2, 2, 3, 14, 11)] + [(2, 2, 22, 14, 11)] * 3 and torch.equal(earlier[1], seen["second"])
    # a look's first choice is to stay at what the look before it gave
    for before, chances in zip((seen["first"], seen["second"], seen["third"], seen["fourth"]), earlier[4:]):
        assert torch.allclose(chances[:, 0, 0], before, atol=1e-6) and torch.allclose(chances[:, 1].exp().sum(1), torch.ones(2, 14, 11))
    assert torch.allclose(seen["both"][:, ::2] + 0.5 * torch.nn.functional.pad(seen["both"][:, 1::2], (0, 0, 0, 0, 0, 1))
                          + 0.5 * torch.nn.functional.pad(seen["both"][:, 1::2], (0, 0, 0, 0, 1, 0)), both, atol=1e-6)
    assert background.shape == (2, 5, 14, 11)


def test_parameters_and_xavier():
    net = DeoccNet()
    numbers = get_parameter_number(net)
    assert numbers["total"] == sum(p.numel() for p in net.parameters()) == numbers["trainable"] < 1_000_000
    net.guide.requires_grad_(False)
    assert get_parameter_number(net)["trainable"] < numbers["total"]
    layer = torch.nn.Conv2d(16, 32, 3)
    torch.nn.init.constant_(layer.weight, 7)
    torch.nn.init.constant_(layer.bias, 7)
    weights_init_xavier(layer)
    bound = (6 / (9 * 16 + 9 * 32)) ** 0.5
    assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.9 * bound and (layer.bias == 0).all()


@pytest.mark.parametrize("wrong", [{"views_num": 8}, {"views_num": 1}, {"max_disp": 4, "step": 3}, {"channels": 2}])
def test_bad_sizes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeoccNet(**{"channels": 4} | wrong)


def test_bad_input(model):
    with pytest.raises(ValueError, match=r"'b n c h w' with n = 81 views and c = 3 colours: got shape \(1, 80, 3, 8, 8\)"):
        model(torch.zeros(1, 80, 3, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(model):
    x = torch.rand(1, 81, 3, 24, 24)
    model.eval()
    with torch.inference_mode():
        ours, theirs = model(x), model.cuda()(x.cuda())
    assert torch.allclose(ours[0], theirs[0].cpu(), atol=1e-3) and torch.allclose(ours[1], theirs[1].cpu(), atol=1e-3)


@pytest.mark.parametrize("disp", [-4.0, 4.0, 4.7])
def test_gradients_at_the_ends_of_the_levels_are_finite(disp):
    torch.manual_seed(0)
    net, truth = DeoccNet(4, 3, 4, 1), torch.full((1, 16, 16), disp)
    loss, _ = training_loss(net(torch.rand(1, 9, 3, 16, 16)), truth, truth, torch.nn.L1Loss(), DistributionCrossEntropy(),
                            {"loss1_weight": 1.0, "loss2_weight": 1.0, "loss3_weight": 1.0}, 4, 1)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_one_crop_is_learned_by_heart():
    """An untrained network of half the width has BadPix 0.07 under 1 % on all of one occluded crop within 800 steps."""
    steps, rate = 800, 4e-3
    scene = synthesize(12, size=40, noise=0.0, occluded=True)
    x = rearrange(torch.from_numpy(scene.lf).float() / 255, "u v h w c -> 1 (u v) c h w")
    layers = [torch.from_numpy(np.ascontiguousarray(disp))[None] for disp in (scene.fg_disp, scene.bg_disp)]
    torch.manual_seed(0)
    net = DeoccNet(16)
    net.apply(weights_init_xavier)
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    bad = 100.0
    for _ in range(steps):
        outputs = net(x, earlier=True)
        bad = compute_bad_pix(outputs[2][0].detach().numpy(), scene.bg_disp, border=0)
        if bad < 1:
            break
        loss, _ = training_loss(outputs, *layers, torch.nn.L1Loss(), DistributionCrossEntropy(), {"loss1_weight": 1.0, "loss2_weight": 1.0, "loss3_weight": 4.0}, 4, 1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    assert scene.mask.mean() > 0.1 and bad < 1


def test_a_window_says_how_sure_its_correction_is():
    """Views of one picture with independent noise, read at the truth: the corrections scatter as far as the equations claim."""
    by_hand = window_correction(tuple(torch.full((1, 1, 8, 8), value) for value in (0.5, 0.3, 0.3)), 1, 3)
    assert [float(part[0, 0, 4, 4]) for part in by_hand] == pytest.approx([0.6, 0.5, 0.3 - 0.3**2 / 0.5], abs=1e-5)
    torch.manual_seed(0)
    picture = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 3, 100, 100).flatten(0, 1), 5, 1, 2)[:, None]
    views = picture + 0.05 * torch.randn(1, 25, 3, 100, 100)
    equations = normal_equations(views, torch.ones(1, 25, 100, 100))[:3]
    for side in (1, 3, 7):
        change, energy, left = (part[0, 0, 8:-8, 8:-8] for part in window_correction(equations, 1, side))
        claimed = (left / energy / (25 * 3 * side**2)).sqrt()  # three colours' noise
        assert float((change / claimed).square().mean().sqrt()) == pytest.approx(1, abs=0.25)
        assert float(left.mean()) == pytest.approx(0.05**2, rel=0.1)


@pytest.mark.parametrize("least", [1e-5, 5.0])
def test_a_closer_look_hears_how_sure_each_window_is(least):
    """Four times the variance left is log 4 / 3 more doubt, in its set's last features alone; on a clean, rough surface as on a faint one."""
    look, heard = CloserLook(1, 1, 8), []
    look.hourglass.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    a, none, flat = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 1, 40, 40), torch.ones(1, 40, 40)
    for left in (least, 4 * least):
        look([(a, none, a * 0.1), (a, none, a * 0.1), (a, none, left * torch.ones_like(a))], none, none, flat, flat, 0.15)
    change = (heard[1] - heard[0]).mean((0, 2, 3))
    assert torch.equal(change[:-5], torch.zeros_like(change[:-5])) and torch.allclose(change[-5:], torch.tensor(math.log(4) / 3), atol=0.02)


@pytest.mark.parametrize("views_num", [5, 9])
def test_block_equations_are_each_blocks_normal_equations(views_num):
    torch.manual_seed(0)
    views, blocks = torch.rand(1, views_num**2, 20, 24), ViewEvidence(views_num).blocks
    reach, likeness = torch.ones(1, views_num**2, 20, 24, dtype=torch.bool), torch.rand(1, len(blocks), 1, 1).expand(1, -1, 20, 24)
    ours = block_equations(views, reach, blocks, likeness)
    theirs = [normal_equations(views[:, :, None], block[None, :, None, None].expand(1, -1, 20, 24))[:3] for block in blocks]
    for k in range(3):
        assert torch.allclose(ours[k], torch.stack([weight * part[k] for weight, part in zip(likeness[0, :, 0, 0], theirs)]).mean(0), atol=1e-5)


def test_a_block_has_no_say_near_what_it_shows_otherwise_nor_where_a_view_is_missing():
    torch.manual_seed(0)
    views, blocks = torch.rand(1, 25, 24, 24), ViewEvidence(5).blocks
    reach, likeness = torch.ones(1, 25, 24, 24, dtype=torch.bool), torch.zeros(1, 4, 24, 24)
    likeness[:, 0] = 1
    likeness[:, 0, 12, 12] = 0
    reach[:, 0, 0] = False  # a view of block 0
    a, _, s = block_equations(views, reach, blocks, likeness)
    silent = (a == 0)[0, 0]
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[12 - BLOCK_EDGE:13 + BLOCK_EDGE, 12 - BLOCK_EDGE:13 + BLOCK_EDGE] = True
    expected[:1 + BLOCK_EDGE] = True
    assert torch.equal(silent, expected) and torch.equal(s[0, 0] == 0, expected)


def test_blocks_of_another_colour_have_no_say():
    """The upper third of the views shows something a little brighter, a pixel nearer."""
    disp, net = 0.37, DeoccNet(4, 9)
    views = 0.05 * (plane(disp, n=9) - 0.5)
    views[:, :27] = 0.05 * (plane(disp + 1, n=9)[:, :27] - 0.5) + 0.1
    equations, _ = net.equations(views, torch.full((1, 40, 40), disp), views[:, 40])
    a, b, _ = (part[..., 8:-8, 8:-8].sum() for part in equations[-1])
    assert abs((b / a).item()) < 0.03


@pytest.mark.parametrize("off", [-0.4, 0.4])
def test_blocks_find_the_way_from_farther_off(off):
    """On a rough picture, where what the outermost views see is pixels away and unlike."""
    disp, net = 0.37, DeoccNet(4, 9)
    torch.manual_seed(0)
    picture, views = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 82, 82), 3, 1, 1), []
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for n in range(81):
        rows, cols = y + 9 - (4 - n // 9) * disp, x + 9 - (4 - n % 9) * disp
        views.append(torch.nn.functional.grid_sample(picture, torch.stack([(2 * cols + 1) / 82 - 1, (2 * rows + 1) / 82 - 1], -1)[None], "bicubic", align_corners=False)[0])
    views = 3 * (torch.stack(views)[None] - 0.5)
    equations, _ = net.equations(views, torch.full((1, 64, 64), disp - off), views[:, 40])
    inside = (0, 0, slice(12, -12), slice(12, -12))
    colours, details, blocks = ((b[inside].sum() / a[inside].sum()).item() for a, b, _ in equations)
    assert abs(blocks - off) < 0.1 < min(abs(colours - off), abs(details - off))


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
