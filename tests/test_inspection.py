import numpy as np
import pytest
import torch

from lfkit.inspection import explore, inspect_epipolar, inspect_pixel, inspect_points, inspect_refocus, plot_epipolar, plot_points, read_pixel
from lfkit.visual import plot_curves


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: (object, was it given a display id), and the figures that a picture is updated with."""
    displayed = []
    class Handle:
        def update(self, figure):
            displayed.append(("update", figure))
    def display(thing, display_id=False):
        displayed.append(("picture" if display_id else "widget", thing))
        return Handle() if display_id else None
    monkeypatch.setattr("lfkit.inspection.display", display)
    return displayed


def test_a_control_draws_the_picture_anew_in_its_place(shown):
    from ipywidgets import IntSlider
    slider, drawn = IntSlider(3, min=0, max=9), []
    def draw(epochs):
        drawn.append(epochs)
        return plot_curves({name: [1.0] * epochs for name in ("train_loss", "train_metric", "test_metric")})
    explore(draw, epochs=slider)
    assert [kind for kind, _ in shown] == ["picture", "widget"]  # the picture is an output of its own: it stays where there are no widgets
    slider.value = 5
    assert drawn == [3, 5] and shown[2][0] == "update" and len(shown[2][1].axes[0].lines[0].get_xdata()) == 5


def test_a_text_names_a_pixel_or_none():
    assert [read_pixel(text, (6, 7)) for text in ("2, 5", " 2,5 ", "6, 0", "0, 7", "2", "a, b", "-1, 2", "1, 2, 3", "")] == [(2, 5), (2, 5)] + [None] * 7


def test_a_click_shows_the_distribution_there(shown):
    both, background = np.random.default_rng(0).random((2, 9, 6, 7))
    inspect_pixel(both, background, np.zeros((6, 7, 3), np.uint8), 4, 1, (2, 5), bg_disp=np.full((6, 7), 1.5))
    (_, first), (_, box), (_, picture) = shown
    heights = lambda fig: [bar.get_height() for bar in fig.axes[1].containers[0]]
    assert heights(first) == pytest.approx(both[:, 2, 5]) and first.axes[0].lines[0].get_xydata().tolist() == [[5, 2]]
    field = box.children[0]
    (target,) = field._dom_classes
    assert f".{target} input" in picture.value and "data:image/png;base64," in picture.value  # the click writes into that field
    field.value = "4, 1"
    assert heights(shown[-1][1]) == pytest.approx(both[:, 4, 1])
    field.value = "9, 9"  # outside: the last one stays
    assert heights(shown[-1][1]) == pytest.approx(both[:, 4, 1])


@pytest.mark.parametrize("row", [0, 7, 23, 30, 31])
def test_the_strip_above_an_epipolar_slice_has_its_rows_where_the_axis_says(row):
    """Each row of a picture whose rows differ in grey lies at its own y, near the picture's ends too."""
    lf = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[:, None, None], (3, 3, 32, 32, 3))
    image = plot_epipolar(lf, row, {}).axes[0].images[0]
    left, right, bottom, top = image.get_extent()
    assert (bottom - top, right - left) == image.get_array().shape[:2]
    assert np.allclose(image.get_array()[:, 0, 0], lf[1, 1, int(top + 0.5):int(bottom + 0.5), 0, 0])


def test_a_right_slope_follows_the_slice(scene):
    fig = plot_epipolar(torch.from_numpy(scene.lf), 7, {"true": torch.from_numpy(scene.bg_disp), "none": 0 * scene.bg_disp})
    lines = fig.axes[1].lines
    assert len(lines) == 48 and fig.axes[1].get_xlabel() == "x (px)" and [t.get_text() for t in fig.legends[0].get_texts()] == ["true", "none"]
    line, zero = lines[3], lines[24 + 3]
    x = int(zero.get_xdata()[4])
    # centre[y, x] = view[c, v][y, x + (c - v) d], with c = 4
    assert line.get_ydata().tolist() == list(range(9)) and line.get_xdata()[1] == pytest.approx(x + 3 * scene.bg_disp[7, x])
    assert np.allclose(fig.axes[1].images[0].get_array(), scene.lf[4, :, 7] / 255)


def test_the_cloud_has_the_background_everywhere_and_the_occluder_where_it_covers():
    mask = np.zeros((10, 12), bool)
    mask[2, 3:5] = True
    back, front = np.full((10, 12), -1.0), np.where(mask, 2.0, -1.0)
    behind, occluder = plot_points(np.zeros((10, 12, 3)), front, back, np.ones((10, 12, 3), np.uint8)).axes[0].collections
    x, disp, y = occluder._offsets3d
    assert list(zip(x, disp, y)) == [(3, 2, 2), (4, 2, 2)] and len(behind._offsets3d[0]) == 120 and set(behind._offsets3d[1]) == {-1}
    large = np.zeros((200, 200))
    assert len(plot_points(np.zeros((200, 200, 3)), large, large).axes[0].collections[0]._offsets3d[0]) <= 6000


def test_the_live_ones_begin_with_their_pictures(shown, scene):
    inspect_refocus(scene.lf, 4)
    inspect_epipolar(scene.lf, {"true": scene.bg_disp}, row=9)
    inspect_points(scene.centre, scene.fg_disp, scene.bg_disp, scene.gt_data)
    assert [kind for kind, _ in shown] == ["picture", "widget"] * 3
    assert shown[3][1].children[0].value == 9
    shown[5][1].children[0].value = 20
    assert shown[-1][1].axes[0].azim == 20


@pytest.mark.parametrize("row, disps, sentence", [
    (48, {}, r"row must lie in 0 \.\.\. 47: got 48"),
    (0, {"a": np.zeros((2, 2))}, r"at most 3 'h w' maps of 48 x 48: got \[\(2, 2\)\]"),
    (0, {name: np.zeros((48, 48)) for name in "abcd"}, "at most 3 'h w' maps"),
])
def test_bad_slices(scene, row, disps, sentence):
    with pytest.raises(ValueError, match=sentence):
        plot_epipolar(scene.lf, row, disps)
