import numpy as np
import pytest

import lfkit
from lfkit import augment
from lfkit.dataset import random_crop
from test_synthetic import warp


@pytest.fixture(scope="module")
def item():
    """A crop without occluders, disparities within 2 pixels per view step; gt_data and the maps differ, so that none is taken for another."""
    lf, gt_data, _, fg_disp, bg_disp = random_crop(lfkit.synthesize(26, size=64, max_disp=2, noise=0.0, occluded=False), 64, np.random.default_rng(0))
    return lf, gt_data, fg_disp > np.median(fg_disp), fg_disp, bg_disp


def error(lf, disp, centre):
    """Median colour difference between the centre and the outer views warped onto it."""
    c, last = len(lf) // 2, len(lf) - 1
    views = [(u, v) for u, v in ((0, 0), (0, c), (last, c - 1), (c, last), (c + 1, 0))]
    return np.median([np.nanmedian(np.abs(warp(lf[u, v] * 255, disp, c - u, c - v) - centre)) for u, v in views])


def check_holds(new):
    """Views warped by each disparity meet the centre, and by its negative do not."""
    lf, gt_data, mask, fg_disp, bg_disp = new
    assert lf.shape[2:] == gt_data.shape and mask.shape == fg_disp.shape == bg_disp.shape == gt_data.shape[:2]
    right = error(lf, fg_disp, gt_data)
    assert right < 0.35 * error(lf, -fg_disp, gt_data) and error(lf, bg_disp, gt_data) == right
    return right


GEOMETRY = {"upside down": lambda i: augment.flip(i, 0), "left to right": lambda i: augment.flip(i, 1), "transposed": augment.transpose,
            "a quarter": lambda i: augment.rotate(i, 1), "two": lambda i: augment.rotate(i, 2), "three": lambda i: augment.rotate(i, 3)}
MAPS = {"upside down": np.flipud, "left to right": np.fliplr, "transposed": lambda m: m.swapaxes(0, 1),
        "a quarter": np.rot90, "two": lambda m: np.rot90(m, 2), "three": lambda m: np.rot90(m, 3)}


@pytest.mark.parametrize("name", GEOMETRY)
def test_symmetries(item, name):
    new = GEOMETRY[name](item)
    check_holds(new)
    assert all(np.array_equal(after, MAPS[name](before)) for after, before in zip(new[1:], item[1:]))
    assert np.array_equal(new[0][4, 4], MAPS[name](item[0][4, 4]))


@pytest.mark.parametrize("seed", range(6))
def test_geometry_stays_true_through_random_symmetries(item, seed):
    check_holds(augment.augment_geometry(item, np.random.default_rng(seed)))


def test_all_eight_symmetries_occur(item):
    seen = {augment.augment_geometry(item, np.random.default_rng(seed))[3].tobytes() for seed in range(60)}
    assert len(seen) == 8


@pytest.mark.parametrize("disp", [0.6, -0.35, 1.0])
def test_a_shear_adds_its_disparity(item, disp):
    new = augment.shear(item, disp)
    margin = augment.shear_margin(9, disp)
    inner = (slice(margin, -margin),) * 2
    assert margin == {0.6: 5, -0.35: 4, 1.0: 6}[disp] and new[1].shape == (64 - 2 * margin, 64 - 2 * margin, 3)
    assert all(np.array_equal(after, before[inner]) for after, before in zip(new[1:3], item[1:3]))
    assert all(np.allclose(after, before[inner] + disp, atol=1e-6) for after, before in zip(new[3:], item[3:]))
    assert new[0].dtype == new[3].dtype == np.float32
    right = error(new[0], new[3], new[1])
    assert right < 0.5 * error(new[0], new[3] - disp, new[1]) and right < 0.35 * error(new[0], new[3] - 2 * disp, new[1])
    assert np.array_equal(new[0][4, 4], item[0][4, 4][inner])


def test_a_shear_by_whole_pixels_moves_them():
    """At +1 what view (1, 3) of five showed at (y, x) is at (y + 2 - 1, x + 2 - 3)."""
    lf = np.random.default_rng(0).random((5, 5, 16, 16, 3), np.float32)
    maps = [np.zeros((16, 16, 3), np.float32), np.zeros((16, 16), bool), *np.zeros((2, 16, 16), np.float32)]
    new, *_ = augment.shear((lf, *maps), 1.0)
    assert new.shape == (5, 5, 8, 8, 3) and np.array_equal(new[1, 3], lf[1, 3, 3:11, 5:13])
    assert augment.shear((lf, *maps), 0.0)[0] is lf
    with pytest.raises(ValueError, match="a shear by 3 takes 8 pixels from each side of 16 x 16; pass a larger crop or a smaller disp"):
        augment.shear((lf, *maps), 3)


