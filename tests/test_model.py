import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import plane
from einops import rearrange

from lfkit import DeoccNet, compute_bad_pix, get_disp_distribution, get_parameter_number, load_pretrained, synthesize, training_loss, weights_init_xavier
from lfkit.evidence import block_sums
from lfkit.layers import Hourglass, bilateral
from lfkit.losses import DistributionCrossEntropy
from lfkit.model import FINE, JOLT, OUTLINE_REACH, SCALES, SMOOTH, CloserLook, OutlineLook, SecondLook, ask, extremes, jolts, mix, revised
from lfkit.sweep import look_closer


@pytest.mark.parametrize("views_num, size, max_disp, step", [(3, (17, 5), 4, 1), (5, (8, 8), 2, 0.5), (9, (1, 9), 4, 1), (7, (10, 13), 1, 1)])
def test_shapes_and_distributions(views_num, size, max_disp, step):
    net = DeoccNet(4, views_num, max_disp, step)
    both, background, depth_map = net(torch.rand(2, views_num**2, 3, *size))
    levels = int(2 * max_disp / step) + 1
    assert both.shape == background.shape == (2, levels, *size) and depth_map.shape == (2, *size)
    for distribution in (both, background):
        assert torch.allclose(distribution.sum(1), torch.ones(2, *size), atol=1e-5) and distribution.min() >= 0
    assert depth_map.abs().max() <= max_disp + step


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


@pytest.mark.parametrize("off", [-0.2, -0.05, 0.1])
def test_the_network_measures_how_far_off_an_estimate_is(off):
    """On a faint picture read at estimates too far and too near; the blocks' colour, which is subtracted on the way, must not take the picture's slopes with it."""
    disp, net = 0.37, DeoccNet(4, 5)
    x = 0.2 * (plane(disp) - 0.5)
    equations, _ = net.equations(x, torch.full((1, 40, 40), disp - off), x[:, 12])
    inside = (0, 0, slice(8, -8), slice(8, -8))
    for k, (a, b, *_) in enumerate(equations):  # the third set, of blocks, has a sixth of the others' baseline
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
    colours, *details = (abs((b[inside].sum() / a[inside].sum()).item()) for a, b, *_ in equations)
    assert max(details) < 0.05 < 0.1 < colours
    rivals = net.cost_volume(views)[1][0].unflatten(1, (-1, 5))[:, 0, :, 8:-8, 8:-8]  # 'd k h w', the narrowest windows
    right = [float((net.fine_levels[kind.argmin(0)] == disp).float().mean()) for kind in rivals.unbind(1)]
    assert min(right[3:]) > 0.9 > 0.6 > right[0]


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
        used, net.jolt = net.stages(x), 0.0
        assert torch.equal(used["depth_map"], net.stages(x)["depth_map"])
    for name in ("first", "second"):
        assert torch.equal(jolted[name], plain[name])
    assert not torch.allclose(jolted["third"], plain["third"], atol=1e-3)


def half_turned(x):
    """Views 'b n c h w' of the half turned scene: views and pixels in reverse."""
    return x.flip(1, -2, -1)


@pytest.mark.parametrize("views_num", [3, 5, 7, 9])
def test_a_network_in_use_asks_its_hourglasses_about_both_ways(views_num, monkeypatch):
    torch.manual_seed(0)
    net, x = DeoccNet(8, views_num, 2).eval(), torch.rand(1, views_num**2, 3, 24, 32)
    def by_hand(hourglass, evidence, context, features, after, order):
        one, other = (None, None) if features is None else features.chunk(2)
        inputs = lambda evidence, features, turn: hourglass(torch.cat([*map(turn, (*evidence, *context)), *([] if features is None else [features]), *map(turn, after)], 1))
        (plain, own), (turned, theirs) = inputs(evidence, one, lambda p: p), inputs([part[:, order] for part in evidence], other, lambda p: p.flip(-2, -1))
        turned = torch.cat([turned[:, :-9], turned[:, -9:].flip(1)], 1).flip(-2, -1)
        return (plain + turned) / 2, torch.cat([own, theirs])
    with torch.inference_mode():
        ours = net(x)[2]
        monkeypatch.setattr("lfkit.model.ask", by_hand)
        assert torch.allclose(ours, net(x)[2], atol=1e-4)


