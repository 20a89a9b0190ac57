import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt

import lfkit
from lfkit import synthetic
from lfkit.canvas import LEAF_OUTLINES, OVERSAMPLE, SOLID, Canvas, LeafKind, _leaf, leaf_kind
from lfkit.sheets import Sheet
from lfkit.synthetic import RIM_SLOPE, _blurred, _steep_sheet, _thing_sheet


def test_numpys_integers_are_taken():
    ours, theirs = lfkit.synthesize(np.int64(3), np.int32(16), np.int64(3)), lfkit.synthesize(3, 16, 3)
    assert np.array_equal(ours.lf, theirs.lf) and ours.name == theirs.name

GREY = 1 / 255  # one step of a uint8 picture


def warp(view: np.ndarray, disp: np.ndarray, du: int, dv: int) -> np.ndarray:
    """A view read where the centre's points appear in it: view[y + du * d, x + dv * d], bilinear, NaN outside. Written here, apart from lfkit."""
    h, w = disp.shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    y, x = y + du * disp, x + dv * disp
    outside = (y < 0) | (y > h - 1) | (x < 0) | (x > w - 1)
    y0, x0 = np.clip(np.floor(y).astype(int), 0, h - 2), np.clip(np.floor(x).astype(int), 0, w - 2)
    fy, fx = (np.clip(y - y0, 0, 1))[..., None], (np.clip(x - x0, 0, 1))[..., None]
    view = view.astype(np.float64) / 255
    out = ((1 - fy) * (1 - fx) * view[y0, x0] + (1 - fy) * fx * view[y0, x0 + 1] + fy * (1 - fx) * view[y0 + 1, x0] + fy * fx * view[y0 + 1, x0 + 1])
    return np.where(outside[..., None], np.nan, out)