def test_a_sub_pixel_shear_of_a_cubic_is_exact():
    """The kernel gives quadratics back: x**2 read half a pixel further is (x + 0.5)**2."""
    y, x = np.mgrid[:20, :20] / 20
    lf = np.broadcast_to((0.5 * y + 0.4 * x**2)[..., None], (3, 3, 20, 20, 3)).astype(np.float32)
    new, *_ = augment.shear((lf, lf[1, 1], *np.zeros((3, 20, 20), np.float32)), 0.5)
    y, x = y[3:-3, 3:-3], x[3:-3, 3:-3]
    assert np.allclose(new[0, 2, ..., 0], 0.5 * (y - 0.025) + 0.4 * (x + 0.025) ** 2, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_shear_stays_within_max_disp(item, seed):
    high = float(item[3].max()) + 0.1
    new = augment.random_shear(item, np.random.default_rng(seed), high)
    added = new[3] - item[3][5:-5, 5:-5]
    assert new[0].shape == (9, 9, 54, 54, 3) and np.ptp(added) < 1e-5 and new[3].max() <= high
    assert -0.75 <= added[0, 0] < 0.1001 and added[0, 0] != 0
    tight = augment.random_shear(item, np.random.default_rng(seed), 0.01)  # disparities beyond it already: none is moved
    assert np.array_equal(tight[3], item[3][5:-5, 5:-5]) and np.array_equal(tight[0], item[0][:, :, 5:-5, 5:-5])


@pytest.mark.parametrize("k", [2, 3])
def test_reduction_divides_the_disparity(item, k):
    new = augment.reduce_by(item, k)
    assert new[0].shape == (9, 9, 64 // k, 64 // k, 3) and new[0].dtype == new[3].dtype == np.float32
    right = check_holds(new)
    assert right < 0.6 * error(new[0], new[3] * k, new[1])
    assert np.allclose(new[0][2, 7, 3, 5], item[0][2, 7, 3 * k:4 * k, 5 * k:6 * k].mean((0, 1)), atol=1e-6)
    assert new[3][4, 6] == item[3][4 * k + k // 2, 6 * k + k // 2] / np.float32(k)
    assert new[2][4, 6] == item[2][4 * k + k // 2, 6 * k + k // 2]


@pytest.mark.parametrize("k", [0, 65])
def test_reduction_beyond_the_crop_is_refused(item, k):
    with pytest.raises(ValueError, match=f"a crop of 64 x 64 can't be reduced by {k}; use a whole number from 1 to 64"):
        augment.reduce_by(item, k)


def test_colours_are_mixed_alike_everywhere(item):
    swapped = augment.mix_colours(item, np.eye(3)[[2, 0, 1]])
    assert np.allclose(swapped[0], item[0][..., [2, 0, 1]]) and np.allclose(swapped[1], item[1][..., [2, 0, 1]])
    grey = augment.mix_colours(item, np.repeat([[0.2, 0.5, 0.3]], 3, axis=0))
    assert np.allclose(grey[0][..., 1], item[0] @ np.array([0.2, 0.5, 0.3]), atol=1e-6) and np.ptp(grey[0], axis=-1).max() < 1e-6


def test_light_by_hand():
    lf = np.full((3, 3, 2, 2, 3), 0.4, np.float32)
    lf[:, :, 0] = 0.6
    item = (lf, lf[1, 1], *np.zeros((3, 2, 2), np.float32))
    for options, low, high in (({"brightness": 0.5}, 0.2, 0.3), ({"contrast": 2.0}, 0.3, 0.7), ({"gamma": 2.0}, 0.16, 0.36), ({"brightness": 2.0}, 0.8, 1.0)):
        new = augment.change_light(item, **options)
        for image in (new[0][2, 0], new[1]):
            assert np.allclose(image[0], high, atol=1e-6) and np.allclose(image[1], low, atol=1e-6)


def test_noise_is_on_the_views_alone(item):
    mid = (np.full_like(item[0], 0.5), *item[1:])
    lf, *rest = augment.add_noise(mid, 0.02, np.random.default_rng(0))
    assert abs(np.std(lf - 0.5) - 0.02) < 1e-3 and not np.array_equal(lf[0, 0], lf[0, 1]) and all(a is b for a, b in zip(rest, item[1:]))


def test_a_rectangle_of_one_outer_view_is_erased(item):
    small = (item[0][3:6, 3:6], *item[1:])
    before, seen = small[0].copy(), set()
    for seed in range(60):
        lf, *rest = augment.erase(small, np.random.default_rng(seed))
        changed = (lf != small[0]).any(-1)
        (view,) = {tuple(at[:2]) for at in np.argwhere(changed).tolist()}
        rows, cols = np.nonzero(changed[view])
        area = (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        assert view != (1, 1) and changed.sum() > 0.98 * area and 6 <= np.ptp(rows) + 1 <= 32 and all(a is b for a, b in zip(rest, small[1:]))
        seen.add(view)
    assert len(seen) == 8 and np.array_equal(small[0], before)


def test_random_colour_changes_leave_the_maps_alone(item):
    for seed in range(10):
        lf, gt_data, *maps = augment.augment_colour(item, np.random.default_rng(seed))
        assert 0 <= lf.min() and lf.max() <= 1 and lf.dtype == gt_data.dtype == np.float32 and lf.shape == item[0].shape
        assert all(a is b for a, b in zip(maps, item[2:])) and not np.array_equal(lf, item[0])


def test_missing_gt_data_stays_missing(item):
    lf, gt_data, *maps = item
    new = augment.augment_colour(augment.reduce_by(augment.shear((lf, np.full_like(gt_data, np.nan), *maps), 0.2), 2), np.random.default_rng(0))
    assert np.isnan(new[1]).all() and not np.isnan(new[0]).any()
