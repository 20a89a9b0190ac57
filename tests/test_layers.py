import pytest
import torch
import torch.nn.functional as F

from lfkit.layers import pointwise, window_mean


def test_window_means_are_those_of_the_part_inside():
    x = torch.rand(1, 2, 9, 7)
    for side in (1, 3, 5):
        ours, r = window_mean(x, side), side // 2
        assert torch.allclose(ours[0, 1, 4, 3], x[0, 1, 4 - r:5 + r, 3 - r:4 + r].mean()) and torch.allclose(ours[0, 0, 0, 6], x[0, 0, :1 + r, 6 - r:].mean())


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, -2.0])])
def test_a_pointwise_product_is_the_convolution_and_has_its_gradients(bias):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((3, 5, 4, 6), (2, 5, 1, 1)))
    bias = None if bias is None else bias.double().requires_grad_()
    inputs = [part for part in (x, weight, bias) if part is not None]
    ours, theirs = pointwise(x, weight, bias), F.conv2d(x, weight, bias)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for mine, other in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)):
        assert torch.allclose(mine, other, rtol=0, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise(x.float(), weight.float(), None if bias is None else bias.float()).dtype == torch.bfloat16
