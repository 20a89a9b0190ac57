"""The weights in the box."""

import runpy
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.dataset import HELD_OUT


def test_they_are_small_and_say_what_they_are():
    model, checkpoint = lfkit.load_model()
    assert WEIGHTS.stat().st_size < 8 * 2**20 and WEIGHTS.with_name("README.md").exists()
    assert (model.channels, model.views_num, model.max_disp, model.step) == (32, 9, 4, 1.0) and checkpoint["epoch"] > 0
    assert checkpoint["args"]["patch_size"] > 0 and not any("/" in str(value) for value in checkpoint["args"].values())  # names no machine


def test_they_have_learned_something_that_carries_to_scenes_never_trained_on():
    """Beside the occluders the median error is well under that of a flat zero, which a network that learned nothing would not beat."""
    model, _ = lfkit.load_model()
    errors, sizes = [], []
    for k in range(6):
        scene = lfkit.synthesize(HELD_OUT + k, size=64)
        disp = lfkit.predict_scene(scene.lf, model, torch.device("cpu"))[2].numpy()
        seen = ~scene.mask[11:-11, 11:-11]
        errors.append(np.abs(disp - scene.bg_disp)[11:-11, 11:-11][seen])
        sizes.append(np.abs(scene.bg_disp)[11:-11, 11:-11][seen])
    assert np.median(np.concatenate(errors)) < 0.3 * np.median(np.concatenate(sizes))


def test_the_closer_looks_bring_the_estimate_nearer():
    """On scenes without occluders or noise the median error after them is well under that after the second look."""
    model, _ = lfkit.load_model()
    errors = {"second": [], "depth_map": []}
    for k in range(6):
        scene = lfkit.synthesize(HELD_OUT + k, size=64, occluded=False, noise=0.0)
        x = torch.from_numpy(scene.lf).float().div(255).reshape(1, 81, 64, 64, 3).permute(0, 1, 4, 2, 3)
        with torch.inference_mode():
            seen = model.eval().stages(x)
        for name, values in errors.items():
            values.append(np.abs(seen[name][0].numpy() - scene.bg_disp)[11:-11, 11:-11])
    assert np.median(np.concatenate(errors["depth_map"])) < 0.85 * np.median(np.concatenate(errors["second"]))


def test_enlarged_views_make_the_result_more_precise():
    """Fewer pixels are off by more than 0.03 px, on scenes without noise, half of them with occluders."""
    scenes = [lfkit.synthesize(HELD_OUT + k, size=80, occluded=k % 2 == 0, noise=0.0) for k in range(4)]
    share = lambda model: np.mean([(np.abs(lfkit.predict_scene(scene.lf, model, torch.device("cpu"))[2].numpy() - scene.bg_disp) > 0.03)[15:-15, 15:-15].mean() for scene in scenes])
    plain, enlarged = (share(lfkit.load_pretrained(enlarge=enlarge)) for enlarge in (1, 1.5))
    assert enlarged < 0.95 * plain, (enlarged, plain)


def test_what_the_last_look_found_makes_the_distributions_better():
    """Their cross-entropy with the truth's falls, of both layers' and of the background's, on scenes with occluders."""
    model, _ = lfkit.load_model()
    losses = {"first": [], "last": []}
    for k in range(4):
        scene = lfkit.synthesize(HELD_OUT + 3000 + k, size=96, occluded=True)
        x = torch.from_numpy(scene.lf).float().div(255).reshape(1, 81, 96, 96, 3).permute(0, 1, 4, 2, 3)
        background = lfkit.get_disp_distribution(scene.bg_disp[None])
        both = (lfkit.get_disp_distribution(scene.fg_disp[None]) + background) / 2
        with torch.inference_mode():
            seen = model.eval().stages(x)
            last = model.distributions(seen)
            first = model.train().distributions(seen)
        for name, given in (("first", first), ("last", last)):
            losses[name].append([-float((target * p.clamp(min=1e-6).log()).sum(1).mean()) for p, target in zip(given, (both, background))])
    first, last = (np.mean(losses[name], 0) for name in ("first", "last"))
    assert (last < 0.99 * first).all(), (first, last)


