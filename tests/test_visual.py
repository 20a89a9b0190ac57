import numpy as np
import pytest
import torch

import lfkit
from lfkit.visual import LiveCurves, disp_limits, plot_curves, plot_disparity, plot_distribution, plot_layers, plot_refocus, plot_see_through, plot_stages, plot_views, refocus, save_disparity

CURVES = {"train_loss": [3.0, 2.0], "train_metric": [1.0, 0.5], "test_metric": [2.0, 2.0]}


def images(fig):
    return [ax.images[0] for ax in fig.axes if ax.images]


def test_predicted_and_true_share_one_scale_and_the_error_is_signed():
    gt = np.linspace(-2, 1, 100).reshape(10, 10)
    fig = plot_disparity(gt + 0.25, gt, "scene", np.zeros((10, 10, 3), np.uint8))
    _, pred, true, error = images(fig)
    assert pred.get_clim() == true.get_clim() == (-2, 1) and pred.cmap.name == true.cmap.name
    assert np.allclose(error.get_array(), 0.25) and error.get_clim()[0] == -error.get_clim()[1]
    labels = [ax.get_ylabel() for ax in fig.axes]
    assert "disparity (px / view step)" in labels and "error (px / view step)" in labels
    with pytest.raises(ValueError, match="of one shape"):
        plot_disparity(gt[:5], gt)


def test_views_and_the_epipolar_slice(scene):
    shown = images(plot_views(scene.lf, row=7))
    assert np.allclose(shown[1].get_array(), scene.centre / 255) and np.allclose(shown[3].get_array(), scene.lf[4, :, 7] / 255)
    with pytest.raises(ValueError, match=r"row must lie in 0 \.\.\. 47: got 48"):
        plot_views(scene.lf, row=48)


def test_layers(scene):
    shown = images(plot_layers(scene.centre, scene.gt_data, scene.fg_disp, scene.bg_disp))
    assert np.array_equal(shown[2].get_array(), scene.fg_disp) and shown[2].get_clim() == shown[3].get_clim()


def test_seeing_through_names_its_scores(scene):
    centre, truth = scene.centre / 255, scene.gt_data / 255
    fig = plot_see_through(centre, truth.copy(), truth, scene.mask, scene.bg_disp)
    titles = [ax.get_title() for ax in fig.axes if ax.images]
    error = np.mean((centre - truth)[scene.mask] ** 2)
    assert f"centre view\nPSNR {-10 * np.log10(error):.1f} dB, SSIM 0." in titles[0] and "\nPSNR inf dB, SSIM 1.00" in titles[1] and "dB" not in titles[2]
    assert [ax.get_title() for ax in plot_see_through(centre, truth).axes] == ["centre view", "seen through"]


def test_the_distribution_at_the_chosen_pixel():
    both, background = np.random.default_rng(0).random((2, 9, 6, 7))
    fig = plot_distribution(both, background, (2, 5), 4, 1, fg_disp=np.full((6, 7), 3.0), bg_disp=np.full((6, 7), -1.5))
    ax = fig.axes[0]
    assert [bar.get_height() for bar in ax.containers[0]] == pytest.approx(both[:, 2, 5])
    assert [bar.get_height() for bar in ax.containers[1]] == pytest.approx(background[:, 2, 5])
    assert [line.get_xdata()[0] for line in ax.lines] == [3.0, -1.5]
    with pytest.raises(ValueError, match=r"pixel \(y, x\) = \(6, 0\) lies outside the 6 x 7 map"):
        plot_distribution(both, background, (6, 0), 4, 1)
    with pytest.raises(ValueError, match="expected 17 levels"):
        plot_distribution(both, background, (0, 0), 4, 0.5)


def test_curves_show_mse_times_100():
    loss, metric = plot_curves(CURVES).axes
    assert list(loss.lines[0].get_ydata()) == [3.0, 2.0] and list(metric.lines[0].get_ydata()) == [100.0, 50.0]
    assert metric.get_ylabel() == "MSE x 100 (px²)" and loss.get_xlabel() == "epochs trained"


