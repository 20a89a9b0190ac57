import numpy as np
import pytest
import torch
from conftest import plane

from lfkit.equations import BLOCK_EDGE, block_equations, normal_equations, plane_fit, slopes, window_correction
from lfkit.evidence import ViewEvidence
from lfkit.sweep import look_closer


@pytest.mark.parametrize("off", [-0.2, -0.05, 0.0, 0.05, 0.2])
def test_normal_equations_say_how_far_off_a_disparity_is(off):
    disp = 0.37
    views, reach = look_closer(plane(disp) - 0.5, torch.full((1, 40, 40), disp - off))
    a, b, s, mean = normal_equations(views, reach.float())
    correction = (b / a)[0, 0, 8:-8, 8:-8]
    assert correction.median() == pytest.approx(off, abs=0.015 + 0.1 * abs(off))
    assert ((s - b * b / a)[0, 0, 8:-8, 8:-8].mean() < 0.1 * s[0, 0, 8:-8, 8:-8].mean()) == (abs(off) > 0.1)  # the correction explains what differs, if that is more than the reading's own error
    assert torch.allclose(mean[..., 8:-8, 8:-8], plane(disp)[:, 12, :, 8:-8, 8:-8] - 0.5, atol=0.03)


def test_normal_equations_against_least_squares():
    """Common correction and one colour a channel, fitted by numpy's solver at one pixel with the slopes of the mean picture."""
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
