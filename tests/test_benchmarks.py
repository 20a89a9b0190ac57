"""What the benchmarks count, by hand."""

import contextlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lfkit
from lfkit.layers import bilateral
from lfkit.lightfield import Scene
from lfkit.model import SMOOTH
from lfkit.see_through import compute_psnr, see_through

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
accuracy, baselines, looks, outlines, parts, peaks, touched = (__import__(name) for name in ("accuracy", "baselines", "looks", "outlines", "parts", "peaks", "touched"))

TRUTH = np.where(np.arange(40) < 20, 1, 0).astype(np.float32)[None].repeat(40, 0)  # near in columns 0 to 19


def test_the_baselines_cross_entropy_shares_a_disparity_among_its_two_nearest_bins():
    """Nine bins from -4 to 4: the background's 0.25 is three quarters of bin 4 and one of bin 5, the occluder's -3.5 half of bins 0 and 1."""
    model = baselines.EpinetPosterior(width=1, bins=9)
    both, behind = np.array([1, 1, 2, 3, 5, 8, 2, 1, 1]) / 24, np.array([1, 2, 1, 2, 9, 3, 1, 1, 4]) / 24
    expected = -(0.75 * np.log(9 / 24) + 0.25 * np.log(3 / 24)) - 0.5 * (0.75 * np.log(5 / 24) + 0.25 * np.log(8 / 24) + 0.5 * np.log(1 / 24) + 0.5 * np.log(1 / 24))
    column = lambda values: torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1).expand(1, -1, 1, 2)
    disp = lambda *values: torch.tensor(values).reshape(1, 1, 2)
    loss = model.own_loss(column(both), column(behind), disp(-3.5, 7.0), disp(0.25, 0.25))  # the second pixel's occluder lies beyond the bins
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_an_outline_one_pixel_too_far_inside_is_off_on_the_near_side_alone():
    """Inside the border of 15 there are rows 15 to 24; columns 19, 18, 17 are near, 20, 21, 22 far."""
    found = np.where(np.arange(40) < 19, 1, 0)[None].repeat(40, 0)
    for truth, disp in ((TRUTH, found), (TRUTH.T, found.T)):
        scene = Scene("edge", np.zeros((3, 3, 40, 40, 3), np.uint8), truth)
        counts = outlines.count_sides(scene, disp)
        assert {key: n for key, n in counts.items() if n} == {("near", 0, "off"): 10} | {(side, step, "all"): 10 for side in ("near", "far") for step in range(3)} | {
            ("error", "beside"): 10, ("error", "all"): 10}
    found[20, 22] = 3  # the far side's third pixel
    counts = outlines.count_sides(Scene("edge", np.zeros((3, 3, 40, 40, 3), np.uint8), TRUTH), found)
    assert (counts["error", "beside"], counts["error", "all"]) == (10, 19)
    scene.mask = TRUTH.T > 0
    assert outlines.count_sides(scene, found.T)["near", 0, "all"] == 0


def test_what_a_near_thing_covers_is_read_from_light():
    """The last near column is covered by 0.3, of light 0.5 before light 0.1."""
    light = np.where(TRUTH > 0, 0.5, 0.1)
    light[:, 19] = 0.3 * 0.5 + 0.7 * 0.1
    view = (light[..., None] ** (1 / 2.2)).repeat(3, -1).astype(np.float32)
    parts, near = touched.covers(Scene("edge", np.broadcast_to(view, (3, 3, 40, 40, 3)), TRUTH))
    assert len(parts) == 4 * 40 and near.mean() == 0.5
    assert parts[near].reshape(40, 2) == pytest.approx(np.array([[0.3, 1]] * 40), abs=1e-4) and parts[~near] == pytest.approx(0, abs=1e-4)


def test_a_near_side_that_turns_away_falls_and_a_flat_one_does_not():
    """Columns 19, 18 and 17 lie 0.2, 0.1 and 0.05 lower than those further in."""
    turned = TRUTH.copy()
    turned[:, [19, 18, 17]] -= np.array([0.2, 0.1, 0.05], np.float32)
    view = np.zeros((40, 40, 3), np.uint8)
    for truth, fall in ((TRUTH, 0.0), (turned, 0.2), (turned.T, 0.2)):
        found = touched.falls(Scene("edge", np.broadcast_to(view, (3, 3, 40, 40, 3)), truth))
        assert len(found) == 40 and found == pytest.approx(fall, abs=1e-6)


