import pytest
import torch

from lfkit import DeoccNet, get_parameter_number, training_loss, weights_init_xavier
from lfkit.losses import DistributionCrossEntropy
from lfkit.model import CloserLook, SecondLook, ViewEvidence, ViewSweep, cubic_weights, look_closer, mix, normal_equations, window_mean


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
    shifted = ViewSweep(views, 2 * 4).at(float(d)).reshape(1, n * n, 3, 20, 20)
    inside = (slice(None), slice(None), slice(None), slice(8, 12), slice(8, 12))
    assert torch.equal(shifted[inside], views[:, 12:13].expand_as(shifted)[inside])
    assert not torch.allclose(ViewSweep(views, 8).at(-2.0).reshape(shifted.shape)[inside], shifted[inside])


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


def look(evidence, views, reach=None, centre=None):
    """The evidence for one pixel whose views have the colours 'n c'."""
    reach = torch.ones(len(views)) if reach is None else reach
    centre = views[len(views) // 2] if centre is None else centre
    return evidence((views * reach[:, None])[None, :, :, None, None], reach[None, :, None, None], centre[None, :, None, None])[0, :, 0, 0]


def score(variance):
    return (float(torch.log(variance + 2e-5)) + 6) / 2


def test_evidence_of_groups_is_the_log_variance_of_the_views_that_reach_the_pixel():
    torch.manual_seed(0)
    evidence, views, reach = ViewEvidence(5), torch.rand(25, 3), torch.ones(25)
    reach[[0, 7, 24]] = 0
    out = look(evidence, views, reach)
    assert len(out) == evidence.features == 4 + 4 + 2 + 8
    for value, group in zip(out, evidence.groups):
        members = views[(group > 0) & (reach > 0)].double()
        assert float(value) == pytest.approx(score(members.var(0).mean()), abs=1e-4)
    assert float(out[-1]) == pytest.approx(22 / 25)
    few = torch.zeros(25)
    few[12] = 1
    assert (look(evidence, views, few)[:10] == 0).all()


def test_blocks_of_like_colour_are_gathered_and_the_occluded_ones_left_out():
    """Rows 0 to 2 see a plain red background, rows 3 and 4 a colourful occluder; 2 of 4 blocks lie in rows 0 to 2."""
    torch.manual_seed(0)
    evidence, red = ViewEvidence(5), torch.tensor([0.9, 0.1, 0.1])
    views = red.repeat(25, 1)
    views[15:] = torch.rand(10, 3)
    least, between, share, apart, *colour, reached = look(evidence, views)[10:].tolist()
    assert torch.allclose(torch.tensor(colour), red - 0.5, atol=1e-3) and reached == pytest.approx(1)
    assert share == pytest.approx(0.5, abs=0.05) and least < -1 and between == pytest.approx(score(torch.tensor(0.0)), abs=0.1)
    assert apart == pytest.approx(score(torch.tensor(0.0)), abs=0.1)
    hidden = look(evidence, views, centre=torch.tensor([0.1, 0.9, 0.1]))
    assert float(hidden[13]) == pytest.approx(score(torch.tensor((0.64 + 0.64) / 3)), abs=0.02)


def test_a_closer_look_reads_each_view_where_the_pixel_is_seen():
    """A disparity of its own at every pixel, against the sweep's shift by whole and half pixels."""
    torch.manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(75, 1, 32, 32), 3, 1, 1).reshape(1, 25, 3, 32, 32)
    disp = torch.where(torch.arange(32)[None, None] < 16, 1.0, -0.5).expand(1, 32, 32)
    views, reach = look_closer(x, disp)
    for d, columns in ((1.0, slice(0, 16)), (-0.5, slice(16, 32))):
        swept = ViewSweep(x, 4).at(d).reshape(1, 25, 3, 32, 32)
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
    x = torch.rand(1, 9, 3, 320, 320)
    changed = x.clone()
    changed[..., :4, :4] = 0
    with torch.inference_mode():
        for a, b in zip(net(x), net(changed)):
            assert torch.equal(a[..., 280:, 280:], b[..., 280:, 280:]) and not torch.equal(a, b)


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


