import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import lfkit
from lfkit import occlusion
from lfkit.canvas import OCCLUDERS, Canvas
from lfkit.lightfield import as_byte, as_float
from lfkit.occlusion import PLACEMENTS, SPLAT_REACH, embed_occluders, mask_support, occluder_supports, read_masks
from lfkit.see_through import splat
from lfkit.sheets import Sheet
from test_synthetic import agreement


def clean(seed: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A rendered scene without occluders, disparities within 2 pixels per view step."""
    scene = lfkit.synthesize(seed, size=size, max_disp=2, noise=0.0, occluded=False)
    return as_float(scene.lf), scene.bg_disp


def flat_scene(disp, size=24, views_num=5) -> tuple[np.ndarray, np.ndarray]:
    """A scene of one grey, 0.2, at the given disparity (a number or one a column)."""
    return np.full((views_num, views_num, size, size, 3), 0.2, np.float32), np.broadcast_to(np.float32(disp), (size, size))


@pytest.fixture
def one_occluder(monkeypatch):
    """Makes embed_occluders use a single grey sheet (0.6) of a given disparity and coverage."""
    def use(disp, cover):
        def make(canvas, low, high, supports):
            return [Sheet((float(disp), 0.0, 0.0), torch.full((3, canvas.side, canvas.side), 0.6), cover(canvas), occluder=True)]
        monkeypatch.setattr(occlusion, "make_occluders", make)
    return use


# compositing, by hand

def test_a_flat_occluder_moves_by_its_disparity(one_occluder):
    """Columns 0 to 7 of the centre are covered at d = 3: view column v shows it up to column 7 + 3 (2 - v), view rows alike."""
    one_occluder(3, lambda canvas: ((canvas.x < 7.5) & (canvas.y > 11.5)).float())
    lf, bg_disp = flat_scene(-1)
    new, mask, fg_disp = embed_occluders(lf, bg_disp, np.random.default_rng(0))
    columns, rows = np.arange(24)[None], np.arange(24)[:, None]
    for u in range(5):
        for v in range(5):
            covered = (columns <= 7 + 3 * (2 - v)) & (rows >= 12 + 3 * (2 - u))
            assert np.allclose(new[u, v], np.where(covered, 0.6, 0.2)[..., None], atol=1e-6), (u, v)
    assert np.array_equal(mask, (columns <= 7) & (rows >= 12))
    assert np.array_equal(fg_disp, np.where(mask, 3, -1)) and (lf == np.float32(0.2)).all()


@pytest.mark.parametrize("cover, light, masked", [(0.1, 0.072, False), (0.125, 0.08, True), (0.5, 0.2, True), (1.0, 0.36, True)])
def test_soft_coverage_mixes_light_and_masks_from_an_eighth(one_occluder, cover, light, masked):
    """The light of 0.6 is 0.36 and that of 0.2 is 0.04."""
    one_occluder(2, lambda canvas: torch.full_like(canvas.y, cover))
    new, mask, fg_disp = embed_occluders(*flat_scene(0), np.random.default_rng(0))
    assert np.allclose(new**2, light, atol=1e-6) and (mask == masked).all() and (fg_disp == (2 if masked else 0)).all()


def test_a_sub_pixel_edge_is_soft(one_occluder):
    """At d = 0.5 the edge between columns 7 and 8 lies half a pixel further in the next view: column 8 is half covered there."""
    one_occluder(0.5, lambda canvas: (canvas.x < 7.5).float())
    new, *_ = embed_occluders(*flat_scene(-1), np.random.default_rng(0))
    assert np.allclose(new[2, 1, 5, 7:10, 0], [0.6, np.sqrt((0.36 + 0.04) / 2), 0.2], atol=1e-6)


def test_where_the_scene_is_nearer_the_occluder_is_hidden_in_every_view(one_occluder, monkeypatch):
    """Columns 0 to 7 lie at d = 3, the rest at -1, the occluder at 2 is everywhere: it shows beyond column 7 + 3 (2 - v) alone."""
    one_occluder(2, lambda canvas: torch.ones_like(canvas.y))
    monkeypatch.setattr(occlusion, "FRONT", (0.0, 0.0))  # as for an occluder that is in front of the farthest pixels alone
    lf, bg_disp = flat_scene(np.where(np.arange(24) < 8, 3, -1))
    new, mask, fg_disp = embed_occluders(lf, bg_disp, np.random.default_rng(0))
    for u in range(5):
        for v in range(5):
            assert np.allclose(new[u, v], np.where(np.arange(24) <= 7 + 3 * (2 - v), 0.2, 0.6)[None, :, None], atol=1e-6), (u, v)
    assert np.array_equal(mask, bg_disp < 2) and np.array_equal(fg_disp, np.maximum(bg_disp, 2))


def test_views_that_are_not_square():
    lf, bg_disp = clean(0, 48)
    new, mask, fg_disp = embed_occluders(lf[:, :, :30], bg_disp[:30], np.random.default_rng(1))
    assert new.shape == (9, 9, 30, 48, 3) and mask.shape == fg_disp.shape == (30, 48) and mask.any()


# truth

@pytest.mark.parametrize("seed", range(6))
def test_the_truth_is_exact(seed):
    lf, bg_disp = clean(seed)
    before = lf.copy()
    new, mask, fg_disp = embed_occluders(lf, bg_disp, np.random.default_rng(seed))
    assert new.dtype == fg_disp.dtype == np.float32 and mask.dtype == bool and np.array_equal(lf, before)
    assert 0 <= new.min() and new.max() <= 1
    assert np.array_equal(mask, fg_disp > bg_disp) and np.array_equal(fg_disp[~mask], bg_disp[~mask]) and fg_disp.max() <= 4
    scene = lfkit.Scene("embedded", as_byte(new))
    gt_data, centre = as_byte(lf[4, 4]), as_byte(new[4, 4])
    _, past = agreement(scene, bg_disp, gt_data, mask)
    _, wrong = agreement(scene, fg_disp, gt_data, mask)
    _, on_it = agreement(scene, fg_disp, centre, mask)
    _, not_on_it = agreement(scene, bg_disp, centre, mask)
    assert mask.mean() > 0.01 and past > 0.15 and past > 1.3 * wrong and on_it > 0.65 and on_it > 1.3 * not_on_it


def test_occluders_are_in_front_of_most_of_the_scene_and_differ():
    lf, bg_disp = flat_scene(np.linspace(-2, 2, 32), size=32)
    results = [embed_occluders(lf, bg_disp, np.random.default_rng(seed)) for seed in range(48)]
    nearest = [fg_disp[mask] for _, mask, fg_disp in results if mask.any()]
    assert len(nearest) > 32 and min(d.min() for d in nearest) > np.quantile(bg_disp, 0.6) + 0.59
    assert max(np.ptp(d) for d in nearest) > 0.1 and min(np.ptp(d) for d in nearest) < 2
    assert any(d.min() < bg_disp.max() for d in nearest)  # some scenes are partly nearer
    assert len({mask.tobytes() for _, mask, _ in results}) > 20


def test_without_room_the_scene_stays_clean():
    for disp, stays in ((3.2, True), (3.0, False)):  # 0.97 * 4 - 0.6 - 0.1 = 3.18 is the last that has room
        lf, bg_disp = flat_scene(disp)
        results = [embed_occluders(lf, bg_disp, np.random.default_rng(seed)) for seed in range(4)]
        assert all((not mask.any() and np.array_equal(new, lf) and np.array_equal(fg_disp, bg_disp)) for new, mask, fg_disp in results) == stays


def test_occluders_keep_to_the_levels_where_the_scene_nearly_fills_them():
    lf, bg_disp = flat_scene(np.linspace(-2, 3.9, 32), size=32)
    for seed in range(12):
        _, mask, fg_disp = embed_occluders(lf, bg_disp, np.random.default_rng(seed))
        assert fg_disp[mask].max(initial=0) <= 4


def test_sizes_that_differ_are_refused():
    lf, bg_disp = flat_scene(0)
    with pytest.raises(ValueError, match=r"lf and bg_disp differ in size: \(5, 5, 24, 24, 3\) and \(24, 23\); pass 'u v h w c' and 'h w'"):
        embed_occluders(lf, bg_disp[:, 1:], np.random.default_rng(0))


def test_the_same_rng_gives_the_same_occluders_with_any_number_of_threads():
    lf, bg_disp = clean(1, 80)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([embed_occluders(lf, bg_disp, np.random.default_rng(seed)) for seed in range(3)])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for one, two in zip(*results) for a, b in zip(one, two))
    assert not np.array_equal(results[0][0][1], results[0][1][1])


# the scene's disparity in other views

def test_a_plane_is_splatted_onto_every_view():
    disp = torch.ones(12, 12)
    assert (splat(disp, 5, 0.5) == 1).all() and (splat(disp, 5, 1.0) == -math.inf).all()


def test_a_slanted_plane_is_splatted_without_cracks():
    """d = 0.06 x: in view column 0 of 9 neighbours land 1.24 pixels apart; in the centre view every pixel is its own."""
    disp = 0.06 * torch.arange(40.0).expand(40, 40)
    out = splat(disp, 9, -0.5, SPLAT_REACH)
    assert torch.equal(out[4, 4], disp) and torch.isfinite(out[:, 0, :, 2:]).all()
    column = torch.arange(40.0)
    assert (out[4, 0] - 0.06 * column / 1.24).abs().max() < 0.06  # the ray through column j meets the plane at x = j / 1.24


def test_where_two_points_meet_the_nearer_one_is_seen():
    disp = torch.where(torch.arange(16.0) < 8, 2.0, 0.0).expand(16, 16)
    assert (splat(disp, 3, -1.0)[1, 0, :, 8:10] == 2).all()  # in the view one to the left the near half has moved two pixels over the far one


# alpha images

def test_coverage_is_alpha_or_grey(tmp_path):
    ramp = np.tile(np.arange(20, dtype=np.uint8) * 10, (16, 1))
    opaque, clear = np.full_like(ramp, 255), np.zeros_like(ramp)
    pictures = {"a_alpha.png": np.stack([opaque, clear, clear, ramp], -1), "b_grey.png": ramp, "c_opaque.png": np.stack([ramp, ramp, ramp, opaque], -1),
                "d_16_bit.png": ramp.astype(np.uint16) * 257, "e_colour.tif": np.stack([ramp, ramp, ramp], -1)}
    for name, picture in pictures.items():
        iio.imwrite(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("not a picture")
    masks = read_masks(tmp_path)
    assert len(masks) == 5 and all(np.allclose(mask, ramp / 255, atol=1e-6) and mask.dtype == torch.float32 for mask in masks)


def test_a_palettes_or_a_colours_transparency_is_alpha(tmp_path):
    """As pngquant and "save for web" write it; in each the occluder is dark on a clear, bright ground."""
    shape = np.zeros((20, 24), bool)
    shape[5:12, 3:20] = True
    cut = np.full((20, 24, 4), (200, 220, 200, 0), np.uint8)
    cut[shape] = (60, 40, 20, 255)
    Image.fromarray(cut).save(tmp_path / "a.png")
    Image.fromarray(cut).quantize(16).save(tmp_path / "b.png")
    palette = Image.fromarray(shape.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 60, 40, 20])
    palette.save(tmp_path / "c.png", transparency=0)
    Image.fromarray(np.where(shape, 90, 250).astype(np.uint8)).save(tmp_path / "d.png", transparency=250)
    Image.fromarray(cut[..., :3]).save(tmp_path / "e.png", transparency=(200, 220, 200))
    assert all(np.array_equal(mask.numpy(), shape) for mask in read_masks(tmp_path))
    Image.fromarray(cut[..., :3]).convert("CMYK").save(tmp_path / "f.jpg")
    with pytest.raises(ValueError, match="f.jpg: is in the printing colours CMYK, expected RGB or grey"):
        read_masks(tmp_path)


def test_booleans_that_were_saved_as_bytes_are_coverage(tmp_path):
    shape = np.zeros((20, 24), np.uint8)
    shape[5:12, 3:20] = 1
    iio.imwrite(tmp_path / "a.png", shape)
    iio.imwrite(tmp_path / "b.png", 255 * shape)
    iio.imwrite(tmp_path / "c.png", shape.astype(bool), plugin="pillow")  # of one bit a pixel
    ones, full, bits = read_masks(tmp_path)
    assert torch.equal(ones, full) and torch.equal(ones, bits) and ones.max() == 1


def test_where_no_placement_leaves_enough_to_see_the_nearest_to_it_is_taken(monkeypatch):
    """Four fifths covered, in rows: no try may stay, and the least covered of all tries is the one."""
    picture = (torch.arange(60) % 30 >= 6).float()[:, None].expand(60, 60)
    canvas = lambda: Canvas(40, 4, torch.Generator().manual_seed(1), torch.device("cpu"))
    taken, again, tries = mask_support(picture, canvas()), canvas(), []
    monkeypatch.setattr(occlusion, "PLACEMENTS", 1)
    for _ in range(PLACEMENTS):
        tries.append(mask_support(picture, again))
    covered = [float((one >= 0.5).float().mean()) for one in tries]
    assert min(covered) > 0.6 and len(set(covered)) > 1 and torch.equal(taken, tries[covered.index(min(covered))])


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder of alpha images; correct --mask_dir, or leave it out to draw occluders"):
        read_masks(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"no alpha image in it; put pictures there \(.png, .*or leave out --mask_dir"):
        read_masks(tmp_path)
    half = lambda h, w: np.where(np.arange(w) < w // 2, 255, 0).astype(np.uint8)[None].repeat(h, 0)
    iio.imwrite(tmp_path / "a.png", half(20, 30))
    iio.imwrite(tmp_path / "b.png", half(30, 20))
    with pytest.raises(ValueError, match=r"b.png: 30 x 20 pixels, but a.png has 20 x 30; all alpha images of a folder must be of one size"):
        read_masks(tmp_path)
    iio.imwrite(tmp_path / "b.png", half(40, 15))
    with pytest.raises(ValueError, match=r"b.png: 40 x 15 pixels; an alpha image needs at least 16 a side: use a larger one or leave it out"):
        read_masks(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"b.png: not a readable picture .*; copy it again"):
        read_masks(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b.png: not a readable picture \(of no known kind\); copy it again$"):
        read_masks(tmp_path)
    for value, what in ((0, "none"), (255, "all")):
        iio.imwrite(tmp_path / "b.png", np.full((20, 30), value, np.uint8))
        with pytest.raises(ValueError, match=f"b.png: covers {what} of its pixels, expected an occluder with gaps"):
            read_masks(tmp_path)
    iio.imwrite(tmp_path / "b.tif", np.zeros((20, 30), np.float32))
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b.tif: pixels are float32, expected 1, 8 or 16 bits a channel; save it as a PNG of 8 bits"):
        read_masks(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_an_alpha_image_is_zoomed_and_placed_at_random(seed):
    """Columns covered 8 of 20 in a 40 x 100 picture: columns stay columns, in strips 8 / zoom wide, mirrored beyond its sides."""
    canvas = Canvas(64, 10, torch.Generator().manual_seed(seed), torch.device("cpu"))
    stripes = (torch.arange(100) % 20 < 8).float().expand(40, 100)
    support = mask_support(stripes, canvas)
    row = (support[0] >= 0.5).int()
    edges = int(row.diff().abs().sum())
    assert support.shape == canvas.y.shape and torch.allclose(support, support[:1].expand_as(support), atol=1e-4)
    assert 0 <= support.min() and support.max() <= 1 and 84 * 0.5 / 20 * 2 - 3 <= edges <= 84 * 1.5 / 20 * 2 + 3
    assert 0 < (support * (1 - support)).max() and not torch.equal(support, mask_support(stripes, canvas))


def test_a_placement_with_something_to_see_past_is_preferred():
    half = torch.zeros(400, 400)
    half[:, 200:] = 1
    covers = [float(mask_support(half, Canvas(32, 4, torch.Generator().manual_seed(s), torch.device("cpu"))).ge(0.5).float().mean()) for s in range(12)]
    assert sum(0.02 <= c <= 0.6 for c in covers) >= 5  # by itself one placement in twelve is such a one


def test_without_alpha_images_occluders_are_drawn():
    assert occluder_supports() == tuple(OCCLUDERS.values())
    (support,) = occluder_supports([torch.ones(16, 16)])
    cover = support(Canvas(16, 4, torch.Generator().manual_seed(0), torch.device("cpu")))
    assert torch.allclose(cover, torch.ones_like(cover))
