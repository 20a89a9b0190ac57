import numpy as np
import pytest
import torch
from conftest import plane

from lfkit.equations import BLOCK_EDGE, FEW, LEAST_SHARE, SLOPE, TRUST_FLOOR, block_equations, differences, normal_equations, plane_fit, trusted, window_correction
from lfkit.evidence import ViewEvidence
from lfkit.sweep import look_closer


@pytest.mark.parametrize("off", [-0.2, -0.05, 0.0, 0.05, 0.2])
def test_normal_equations_say_how_far_off_a_disparity_is(off):
    disp = 0.37
    views, reach = look_closer(plane(disp) - 0.5, torch.full((1, 40, 40), disp - off))
    ((a, b, s, share),) = normal_equations(reach.float(), (views, None))
    correction = (b / a)[0, 0, 8:-8, 8:-8]
    assert correction.median() == pytest.approx(off, abs=0.015 + 0.1 * abs(off))
    assert ((s - b * b / a)[0, 0, 8:-8, 8:-8].mean() < 0.1 * s[0, 0, 8:-8, 8:-8].mean()) == (abs(off) > 0.1)  # the correction explains what differs, if that is more than the reading's own error
    assert torch.allclose(share[..., 8:-8, 8:-8], torch.tensor(1.0))


def test_normal_equations_against_least_squares():
    """Common correction and one colour a channel, fitted by numpy's solver at one pixel with the slopes of its own views, each as far as all pixels of its slopes are believed."""
    torch.manual_seed(0)
    views, weights = torch.rand(1, 9, 3, 9, 9), torch.rand(1, 9, 9, 9)
    ((a, b, s, share),) = normal_equations(weights, (views, None))
    believed, values = weights[0, :, 2:7, 2:7].amin((1, 2)).numpy(), views[0].numpy()
    taps = np.array([1, -8, 0, 8, -1]) / 12
    dy, dx = (np.einsum("n,nck,k->c", believed, part, taps) / believed.sum() for part in (values[:, :, 2:7, 4], values[:, :, 4, 2:7]))
    rows, right = [], []
    for n in range(9):
        u, v = 1 - n // 3, 1 - n % 3
        for c in range(3):  # colour - e (o . slope) = view
            rows.append(np.concatenate([[-(u * dy[c] + v * dx[c])], np.eye(3)[c]]) * believed[n] ** 0.5)
            right.append(values[n, c, 4, 4] * believed[n] ** 0.5)
    (expected, *_), (left,), *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    at = (0, 0, 4, 4)
    b = b * (1 + LEAST_SHARE / share)  # without those that say that nothing is to be corrected
    assert (b / a)[at].item() == pytest.approx(expected, rel=1e-3)
    assert (s - b * b / a)[at].item() == pytest.approx(left / 3 / believed.sum(), rel=1e-3)
    assert share[at].item() == pytest.approx(believed.mean(), rel=1e-5)