@pytest.mark.parametrize("off", [-0.05, 0.0, 0.05])
def test_normal_equations_say_how_far_off_a_disparity_is(off):
    net, disp = DeoccNet(4, 5), 0.37
    x = plane(disp)
    a, b, _ = net.equations(x, torch.full((1, 40, 40), disp - off), 0.15, x[:, 12])
    correction = (b / a)[0, 0, 8:-8, 8:-8]
    assert correction.median() == pytest.approx(off, abs=0.015)


def test_normal_equations_against_least_squares():
    """A straight line through each channel, common slope in the disparity, fitted by numpy's solver."""
    import numpy as np
    torch.manual_seed(0)
    before, after, weights, apart = torch.rand(1, 7, 3, 1, 1), torch.rand(1, 7, 3, 1, 1), torch.rand(1, 7, 1, 1), 0.2
    a, b = normal_equations((before + after) / 2, (after - before) / apart, weights)
    colour, change, root = ((before + after) / 2)[0, :, :, 0, 0].numpy(), ((after - before) / apart)[0, :, :, 0, 0].numpy(), weights[0, :, 0, 0].numpy() ** 0.5
    # colour + change * correction = one colour a channel: unknowns are the correction and three colours
    rows = [np.concatenate([[change[n, c] * root[n]], -np.eye(3)[c] * root[n]]) for n in range(7) for c in range(3)]
    values = [-colour[n, c] * root[n] for n in range(7) for c in range(3)]
    expected = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][0]
    assert (b / a).item() == pytest.approx(expected, rel=1e-4)


def test_hidden_views_have_no_say_in_the_normal_equations():
    torch.manual_seed(0)
    colour, change, weights = torch.rand(1, 8, 3, 1, 1), torch.rand(1, 8, 3, 1, 1), torch.rand(1, 8, 1, 1)
    weights[:, 5:] = 0
    short = normal_equations(colour[:, :5], change[:, :5], weights[:, :5])
    for ours, theirs in zip(normal_equations(colour, change, weights), short):
        assert torch.allclose(ours, theirs, rtol=1e-4)


def test_window_means_are_those_of_the_part_inside():
    x = torch.rand(1, 2, 9, 7)
    for side in (1, 3, 5):
        ours, r = window_mean(x, side), side // 2
        assert torch.allclose(ours[0, 1, 4, 3], x[0, 1, 4 - r:5 + r, 3 - r:4 + r].mean()) and torch.allclose(ours[0, 0, 0, 6], x[0, 0, :1 + r, 6 - r:].mean())


def test_the_second_look_considers_what_its_neighbours_found():
    disp = torch.zeros(1, 16, 16)
    disp[..., 8:] = 2.0
    less, own, more, least, greatest = SecondLook.candidates(disp, 0.5).unbind(1)
    assert torch.equal(own, disp) and torch.allclose(less, disp - 0.3) and torch.allclose(more, disp + 0.3)
    assert (least[..., :12] == 0).all() and (least[..., 12:] == 2).all() and (greatest[..., 4:] == 2).all() and (greatest[..., :4] == 0).all()


def test_a_closer_look_at_rest_gathers_corrections_and_estimates():
    """With a head of zeros every choice counts the same: no change, each window's correction and each wide window's mean estimate."""
    look = CloserLook(1, 1, 8)
    torch.nn.init.zeros_(look.hourglass.head.weight)
    torch.nn.init.zeros_(look.hourglass.head.bias)
    a, none = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 1, 40, 40)
    better, _ = look(a, a * 0.04, none, none, torch.full((1, 40, 40), 1.0), torch.full((1, 40, 40), 1.0), 0.1)
    assert torch.allclose(better, torch.full_like(better, 1 + 0.04 * 8 / 9), atol=1e-5)  # 1 of the 9 choices is to stay


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
    assert seen["volume"].shape == (2, 9, net.evidence.features, 14, 11)
    assert torch.equal(seen["depth_map"], depth_map)
    assert [part.shape for part in net(x, earlier=True)[3:]] == [(2, 14, 11)] * 3 and torch.equal(net(x, earlier=True)[4], seen["second"])
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