@pytest.mark.parametrize("views_num", [3, 5, 9])
def test_the_evidence_of_a_half_turned_light_field_is_the_same_in_another_order(views_num):
    net, x, disp = DeoccNet(4, views_num), torch.rand(1, views_num**2, 3, 16, 24) - 0.5, torch.rand(1, 16, 24)
    middle = views_num**2 // 2
    turned = net.look(half_turned(x), disp.flip(-2, -1), half_turned(x)[:, middle])[0].flip(-2, -1)
    own = net.look(x, disp, x[:, middle])[0]
    assert torch.allclose(turned, own[:, net.evidence.half_turn], atol=1e-3)
    assert torch.allclose(turned, own, atol=0.1) == (views_num == 3)  # which has one block


@pytest.mark.parametrize("widths", [([3], [1], [2, 1]), ([3, 3], [2], [])])  # of evidence, context and what stands after the features: a closer look's, and with evidence of two candidates
@pytest.mark.parametrize("order", [[2, 1, 0], [0, 0, 2]])  # of the second, as of few views, two groups are the same
def test_the_later_looks_say_the_mean_over_a_light_field_as_it_comes_and_half_turned(widths, order):
    torch.manual_seed(0)
    hourglass = Hourglass(9, 12, 4).eval()
    turn = lambda part: part.flip(-2, -1)
    evidence, context, after = ([torch.rand(1, f, 8, 12) for f in widths] for widths in widths)
    evidence = [part[:, order] if order[0] == order[1] else part for part in evidence]
    order = torch.tensor(order)
    earlier = torch.rand(2, 9 - sum(sum(part) for part in widths), 8, 12)  # as it comes, and half turned
    half_turned_evidence = [turn(part[:, order]) for part in evidence]
    with torch.no_grad():
        ours, features = ask(hourglass, evidence, context, earlier, after, order)
        plain, own = ask(hourglass, evidence, context, earlier[:1], after, None)
        turned, other = hourglass(torch.cat([*half_turned_evidence, *map(turn, context), earlier[1:], *map(turn, after)], 1))
        again, _ = ask(hourglass, half_turned_evidence, [*map(turn, context)], earlier.flip(0), [*map(turn, after)], order)
    assert torch.allclose(ours[:, :3], (plain + turned.flip(-2, -1))[:, :3] / 2, atol=1e-6)
    assert torch.allclose(ours[:, 3], (plain[:, 3] + turned[:, -1].flip(-2, -1)) / 2, atol=1e-6)  # the neighbour above to the left is now the one below to the right
    assert torch.allclose(features, torch.cat([own, other]), atol=1e-6)
    assert torch.allclose(again[:, :3], ours[:, :3].flip(-2, -1), atol=1e-6) and torch.allclose(again[:, 3:], ours[:, 3:].flip(1, -2, -1), atol=1e-6)


def test_a_closer_look_taken_twice_in_use_moves_only_what_is_not_at_its_place(monkeypatch):
    net, x = load_pretrained(), torch.from_numpy(synthesize(8, 48).lf).float().div(255).flatten(0, 1).movedim(-1, 1)[None]
    with torch.inference_mode():
        twice = net.stages(x)
        monkeypatch.setattr("lfkit.model.REPEATED", None)
        once = net.stages(x)
    assert torch.equal(twice["third"], once["third"])
    move = (twice["fourth"] - once["fourth"]).abs()
    assert 0.02 < (move > 0).float().mean() < 0.9


