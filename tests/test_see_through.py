import math

import numpy as np
import pytest
import torch

import lfkit
from conftest import real
from lfkit.lightfield import as_float
from lfkit.see_through import compute_psnr, compute_ssim, see_through, splat

N, SIZE, BACK, FRONT, PAD = 5, 40, -1, 2, 8


def two_planes(fence):
    """A noisy wall at disparity -1 behind a fence at 2, both read at whole pixels: every ray is exact. fence: 'h w' booleans with PAD around."""
    rng = np.random.default_rng(0)
    wall, bars = (rng.random((SIZE + 2 * PAD,) * 2 + (3,)).astype(np.float32) * part + shift for part, shift in ((0.5, 0.0), (0.4, 0.6)))
    shifted = lambda plane, u, v, disp: plane[tuple(slice(PAD - (N // 2 - k) * disp, PAD - (N // 2 - k) * disp + SIZE) for k in (u, v))]
    view = lambda u, v: np.where(shifted(fence, u, v, FRONT)[..., None], shifted(bars, u, v, FRONT), shifted(wall, u, v, BACK))
    lf = np.array([[view(u, v) for v in range(N)] for u in range(N)])
    inner = (slice(PAD, -PAD),) * 2
    return lf, fence[inner], wall[inner]


def fence_of(width, gap=9):
    fence = np.zeros((SIZE + 2 * PAD,) * 2, bool)
    for k in range(width):
        fence[:, k::gap] = True
    return fence


def maps(mask):
    back = np.full(mask.shape, float(BACK))
    return back, np.where(mask, float(FRONT), back)


@pytest.mark.parametrize("width", [1, 3])
def test_two_planes_exactly(width):
    lf, mask, truth = two_planes(fence_of(width))
    back, front = maps(mask)
    image, rays = see_through(lf, back, front, margin=0)
    # views 3 columns of disparity apart see bars of 3 pixels shifted by 3 and more: all but the centre column of views see past a bar
    inside = mask.copy()
    inside[:4] = inside[-4:] = inside[:, :4] = inside[:, -4:] = False
    assert np.allclose(image, truth, atol=1e-5) and rays[inside].min() >= N * 2 and (rays[~mask] <= N * N).all()
    assert compute_psnr(lf[N // 2, N // 2], truth, mask) < 12  # what stood in the way


def test_rays_are_counted_by_hand():
    fence = np.zeros((SIZE + 2 * PAD,) * 2, bool)
    fence[:, PAD + 20] = True  # one column of pixels, at column 20 of the centre view
    lf, mask, truth = two_planes(fence)
    image, rays = see_through(lf, *maps(mask), margin=0)
    # the surfaces are grown by one pixel: view v sees the wall's column 20 at 20 - (2 - v), the bar at 20 + 2 (2 - v), 3 pixels off for each step of v;
    # the centre column of views is blocked, the other 4 x 5 are free
    assert (rays[5:-5, 20] == 20).all() and (np.delete(rays, 20, 1) == 1).all()
    assert np.array_equal(np.delete(image, 20, 1), np.delete(lf[2, 2], 20, 1)) and np.allclose(image[:, 20], truth[:, 20], atol=1e-5)


def test_one_hidden_pixel():
    lf = np.zeros((3, 3, 20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5, 6] = True
    back = np.full((20, 20), -1.0, np.float32)
    image, rays = see_through(lf, back, back + 2, mask, margin=0)
    assert image.shape == (20, 20, 3) and rays[~mask].tolist() == [1] * 399


def test_where_no_ray_is_free_it_says_so():
    lf, mask, _ = two_planes(np.ones((SIZE + 2 * PAD,) * 2, bool))
    image, rays = see_through(lf, *maps(mask))
    assert (rays == 0).all() and np.isfinite(image).all()


def test_without_an_occluder_it_is_the_centre_view():
    lf, mask, _ = two_planes(fence_of(0))
    image, rays = see_through(lf, *maps(mask))
    assert np.array_equal(image, lf[2, 2]) and (rays == 1).all()


@pytest.mark.parametrize("seed", [3, 4, 13, 21, 23])  # their backgrounds are seen nearly everywhere
def test_a_procedural_scene_with_its_true_disparities(seed):
    """Sub-pixel disparities, soft edges, 8 bits: 1 / 255 rounding alone is 59 dB; bilinear reading of textures costs most of the rest."""
    scene = lfkit.synthesize(seed, size=64, noise=0.0, occluded=True)
    image, rays = see_through(scene.lf, scene.bg_disp, scene.fg_disp, scene.mask)
    seen = scene.mask & (rays >= 9)
    assert seen.sum() > 0.6 * scene.mask.sum()
    # an error of 1/20 of the range a channel is 26 dB
    assert compute_psnr(image, scene.gt_data, seen) > 26
    assert compute_psnr(image, scene.gt_data, scene.mask) > compute_psnr(scene.centre, scene.gt_data, scene.mask) + 10
    assert compute_ssim(image, scene.gt_data, scene.mask) > 0.85 > 0.6 > compute_ssim(scene.centre, scene.gt_data, scene.mask)
    far = scene.mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        far |= np.roll(far, step, axis)
    assert np.array_equal(image[~far], as_float(scene.centre)[~far])


def test_a_rendered_scene():
    scene = lfkit.load_scene(real("rendered/room_fence"))
    image, _ = see_through(scene.lf, scene.bg_disp, scene.fg_disp, scene.mask)
    assert compute_psnr(image, scene.gt_data, scene.mask) > compute_psnr(scene.centre, scene.gt_data, scene.mask) + 10


def test_psnr_and_ssim_by_hand():
    truth, image = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    image[0, 0] = 0.1  # mean square .01 / 64 over all, .01 in that pixel
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    assert compute_psnr(image, truth) == pytest.approx(10 * math.log10(6400)) and compute_psnr(image, truth, mask) == pytest.approx(20)
    assert compute_psnr(truth, truth) == math.inf and compute_ssim(truth, truth) == pytest.approx(1)
    assert compute_psnr(np.full((8, 8, 3), 255, np.uint8), np.ones((8, 8, 3))) == math.inf
    assert compute_ssim(image, truth) < 1


@pytest.mark.parametrize("change, sentence", [
    ({"bg_disp": np.zeros((3, 3))}, r"bg_disp has shape \(3, 3\), the views are \(40, 40\)"),
    ({"mask": np.zeros((3, 3))}, r"mask has shape \(3, 3\)"),
    ({"fg_disp": np.full((SIZE, SIZE), np.nan)}, "fg_disp has 1600 NaN or infinite pixels of 1600"),
])
def test_bad_maps(change, sentence):
    lf, mask, _ = two_planes(fence_of(1))
    back, front = maps(mask)
    with pytest.raises(ValueError, match=sentence):
        see_through(lf, **({"bg_disp": back, "fg_disp": front} | change))


def test_a_light_field_that_is_none_and_a_margin_below_none():
    lf, mask, _ = two_planes(fence_of(1))
    for bad, margin, sentence in ((lf[:, :-2], 1, "the grid of views must be square and odd"), (2 * lf + 1, 1, "lf: float pixels must lie in \\[0, 1\\], got 1"), (lf, -1, "margin must be 0 or more pixels: got -1")):
        with pytest.raises(ValueError, match=sentence):
            see_through(bad, *maps(mask), margin=margin)


def test_a_disparity_that_marks_what_is_unknown_takes_neither_time_nor_memory():
    disp = torch.zeros(16, 24)
    disp[8, 8] = 1e9
    seen = splat(disp, 3)
    assert seen[1, 1].equal(disp) and (seen[0, 0] == 0).sum() >= 16 * 24 - 1 and seen[0, 0].max() <= 0


def test_bad_pictures():
    with pytest.raises(ValueError, match="must be 'h w c' of one shape"):
        compute_psnr(np.zeros((8, 8, 3)), np.zeros((8, 9, 3)))
    with pytest.raises(ValueError, match="with 0 pixels"):
        compute_ssim(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), np.zeros((8, 8)))
    with pytest.raises(ValueError, match="at least 7 pixels a side: got 6 x 8"):
        compute_ssim(np.zeros((6, 8, 3)), np.zeros((6, 8, 3)))


def test_no_ray_passes_the_cracks_of_a_stretched_occluder():
    """An occluder over the whole picture, whose disparity rises by 0.4 a pixel, is seen stretched by the views at one side; nothing behind it may be seen."""
    front = 1 + 0.4 * np.tile(np.arange(16, dtype=np.float32), (16, 1))
    _, rays = lfkit.see_through(np.zeros((3, 3, 16, 16, 3), np.float32), np.zeros((16, 16), np.float32), front, margin=0)
    assert not rays[:, 4:-4].any()


def test_what_is_a_little_nearer_than_the_background_covers_nothing():
    """By default; of two patches before a wall at 0, the one 0.4 px nearer is the wall's own noise, the one 0.6 px nearer is in its way."""
    lf, fg = np.random.default_rng(0).random((3, 3, 24, 24, 3)).astype(np.float32), np.zeros((24, 24), np.float32)
    fg[4:8, 4:20], fg[14:18, 4:20] = 0.4, 0.6
    image, _ = see_through(lf, np.zeros_like(fg), fg, margin=0)
    assert np.array_equal((image != lf[1, 1]).any(-1), fg == np.float32(0.6))
