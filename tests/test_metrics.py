import numpy as np
import pytest
import torch

from lfkit import compute_bad_pix, compute_mse

GT = np.zeros((3, 3))
PRED = np.array([[0.0, 0.07, 0.08], [-0.08, 0.5, 0.0], [1.0, 0.0, 0.07]])


def test_three_by_three_by_hand():
    # squares: 0 + .0049 + .0064 + .0064 + .25 + 0 + 1 + 0 + .0049 = 1.2726 over 9; above .07: .08, -.08, .5, 1
    assert compute_mse(PRED, GT, border=0) == pytest.approx(1.2726 / 9)
    assert compute_bad_pix(PRED, GT, border=0) == pytest.approx(100 * 4 / 9)


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
    with pytest.raises(ValueError, match="a map of 22 x 40 pixels is too small for a border of 11.*border=10 or less"):
        metric(np.zeros((22, 40)), np.zeros((22, 40)))
    with pytest.raises(ValueError, match="mask has shape"):
        metric(GT, GT, border=0, mask=np.ones((2, 2)))
    with pytest.raises(ValueError, match="no pixel"):
        metric(GT, GT, border=0, mask=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="1 NaN pixels of 9"):
        metric(np.where(PRED == 0.5, np.nan, PRED), GT, border=0)