def test_a_repeated_look_counts_as_far_as_it_moves_and_so_do_its_features(monkeypatch):
    net, told = DeoccNet(4, 3).eval(), []
    moves = torch.tensor([0.02, -0.0375, 0.05, -1.0]).repeat(6).expand(16, 24)  # of a scale of 0.15: nothing to 0.025, all from 0.05
    def closer(equations, evidence, context, features, disp, where, scale, half_turn):
        told.append((disp, features[:, -1]))
        return disp + moves * (len(told) == 3), torch.full((2, net.closer_look.hourglass.features, *disp.shape[-2:]), float(len(told)))
    monkeypatch.setattr(net.closer_look, "forward", closer)
    with torch.no_grad():
        net(torch.rand(1, 9, 3, 16, 24))
    share = torch.tensor([0.0, 0.5, 1.0, 1.0]).repeat(6).expand(16, 24)
    assert torch.allclose(told[3][0] - told[2][0], share * moves, atol=1e-5)  # the third is the repeated one
    assert torch.allclose(told[3][1], torch.stack([2 + share, 2 + share.flip(-2, -1)]), atol=1e-4)


def test_training_asks_each_closer_look_once_and_for_the_light_field_as_it_comes(monkeypatch):
    net, asked = DeoccNet(4, 3), []
    monkeypatch.setattr(net.closer_look.hourglass, "gather", lambda x, f=net.closer_look.hourglass.gather: asked.append(len(x)) or f(x))
    for training in (True, False):
        net.train(training)(torch.rand(1, 9, 3, 16, 16))
    assert asked == [1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("factor, pooling", [(1.5, 16), (2, 8)])
def test_enlarged_views_agree_at_the_enlarged_disparity_and_what_is_found_there_comes_back(factor, pooling, monkeypatch):
    """Smooth views of a plane at a known disparity, against the same formula at finer places; a slope that the looks report, against itself."""
    disp, net, asked = 0.4, DeoccNet(4, 3, 2, 1.0).eval(), []
    net.enlarge = factor
    row, col = torch.arange(32.0)[:, None], torch.arange(48.0)
    seen_at = lambda row, col: 0.5 + 0.2 * torch.sin(0.35 * row + 0.2) + 0.2 * torch.cos(0.3 * col)
    x = torch.stack([seen_at(row - u * disp, col - v * disp) for u in (1, 0, -1) for v in (1, 0, -1)])[None, :, None].expand(-1, -1, 3, -1, -1)
    def again(views, first, context, scales=SCALES):
        asked.append((views, first, context))
        assert scales == SCALES[len(asked) - 1:]
        return 4 * [first if len(asked) > 1 else torch.full_like(first, disp)], context
    monkeypatch.setattr(net, "look_again", again)
    monkeypatch.setattr(net, "look_at_outlines", lambda views, found, before, apart: found + factor * 0.01 * ((torch.arange(found.shape[-1]) + 0.5) / factor - 0.5))
    with torch.inference_mode():
        depth_map = net(x)[2]
    (_, _, before), (views, first, context) = asked
    assert net.pooling == pooling and views.shape[-2:] == (32 * factor, 48 * factor)
    assert torch.allclose(first, torch.full_like(first, factor * disp))
    finer = lambda side: (torch.arange(side * factor) + 0.5) / factor - 0.5
    expected = seen_at(finer(32)[:, None], finer(48)) - 0.5
    read = look_closer(views, first)[0]
    inner = (..., slice(6, -6), slice(6, -6))
    assert (read - expected)[inner].abs().max() < 4e-3 and (views - expected)[inner].abs().max() > 0.05
    means = lambda part: part.mean((0, 2, 3))
    assert torch.allclose(means(context)[-4:-1], factor * means(before)[-4:-1], atol=1e-5) and torch.allclose(means(context)[:-4], means(before)[:-4], atol=2e-2)
    assert torch.allclose(depth_map[..., 4:-4], (disp + 0.01 * col).expand(1, 32, -1)[..., 4:-4], atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (24, 40)])