def test_other_views_from_pixel_to_pixel_make_no_slope():
    """A sky of hardly any slope, seen by other views in every column, the views' exposures a little different: what is seen to move is the sky, not the views that come and go."""
    off, slope = 0.2, 0.004
    x, o = torch.arange(40.0), 2 - torch.arange(5.0)
    sky = 0.5 + slope * (x - o[:, None] * off)  # read at a disparity too low by `off`
    views = (sky[None, :, None] + 0.02 * torch.tensor([1.0, -1, 1, -1, 0])[:, None, None, None]).expand(5, 5, 24, 40).reshape(1, 25, 1, 24, 40)
    weights = torch.ones(5, 5, 24, 40)
    for column in range(40):
        weights[(column // 8) % 4, :, :, column] = 0  # a row of views, another one every eight columns
    ((a, b, _, share),) = normal_equations(weights.reshape(1, 25, 24, 40), (views, None))
    correction = (b / a)[0, 0, 4:-4, 4:-4]
    assert torch.allclose(correction, torch.tensor(off), atol=2e-3)
    assert float(share[0, 0, 12, 12]) == pytest.approx(0.8) and float(share[0, 0, 12, 16]) == pytest.approx(0.6)  # beside the change both rows have no say


def test_hidden_views_have_no_say_in_the_normal_equations():
    torch.manual_seed(0)
    views, weights = torch.rand(1, 9, 3, 8, 8), torch.rand(1, 9, 8, 8)
    weights[:, 5:] = 0
    changed = views.clone()
    changed[:, 5:] = 7
    for ours, theirs in zip(*normal_equations(weights, (views, None), (changed, None))):
        assert torch.allclose(ours, theirs)


def test_a_near_colour_changes_no_equation():
    torch.manual_seed(0)
    views, weights, near = torch.rand(1, 9, 3, 8, 8), torch.rand(1, 9, 8, 8), torch.rand(1, 3, 8, 8)
    for plain, apart in zip(*normal_equations(weights, (views, None), (views, near))):
        assert torch.allclose(plain, apart, atol=1e-5)


def test_a_near_colour_keeps_the_digits_of_a_faint_picture():
    """A thousandth of contrast on a bright colour: the variance is a millionth of the squares that it is a difference of."""
    torch.manual_seed(0)
    views, weights, near = 0.9 + 0.001 * torch.randn(1, 25, 3, 12, 12), torch.ones(1, 25, 12, 12), torch.full((1, 3, 12, 12), 0.9)
    exact = views.double().var(1, correction=0).mean(1, keepdim=True)
    far, close = (float((s.double() / exact - 1).abs().max()) for _, _, s, _ in normal_equations(weights, (views, None), (views, near)))
    assert close < 1e-3 < 1e-2 < far


def test_slopes_are_exact_on_a_cubic():
    y, x = torch.meshgrid(torch.arange(12.0) / 6, torch.arange(10.0) / 5, indexing="ij")
    dy, dx = (SLOPE * along for along in differences((y**3 - 2 * y * x + x**2)[None, None]))
    inside = (0, 0, slice(2, -2), slice(2, -2))
    assert torch.allclose(dy[inside], ((3 * y**2 - 2 * x) / 6)[2:-2, 2:-2], atol=1e-5) and torch.allclose(dx[inside], ((2 * x - 2 * y) / 5)[2:-2, 2:-2], atol=1e-5)


@pytest.mark.parametrize("cell, side", [(4, 3), (8, 5)])
def test_a_plane_is_fitted_to_uneven_weights(cell, side):
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    truth, weight = (0.5 + 0.02 * y - 0.01 * x)[None, None], torch.rand(1, 1, 64, 64) + 0.05
    fitted, level = plane_fit(weight, weight * truth, cell, side), (truth * weight).mean() / weight.mean()
    assert (fitted - truth)[..., 16:-16, 16:-16].abs().max() < 3e-3 < 0.1 * (truth - level).abs().mean()


def test_a_plane_far_from_the_first_pixel_is_the_same_to_the_last_digits():
    torch.manual_seed(0)
    weight = torch.rand(1, 1, 64, 2048) ** 8 + 1e-12
    target = weight * torch.randn(1, 1, 64, 2048)
    whole, crop = plane_fit(weight, target, 8, 5)[..., -64:], plane_fit(weight[..., -128:], target[..., -128:], 8, 5)[..., -64:]
    assert float((whole - crop).abs().max()) < 1e-5


def test_one_view_that_agrees_with_itself_is_not_trusted():
    nothing = torch.zeros(1, 1, 1, 2)
    *_, weight, certain = trusted((nothing, nothing, nothing, torch.tensor([1.0, 0.01]).reshape(1, 1, 1, 2))).split(1, 1)
    assert certain.flatten().tolist() == pytest.approx([TRUST_FLOOR / (TRUST_FLOOR + FEW), TRUST_FLOOR / (TRUST_FLOOR + 100 * FEW)])
    assert torch.allclose(weight, certain * torch.tensor([1.0, 0.01]))


def test_a_window_says_how_sure_its_correction_is():
    """Views of one picture with independent noise, read at the truth: the corrections scatter as far as the equations claim."""
    for share in (1.0, 0.5):  # half the views say the same half as surely
        by_hand = window_correction(trusted(tuple(torch.full((1, 1, 8, 8), value) for value in (0.5, 0.3, 0.3, share))), 1, 3)
        assert [float(part[0, 0, 4, 4]) for part in by_hand] == pytest.approx([0.6, 0.5, (0.3 - 0.3**2 / 0.5) / share], abs=1e-5)
    torch.manual_seed(0)
    picture = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 3, 100, 100).flatten(0, 1), 5, 1, 2)[:, None]
    views = picture + 0.05 * torch.randn(1, 25, 3, 100, 100)
    (equations,) = normal_equations(torch.ones(1, 25, 100, 100), (views, None))
    for side in (1, 3, 7):
        change, energy, left = (part[0, 0, 8:-8, 8:-8] for part in window_correction(trusted(equations), 1, side))
        claimed = (left / energy / (25 * 3 * side**2)).sqrt()  # three colours' noise
        assert float((change / claimed).square().mean().sqrt()) == pytest.approx(1, abs=0.25)
        assert float(left.mean()) == pytest.approx(0.05**2, rel=0.1)


