import numpy as np
import pytest
import torch

from lfkit import compute_bad_pix, compute_mse
from lfkit.metrics import BENCHMARK_BORDER, BORDER, compute_nll, compute_peaks, compute_quantile, compute_scores, compute_sparsification, fitting_border

GT = np.zeros((3, 3))
PRED = np.array([[0.0, 0.07, 0.08], [-0.08, 0.5, 0.0], [1.0, 0.0, 0.07]])


def test_three_by_three_by_hand():
    # squares: 0 + .0049 + .0064 + .0064 + .25 + 0 + 1 + 0 + .0049 = 1.2726 over 9; above .07: .08, -.08, .5, 1
    assert compute_mse(PRED, GT, border=0) == pytest.approx(1.2726 / 9)
    assert compute_bad_pix(PRED, GT, border=0) == pytest.approx(100 * 4 / 9)


def test_borders_are_the_notes_and_the_toolkits():
    assert (BORDER, BENCHMARK_BORDER) == (11, 15)


def test_threshold_is_strict():
    quarter = np.full((1, 1), 0.25)
    assert compute_bad_pix(quarter, 0 * quarter, threshold=0.25, border=0) == 0
    assert compute_bad_pix(quarter, 0 * quarter, threshold=0.2499, border=0) == 100


def test_border_and_mask():
    pred, gt = np.zeros((30, 26)), np.zeros((30, 26))
    pred[:11] = pred[:, -11:] = 9.0
    assert compute_mse(pred, gt) == 0
    pred[11, 11] = 1.0
    assert compute_mse(pred, gt) == pytest.approx(1 / (8 * 4))
    mask = np.zeros_like(gt, dtype=bool)
    mask[11, 11:13] = True
    assert compute_bad_pix(pred, gt, mask=mask) == 50


def test_half_precision_is_compared():
    assert compute_mse(torch.full((3, 3), 0.5).bfloat16(), torch.zeros(3, 3), border=0) == 0.25


def test_tensors_and_arrays_agree():
    rng = np.random.default_rng(0)
    pred, gt = rng.normal(size=(2, 40, 37)).astype(np.float32)
    brute = [(float(pred[y, x]) - float(gt[y, x])) for y in range(11, 29) for x in range(11, 26)]
    assert compute_mse(torch.from_numpy(pred), torch.from_numpy(gt)) == pytest.approx(sum(e * e for e in brute) / len(brute))
    assert compute_bad_pix(torch.from_numpy(pred).requires_grad_(), gt) == pytest.approx(100 * sum(abs(e) > 0.07 for e in brute) / len(brute))


@pytest.mark.parametrize("metric", [compute_mse, compute_bad_pix])
def test_bad_input(metric):
    with pytest.raises(ValueError, match=r"pred and gt differ in shape: \(64, 64, 1\) and \(64, 64\); pass both as 'h w'"):
        metric(np.zeros((64, 64, 1)), np.zeros((64, 64)))
    with pytest.raises(ValueError, match="must be 'h w' maps"):
        metric(np.zeros((1, 64, 64)), np.zeros((1, 64, 64)))
    with pytest.raises(ValueError, match="a map of 22 x 40 pixels is too small for a border of 11.*border=10 .--border. or less"):
        metric(np.zeros((22, 40)), np.zeros((22, 40)))
    with pytest.raises(ValueError, match="border must be a whole number of pixels: got 2.0"):
        metric(GT, GT, border=2.0)
    with pytest.raises(ValueError, match="mask has shape"):
        metric(GT, GT, border=0, mask=np.ones((2, 2)))
    with pytest.raises(ValueError, match="no pixel"):
        metric(GT, GT, border=0, mask=np.zeros((3, 3)))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 NaN or infinite pixels of 9"):
            metric(np.where(PRED == 0.5, value, PRED), GT, border=0)


def test_quantile_takes_the_toolkits_place():
    # sorted |errors|: 0 0 0 .07 .07 .08 .08 .5 1; floor(9 * .25) = 2 -> 0; floor(9 * .5) = 4 -> .07 (an interpolated percentile agrees); floor(9 * .75) = 6
    assert [compute_quantile(PRED, GT, p, border=0) for p in (25, 50, 75)] == pytest.approx([0, 7, 8])
    four = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert compute_quantile(four, 0 * four, border=0) == 100  # place 1; an interpolated percentile would be 75
    with pytest.raises(ValueError, match=r"percent must lie in \[0, 100\): got 100"):
        compute_quantile(four, four, 100, border=0)


def test_scores_by_hand():
    # above .03: the two .07, the two .08, .5 and 1
    assert compute_scores(PRED, GT, border=0) == pytest.approx(
        {"mse_x100": 127.26 / 9, "bad_pix": 400 / 9, "bad_pix_003": 600 / 9, "bad_pix_001": 600 / 9, "q25": 0.0})
    mask = np.zeros((3, 3), bool)
    mask[1, :2] = True  # errors -.08 and .5
    assert compute_scores(PRED, GT, 0, mask) == pytest.approx({"mse_x100": 12.82, "bad_pix": 100, "bad_pix_003": 100, "bad_pix_001": 100, "q25": 8})