@pytest.mark.parametrize("factor", [1.5, 2])
def test_enlarged_views_may_have_any_size_and_are_as_bright_as_before(size, factor, monkeypatch):
    torch.manual_seed(0)
    net, seen, asked = DeoccNet(4, 3, 2, 1.0).eval(), [], []
    net.enlarge = factor
    monkeypatch.setattr(net, "look_again", lambda x, *others, f=net.look_again: seen.append(x) or f(x, *others))
    monkeypatch.setattr(net.closer_look.hourglass, "gather", lambda x, f=net.closer_look.hourglass.gather: asked.append(len(x)) or f(x))
    with torch.inference_mode():
        both, background, depth_map = net(torch.rand(1, 9, 3, *size).round())
    assert depth_map.shape == (1, *size) and both.shape == background.shape == (1, 5, *size)
    assert all(torch.isfinite(out).all() for out in (both, background, depth_map))
    assert seen[1].shape[-1] == factor * seen[0].shape[-1] and seen[1].abs().max() <= 0.5
    assert asked == 4 * [2] + 2 * [2]  # the repeated one is repeated at the views' own size alone


@pytest.mark.parametrize("enlarge", [1, 1.5])
def test_no_estimate_lies_further_than_half_a_level_beyond_the_last(enlarge, monkeypatch):
    net = DeoccNet(4, 3, 2, 1.0).eval()
    net.enlarge = enlarge
    monkeypatch.setattr(net, "look_at_outlines", lambda x, disp, before, apart=False: torch.full_like(disp, 9.0))
    with torch.inference_mode():
        assert (net(torch.rand(1, 9, 3, 16, 16))[2] == 2.5).all()


@pytest.mark.parametrize("enlarge", [1, 1.5])
def test_the_last_look_can_be_kept_apart_in_use_as_well(enlarge, monkeypatch):
    torch.manual_seed(0)
    net = DeoccNet(4, 3, 2, 1.0).eval()
    net.enlarge = enlarge
    def again(x, *others, f=net.look_again):
        estimates, before = f(x, *others)
        return [*estimates[:-1], estimates[-1] + (torch.arange(x.shape[-1]) > 8)], before  # an outline, without which there is nothing to decide
    monkeypatch.setattr(net, "look_again", again)
    net(torch.rand(1, 9, 3, 16, 16), earlier=True)[2].sum().backward()
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()} == {"outline_look"}


def test_views_are_enlarged_in_use_alone():
    torch.manual_seed(0)
    net, x, maps = DeoccNet(4, 3, 2, 1.0), torch.rand(1, 9, 3, 16, 16), {}
    for enlarge in (1, 1.5, 2):
        net.enlarge = enlarge
        for training in (True, False):
            with torch.no_grad():
                maps[enlarge, training] = net.train(training)(x, earlier=True)[2:]
            assert net.pooling == (16 if enlarge == 1.5 and not training else 8)
    assert all(torch.equal(a, b) for a, b in zip(maps[1, True], maps[1.5, True]))
    for enlarge in (1.5, 2):
        assert all(torch.equal(a, b) for a, b in zip(maps[1, False][1:], maps[enlarge, False][1:])) and not torch.allclose(maps[1, False][0], maps[enlarge, False][0], atol=1e-3)
    assert repr(net) != repr(DeoccNet(4, 3, 2, 1.0))  # by which what is measured of a network is kept
    net.enlarge = 1.3
    with pytest.raises(ValueError, match="enlarge must be 1, 1.5 or 2: got 1.3"):
        net.eval()(x)


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
    a, none, full = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    better, _ = look([(a, a * 0.04, a, full), (a, a * 0.01, a, full), (a, none, a, full)], none, none[:, :0], none, torch.full((1, 40, 40), 1.0), torch.full((1, 40, 40), 1.0), 0.1)
    assert torch.allclose(better, torch.full_like(better, 1 + 0.05 * 7 / 22), atol=1e-4)  # 1 of the 22 choices is to stay


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
    assert seen["evidence"].shape == (2, 9, net.evidence.features, 14, 11)
    assert torch.equal(seen["depth_map"], depth_map)
    assert [part.shape for part in net(x, earlier=True)[3:]] == [(2, 14, 11)] * 5 and torch.equal(net(x, earlier=True)[4], seen["second"])
    at_levels = lambda p: p[:, ::2] + 0.5 * (torch.nn.functional.pad(p[:, 1::2], (0, 0, 0, 0, 0, 1)) + torch.nn.functional.pad(p[:, 1::2], (0, 0, 0, 0, 1, 0)))
    first = [at_levels(seen[name]) for name in ("both", "background")]
    for given, expected in zip((both, background), revised(*first, get_disp_distribution(depth_map, 2, 1))):
        assert given.shape == (2, 5, 14, 11) and torch.allclose(given, expected, atol=1e-6)
    with torch.inference_mode():
        learned = net.train()(x)
    assert all(torch.allclose(given, expected, atol=1e-6) for given, expected in zip(learned, first))  # what training sees is the first look's own