@pytest.mark.parametrize("name, turn, back", [
    ("transposed", lambda lf: lf.transpose(1, 0, 3, 2, 4), lambda disp: disp.T),
    ("flipped", lambda lf: lf[::-1, :, ::-1], lambda disp: disp[::-1]),
    ("turned", lambda lf: np.rot90(np.rot90(lf, axes=(0, 1)), axes=(2, 3)), lambda disp: np.rot90(disp, -1))])
def test_the_result_follows_the_light_field(name, turn, back):
    """Flip, transpose or turn views and pixels together, and so does the disparity."""
    model, _ = lfkit.load_model()
    lf = lfkit.synthesize(HELD_OUT, size=64).lf
    straight, turned = (lfkit.predict_scene(np.ascontiguousarray(part), model, torch.device("cpu"))[2].numpy() for part in (lf, turn(lf)))
    assert np.median(np.abs(back(turned) - straight)) < 0.05


def test_half_precision_stays_finite_and_near():
    model, _ = lfkit.load_model()
    lf = lfkit.synthesize(HELD_OUT + 1, size=48).lf
    x = torch.from_numpy(lf).float().div(255).reshape(1, 81, 48, 48, 3).permute(0, 1, 4, 2, 3)
    with torch.inference_mode():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert all(torch.isfinite(out).all() for out in half) and (half[2] - exact[2]).abs().median() < 0.05


def test_what_is_published_lies_between_runs_and_names_no_machine(args, tmp_path, monkeypatch):
    states = []
    for k in range(3):
        torch.manual_seed(k)
        model = lfkit.DeoccNet(channels=4, views_num=3)
        optimizer = torch.optim.Adam(model.parameters())
        lfkit.save_checkpoint(args, 1, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), tmp_path / f"{k}.pkl")
        states.append(model.state_dict())
    start, one, other = states
    later = lambda name: name.startswith(("second_look.", "closer_look.", "outline_look."))
    assert {later(name) for name in start} == {True, False}
    expected = {"": lambda name: start[name],
                "--towards 1.pkl 0.5 0.5": lambda name: (start[name] + one[name]) / 2,
                "--towards 1.pkl 0.5 0 --towards 2.pkl 0.8 0.25": lambda name: 0.75 * start[name] + 0.25 * other[name] if later(name) else 0.5 * one[name] + 0.8 * other[name] - 0.3 * start[name],
                "--towards 1.pkl 0.5 0.5 --take second_look 2.pkl": lambda name: other[name] if name.startswith("second_look.") else (start[name] + one[name]) / 2,
                "--take guide 2.pkl": lambda name: other[name] if name.startswith("guide.") else start[name]}  # and not guide_middle
    monkeypatch.chdir(tmp_path)
    for flags, of in expected.items():
        monkeypatch.setattr(sys, "argv", ["strip_checkpoint.py", "0.pkl", "out.pkl", *flags.split()])
        runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "strip_checkpoint.py"), run_name="__main__")
        model, checkpoint = lfkit.load_model(tmp_path / "out.pkl")
        assert all(torch.allclose(value, of(name), atol=1e-6) for name, value in model.state_dict().items())
        assert not checkpoint["optimizer_state_dict"] and "data_dir" not in checkpoint["args"] and str(tmp_path) not in str(checkpoint["args"])