# levels -1, 0, 1; three pixels
BOTH = np.array([[[0.5, 0.0, 0.2]], [[0.0, 1.0, 0.3]], [[0.5, 0.0, 0.5]]])


def test_pixels_that_a_mask_leaves_out_may_be_unknown():
    fg, bg, mask = np.array([[1.0, np.nan, 1.0]]), np.array([[-1.0, np.nan, -1.0]]), np.array([[True, False, True]])
    filled = np.nan_to_num(fg), np.nan_to_num(bg)
    assert compute_peaks(BOTH, fg, bg, 1, 1, 0, mask) == compute_peaks(BOTH, *filled, 1, 1, 0, mask)
    assert compute_nll(BOTH, bg, 1, 1, 0, mask) == compute_nll(BOTH, filled[1].tolist(), 1, 1, 0, mask)
    with pytest.raises(ValueError, match="has 1 NaN or infinite pixels of 3; mask them out"):
        compute_nll(BOTH, bg, 1, 1, 0)


def test_peaks_by_hand():
    fg, bg = np.array([[1.0, 0.4, 1.0]]), np.array([[-1.0, -1.0, -1.0]])
    # pixel 0: peaks at -1 and 1, both layers; pixel 1: one peak at 0, within half a step of the front at .4, the back is missed;
    # pixel 2: one peak, at level 1, its disparity (.3 * 0 + .5 * 1) / .8 = .625, the front's 1 is .375 away; level 0 is lower than 1: the back is missed
    recall, precision = compute_peaks(BOTH, fg, bg, 1, 1, border=0)
    assert recall == pytest.approx(100 * 4 / 6) and precision == 100
    # the front further away than half a step: pixel 1's peak stands for no layer
    recall, precision = compute_peaks(BOTH, np.array([[1.0, 0.6, 1.0]]), bg, 1, 1, border=0)
    assert recall == pytest.approx(100 * 3 / 6) and precision == 75
    assert compute_peaks(BOTH, fg, bg, 1, 1, border=0, mask=np.array([[True, False, False]])) == (100, 100)
    assert compute_peaks(BOTH / 10, fg, bg, 1, 1, border=0, mask=np.array([[True, False, False]])) == (0, 100)  # no peak has the mass


def test_negative_log_likelihood_by_hand():
    gt = np.array([[1.0, 0.25, -0.5]])
    # densities: .5; 3/4 * 1 + 1/4 * 0; 1/2 * .2 + 1/2 * .3
    assert compute_nll(BOTH, gt, 1, 1, border=0) == pytest.approx(-np.log([0.5, 0.75, 0.25]).mean())
    assert compute_nll(BOTH, np.array([[1.0, 5.0, 7.0]]), 1, 1, border=0) == pytest.approx(-np.log(0.5))  # outside the levels
    assert compute_nll(BOTH, np.array([[0.0, 0.0, 0.0]]), 1, 1, border=0, mask=np.array([[True, False, False]])) == pytest.approx(-np.log(1e-12))
    with pytest.raises(ValueError, match="no true disparity lies within the levels, -1 to 1"):
        compute_nll(BOTH, np.full((1, 3), 5.0), 1, 1, border=0)
    with pytest.raises(ValueError, match="has 3 levels, expected 5"):
        compute_nll(BOTH, gt, 1, 0.5, border=0)


def test_the_likelihoods_density_integrates_to_1_whatever_the_step():
    mass = np.array([0.0, 0.2, 0.5, 0.3, 0.0])[:, None, None]
    truths = np.linspace(-1, 1, 4001)
    densities = [np.exp(-compute_nll(mass, np.full((1, 1), t), 1, 0.5, border=0)) for t in truths[::40]]
    assert np.trapezoid(densities, truths[::40]) == pytest.approx(1, abs=1e-3)


def test_sparsification_by_hand():
    gt, pred = np.zeros((1, 4)), np.array([[4.0, 3.0, 2.0, 1.0]])
    perfect = compute_sparsification(pred, gt, pred, border=0, steps=4)
    assert perfect["oracle"].tolist() == perfect["error"].tolist() == [2.5, 2.0, 1.5, 1.0] and perfect["area"] == 0
    worst = compute_sparsification(pred, gt, -pred, border=0, steps=4)
    assert worst["error"].tolist() == [2.5, 3.0, 3.5, 4.0] and worst["removed"].tolist() == [0, 0.25, 0.5, 0.75]
    # differences 0, 1, 2, 3: trapezoids (.5 + 1.5 + 2.5) / 4, over the mean 2.5
    assert worst["area"] == pytest.approx(4.5 / 4 / 2.5)
    assert compute_sparsification(gt, gt, pred, border=0)["area"] == 0