def one_pixel(*values):
    return torch.tensor(values)[None, :, None, None]


def test_the_last_estimate_takes_the_backgrounds_place_and_leaves_the_occluder():
    """Occluder at the last level, background taken for the first level; the last look found it at the second."""
    both, background, estimate = one_pixel(0.45, 0.05, 0.0, 0.5), one_pixel(0.9, 0.1, 0.0, 0.0), one_pixel(0.0, 1.0, 0.0, 0.0)
    for share, expected in ((1.0, ((0.0, 0.5, 0.0, 0.5), (0.0, 1.0, 0.0, 0.0))),
                            (0.5, ((0.225, 0.275, 0.0, 0.5), (0.45, 0.55, 0.0, 0.0))),
                            (0.0, ((0.45, 0.05, 0.0, 0.5), (0.9, 0.1, 0.0, 0.0)))):
        for given, wanted in zip(revised(both, background, estimate, share), expected):
            assert torch.allclose(given, one_pixel(*wanted))


def test_where_nothing_hides_the_background_both_distributions_are_the_last_estimates():
    same, estimate = one_pixel(0.5, 0.5, 0.0), one_pixel(0.0, 0.25, 0.75)
    assert all(torch.allclose(given, estimate) for given in revised(same, same, estimate, 1.0))


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


@pytest.mark.parametrize("wrong", [{"views_num": 8}, {"views_num": 1}, {"views_num": 9.0}, {"max_disp": 4, "step": 3}, {"channels": 2}, {"channels": 4.5}])
def test_bad_sizes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeoccNet(**{"channels": 4} | wrong)


def test_bad_input(model):
    with pytest.raises(ValueError, match=r"'b n c h w' with n = 81 views and c = 3 colours, and at least one pixel: got shape \(1, 80, 3, 8, 8\)"):
        model(torch.zeros(1, 80, 3, 8, 8))
    with pytest.raises(ValueError, match=r"at least one pixel: got shape \(1, 81, 3, 0, 8\)"):
        model(torch.zeros(1, 81, 3, 0, 8))
    with pytest.raises(ValueError, match=r"float32 in \[0, 1\]: got torch.uint8; divide bytes by 255"):
        model(torch.zeros(1, 81, 3, 8, 8, dtype=torch.uint8))
    for kind in (torch.float64, torch.float16):
        with pytest.raises(ValueError, match=rf"got {kind}; .* pass x.float\(\)"):
            model(torch.zeros(1, 81, 3, 8, 8, dtype=kind))


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