def test_what_a_script_cannot_do_it_says_in_a_sentence(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = lfkit.DeoccNet(channels=4, views_num=3)
    optimizer = torch.optim.Adam(model.parameters())
    lfkit.save_checkpoint(args, 1, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), tmp_path / "small.pkl")
    np.save("scene.npy", np.zeros((9, 9, 16, 16, 3), np.uint8))
    sentences = {f"strip_checkpoint small.pkl out.pkl --towards {WEIGHTS} 1 1": "deoccnet.pkl: of another architecture than small.pkl",
                 "strip_checkpoint small.pkl small.pkl": "small.pkl: is the checkpoint that is read, whose optimizer's state would be lost; name another FILE",
                 "strip_checkpoint small.pkl out.pkl --towards small.pkl nan 1": "--towards small.pkl nan 1: expected two numbers, parts of the way",
                 "strip_checkpoint small.pkl out.pkl --towards small.pkl a 1": "--towards small.pkl a 1: expected two numbers",
                 "strip_checkpoint small.pkl out.pkl --take third_look small.pkl": "--take third_look small.pkl: the network has no part third_look; expected one of vote_weights, guide",
                 "figure scene.npy out.xyz": "out.xyz: a figure's file must end in .png",
                 "strip_checkpoint none.pkl out.pkl": "no checkpoint at none.pkl",
                 "strip_checkpoint small.pkl small.pkl/out.pkl": "out.pkl: can't be written, small.pkl is a file",
                 "figure synthetic:x out.png": "synthetic:x: after synthetic: comes the seed of a scene, a whole number",
                 "figure nowhere out.png": "nowhere: no such file or directory",
                 "figure scene.npy small.pkl/out.png": "out.png: can't be written, small.pkl is a file",
                 "figure scene.npy out.png --what disparity": "scene.npy: has no true disparity of the background to draw"}
    for command, sentence in sentences.items():
        script, *flags = command.split(" ")
        monkeypatch.setattr(sys, "argv", [script, *flags])
        with pytest.raises(SystemExit, match=sentence):
            runpy.run_path(str(Path(__file__).parents[1] / "scripts" / f"{script}.py"), run_name="__main__")
    assert sorted(file.name for file in tmp_path.glob("out*")) == []


def test_the_figure_of_a_procedural_scene_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    figure, drawn = __import__("figure"), {}
    for name in ("plot_see_through", "plot_disparity"):
        monkeypatch.setattr(figure, name, lambda *args, name=name, draw=getattr(figure, name): drawn.setdefault(name, (args, draw(*args)))[1])
    monkeypatch.setattr(figure, "SIZE", 48)
    scene = lfkit.synthesize(2147484740, 48)
    for what, name in (("pictures", "plot_see_through"), ("disparity", "plot_disparity")):
        monkeypatch.setattr(sys, "argv", ["figure", "synthetic:2147484740", str(tmp_path / f"{what}.png"), "--what", what])
        figure.main()
        assert (tmp_path / f"{what}.png").stat().st_size > 10000
        assert any(isinstance(part, np.ndarray) and np.array_equal(part, scene.centre) for part in drawn[name][0])
    assert np.array_equal(drawn["plot_disparity"][0][1], scene.bg_disp)


def test_each_pixel_of_a_figure_has_a_dot(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    figure, drawn = __import__("figure"), []
    scene = lfkit.Scene("large", np.zeros((3, 3, 500, 400, 3), np.uint8), np.zeros((500, 400), np.float32))
    monkeypatch.setattr(lfkit, "load_scene", lambda path: scene)
    monkeypatch.setattr(lfkit, "load_model", lambda *_: (lfkit.DeoccNet(channels=4, views_num=3), {}))
    monkeypatch.setattr(lfkit, "predict_scene", lambda lf, model, device: (torch.ones(9, 500, 400) / 9,) * 2 + (torch.zeros(500, 400),))
    monkeypatch.setattr(figure, "plot_disparity", lambda *args, draw=figure.plot_disparity: drawn.append(draw(*args)) or drawn[-1])
    for flags in ([], ["--dpi", "80"]):
        monkeypatch.setattr(sys, "argv", ["figure", "large", str(tmp_path / "out.png"), "--what", "disparity", *flags])
        figure.main()
        height, inches = iio.imread(tmp_path / "out.png").shape[0], drawn[-1].get_size_inches()[1]
        dots = [axes.get_position().height * height for axes in drawn[-1].axes if axes.images]
        assert (min(dots) >= 500 and len(dots) == 4) if not flags else height == round(80 * inches)