def test_a_background_without_a_peak_is_missed_where_the_map_is_right_alone():
    """Occluder at 3, background at -1; depDistT has its second peak at 1. The map is right on the left half."""
    fg, bg = (np.full((40, 40), value, np.float32) for value in (3, -1))
    scene = Scene("two", np.zeros((3, 3, 40, 40, 3), np.uint8), bg, fg)
    both = torch.zeros(1, 9, 40, 40)
    both[:, [7, 5]] = 0.5
    disp = torch.from_numpy(bg).clone()[None]
    disp[..., 20:] = 1
    model = lfkit.DeoccNet(4, 3)
    assert peaks.missed(both, scene, disp, model) == 50
    both[:, [5, 3]] = both[:, [3, 5]]
    assert peaks.missed(both, scene, disp, model) == 0
    assert np.isnan(peaks.missed(both, Scene("one", scene.lf, bg, bg), disp, model))


def test_the_nearer_layer_is_missed_where_its_peak_has_less_than_the_least_mass():
    """Occluder at 3 with a fifth of the mass before a background at -1, on the upper half; on the lower half the background alone."""
    model, bg = lfkit.DeoccNet(4, 3), np.full((40, 40), -1, np.float32)
    fg = np.where(np.arange(40)[:, None] < 20, 3, bg).astype(np.float32)
    both = 0.2 * lfkit.get_disp_distribution(fg[None]) + 0.8 * lfkit.get_disp_distribution(bg[None])
    model.distributions = lambda seen: (both, None)
    rows = peaks.nearer(Scene("two", np.zeros((3, 3, 40, 40, 3), np.uint8), bg, fg, fg > bg), {}, model)
    for mass, row in zip(peaks.MASSES, rows):
        assert row[:3] == pytest.approx((0, 0, 0) if mass <= 0.2 else (800, 50, 100), abs=1e-3), mass
        assert np.isnan(row[3])  # nobody knows what lies behind


def test_what_is_seen_through_is_worse_where_the_occluder_is_missed():
    model, scene = lfkit.DeoccNet(4, 5), lfkit.synthesize(21, size=48, views_num=5, occluded=True)
    fg, bg = (lfkit.get_disp_distribution(disp[None]) for disp in (scene.fg_disp, scene.bg_disp))
    model.distributions = lambda seen: (0.2 * fg + 0.8 * bg, None)
    rows = peaks.nearer(scene, {"depth_map": torch.from_numpy(scene.bg_disp)[None]}, model)
    found, missed = rows[peaks.MASSES.index(0.15)][3], rows[peaks.MASSES.index(0.4)][3]
    assert found > missed + 3 and missed == pytest.approx(compute_psnr(see_through(scene.lf, scene.bg_disp, scene.bg_disp)[0], scene.gt_data, scene.mask))


def test_the_best_choice_is_the_nearest_value_within_reach():
    disp = np.where(np.arange(40) < 22, 1, 0).astype(np.float32)[None].repeat(40, 0)  # the outline two pixels too far out
    assert np.array_equal(looks.best_choice(disp, TRUTH), TRUTH)
    far = np.where(np.arange(40) < 26, 1, 0).astype(np.float32)[None].repeat(40, 0)  # six, of which three are within reach
    assert (looks.best_choice(far, TRUTH)[20] != TRUTH[20]).sum() == 3


def test_parts_are_left_out_for_as_long_as_they_are_to_be():
    model, scene = lfkit.load_pretrained(), lfkit.synthesize(11, size=48, occluded=True)  # one that has rims
    alone = lfkit.load_pretrained(enlarge=1)
    stages = alone.stages(torch.from_numpy(scene.lf).float().flatten(0, 1)[None].movedim(-1, 2) / 255)
    of = lambda *names, network=model: _without(names, network, scene)
    whole = of()
    assert np.array_equal(of("nothing"), whole)
    assert bilateral(torch.from_numpy(of("the bilateral filter"))[None], *SMOOTH)[0].numpy() == pytest.approx(whole, abs=1e-5)
    assert np.array_equal(of("enlarged views"), of(network=alone))
    assert np.array_equal(of("enlarged views", "the bilateral filter", "rims", "the last look"), stages["fifth"][0].detach().numpy())
    assert np.array_equal(of(parts.ALONE), stages["first"][0].detach().numpy())
    assert np.array_equal(of("enlarged views", "the bilateral filter", "rims", "the last look", "all closer looks"), stages["second"][0].detach().numpy())
    assert len({of(name).tobytes() for name in parts.LEFT_OUT}) == len(parts.LEFT_OUT)  # each is another part
    assert np.array_equal(of(), whole)


def _without(names, model, scene):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(parts.without(name))
        return parts.disparity(model, scene)


def test_noise_has_the_standard_deviation_asked_for_and_differs_from_view_to_view():
    """About 0.5 nothing is cut off; rounding to bytes adds 1/12 of a byte's variance."""
    scene = Scene("grey", np.full((3, 3, 40, 40, 3), 128, np.uint8), TRUTH)
    noise = accuracy.noisy(scene, 0.02).lf.astype(float) - 128
    assert noise.std() == pytest.approx(np.sqrt((0.02 * 255) ** 2 + 1 / 12), rel=0.02) and abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[0, 0].ravel(), noise[1, 1].ravel())[0, 1]) < 0.05 and (scene.lf == 128).all()