def test_what_a_correction_leaves_unexplained_has_little_say_in_a_window():
    a, b, s, share = (torch.full((1, 1, 16, 16), value) for value in (0.02, 0.002, 0.0002, 1.0))  # a correction of 0.1 that explains all
    b[..., :5], s[..., :5] = -0.006, 0.1 + 0.0018  # of -0.3, which leaves 0.1
    assert float(trusted((a, b, s, share))[0, 4, 0, 0]) == pytest.approx(TRUST_FLOOR / (0.1 + TRUST_FLOOR + FEW), rel=1e-3)
    change, _, left = window_correction(trusted((a, b, s, share)), 4, 3)
    assert float(change[0, 0, 8, 8]) == pytest.approx(0.1, abs=1e-3) and float(left[0, 0, 8, 8]) < 1e-5
    share[..., 5:] = 0  # whom nobody sees has no say, however well explained
    assert float(window_correction(trusted((a, b, s, share)), 4, 3)[0][0, 0, 8, 4]) == pytest.approx(-0.3, abs=0.02)
    share[:] = 0
    change, energy, left = window_correction(trusted((a, b, s, share)), 4, 3)
    assert float(change.abs().max()) == 0 and float((left / energy).min()) > 100


@pytest.mark.parametrize("views_num", [5, 9])
def test_block_equations_are_each_blocks_normal_equations(views_num):
    torch.manual_seed(0)
    views, blocks = torch.rand(1, views_num**2, 20, 24), ViewEvidence(views_num).blocks
    reach, likeness = torch.ones(1, views_num**2, 20, 24, dtype=torch.bool), torch.rand(1, len(blocks), 1, 1).expand(1, -1, 20, 24)
    ours = block_equations(views, reach, blocks, likeness)
    theirs = [normal_equations(block[None, :, None, None].expand(1, -1, 20, 24), (views[:, :, None], None))[0] for block in blocks]
    say = likeness[0, :, 0, 0]
    for k in range(3):
        plain = 1 + LEAST_SHARE * views_num**2 / 9 if k == 1 else 1  # without those that say that nothing is to be corrected
        assert torch.allclose(ours[k], torch.stack([weight * plain * part[k] for weight, part in zip(say / say.sum(), theirs)]).sum(0), atol=1e-5)
    assert torch.allclose(ours[3], say.mean())


def test_a_block_has_no_say_near_what_it_shows_otherwise_nor_where_a_view_is_missing():
    torch.manual_seed(0)
    views, blocks = torch.rand(1, 25, 24, 24), ViewEvidence(5).blocks
    reach, likeness = torch.ones(1, 25, 24, 24, dtype=torch.bool), torch.zeros(1, 4, 24, 24)
    likeness[:, 0] = 1
    likeness[:, 0, 12, 12] = 0
    reach[:, 0, 0] = False  # a view of block 0
    a, _, s, share = block_equations(views, reach, blocks, likeness)
    silent = (share == 0)[0, 0]
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[12 - BLOCK_EDGE:13 + BLOCK_EDGE, 12 - BLOCK_EDGE:13 + BLOCK_EDGE] = True
    expected[:1 + BLOCK_EDGE] = True
    assert torch.equal(silent, expected) and torch.equal(s[0, 0] == 0, expected) and torch.equal(a[0, 0] == 0, expected)
