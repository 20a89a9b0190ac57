"""The path-traced scenes of benchmarks/path_traced.py, where Mitsuba is at hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lfkit.lightfield import Scene

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
path_traced = __import__("path_traced")

SIZE = 32


def hit(scene, u: int, v: int, y: float, x: float):
    """The ray of view (u, v) through this place of the picture, in pixels, as origin and direction; and where it meets the scene."""
    mi = path_traced.mitsuba()
    ray, _ = path_traced.sensor(SIZE, u, v, "box").sample_ray(0, 0.5, mi.ScalarPoint2f((x + 0.5) / SIZE, (y + 0.5) / SIZE), mi.ScalarPoint2f(0.5))
    return np.array(ray.o), np.array(ray.d), np.array(scene.ray_intersect(ray).p)


def test_without_the_renderer_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    path_traced.mitsuba.cache_clear()
    with pytest.raises(SystemExit, match=r'Mitsuba 3, which is not here: pip install -e "\.\[bench\]"'):
        path_traced.main(["nowhere"])
    path_traced.mitsuba.cache_clear()


def test_a_disparity_is_where_its_depth_is_seen():
    """A point at depth z, seen by cameras a step apart whose picture is SIZE pixels over a width of 2 HALF z, moves by SCALE / z; less SHIFT, as the principal point moves too."""
    assert path_traced.depth(path_traced.FAR) == pytest.approx(path_traced.FAR_Z)
    assert path_traced.depth(3.5) == pytest.approx(path_traced.NEAREST_Z)
    assert path_traced.SCALE / path_traced.depth(0.25) - path_traced.SHIFT == pytest.approx(0.25)


def test_what_the_centre_view_sees_lies_in_each_view_where_its_true_disparity_says():
    """design.md's geometry: the ray of view (u, v) through (y + (4 - u) d, x + (4 - v) d) goes through the centre view's point at (y, x)."""
    pytest.importorskip("mitsuba")
    scene = path_traced.load(path_traced.draw(2)[0])
    disp = path_traced.true_disp(scene, SIZE)
    assert np.ptp(disp) > 1  # a pile of things, not a wall
    for y, x in ((3, 5), (10, 28), (16, 16), (29, 8)):
        _, _, point = hit(scene, 4, 4, y, x)
        for u, v in ((0, 0), (8, 3), (4, 7), (1, 4)):
            origin, way, _ = hit(scene, u, v, y + (4 - u) * disp[y, x], x + (4 - v) * disp[y, x])
            assert np.linalg.norm(np.cross(point - origin, way)) / point[2] * SIZE / 2 / path_traced.HALF < 1e-3  # pixels


def test_the_nearest_thing_with_enough_of_a_pixel():
    """Five rays a pixel, the middle one first: by hand."""
    disp = np.array([[[0.0, 2.0, 2.1, 0.02, 0.01],      # two of five meet the nearer thing; of these the first is nearer to the middle
                      [0.0, 2.0, 0.05, 0.02, 0.01],     # one of five: not enough
                      [0.0, 2.0, 1.0, 1.05, 0.01],      # one meets the nearest thing, two the next one
                      [0.0, 1.0, 2.0, 3.0, -1.0]]])     # no two meet the same: the middle ray
    weights = np.ones(5)
    np.testing.assert_allclose(path_traced.nearest_with(disp, weights, 0.4), [[2.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(path_traced.nearest_with(disp, weights, 0.2), [[2.0, 2.0, 2.0, 3.0]])
    np.testing.assert_allclose(path_traced.nearest_with(disp, np.array([1.0, 3.0, 1.0, 1.0, 1.0]), 0.4), [[2.0, 2.0, 2.0, 1.0]])


def test_a_truth_by_many_rays_makes_an_occluder_wider_and_changes_nothing_else():
    pytest.importorskip("mitsuba")
    background, occluders = path_traced.draw(1)  # bars
    whole, behind = path_traced.load(background + occluders), path_traced.load(background)
    bg_disp, one, many = path_traced.true_disp(behind, SIZE), path_traced.true_disp(whole, SIZE), path_traced.true_disp(whole, SIZE, touched=0.12)
    by_one, by_many = one > bg_disp + 0.3, many > bg_disp + 0.3
    assert by_one.mean() < by_many.mean() < 2.5 * by_one.mean() and by_many[by_one].mean() > 0.98
    inside = ~by_many & (np.abs(many - one) < 0.3)
    np.testing.assert_array_equal(many[inside], one[inside])


@pytest.mark.parametrize("seed", range(len(path_traced.OCCLUDERS)))
def test_each_kind_of_scene_has_its_layers(seed):
    pytest.importorskip("mitsuba")
    scene = path_traced.render(seed, SIZE, 9)
    assert scene.lf.shape == (9, 9, SIZE, SIZE, 3) and np.isfinite(scene.bg_disp).all()
    assert path_traced.FAR - 0.1 < scene.bg_disp.min() and scene.bg_disp.max() < path_traced.OCCLUDER[0]
    kind = list(path_traced.OCCLUDERS)[seed]
    assert scene.name.endswith(kind)
    if kind == "nothing":
        assert scene.fg_disp is None
    else:
        hidden = scene.mask
        assert 0.03 < hidden.mean() < 0.7
        np.testing.assert_array_equal(scene.fg_disp[~hidden], scene.bg_disp[~hidden])
        assert (scene.fg_disp[hidden] > scene.bg_disp[hidden] + 0.3).all() and scene.fg_disp.max() < 4.5
        far = np.abs(scene.lf[4, 4].astype(int) - scene.gt_data).max(-1)
        assert far[hidden].mean() > 1.3 * far[~hidden].mean()  # what is in front is in the picture where the mask says, but for its shadow


def test_a_moved_scene_is_the_same_scene_at_other_disparities():
    """By one disparity more: what the views show whose pixels are moved by whole ones, but for the noise of their rays."""
    pytest.importorskip("mitsuba")
    scene, moved = path_traced.render(3, SIZE, 36), path_traced.render(3, SIZE, 36, moved=1.0)
    assert np.allclose(moved.bg_disp, scene.bg_disp + 1) and np.allclose(moved.fg_disp, scene.fg_disp + 1) and np.array_equal(moved.mask, scene.mask)
    least, most = path_traced.limits(3, SIZE)
    assert (least, most) == (scene.bg_disp.min(), scene.fg_disp.max())
    inner = slice(4, SIZE - 4)
    shown = moved.lf[:, :, inner, inner].astype(float)
    expected = np.stack([[scene.lf[u, v, u:SIZE - 8 + u, v:SIZE - 8 + v] for v in range(9)] for u in range(9)]).astype(float)
    assert np.abs(shown - expected).mean() < 0.3 * np.abs(shown - scene.lf[:, :, inner, inner]).mean()


def test_unseen_photographs_are_none_of_those_that_training_scenes_have_pieces_of(tmp_path, monkeypatch):
    """And take their places one for one, under other names."""
    from lfkit import canvas
    before = list(path_traced.PICTURES)
    assert set(before) == set(canvas.PICTURES) and not set(path_traced.UNSEEN) & set(canvas.PICTURES)
    assert len(set(path_traced.UNSEEN)) == len(before) and all(getattr(path_traced.pictures, name)().dtype == np.uint8 for name in path_traced.UNSEEN)
    monkeypatch.setattr(path_traced, "mitsuba", lambda: None)
    monkeypatch.setattr(path_traced, "PICTURES", list(before))
    drawn = []
    def render(seed, *_):
        drawn.append(list(path_traced.PICTURES))
        return Scene(path_traced.name_of(seed), np.zeros((3, 3, 8, 8, 3), np.uint8), np.zeros((8, 8), np.float32))
    monkeypatch.setattr(path_traced, "render", render)
    for flags in ([], ["--unseen"]):
        path_traced.main([str(tmp_path), "--seeds", "1", *flags])
    assert drawn == [before, path_traced.UNSEEN] and {folder.name for folder in tmp_path.iterdir()} == {"000_room_nothing", "000_room_nothing_unseen"}