@pytest.mark.parametrize("least", [1e-5, 5.0])
def test_a_closer_look_hears_how_sure_each_window_is(least):
    """Four times the variance left is log 4 / 3 more doubt, in its set's last features alone; on a clean, rough surface as on a faint one."""
    look, heard = CloserLook(1, 1, 8), []
    look.hourglass.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    a, none, full, flat = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40), torch.ones(1, 40, 40)
    for left in (least, 4 * least):
        look([(a, none, a * 0.1, full), (a, none, a * 0.1, full), (a, none, left * full, full)], none, none[:, :0], none, flat, flat, 0.15)
    change = (heard[1] - heard[0]).mean((0, 2, 3))
    assert torch.equal(change[:-5], torch.zeros_like(change[:-5])) and torch.allclose(change[-5:], torch.tensor(math.log(4) / 3), atol=0.02)


def test_blocks_of_another_colour_have_no_say():
    """The upper third of the views shows something a little brighter, a pixel nearer."""
    disp, net = 0.37, DeoccNet(4, 9)
    views = 0.05 * (plane(disp, n=9) - 0.5)
    views[:, :27] = 0.05 * (plane(disp + 1, n=9)[:, :27] - 0.5) + 0.1
    equations, _ = net.equations(views, torch.full((1, 40, 40), disp), views[:, 40])
    a, b, *_ = (part[..., 8:-8, 8:-8].sum() for part in equations[-1])
    assert abs((b / a).item()) < 0.03


@pytest.mark.parametrize("off", [-0.4, 0.4])
def test_blocks_find_the_way_from_farther_off(off):
    """On a rough picture, where what the outermost views see is pixels away and unlike: hardly any view is believed, and colours and detail correct next to nothing."""
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
    colours, details, blocks = ((b[inside].sum() / a[inside].sum()).item() for a, b, *_ in equations)
    assert abs(blocks - off) < 0.1 and max(abs(colours), abs(details)) < 0.1


def test_the_last_look_takes_the_least_and_greatest_estimate_around():
    disp = torch.rand(1, 12, 14, generator=torch.Generator().manual_seed(0))
    found = extremes(disp, OUTLINE_REACH)
    for y, x in ((0, 0), (5, 6), (11, 13), (3, 12)):
        around = disp[0, max(0, y - 3):y + 4, max(0, x - 3):x + 4]
        assert found[0, :, y, x].tolist() == [around.min().item(), around.max().item()]


@pytest.mark.parametrize("choice, expected", [(0, "own"), (1, "least"), (2, "greatest")])
def test_the_last_look_goes_where_its_scores_are_highest(choice, expected):
    """A head of biases alone, on estimates that differ by far more than the spacing."""
    look = OutlineLook(3, 2, 8)
    torch.nn.init.zeros_(look.head.weight)
    torch.nn.init.zeros_(look.head.bias)
    look.head.bias.data[choice] = 200
    disp = 4.0 * (torch.rand(1, 8, 8) > 0.5)
    candidates = extremes(disp, OUTLINE_REACH)
    given = look([torch.rand(1, 3, 8, 8)] * 2, torch.rand(1, 2, 8, 8), disp, candidates, torch.rand(1, 3, 8, 8), 0.5)
    wanted = {"own": disp, "least": candidates[:, 0], "greatest": candidates[:, 1]}[expected]
    assert torch.allclose(given, wanted, atol=1e-6) and candidates[:, 0].ne(candidates[:, 1]).any()


@pytest.mark.parametrize("gap, share", [(0.0, 0), (0.2, 0), (0.25, 0), (0.3, 0.2), (0.4, 0.6), (0.5, 1), (3.0, 1)])
def test_the_last_look_changes_nothing_where_there_is_no_outline(gap, share):
    """A head that wants the greatest estimate gets it where that lies a spacing of 0.5 away, none of it from half of that on."""
    look = OutlineLook(3, 2, 8)
    torch.nn.init.zeros_(look.head.weight)
    look.head.bias.data[:] = torch.tensor([0.0, 0.0, 200.0])
    disp = torch.rand(1, 8, 8)
    given = look([torch.rand(1, 3, 8, 8)] * 2, torch.rand(1, 2, 8, 8), disp, torch.stack([disp, disp + gap], 1), torch.rand(1, 3, 8, 8), 0.5)
    assert torch.allclose(given, disp + share * gap, atol=1e-5)


