import numpy as np
import pytest
import torch

from lfkit.sweep import ViewSweep, cubic_weights, even_weights, look_closer


def test_what_lies_at_a_disparity_falls_on_the_centres_pixel():
    """views[u, v][y + (c - u) d, x + (c - v) d] = centre[y, x], so the shifted view equals the centre at whole shifts."""
    torch.manual_seed(0)
    world, n, d = torch.rand(3, 60, 60), 5, 2
    views = torch.stack([world[:, 20 - (2 - u) * d:40 - (2 - u) * d, 20 - (2 - v) * d:40 - (2 - v) * d] for u in range(n) for v in range(n)])[None]
    shifted = torch.cat(list(ViewSweep(views, 4).shifted(float(d))), 1).reshape(1, n * n, 3, 20, 20)
    inside = (slice(None), slice(None), slice(None), slice(8, 12), slice(8, 12))
    assert torch.equal(shifted[inside], views[:, 12:13].expand_as(shifted)[inside])
    assert not torch.allclose(torch.cat(list(ViewSweep(views, 4).shifted(-2.0)), 1).reshape(shifted.shape)[inside], shifted[inside])


def test_half_pixel_shifts_of_a_smooth_picture():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    smooth = lambda y, x: torch.sin(0.4 * y + 0.2) + torch.cos(0.3 * x)
    views = smooth(y, x).expand(1, 9, 3, 40, 40)
    shifted = torch.cat(list(ViewSweep(views, 4).shifted(0.5)), 1).reshape(9, 3, 40, 40)
    for n, (u, v) in enumerate((u, v) for u in range(3) for v in range(3)):
        expected = smooth(y + (1 - u) * 0.5, x + (1 - v) * 0.5)
        assert torch.allclose(shifted[n, 0, 5:-5, 5:-5], expected[5:-5, 5:-5], atol=3e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_cubic_taps(fraction):
    taps = cubic_weights(fraction)
    assert sum(taps) == pytest.approx(1)
    assert sum(t * k for t, k in zip(taps, (-1, 0, 1, 2))) == pytest.approx(fraction)  # exact on a straight line
    assert sum(t * k * k for t, k in zip(taps, (-1, 0, 1, 2))) == pytest.approx(fraction**2)  # and on a parabola


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_even_taps_leave_as_much_noise_at_every_place(fraction):
    taps = even_weights(fraction)
    assert sum(taps) == pytest.approx(1) and sum(t * (k - 2) for k, t in enumerate(taps)) == pytest.approx(fraction)
    assert sum(t * t for t in taps) == pytest.approx(2 * (9 / 16) ** 2 + 2 * (1 / 16) ** 2)
    own, bend = np.pad(cubic_weights(fraction), 1), np.convolve(cubic_weights(fraction), [1, -2, 1])
    tried = own + np.linspace(0, 0.25, 10001)[:, None] * bend  # by search: of the two that leave as much noise, the one that smooths less
    assert taps == pytest.approx(tried[np.abs(np.square(tried).sum(1) - 2 * (9 / 16) ** 2 - 2 * (1 / 16) ** 2).argmin()], abs=1e-4)


def test_no_candidate_looks_better_for_being_read_between_samples():
    """Views of nothing but noise: their variance is the same at whole and half candidates, which it is not as they are read elsewhere."""
    torch.manual_seed(0)
    noise = torch.randn(1, 81, 1, 96, 96)
    spread = lambda spacing, disp: float(torch.stack(list(ViewSweep(noise.expand(-1, -1, 2, -1, -1), 2, spacing).shifted(disp)), 1)[0, :, 0, 20:-20, 20:-20].var(0).mean())
    assert spread(0.5, 1.0) == pytest.approx(spread(0.5, 0.5), rel=0.02) and spread(None, 0.5) < 0.8 * spread(None, 1.0)


def test_a_closer_look_reads_each_view_where_the_pixel_is_seen():
    """A disparity of its own at every pixel, against the sweep's shift by whole and half pixels."""
    torch.manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(75, 1, 32, 32), 3, 1, 1).reshape(1, 25, 3, 32, 32)
    disp = torch.where(torch.arange(32)[None, None] < 16, 1.0, -0.5).expand(1, 32, 32)
    views, reach = look_closer(x, disp)
    for d, columns in ((1.0, slice(0, 16)), (-0.5, slice(16, 32))):
        swept = torch.cat(list(ViewSweep(x, 2).shifted(d)), 1).reshape(1, 25, 3, 32, 32)
        inside = (*[slice(None)] * 3, slice(6, 26), slice(max(6, columns.start), min(26, columns.stop)))
        # torch's cubic kernel has a = -3/4, the sweep's -1/2: they differ by at most a fraction of the picture's roughness
        assert torch.allclose(views[inside], swept[inside], atol=0.0 if d == 1 else 0.03, rtol=1e-5)
    assert reach[0, 12].all() and not reach[0, 0, -1].all() and (views * ~reach[:, :, None] == 0).all()
    u, v = 0, 4  # two rows up, two columns right: reaches y + 2 d, x - 2 d
    assert reach[0, 5 * u + v, :, 8].tolist() == [y + 2 <= 31 for y in range(32)]


def test_some_pixels_are_read_as_all_are():
    generator = torch.Generator().manual_seed(3)
    x, disp = torch.rand(2, 9, 3, 10, 12, generator=generator), 6 * torch.rand(2, 10, 12, generator=generator) - 3
    rows, columns = torch.tensor([0, 9, 4, 4]), torch.tensor([0, 11, 7, 7])
    for all_of, some in zip(look_closer(x, disp), look_closer(x, disp[:, rows, columns][:, None], (rows, columns))):
        assert torch.allclose(some.squeeze(-2).float(), all_of[..., rows, columns].float(), atol=1e-6)
