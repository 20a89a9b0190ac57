import numpy as np
import pytest
import torch
from torch import nn

from lfkit import get_disp_distribution, training_loss
from lfkit.losses import CRITERIA, DISP_CRITERIA, EARLIER_WEIGHT, DistributionCrossEntropy, L1Huber, LogError, at_outlines

WEIGHTS = {"loss1_weight": 1.0, "loss2_weight": 10.0, "loss3_weight": 100.0}


def setup(fg, bg):
    torch.manual_seed(0)
    both, background = (torch.rand(2, 9, 3, 4).softmax(1).requires_grad_() for _ in range(2))
    depth_map = torch.rand(2, 3, 4).requires_grad_()
    return (both, background, depth_map), torch.full((2, 3, 4), fg), torch.full((2, 3, 4), bg)


def test_three_terms_by_hand():
    outputs, fg, bg = setup(2.5, -1.0)
    loss, report = training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    target_s = np.zeros(9)
    target_s[3] = 1
    target_t = np.zeros(9)
    target_t[[3, 6, 7]] = 0.5, 0.25, 0.25
    both, background, depth_map = (o.detach().numpy() for o in outputs)
    expected = (np.abs(both - target_t[None, :, None, None]).mean(), np.abs(background - target_s[None, :, None, None]).mean(),
                np.abs(depth_map + 1).mean())
    assert [report[k] for k in ("loss1", "loss2", "loss3")] == pytest.approx(expected, rel=1e-5)
    assert float(loss.detach()) == report["loss"] == pytest.approx(expected[0] + 10 * expected[1] + 100 * expected[2], rel=1e-5)
    assert report["out_of_range"] == 0


def test_pixels_outside_the_levels_are_left_out_and_counted():
    outputs, fg, bg = setup(2.0, -1.0)
    inside = training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    bg_out, fg_out = bg.clone(), fg.clone()
    bg_out[0, 0, 0], fg_out[1, 1, 1] = -7.0, 9.0
    loss, report = training_loss(outputs, fg_out, bg_out, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    assert report["out_of_range"] == pytest.approx(100 * 2 / 24) and report["loss3"] != inside[1]["loss3"]
    loss.backward()
    both, background, depth_map = outputs
    assert depth_map.grad[0, 0, 0] == 0 and depth_map.grad[1, 1, 1] != 0
    assert (both.grad[0, :, 0, 0] == 0).all() and (both.grad[1, :, 1, 1] == 0).all() and (background.grad[1, :, 1, 1] != 0).any()


def test_hidden_pixels_are_counted_again():
    outputs, fg, bg = setup(2.0, -1.0)
    fg[:, 1:] = -1.0  # only the first row is hidden
    plain, more = (training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1, weight)[1] for weight in (0.0, 0.5))
    hidden = training_loss(tuple(o[..., :1, :] for o in outputs), fg[:, :1], bg[:, :1], nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)[1]
    for name in ("loss1", "loss2", "loss3"):
        assert more[name] == pytest.approx(plain[name] + 0.5 * hidden[name], rel=1e-5)


def test_outlines_are_counted_again_beside_hidden_pixels():
    outputs, fg, bg = setup(-1.0, -1.0)
    bg[..., 2:], fg[..., 3:] = 0.0, 1.0  # the outline lies between columns 1 and 2; column 3 is hidden
    plain, more = (training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1, *weights)[1] for weights in ((0.0, 0.0), (0.25, 0.5)))
    part = lambda columns: training_loss(tuple(o[..., columns] for o in outputs), fg[..., columns], bg[..., columns], nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)[1]
    for name in ("loss1", "loss2", "loss3"):
        assert more[name] == pytest.approx(plain[name] + 0.25 * part(slice(3, 4))[name] + 0.5 * part(slice(1, 3))[name], rel=1e-5)


def test_outlines_by_a_loop_over_pixels():
    disp = torch.from_numpy(np.random.default_rng(0).choice([0.0, 0.3, 0.7, 1.0], (2, 6, 7), p=[0.7, 0.1, 0.1, 0.1]))
    found = at_outlines(disp)
    for b, y, x in np.ndindex(*disp.shape):
        around = disp[b, max(y - 1, 0):y + 2, max(x - 1, 0):x + 2]
        assert found[b, y, x] == (around.max() - around.min() > 0.5)
    assert 0.1 < found.float().mean() < 0.9


def test_nothing_in_range_is_no_nan():
    outputs, fg, bg = setup(9.0, -9.0)
    loss, report = training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    loss.backward()
    assert loss.item() == 0 and report["out_of_range"] == 100 and torch.isfinite(outputs[2].grad).all()


def test_cross_entropy_is_least_at_the_target():
    target = get_disp_distribution(torch.tensor([[[0.3, -2.0]]]))[0, :, 0].T
    criterion = DistributionCrossEntropy()
    assert float(criterion(target, target)) == pytest.approx(-(0.3 * np.log(0.3) + 0.7 * np.log(0.7)) / 2, rel=1e-4)
    for other in (target.roll(1, 1), torch.full_like(target, 1 / 9)):
        assert criterion(other, target) > criterion(target, target)


def test_jensen_shannon_by_hand_and_at_its_bounds():
    p, q = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([[0.25, 0.25, 0.5], [0.0, 0.5, 0.5]], dtype=torch.float64)
    by_hand = (0.5 * np.log(0.5 / 0.375) + 0.25 * np.log(0.25 / 0.375)) / 2 * 2  # both halves are alike
    criterion = CRITERIA["js"]()
    assert float(criterion(p[:1], q[:1])) == pytest.approx(by_hand, rel=1e-6)
    assert float(criterion(p, q)) == pytest.approx((by_hand + np.log(2)) / 2, rel=1e-4)  # nothing in common: log 2
    assert float(criterion(p, p)) == pytest.approx(0, abs=1e-5)
    sure = p.clone().requires_grad_()
    criterion(sure, q).backward()
    assert torch.isfinite(sure.grad).all() and sure.grad[0, 2] < 0 < sure.grad[0, 0]