def test_pixels_of_equal_doubt_leave_together():
    """Doubts of 1 and 0 over errors 4, 2 and 3, 1: those of the first leave as two of 3, which of them comes first in the map does not count."""
    gt, pred, doubt = np.zeros((1, 4)), np.array([[4.0, 2.0, 3.0, 1.0]]), np.array([[1.0, 1.0, 0.0, 0.0]])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]):
        curve = compute_sparsification(pred[:, order], gt, doubt[:, order], border=0, steps=4)["error"]
        assert curve.tolist() == pytest.approx([2.5, (2 + 2 + 3) / 3, 2, 2])


@pytest.mark.parametrize("size, steps, kept", [(75, 50, 42), (10, 50, 3)])
def test_as_many_pixels_are_kept_as_the_share_says(size, steps, kept):
    """28/50 of 75 is 42, 15/50 of 10 is 3; one error of 1 among those that stay shows how many they are."""
    pred = np.zeros((1, size))
    pred[0, 0] = 1
    curve = compute_sparsification(pred, np.zeros((1, size)), np.arange(size)[None], border=0, steps=steps)["error"]
    assert curve[22 if size == 75 else 35] == pytest.approx(1 / kept)


@pytest.mark.parametrize("call, sentence", [
    (lambda: compute_peaks(BOTH, np.zeros((1, 3)), np.zeros((1, 2)), 1, 1, 0), r"fg_disp and bg_disp differ in shape: \(1, 3\) and \(1, 2\)"),
    (lambda: compute_peaks(BOTH[:, :, :2], np.zeros((1, 3)), np.zeros((1, 3)), 1, 1, 0), r"the distribution has shape \(3, 1, 2\), the maps \(1, 3\)"),
    (lambda: compute_nll(BOTH, np.zeros((1, 3)), 1, 1, 0, np.zeros((1, 3))), "the mask leaves no pixel inside the border of 0"),
        (lambda: compute_bad_pix(GT, GT, np.nan, 0), "threshold must be 0 or more pixels per view step: got nan"),
    (lambda: compute_nll(np.where(BOTH == 1, np.nan, BOTH), np.zeros((1, 3)), 1, 1, 0), "the distribution has 1 NaN or infinite values of 9"),
    (lambda: compute_peaks(np.where(BOTH == 0.5, np.nan, BOTH), np.ones((1, 3)), np.zeros((1, 3)), 1, 1, 0), "the distribution has 3 NaN or infinite values of 9"),
    (lambda: compute_sparsification(GT, GT, np.zeros((2, 2)), 0), r"doubt has shape \(2, 2\), gt \(3, 3\)"),
])
def test_bad_layers(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def framed(small, value):
    """A map 'h w', or a distribution 'd h w', with a border of one pixel of another value around it."""
    return np.pad(small, [(0, 0)] * (small.ndim - 2) + [(1, 1), (1, 1)], constant_values=value)


def test_a_border_and_a_mask_take_the_same_pixels_of_both_layers_and_of_the_doubt():
    fg, bg, mask = np.array([[1.0, 0.4, 1.0]]), np.full((1, 3), -1.0), np.array([[True, True, False]])
    inside = {"border": 1, "mask": framed(mask, True)}
    # pixel 0 has both layers, pixel 1 the front alone
    assert compute_peaks(framed(BOTH, 1 / 3), framed(fg, 0.0), framed(bg, 0.0), 1, 1, **inside) == (75, 100)
    assert compute_nll(framed(BOTH, 1 / 3), framed(np.array([[1.0, 0.25, -0.5]]), 0.0), 1, 1, **inside) == pytest.approx(-np.log([0.5, 0.75]).mean())
    pred, doubt = np.array([[3.0, 1.0, 9.0]]), np.array([[0.0, 1.0, 0.5]])
    found = compute_sparsification(framed(pred, 5.0), framed(0 * pred, 0.0), framed(doubt, 7.0), steps=2, **inside)
    assert found["error"].tolist() == [2, 3] and found["oracle"].tolist() == [2, 1]


def test_a_peak_stands_for_a_layer_within_half_a_step():
    mass = np.array([0, 0, 0, 1.0, 0])[:, None, None]  # at 0.5 of the levels -1, -0.5 ... 1
    for front, found in ((0.7, 50), (0.8, 0)):
        assert compute_peaks(mass, np.full((1, 1), front), np.full((1, 1), -1.0), 1, 0.5, border=0)[0] == found


def test_the_likelihood_leaves_out_truth_below_the_levels_too():
    assert compute_nll(BOTH, np.array([[1.0, -5.0, -7.0]]), 1, 1, border=0) == pytest.approx(-np.log(0.5))


def test_of_three_pixels_two_are_kept_where_half_is_removed():
    found = compute_sparsification(np.array([[1.0, 2.0, 6.0]]), np.zeros((1, 3)), np.array([[1.0, 2.0, 3.0]]), border=0, steps=2)
    assert found["error"].tolist() == pytest.approx([3, 1.5])


def test_a_small_map_keeps_its_middle():
    assert [fitting_border(shape) for shape in ((40, 23), (22, 90), (17, 17), (2, 16, 17), (1, 1))] == [11, 10, 8, 7, 0] and fitting_border((40, 40), 15) == 15
