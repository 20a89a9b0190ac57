import torch

from lfkit.layers import window_mean


def test_window_means_are_those_of_the_part_inside():
    x = torch.rand(1, 2, 9, 7)
    for side in (1, 3, 5):
        ours, r = window_mean(x, side), side // 2
        assert torch.allclose(ours[0, 1, 4, 3], x[0, 1, 4 - r:5 + r, 3 - r:4 + r].mean()) and torch.allclose(ours[0, 0, 0, 6], x[0, 0, :1 + r, 6 - r:].mean())