def test_curves_have_the_validations_that_were_made_where_they_were_made():
    curves = {"train_loss": [4, 3, 2, 1], "train_metric": [4, 3, 2, 1], "test_metric": [2.0, 2.0, 1.0, 1.0]}
    drawn = lambda *args: [list(part) for part in plot_curves(curves, *args).axes[1].lines[1].get_data()]
    assert drawn() == [[0, 2], [200, 100]]  # before the first epoch, and before the third
    assert drawn(14) == [[10, 12], [200, 100]]
    assert drawn(4, {"epoch": 4, "mse": 0.5}) == [[0, 2, 4], [200, 100, 50]]  # after the last
    assert drawn(None, {"epoch": 2, "mse": 1.0}) == [[0, 2], [200, 100]]  # the one that the curve has


def test_live_curves_redraw_in_place(monkeypatch):
    import IPython.display
    shown, validated = [], []
    class Handle:
        def update(self, fig):
            shown.append(("update", list(fig.axes[0].lines[0].get_xdata())))
            validated.append(list(fig.axes[1].lines[1].get_xdata()))
    def display(fig, display_id):
        shown.append(("display", display_id))
        return Handle()
    monkeypatch.setattr(IPython.display, "display", display)
    live = LiveCurves()
    for _ in range(3):
        live({"curves": CURVES})
    live({"curves": CURVES, "epoch": 12, "validation": {"epoch": 12, "mse": 0.25}})  # of a run that began at its tenth
    assert shown == [("display", True), ("update", [1, 2]), ("update", [1, 2]), ("update", [11, 12])] and validated[-2:] == [[0], [10, 12]]


def test_limits_are_never_empty(tmp_path):
    assert disp_limits(np.zeros((2, 2)), np.ones((2, 2))) == (0, 1)
    assert disp_limits(np.ones((2, 2))) == (0.5, 1.5)
    save_disparity(tmp_path / "d.png", np.ones((4, 5)))
    assert lfkit.files.read_image(tmp_path / "d.png").shape == (4, 5, 3)


def test_refocusing_at_its_disparity_gives_a_plane_back_sharp():
    world = np.random.default_rng(0).random((60, 60, 3), dtype=np.float32)
    lf = np.stack([np.stack([world[20 - (2 - u) * 2:40 - (2 - u) * 2, 20 - (2 - v) * 2:40 - (2 - v) * 2] for v in range(5)]) for u in range(5)])
    lf.flags.writeable = False  # as a file that is mapped
    assert np.allclose(refocus(lf, 2.0), lf[2, 2], atol=1e-5)  # at the sides too: only the views that reach a pixel count
    assert np.abs(refocus(lf, -2.0) - lf[2, 2]).mean() > 0.1
    assert np.allclose(images(plot_refocus(lf, [2.0, 0.0]))[1].get_array(), lf.mean((0, 1)), atol=1e-5)


def test_the_stages_legends_cover_no_curve_and_nothing_is_cut_off():
    torch.manual_seed(0)
    scene = lfkit.synthesize(0, size=24, views_num=3, occluded=True)
    fig = plot_stages(lfkit.DeoccNet(4, 3).eval(), scene.lf, (12, 12), scene.fg_disp, scene.bg_disp)
    fig.canvas.draw()
    assert images(fig)[0].get_array().shape == (24, 24, 3) and fig.axes[0].lines[0].get_xydata().tolist() == [[12, 12]]  # where the pixel lies
    for ax in fig.axes[1:]:
        box, legend = ax.get_tightbbox(), ax.get_legend().get_window_extent()
        assert legend.y1 < ax.get_window_extent().y0 and min(box.x0, box.y0) >= 0 and box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1


def test_what_is_not_finite_has_no_say_in_the_limits():
    assert disp_limits(np.array([[1.0, np.nan], [np.inf, 3.0]]), np.array([[-2.0]])) == (-2, 3) and disp_limits(np.full((2, 2), np.nan)) == (-0.5, 0.5)


def test_the_stages_of_a_pixel_outside_the_picture():
    with pytest.raises(ValueError, match=r"pixel \(y, x\) = \(8, 0\) lies outside the 8 x 9 map"):
        plot_stages(None, np.zeros((3, 3, 8, 9, 3), np.uint8), (8, 0))