@pytest.mark.parametrize("name", CRITERIA)
def test_every_loss_on_distributions_is_least_at_the_target(name):
    target, criterion = torch.tensor([[0.1, 0.6, 0.3]]), CRITERIA[name]()
    for other in ([0.2, 0.5, 0.3], [0.1, 0.5, 0.4], [0.3, 0.1, 0.6], [0.0, 1.0, 0.0]):
        assert criterion(torch.tensor([other]), target) > criterion(target, target)


def test_bad_input():
    outputs, fg, bg = setup(1.0, 0.0)
    with pytest.raises(ValueError, match="differ in shape"):
        training_loss(outputs, fg[:, :2], bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    with pytest.raises(ValueError, match="weights lacks loss2_weight"):
        training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), {"loss1_weight": 1, "loss3_weight": 1}, 4, 1)


def test_earlier_maps_are_trained_beside_the_last():
    outputs, fg, bg = setup(2.0, -1.0)
    earlier = [torch.full((2, 3, 4), value, requires_grad=True) for value in (0.5, -3.0)]
    alone, report = training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    loss, _ = training_loss((*outputs, *earlier), fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
    assert float(loss.detach()) == pytest.approx(float(alone.detach()) + 100 * EARLIER_WEIGHT * (1.5 + 2.0), rel=1e-5)
    loss.backward()
    assert (earlier[0].grad > 0).all() and (earlier[1].grad < 0).all()
    assert report["loss3"] == pytest.approx(float((outputs[2] + 1).abs().mean().detach()), rel=1e-5)  # the last map's alone


def test_the_logarithmic_error_by_hand():
    pred, target = torch.tensor([0.0, 0.5, -2.0], requires_grad=True), torch.tensor([0.0, 0.4, 1.0])
    loss = LogError()(pred, target)
    assert float(loss.detach()) == pytest.approx(0.1 * (np.log(2) + np.log(31)) / 3, rel=1e-4)
    loss.backward()
    assert pred.grad[1] / -pred.grad[2] == pytest.approx(31 / 2, rel=1e-3)  # an error of 3 px pulls less than one of 0.1 px


def test_l1_and_huber_by_hand():
    pred, target = torch.tensor([0.0, 0.5, -2.0]), torch.tensor([0.0, 0.0, 1.0])
    assert float(L1Huber()(pred, target)) == pytest.approx((0.5 + 3 + 8 * (0.125 + 2.5)) / 3)


@pytest.mark.parametrize("share, gap, least", [(0.4, 1.0, 0.375), (0.25, 0.8, 0.1375), (0.1, 1.0, 0.0)])  # share * gap - (1 - 2 * share) / 8, from the derivative by hand
def test_l1_and_huber_is_least_between_two_likely_surfaces_and_on_one_that_is_all_but_sure(share, gap, least):
    grid = torch.linspace(0, gap, 2001)
    expected = lambda criterion: torch.stack([(1 - share) * criterion(x, torch.zeros(())) + share * criterion(x, torch.tensor(gap)) for x in grid])
    assert float(grid[expected(L1Huber()).argmin()]) == pytest.approx(least, abs=1e-3)
    assert float(grid[expected(nn.L1Loss()).argmin()]) == 0


def test_earlier_maps_stay_on_a_surface_while_the_last_lies_between():
    outputs, fg, bg = setup(2.0, -1.0)
    earlier = torch.full((2, 3, 4), 0.5)
    with_earlier, without = (training_loss((*outputs, *maps), fg, bg, L1Huber(), nn.L1Loss(), WEIGHTS, 4, 1)[0] for maps in ((earlier,), ()))
    assert (with_earlier - without).item() == pytest.approx(100 * EARLIER_WEIGHT * 0.1 * np.log(16), rel=1e-4)


@pytest.mark.parametrize("name, expected", [("l1", 0.5), ("log", 0.1 * np.log(6)), ("l1_huber", 0.5 + 8 * 0.125)])
def test_each_name_is_of_its_own_loss(name, expected):
    assert float(DISP_CRITERIA[name]()(torch.full((3,), 0.5), torch.zeros(3))) == pytest.approx(expected)


def test_a_hidden_pixel_outside_the_levels_counts_nowhere():
    outputs, fg, bg = setup(2.0, -1.0)
    earlier = torch.zeros(2, 3, 4, requires_grad=True)
    bg[0, 0, 0] = -9.0  # hidden, and beyond the levels
    loss, _ = training_loss((*outputs, earlier), fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1, 1.0)
    loss.backward()
    for out in (*outputs[1:], earlier):
        gradient = out.grad.reshape(2, -1, 3, 4)
        assert (gradient[0, :, 0, 0] == 0).all() and (gradient[0, :, 0, 1] != 0).any()


def test_distributions_of_other_levels_are_refused():
    outputs, fg, bg = setup(1.0, 0.0)
    with pytest.raises(ValueError, match=r"with d = 17 levels and the size of depth_map \(2, 3, 4\): got \(2, 9, 3, 4\) .* pass the max_disp and step"):
        training_loss(outputs, fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 0.5)
    with pytest.raises(ValueError, match=r"the size of depth_map \(2, 3, 4\): got \(2, 9, 2, 4\)"):
        training_loss((outputs[0][:, :, :2], *outputs[1:]), fg, bg, nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)