def test_where_each_look_has_a_loss_of_its_own_the_last_ones_stays_with_it():
    torch.manual_seed(2)
    net, x = DeoccNet(4, 3, 2, 1), torch.rand(1, 9, 3, 16, 16)
    learn = lambda disp: {name.split(".")[0] for name, grad in zip(dict(net.named_parameters()), torch.autograd.grad(disp.square().sum(), list(net.parameters()), allow_unused=True)) if grad is not None and grad.any()}
    assert learn(net(x, earlier=True)[2]) == {"outline_look"}
    assert "outline_look" not in learn(net(x, earlier=True)[7]) and "closer_look" in learn(net(x, earlier=True)[7])
    assert {"outline_look", "closer_look", "second_look"} <= learn(net(x)[2])


def test_the_last_look_compares_each_blocks_colour_with_the_centre_views():
    """Two walls read at their own disparity of 0: of a hidden pixel the blocks' mean colours, ten times their difference from the centre's, within 4."""
    net = DeoccNet(4, 3, 2, 1)
    x = torch.full((1, 9, 3, 8, 8), 0.1)
    x[:, 4] = 0.2  # the centre view alone sees something else
    apart = net.look_apart(x, torch.zeros(1, 8, 8), x[:, 4])[:, net.evidence.features:]
    assert apart.shape == (1, 3, 8, 8) and torch.allclose(apart, torch.full_like(apart, 10 * ((8 * 0.1 + 0.2) / 9 - 0.2)), atol=1e-5)
    x[:, 4] = 0.9
    assert net.look_apart(x, torch.zeros(1, 8, 8), x[:, 4])[:, net.evidence.features:].min() == -4


def test_a_lower_floor_tells_fainter_differences():
    """Views of two brightnesses, 0.004 apart, against views that are alike: a little by the usual floor, several times as much by the fine one, of the group and of the least of the blocks."""
    net, gaps = DeoccNet(4, 3, 2, 1), []
    for evidence in (net.evidence, net.fine_evidence):
        scores = []
        for step in (0.0, 0.004):
            x = torch.full((1, 9, 3, 8, 8), 0.1)
            x[:, ::2] += step
            scores.append(evidence(block_sums(x, torch.ones(1, 9, 8, 8), net.evidence.members), x[:, 4])[0][0, [0, len(evidence.groups)], 4, 4])
        gaps.append((scores[1] - scores[0]).tolist())
    variance = 0.004**2 * 5 * 4 / 9 / 8
    expected = np.array([[np.log(1 + variance / floor) / 2, np.log(1 + variance / floor / 2) / 2] for floor in (2e-5, 2e-6)])  # the least one has the floor twice
    assert np.allclose(gaps, expected, atol=0.02) and (expected[1] > 3 * expected[0]).all()


def test_the_last_map_is_smoothed_in_use_and_not_while_training(monkeypatch):
    model, x = DeoccNet(4, 3, 1, 1).eval(), torch.rand(1, 9, 3, 13, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        smooth = model(x)[2]
        monkeypatch.setattr("lfkit.model.bilateral", lambda disp, *how: disp)
        plain = model(x)[2]
    padded = F.pad(x, (0, 0, 0, 3, 0, 0), mode="replicate")
    with torch.inference_mode():
        whole = model(padded)[2]
    assert torch.equal(whole[:, :13], plain) and not torch.equal(smooth, plain)
    assert torch.equal(smooth, model.bounded(bilateral(whole, *SMOOTH))[:, :13])
    monkeypatch.setattr("lfkit.model.bilateral", lambda disp, *how: 1 / 0)
    model.train()(x)