def test_a_moved_scene_is_one_whose_disparities_are_larger():
    """A wall at disparity 1: moved one less all views are alike, and what its maps say is less by one where they still reach."""
    texture = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)
    lf = np.stack([[texture[2 - (1 - u):34 - (1 - u), 2 - (1 - v):34 - (1 - v)] for v in range(3)] for u in range(3)])
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    scene = Scene("wall", lf, ramp, ramp + 1, ramp > 0.5)
    moved, at = accuracy.moved(scene, -1.0), slice(3, 29)
    assert all(np.array_equal(view, lf[1, 1][at, at]) for row in moved.lf for view in row)
    assert np.allclose(moved.bg_disp, ramp[at, at] - 1) and np.allclose(moved.fg_disp, ramp[at, at]) and np.array_equal(moved.mask, scene.mask[at, at])
    clean = accuracy.moved(Scene("wall", lf, ramp), 0.5)
    assert clean.name == "wall moved by 0.5" and clean.mask is None and clean.fg_disp is None and clean.bg_disp.max() <= 1.5


@pytest.mark.parametrize("script", (outlines, peaks, touched))
def test_given_scenes_alone(script, tmp_path, monkeypatch, capsys):
    path = lfkit.save_scene(lfkit.synthesize(21, size=48, occluded=True), tmp_path)
    monkeypatch.setattr(sys, "argv", ["script", str(path), "--seeds", "0"])
    script.main()
    printed = capsys.readouterr().out
    assert str(path) in printed and "procedural" not in printed


@pytest.mark.parametrize("command, sentence", {
    "benchmarks/accuracy.py nosuch --seeds 0": "nosuch: no such file or directory",
    "benchmarks/accuracy.py --seeds 0 --json TMP": "is a folder; name a file",
    "benchmarks/accuracy.py --seeds 0": "no scene to score: name some, or ask for --seeds",
    "benchmarks/accuracy.py --symmetries 3": "argument --symmetries: invalid choice: 3",
    "benchmarks/bars.py --seeds 0": "argument --seeds: must be a whole number from 1: got 0",
    "benchmarks/loader.py --size 20 --patch 32": "--patch must be from 2 to --size, and --scenes at least 1: got 32, 20 and 4",
    "benchmarks/outlines.py nosuch --seeds 0": "nosuch: no such file or directory",
    "scripts/train_on_gpu.py render TMP --first_seed -5": "argument --first_seed: must be a whole number from 0: got -5",
    "scripts/train_on_gpu.py train TMP TMP --start_from nosuch --device cpu": "no checkpoint at nosuch",
    "scripts/train_looks.py train TMP TMP TMP --shares 0 1 --start_from WEIGHTS --seconds 0": "argument --seconds: must be a number from 1: got 0",
}.items())
def test_what_a_script_cannot_do_it_says_in_a_sentence(command, sentence, tmp_path, monkeypatch, capfd):
    script, *flags = command.replace("TMP", str(tmp_path)).replace("WEIGHTS", str(lfkit.checkpoint.WEIGHTS)).split(" ")
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(Path(__file__).parents[1] / script), run_name="__main__")
    assert sentence in f"{error.value} {capfd.readouterr().err}" and "Traceback" not in str(error.value)


def test_the_baselines_planes_are_read_where_their_disparity_says(monkeypatch):
    baseline = __import__("train_baseline")
    monkeypatch.setattr(baseline, "PLANES", 2.0)
    monkeypatch.setattr(torch, "rand", torch.ones)  # all at +2 px
    views, disp = baseline.planes(2, size=24)
    views = views.unflatten(1, (9, 9))
    assert (disp == 2).all() and views.shape == (2, 9, 9, 3, 24, 24) and views[:, 4, 4].std() > 0.05 and not views[:, 0, 1].any()
    for u, v in ((4, 2), (3, 4), (5, 5)):
        y, x = 2 * (4 - u), 2 * (4 - v)
        there = views[:, u, v, :, max(y, 0):24 + min(y, 0), max(x, 0):24 + min(x, 0)]
        assert torch.allclose(there, views[:, 4, 4, :, max(-y, 0):24 + min(-y, 0), max(-x, 0):24 + min(-x, 0)], atol=1e-4)


def test_the_head_start_changes_all_of_the_baselines_weights(capsys):
    baseline, network = __import__("train_baseline"), __import__("baselines").EpinetPosterior(4)
    before = [part.clone() for part in network.parameters()]
    baseline.learn_planes(network, 2, torch.device("cpu"))
    assert not any(torch.equal(*pair) for pair in zip(before, network.parameters()))
