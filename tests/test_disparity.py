import numpy as np
import pytest
import torch

from lfkit import disp_expectation, disparity_levels, get_disp_distribution, inside_levels, nearest_peak
from lfkit.disparity import disp_deviation, find_peaks


def test_arrays_are_taken_as_tensors_are():
    distribution = get_disp_distribution(np.array([[[0.3, -1.2]]], np.float32))
    for read in (disp_expectation, nearest_peak):
        assert torch.equal(read(distribution.numpy()), read(distribution))


def test_nine_levels_by_default():
    assert disparity_levels().tolist() == [-4, -3, -2, -1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("max_disp, step, count", [(4, 0.5, 17), (2, 0.1, 41), (1, 1, 3), (3, 1.5, 5)])
def test_level_count(max_disp, step, count):
    levels = disparity_levels(max_disp, step)
    assert len(levels) == count and levels[0] == -max_disp and levels[-1] == pytest.approx(max_disp)


@pytest.mark.parametrize("max_disp, step", [(4, 3), (0, 1), (4, -1), (0.4, 1), (float("nan"), 1)])
def test_levels_that_do_not_divide(max_disp, step):
    with pytest.raises(ValueError, match="max_disp"):
        disparity_levels(max_disp, step)


def test_an_array_that_is_turned_around():
    disp = np.float32([[[0.5, -1.25]]])
    assert torch.equal(get_disp_distribution(disp[..., ::-1]), get_disp_distribution(disp).flip(-1))


@pytest.mark.parametrize("step", [1, 0.5, 0.25])
def test_expectation_gives_the_disparity_back(step):
    disp = torch.linspace(-4, 4, 4 * 1001).reshape(1, 4, 1001)
    distribution = get_disp_distribution(disp, 4, step)
    assert distribution.shape == (1, int(8 / step) + 1, 4, 1001)
    assert torch.allclose(distribution.sum(1), torch.ones_like(disp), atol=1e-5)
    assert torch.allclose(disp_expectation(distribution, 4, step), disp, atol=1e-5)
    assert ((distribution > 0).sum(1) <= 2).all()


def test_by_hand():
    distribution = get_disp_distribution(np.array([[[-3.75, 0.0, 2.1]]]), 4, 1)
    expected = np.zeros((9, 3))
    expected[0, 0], expected[1, 0], expected[4, 1], expected[6, 2], expected[7, 2] = 0.75, 0.25, 1, 0.9, 0.1
    np.testing.assert_allclose(distribution[0, :, 0].numpy(), expected, atol=1e-6)


def test_outside_is_clamped_and_told():
    disp = torch.tensor([[[-9.0, 4.0, 4.01]]])
    distribution = get_disp_distribution(disp)[0, :, 0]
    assert [distribution[level, k].item() for k, level in enumerate((0, 8, 8))] == [1, 1, 1] and (distribution.sum(0) == 1).all()
    assert inside_levels(disp).tolist() == [[[False, True, False]]]


def test_wrong_rank_and_nan():
    with pytest.raises(ValueError, match=r"disp must be 'b h w': got shape \(4, 4\)"):
        get_disp_distribution(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="1 NaN pixels of 4"):
        get_disp_distribution(torch.tensor([[[0, 0], [0, float("nan")]]]))
    with pytest.raises(ValueError, match="d = 9 levels"):
        disp_expectation(torch.zeros(1, 8, 2, 2))


@pytest.mark.parametrize("near, far", [(3.0, -2.0), (2.4, -1.7), (-0.5, -3.5), (4.0, -4.0)])
def test_nearest_peak_of_two(near, far):
    both = (get_disp_distribution(torch.full((1, 2, 3), near)) + get_disp_distribution(torch.full((1, 2, 3), far))) / 2
    assert torch.allclose(nearest_peak(both), torch.full((1, 2, 3), near), atol=1e-5)


def test_nearest_peak_of_one_and_of_noise():
    one = 0.95 * get_disp_distribution(torch.full((1, 1, 1), -1.3))
    one[:, 8] += 0.05  # less than a peak needs
    assert nearest_peak(one).item() == pytest.approx(-1.3, abs=1e-5)
    assert torch.isfinite(nearest_peak(torch.full((1, 9, 1, 1), 1 / 9))).all()


def test_the_deviation_of_two_equal_layers_is_half_their_distance():
    both = (get_disp_distribution(torch.full((1, 2, 2), 3.0)) + get_disp_distribution(torch.full((1, 2, 2), -1.0))) / 2
    assert torch.allclose(disp_deviation(both), torch.full((1, 2, 2), 2.0))


def test_every_peak_has_its_place():
    both = (get_disp_distribution(torch.full((1, 1, 1), 3.0)) + get_disp_distribution(torch.full((1, 1, 1), -0.75))) / 2
    is_peak, disps = find_peaks(both)
    assert disps[is_peak].tolist() == pytest.approx([-0.75, 3.0])


@pytest.mark.parametrize("disp, inside", [(-4.0, True), (4.0, True), (-4.001, False), (4.001, False), (float("nan"), False)])
def test_both_ends_belong_to_the_levels(disp, inside):
    assert inside_levels(torch.tensor([disp])).tolist() == [inside] and inside_levels(np.array([disp])).tolist() == [inside]


def test_where_no_level_is_a_peak_the_highest_counts_and_a_level_without_mass_has_a_place():
    flat = torch.full((1, 9, 1, 1), 0.1)
    flat[0, 2] = 0.2  # -2; 0.4 in itself and its neighbours, less than asked for
    assert nearest_peak(flat, threshold=0.5).item() == pytest.approx((0.1 * -3 + 0.2 * -2 + 0.1 * -1) / 0.4)
    assert torch.equal(find_peaks(torch.eye(9)[None, 0, :, None, None])[1][0, 5:, 0, 0], torch.zeros(4))