def hidden(disp: np.ndarray, du: int, dv: int, gap: float = 0.3) -> np.ndarray:
    """Which points of the centre view a nearer one hides in another view: a z-buffer, splatted three pixels wide."""
    h, w = disp.shape
    y, x = np.mgrid[:h, :w]
    row, col = np.rint(y + du * disp).astype(int), np.rint(x + dv * disp).astype(int)
    nearest = np.full((h + 80, w + 80), -np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            np.maximum.at(nearest, (row + dy + 40, col + dx + 40), disp)
    return nearest[row + 40, col + 40] > disp + gap


def agreement(scene, disp, target, at, seen=0.06):
    """Median colour difference of the warped views where `at` and not hidden, and the share that agrees within `seen`."""
    c = scene.views_num // 2
    errors = []
    for u, v in ((u, v) for u in (0, 2, 6, 8) for v in (0, 3, 8)):
        error = np.abs(warp(scene.lf[u, v], disp, c - u, c - v) - target / 255).max(-1)
        errors.append(error[at & ~hidden(disp, c - u, c - v)])
    errors = np.concatenate(errors)
    errors = errors[~np.isnan(errors)]
    return np.median(errors), np.mean(errors < seen)


@pytest.mark.parametrize("seed", [2, 4, 6, 8, 11])  # scenes with contrast: on faint ones a wrong disparity agrees as well
def test_views_warped_by_the_disparity_agree_with_the_centre_where_nothing_occludes(seed):
    scene = lfkit.synthesize(seed, size=96, noise=0.0, occluded=False)
    inner = np.zeros((96, 96), bool)
    inner[20:-20, 20:-20] = True  # things outside the centre view may hide what lies near its sides
    right, share = agreement(scene, scene.fg_disp, scene.centre, inner)
    wrong, wrong_share = agreement(scene, -scene.fg_disp, scene.centre, inner)
    assert np.array_equal(scene.fg_disp, scene.bg_disp) and not scene.mask.any()
    assert right < 4 * GREY and share > 0.85 and right < 0.35 * wrong and wrong_share < share - 0.1


@pytest.mark.parametrize("seed", [0, 3, 6, 7])
def test_views_that_see_past_the_occluder_agree_with_gt_data(seed):
    scene = lfkit.synthesize(seed, size=96, noise=0.0, occluded=True)
    behind = scene.mask
    _, share = agreement(scene, scene.bg_disp, scene.gt_data, behind)
    _, wrong = agreement(scene, scene.fg_disp, scene.gt_data, behind)
    assert behind.mean() > 0.01 and share > 0.3 and share > 1.3 * wrong


def test_the_steepest_sheets_keep_to_their_disparities_and_solve_the_ray():
    canvas = Canvas(64, 20, torch.Generator().manual_seed(3), torch.device("cpu"))
    steepest = 0.0
    for _ in range(12):
        sheet = _steep_sheet(canvas, -2.0, 1.0, torch.ones_like(canvas.y))
        disp, shown = sheet.disp(canvas.y, canvas.x), sheet.support >= 0.6
        assert not shown.any() or (disp[shown].min() > -2.05 and disp[shown].max() < 1.05)
        y, x, d = sheet.solve(*(torch.tensor(value) for value in (10.0, 50.0, 4.0, -4.0)))
        assert float(sheet.disp(y, x)) == pytest.approx(float(d), abs=2e-3)
        steepest = max(steepest, float(np.hypot(*sheet.plane[1:])))
    assert steepest > 0.03


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name in ("a", "b"):
        lfkit.write_synthetic(tmp_path / name, scenes=3, size=24, seed=5, render=lfkit.synthesize)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 3 * 5 + 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert not np.array_equal(lfkit.synthesize(5, size=24).lf, lfkit.synthesize(6, size=24).lf)


@pytest.mark.parametrize("seed", range(12))
def test_truth_is_consistent_and_inside_the_levels(seed):
    scene = lfkit.synthesize(seed, size=40)
    assert scene.lf.shape == (9, 9, 40, 40, 3) and scene.lf.dtype == np.uint8
    assert np.array_equal(scene.mask, scene.fg_disp > scene.bg_disp)
    assert np.abs(scene.fg_disp).max() <= 4 and np.abs(scene.bg_disp).max() <= 4
    assert scene.lf.std() > 2


def seen_behind(scene) -> np.ndarray:
    """At each point of the centre view, how many views see the background there; the nearer layer splatted three pixels wide, as in `hidden`."""
    (h, w), c = scene.mask.shape, scene.views_num // 2
    y, x = np.mgrid[:h, :w]
    seen = np.zeros((h, w), int)
    for du, dv in ((c - u, c - v) for u in range(scene.views_num) for v in range(scene.views_num)):
        row, col = (40 + np.rint(axis + offset * scene.fg_disp).astype(int) for axis, offset in ((y, du), (x, dv)))
        front = np.full((h + 80, w + 80), -np.inf)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                np.maximum.at(front, (row + dy, col + dx), scene.fg_disp)
        row, col = (40 + np.rint(axis + offset * scene.bg_disp).astype(int) for axis, offset in ((y, du), (x, dv)))
        seen += front[row, col] < scene.bg_disp + 0.3
    return seen


@pytest.mark.parametrize("bushy, least", [(0, 0.7), (1, 0.45)])
def test_what_occluders_hide_a_quarter_of_the_views_see(monkeypatch, bushy, least):
    """An occluder is told from a thing of the background by how thin it is: behind balls in the occluders' place, 62 % of the pixels are seen by so many, behind occluders but bushes 78 %, behind bushes 52 %."""
    monkeypatch.setattr(synthetic, "BUSHY", bushy)
    views = np.concatenate([seen_behind(scene)[scene.mask] for scene in (lfkit.synthesize(seed, size=96, occluded=True) for seed in range(12))])
    assert len(views) > 1000 and (views >= 20).mean() > least


@pytest.mark.parametrize("shape", SOLID)
def test_a_thing_keeps_to_its_disparities_and_is_as_wide_as_it_says(shape):
    round_ones = 0
    for seed in range(6):
        canvas = Canvas(96, 20, torch.Generator().manual_seed(seed), torch.device("cpu"))
        thing = shape(canvas)
        sheet = _thing_sheet(canvas, thing, -1.0, 1.0, canvas.noise(1.0, 3))
        shown = (sheet.support >= 0.6) & (canvas.y >= 0) & (canvas.y <= 95) & (canvas.x >= 0) & (canvas.x <= 95)
        disp = sheet.disp(canvas.y, canvas.x)[shown]
        assert thing.width >= 3 and distance_transform_edt(thing.support >= 0.5).max() / OVERSAMPLE > 0.9 * thing.width  # a disc of that radius fits into it
        assert not len(disp) or (disp.min() > -1.05 - (3 * RIM_SLOPE if sheet.rim else 0) and disp.max() < 1.05)  # rims are up to 6 pixels wide
        y, x, d = sheet.solve(*(torch.tensor(value) for value in (*thing.place, 4.0, -4.0)))
        assert float(sheet.disp(y, x)) == pytest.approx(float(d), abs=3e-3)
        if sheet.dome:
            round_ones += 1
            at = lambda y, x: float(Sheet((0.0, 0.0, 0.0), sheet.texture, sheet.support, dome=sheet.dome).disp(torch.tensor(y), torch.tensor(x)))
            height, y0, x0, ry, rx = sheet.dome
            assert at(y0, x0) == pytest.approx(height) and at(y0 + ry / 2, x0) == pytest.approx(0.75 * height) and at(y0, x0 + 2 * rx) == 0
    assert round_ones > 0 or shape.__name__ in ("_pile", "_island")


def test_no_view_sees_past_the_middle_of_a_thing(monkeypatch):
    """The outermost views lie 4 steps from the centre: they see 4 (d - here) pixels past an edge."""
    stood, grounds, real_thing, real_nearest = [], [], synthetic._thing_sheet, synthetic.nearest
    monkeypatch.setattr(synthetic, "_thing_sheet", lambda canvas, thing, low, high, behind: stood.append((thing.width, low, high)) or real_thing(canvas, thing, low, high, behind))
    monkeypatch.setattr(synthetic, "nearest", lambda *args: grounds.append(real_nearest(*args)) or grounds[-1])
    for seed in range(10):
        synthetic.make_sheets(Canvas(96, 20, torch.Generator().manual_seed(seed), torch.device("cpu")), 4.0, occluded=False)
    assert len(stood) == len(grounds) > 20
    assert all(low < high and 4 * (high - float(here[0])) <= width + 0.5 for (width, low, high), (here, _) in zip(stood, grounds))


def test_other_grids_and_bad_input():
    assert lfkit.synthesize(0, size=20, views_num=3).lf.shape == (3, 3, 20, 20, 3)
    for wrong in ({"views_num": 4}, {"size": 15}, {"max_disp": 1.9}, {"max_disp": float("nan")}, {"seed": -1}, {"seed": 10**25}, {"seed": 1.5}):
        with pytest.raises(ValueError, match="size .* >= 16, an odd views_num >= 3 and max_disp >= 2: got"):
            lfkit.synthesize(**{"seed": 0, "views_num": 3, **wrong})


def test_three_in_five_scenes_have_occluders_with_a_gap_behind_them():
    scenes = [lfkit.synthesize(seed, size=24, views_num=3) for seed in range(60)]
    assert 0.4 < np.mean([scene.mask.any() for scene in scenes]) < 0.8
    gaps = np.concatenate([(scene.fg_disp - scene.bg_disp)[scene.mask] for scene in scenes])
    assert synthetic.MIN_GAP - 1e-3 < gaps.min() < synthetic.MIN_GAP + 0.5


def test_noise_is_as_strong_as_is_said():
    clean, noisy = (lfkit.synthesize(3, size=48, views_num=3, noise=noise).lf / 255 for noise in (0.0, 0.04))
    between = (clean > 0.2) & (clean < 0.8)  # what is not clipped
    assert between.mean() > 0.1 and (noisy - clean)[between].std() == pytest.approx(0.04, rel=0.05)
    assert abs((noisy - clean)[between].mean()) < 0.002


def test_a_camera_darkens_corners_underexposes_and_wavers_now_and_then():
    grey, corners, middles, wavering = torch.full((3, 3, 25, 25, 3), 0.5), [], [], []
    for seed in range(60):
        lf, gt_data = synthetic.photograph(Canvas(25, 4, torch.Generator().manual_seed(seed), torch.device("cpu")), grey, grey[1, 1], 0.0)
        assert torch.allclose(lf[1, 1], gt_data)
        corners.append(float(gt_data[0, 0, 0] / gt_data[12, 12, 0]))
        middles.append(float(gt_data[12, 12, 0] / 0.5))
        wavering.append(float((lf[:, :, 12, 12, 0] / lf[1, 1, 12, 12, 0] - 1).square().mean().sqrt()))
    for values, least, some in ((corners, 1 - synthetic.VIGNETTING, 0.85), (middles, synthetic.DARKEST, 0.5)):
        assert least - 1e-4 <= min(values) < some and 0.3 < np.mean(np.array(values) > 0.9999) < 0.7
    assert 0.003 < max(wavering) < 2.5 * synthetic.JITTER and 0.3 < np.mean(np.array(wavering) < 1e-6) < 0.7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_renders_the_same_scene():
    ours, theirs = lfkit.synthesize(1, size=48), lfkit.synthesize(1, size=48, device="cuda")
    assert np.abs(ours.bg_disp - theirs.bg_disp).max() < 1e-3
    assert np.mean(np.abs(ours.lf.astype(int) - theirs.lf) > 2) < 0.01


def test_blur_keeps_a_flat_picture_and_spreads_a_point():
    image = torch.zeros(2, 9, 9, 3)
    image[1, 4, 4] = 1.0
    blurred = _blurred(image, 0.7)
    light = blurred**2  # what adds up, and is spread
    assert (light[0] == 0).all() and light[1].sum(dim=(0, 1)) == pytest.approx([1, 1, 1], abs=1e-5)
    assert light[1, 4, 5, 0] / light[1, 4, 4, 0] == pytest.approx(np.exp(-1 / (2 * 0.49)), rel=1e-5)
    assert torch.allclose(_blurred(torch.full((1, 6, 6, 3), 0.3), 0.5), torch.tensor(0.3))


def test_the_centre_view_and_gt_data_have_one_exposure():
    """Where no occluder covers it, the noiseless centre view is gt_data, whatever the camera does."""
    for seed in range(6):
        scene = lfkit.synthesize(seed, size=48, noise=0.0, occluded=True)
        clear = ~binary_dilation(scene.mask, np.ones((7, 7), bool))  # a lens blur spreads an occluder over 2 pixels
        inner = np.abs(scene.centre.astype(int) - scene.gt_data).max(-1)[clear]
        assert np.mean(inner <= 1) > 0.5


def test_an_edge_that_turns_away_grows_dark_inside_the_outline_and_leaves_it_as_it_is(monkeypatch):
    monkeypatch.setattr(synthetic, "LIMB", 1.0)
    changed = 0
    for seed in range(8):
        canvas = Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
        support = (canvas.x >= 20).float()
        sheet = synthetic._limb(canvas, Sheet((0.0, 0.0, 0.0), torch.full((3, canvas.side, canvas.side), 0.4), support), torch.zeros(3, canvas.side, canvas.side))
        row = sheet.texture[0, canvas.side // 2, canvas.x[0] >= 20]
        assert torch.equal(sheet.support, support) and torch.allclose(row[2 * 6 + 1:], torch.tensor(0.4), atol=1e-6)  # 6 pixels in, nothing changes
        steps = row.diff()
        assert (steps >= -1e-6).all() or (steps <= 1e-6).all()  # to one side
        changed += abs(float(row[0]) - 0.4) > 0.02
    assert changed >= 5


def test_an_edge_that_fades_has_the_colour_of_what_is_behind_and_ends_where_it_ended(monkeypatch):
    monkeypatch.setattr(synthetic, "LIMB", 0.0)
    monkeypatch.setattr(synthetic, "FADING", 1.0)
    for seed in range(8):
        canvas = Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
        support, flat = (canvas.x >= 20).float(), lambda value: torch.full((3, canvas.side, canvas.side), value)
        sheet = synthetic._limb(canvas, Sheet((0.0, 0.0, 0.0), flat(0.4), support), flat(0.1))
        row = sheet.texture[0, canvas.side // 2, canvas.x[0] >= 20]
        assert torch.equal(sheet.support, support) and torch.allclose(row[2 * 6 + 1:], torch.tensor(0.4), atol=1e-6)
        assert (row.diff() >= -1e-6).all() and 0.1 - 1e-6 <= float(row[0]) < 0.31  # half of the way to what is behind, at least, but for half a sample


def test_a_rim_falls_towards_the_edge_and_is_wider_seen_from_its_own_side(monkeypatch):
    """An edge at x = 20 that has fallen by f lies 4 f further out in the view four steps to its left, and 4 f further in four steps to its right."""
    monkeypatch.setattr(synthetic, "TURNING", 1.0)
    fallen = 0
    for seed in range(8):
        canvas = Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
        flat = torch.full((3, canvas.side, canvas.side), 0.4)
        sheet = synthetic._limb(canvas, Sheet((1.0, 0.0, 0.0), flat, (canvas.x >= 20).float()), flat)
        x = torch.linspace(20, 40, 81)
        fall = 1 - sheet.disp(torch.full_like(x, 24.0), x)
        if fall[0] < 0.02:
            continue
        fallen += 1
        assert (fall[x >= 26.5] == 0).all() and (fall.diff() <= 1e-6).all() and 4 * -fall.diff().min() < 1.1 * RIM_SLOPE and fall[0] < 3 * RIM_SLOPE
        assert (fall > fall[0] / 4).sum() < 0.62 * (fall > 1e-5).sum()  # half of a parabola's rim, three quarters of a straight one's
        for dv in (4.0, -4.0):
            y, place, _ = sheet.solve(torch.tensor(24.0), 20 + dv * (1 - fall[0]), torch.tensor(0.0), torch.tensor(dv))
            assert float(y) == 24 and float(place) == pytest.approx(20, abs=0.01)
    assert fallen >= 3


def test_a_rim_is_solved_in_the_corner_views_too():
    """Brute force, at an edge that runs aslant, so that rays to the corner views go straight up its slope."""
    canvas = Canvas(48, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    rim = lambda y, x: 3 * RIM_SLOPE * (1 - (x + y - 40) / 2**0.5 / 6).clamp(0, 1).square()
    sheet = Sheet((1.0, 0.0, 0.0), torch.zeros(3, canvas.side, canvas.side), torch.ones_like(canvas.y), rim=rim)
    candidates, four = torch.linspace(0.5, 1.0, 50001, dtype=torch.float64), torch.tensor(4.0)
    for start in (22.8, 23.0, 23.5, 24.0):
        _, _, d = sheet.solve(torch.tensor(start), torch.tensor(start), four, four)
        residual = (sheet.disp(start - 4 * candidates, start - 4 * candidates) - candidates).abs()
        assert float(d) == pytest.approx(float(candidates[residual.argmin()]), abs=1e-3)


def test_a_thing_that_neither_darkens_nor_fades_has_no_rim(monkeypatch):
    monkeypatch.setattr(synthetic, "LIMB", 0.0)
    monkeypatch.setattr(synthetic, "FADING", 1e-9)
    canvas = Canvas(48, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    flat = torch.full((3, canvas.side, canvas.side), 0.4)
    assert all(synthetic._limb(canvas, Sheet((1.0, 0.0, 0.0), flat, (canvas.x >= 20).float()), flat).rim is None for _ in range(8))


def test_fading_changes_colours_alone(monkeypatch):
    monkeypatch.setattr(synthetic, "TURNING", 1e-9)
    plain, faded = (monkeypatch.setattr(synthetic, "FADING", share) or lfkit.synthesize(2, size=48, noise=0.0) for share in (1e-9, 0.5))
    assert np.array_equal(plain.bg_disp, faded.bg_disp) and np.array_equal(plain.mask, faded.mask) and not np.array_equal(plain.lf, faded.lf)


def test_a_sky_is_the_farthest_of_one_disparity_and_smooth(monkeypatch):
    for share in (0.0, 1.0):
        monkeypatch.setattr(synthetic, "SKIES", share)
        skies = [synthetic.make_sheets(Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu")), 4.0)[0] for seed in range(6)]
        disps = [sheet.disp(*torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")) for sheet in skies]
        assert all((disp.max() - disp.min() < 1e-6) == bool(share) for disp in disps)
    steps = [sheet.texture.diff(dim=2).abs().mean() for sheet in skies]
    assert max(steps) < 0.01 and all((sheet.texture >= 0).all() and (sheet.texture <= 1).all() and sheet.texture.mean() > 0.25 for sheet in skies)


def test_a_bush_has_leaves_of_one_kind_at_several_disparities():
    for seed in range(5):
        canvas = Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
        sheets = synthetic._bush(canvas, 1.0, 3.0)
        assert 2 <= len(sheets) <= 7 and all(sheet.occluder for sheet in sheets)
        here = slice(16, -16)  # the centre view
        disps = torch.stack([sheet.disp(canvas.y[here, here], canvas.x[here, here]) for sheet in sheets])
        assert disps.min() >= 1 and disps.max() <= 3 and len({round(float(d.mean()), 3) for d in disps}) == len(sheets)


def test_the_leaves_of_a_bush_turn_this_way_and_that(monkeypatch):
    """By waves that lean at most by LEAF_SLOPE, so that the rays of the outermost views are solved for."""
    steepest, off = [], []
    axis = torch.arange(160.0)
    i, j = torch.meshgrid(axis, axis, indexing="ij")
    for seed in range(6):
        for sheet in synthetic._bush(Canvas(160, 20, torch.Generator().manual_seed(seed), torch.device("cpu")), 2.0, 3.9):
            steepest.append(float(torch.hypot(*torch.gradient(sheet.disp(i, j))).max()))
            y, x, disp = sheet.solve(i, j, torch.tensor(4.0), torch.tensor(-4.0))
            off.append(float((sheet.disp(y, x) - disp).abs().max()))
    assert max(off) < 1e-3 and synthetic.MAX_SLOPE < max(steepest) < synthetic.LEAF_SLOPE + synthetic.MAX_SLOPE  # sheets alone lean by MAX_SLOPE at most


def test_the_waves_of_a_bushs_sheet_stay_in_its_range():
    for seed in range(20):
        canvas, here = Canvas(64, 8, torch.Generator().manual_seed(seed), torch.device("cpu")), slice(16, -16)  # the centre view
        sheet = synthetic._bush_sheet(canvas, 1.0, 1.2, torch.ones_like(canvas.y), torch.ones_like(canvas.y).repeat(3, 1, 1))
        disp = sheet.disp(canvas.y[here, here], canvas.x[here, here])
        assert 1 <= disp.min() and disp.max() <= 1.2


def test_leaves_grow_by_their_scale_and_a_bushs_with_its_nearness(monkeypatch):
    canvas = lambda seed=0: Canvas(64, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
    small, large = (synthetic.foliage(canvas(), 12, scale, [], LeafKind())[0] for scale in (1.0, 2.0))  # drawn from the same numbers
    assert (large >= small - 0.51).all() and 2 < large.sum() / small.sum() < 4.5
    scales = []
    monkeypatch.setattr(synthetic, "foliage", lambda canvas, count, scale, *_: (scales.append(scale) or torch.zeros_like(canvas.y), torch.ones_like(canvas.y)))
    for seed in range(20):
        synthetic._bush(canvas(seed), 3.0, 3.8)  # 1.4 at most before what is behind: the outermost views see past less than WIDEST
    assert set(scales) == {1}
    scales.clear()
    for seed in range(100):
        synthetic._bush(canvas(seed), 0.6, 3.8)
    assert 1.5 < max(scales) <= 2 and min(scales) >= 1


@pytest.mark.parametrize("outline", LEAF_OUTLINES)
def test_a_leaf_has_its_outline(outline):
    """Of one that lies along the rows: its length, and its width where it is widest, counted in samples; its area by the trapezoidal rule."""
    canvas = Canvas(64, 8, torch.Generator(), torch.device("cpu"))
    out = torch.full_like(canvas.y, -10.0)
    window, leaf, along, across = _leaf(canvas, (32.0, 30.0), 20.0, 8.0, 0.0, outline)
    out[window] = leaf
    inside = out > 0
    rows, columns = (inside.any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert abs((columns[-1] - columns[0] + 1) / 2 - 40) <= 3 and abs((rows[-1] - rows[0] + 1) / 2 - 16) <= 1  # two samples a pixel; tips are thinner than one
    half = LEAF_OUTLINES[outline](torch.linspace(-1, 1, 2001)).double()
    assert half.max() <= 1 + 1e-6 and half.min() >= -1e-6
    assert float(inside.sum()) / 4 == pytest.approx(2 * 8 * 20 * float(torch.trapezoid(half, dx=0.001)), rel=0.04)
    assert torch.allclose(canvas.y[window][leaf > 0] - 32, across[leaf > 0]) and torch.allclose(canvas.x[window][leaf > 0] - 30, 20 * along[leaf > 0], atol=1e-5)


def test_a_leaf_is_as_bright_as_it_was_drawn_and_hides_those_drawn_before():
    canvas = lambda: Canvas(64, 8, torch.Generator().manual_seed(3), torch.device("cpu"))
    foliage = lambda count, **options: synthetic.foliage(canvas(), count, 1.0, [(32.0, 32.0, 12.0)], LeafKind(**options))
    support, light = foliage(25, shades=(0.5, 1.4))
    levels, counts = light[0][support > 0.99].unique(return_counts=True)
    assert 8 < len(levels) <= 25 and levels.min() >= 0.5 and levels.max() < 1.4 and counts.max() < 0.4 * counts.sum()
    assert (light == light[:1]).all() and (light[:, support == 0] == 1).all()
    _, fewer = foliage(24, shades=(0.5, 1.4))
    assert len(light[fewer != light].unique()) == 1  # the last leaf, of one brightness, lies over the others
    assert (foliage(25)[1] == 1).all()
    _, tinted = foliage(25, tint=0.2)
    apart = tinted.amax(0) - tinted.amin(0)
    assert 0.1 < apart.max() < 0.4 and (tinted - 1).abs().max() <= 0.2
    _, folded = foliage(1, fold=0.3)
    assert torch.allclose(folded.unique(), torch.tensor([0.7, 1.0, 1.3])) and 0.8 < float((folded > 1.2).sum() / (folded < 0.8).sum()) < 1.25
    _, falling = foliage(1, fall=0.4)
    assert 0.05 < (falling - 1).abs().max() <= 0.4 and abs(falling[falling != 1].mean() - 1) < 0.02


def test_leaves_are_of_many_kinds():
    canvas = Canvas(64, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    kinds = [leaf_kind(canvas, (0.5, 1.4)) for _ in range(200)]
    assert {kind.outline for kind in kinds} == set(LEAF_OUTLINES) and all(kind.shades == (0.5, 1.4) for kind in kinds)
    assert 0.15 < np.mean([kind.widths[1] < 0.25 for kind in kinds]) < 0.35 and 0.35 < np.mean([kind.fold == 0 for kind in kinds]) < 0.65


def test_the_leaves_of_a_bush_are_shaded_and_its_twigs_are_not(monkeypatch):
    shaded = {}
    for shade in (1.0, 0.5):
        monkeypatch.setattr(synthetic, "LEAF_SHADES", (shade, shade))
        monkeypatch.setattr(synthetic, "branches", lambda canvas: torch.full_like(canvas.y, 0.9))  # tells which sheet is the twigs'
        shaded[shade] = [sheet for seed in range(6) for sheet in synthetic._bush(Canvas(48, 8, torch.Generator().manual_seed(seed), torch.device("cpu")), 1.0, 3.0)]
    twigs = 0
    for bright, dark in zip(shaded[1.0], shaded[0.5], strict=True):
        is_twigs = bool((bright.support == 0.9).all())
        on = ((bright.support == 1) | is_twigs) & (bright.texture < 1).all(0)
        assert torch.allclose(dark.texture[:, on], (1.0 if is_twigs else 0.5) * bright.texture[:, on], atol=1e-6)
        twigs += is_twigs
    assert 0 < twigs < len(shaded[1.0]) / 2


def test_the_leaves_of_a_bush_grow_in_its_places_on_all_of_its_sheets(monkeypatch):
    """At the middle of thick bushes next to nothing of what is behind is seen, while loose ones leave gaps."""
    canvas = lambda seed: Canvas(96, 8, torch.Generator().manual_seed(seed), torch.device("cpu"))
    monkeypatch.setattr(synthetic, "bush_places", lambda canvas: bushes.append(canvas) or [(48.0, 48.0, 24.0)])
    monkeypatch.setattr(synthetic, "leaf_kind", lambda canvas, shades: LeafKind(shades=shades))
    covered, bushes = {}, []
    loose, thick = synthetic.LEAVES[0], synthetic.LEAVES[-1]
    for most in loose, thick:
        monkeypatch.setattr(synthetic, "LEAVES", (most,))
        parts = []
        for seed in range(12):
            views = canvas(seed)
            inside = (views.y - 48).hypot(views.x - 48) < 24
            parts.append(float(torch.stack([sheet.support for sheet in synthetic._bush(views, 3.0, 3.8)]).amax(0)[inside].mean()))
        covered[most] = np.median(parts)
    assert covered[loose] < 0.85 and covered[thick] > 0.95 and len(bushes) == 24, covered


def test_gloss_is_wide_and_a_spot_is_small():
    canvas = Canvas(100, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    spots = [shine["spot"] for shine in (synthetic._shine(canvas) for _ in range(600)) if shine["spot"]]
    wide = [spot for spot in spots if spot[3] > 0.17 * 100 + 0.01]
    assert len(spots) / 600 == pytest.approx(0.35, abs=0.06) and 0.35 < len(wide) / len(spots) < 0.65
    assert max(spot[0] for spot in spots) < 0.6 and min(spot[0] for spot in wide) < 0.1 < max(spot[3] for spot in wide) / 100


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_is_a_number_from_0(noise):
    with pytest.raises(ValueError, match="noise must be a number from 0: got"):
        lfkit.synthesize(3, 16, noise=noise)
