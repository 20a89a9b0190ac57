"""The script that trains the first look and those after it apart: its scenes, its losses, and that what is not to learn stays as it is."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import lfkit

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
script = __import__("train_looks")
gpu = script.gpu


def test_its_scenes_are_behind_one_denser_sheet_and_repeat():
    covered = []
    for seed in range(430000, 430008):
        scene = script.behind(seed, 48)
        covered.append(float(scene.mask.mean()))
        assert scene.two_layers and (scene.fg_disp[scene.mask] > scene.bg_disp[scene.mask]).all()
    assert max(covered) < 0.75 and sum(covered) / len(covered) > 0.25
    assert torch.equal(torch.from_numpy(script.behind(430001, 48).lf), torch.from_numpy(script.behind(430001, 48).lf))


def test_the_losses_are_those_of_all_looks():
    """Held to itself by nothing, as training_loss of the whole network has it; and the two parts add up."""
    torch.manual_seed(0)
    net, views, bg_disp = lfkit.DeoccNet(4, 3).train(), torch.rand(2, 9, 3, 24, 32), 3 * torch.rand(2, 24, 32)
    batch, known = (views, bg_disp + torch.rand(2, 24, 32).round(), bg_disp), torch.tensor([True, False])
    with torch.no_grad():
        both, background, last, *maps = net(views, earlier=True)
        expected = gpu.loss_of_looks(net, both, background, maps, *batch[1:]) + gpu.loss_of_last(net, last, *batch[1:])
        parts = {looks: script.loss_of(net, net, batch, known, 1.0, looks) for looks in ("all", "first", "later")}
    assert torch.allclose(parts["all"], expected, rtol=1e-4)
    assert torch.allclose(parts["first"] + parts["later"], parts["all"], rtol=1e-5) and min(parts.values()) > 0


def test_with_enlarge_the_later_looks_learn_from_enlarged_views_too():
    """From what they found before, with losses of what they find there, as of the views as they are."""
    torch.manual_seed(0)
    net, views, bg_disp = lfkit.DeoccNet(4, 3).train(), torch.rand(1, 9, 3, 32, 48), 3 * torch.rand(1, 32, 48)
    batch, known = (views, bg_disp + torch.rand(1, 32, 48).round(), bg_disp), torch.tensor([True])
    with torch.no_grad():
        seen, context, _ = net.first_look(net.cost_volume(views - 0.5), net.guide(views[:, 4] - 0.5))
        maps, _ = net.look_again(views - 0.5, seen["first"], context)
        maps, before_last, enlarged = net.look_again_enlarged(views - 0.5, maps[-1], context, 1.5)
        *maps, last = (F.interpolate(disp[:, None], (32, 48), mode="bilinear")[:, 0] / 1.5 for disp in (*maps, net.look_at_outlines(enlarged, maps[-1], before_last)))
        expected = gpu.loss_of_maps(net, maps, *batch[1:]) + gpu.loss_of_last(net, last, *batch[1:])
        plain, more = (script.loss_of(net, net, batch, known, 1.0, "later", enlarge) for enlarge in (1, 1.5))
    assert enlarged.shape == (1, 9, 3, 48, 72) and torch.allclose(more - plain, expected, rtol=1e-4) and expected > 0


def test_each_look_learns_from_its_own_losses_alone():
    torch.manual_seed(0)
    net, views, bg_disp = lfkit.DeoccNet(4, 3).train(), torch.rand(1, 9, 3, 32, 32), 3 * torch.rand(1, 32, 32)
    known, last = torch.tensor([False]), []
    for looks, enlarge in (("first", 1), ("later", 1), ("later", 1.5)):
        net.zero_grad()
        script.loss_of(net, net, (views, bg_disp + 1, bg_disp), known, 1.0, looks, enlarge).backward()
        reached = {name.startswith(script.LATER) for name, parameter in net.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
        assert reached == {looks == "later"}
        last.append(net.outline_look.head.weight.grad)
    assert not torch.equal(*last[1:])  # what enlarged views say moves them too


def test_its_path_traced_scenes_are_those_of_the_benchmark_but_for_rays_truth_and_disparity():
    pytest.importorskip("mitsuba")
    scene = script.traced(1009, 24)
    assert scene.name == script.path_traced.name_of(1009) and scene.two_layers
    other = script.path_traced.render(1009, 24, 9)
    assert scene.mask.mean() > other.mask.mean()
    by = float((scene.bg_disp - other.bg_disp)[~scene.mask].mean())
    assert abs(by) > 0.05 and -script.REACH <= other.bg_disp.min() + by and other.fg_disp.max() + by <= script.REACH + 1e-3


def test_only_crops_of_known_kinds_are_held():
    ours, theirs = torch.zeros(6, 1, 2, 2), torch.ones(6, 1, 2, 2)  # two crops of three candidates
    assert script.apart(ours, theirs, torch.tensor([True, True])) == 1 and script.apart(ours, theirs, torch.tensor([False, False])) == 0
    ours[:3] = 1
    assert script.apart(ours, theirs, torch.tensor([True, False])) == 0 and script.apart(ours, theirs, torch.tensor([False, True])) == 0.5


@pytest.mark.parametrize("looks", ("first", "later"))
def test_it_trains_and_leaves_the_other_looks_alone(tmp_path, monkeypatch, looks):
    monkeypatch.setattr(gpu, "SIZE", 48)
    monkeypatch.setattr(gpu.os, "nice", lambda step: 0)
    for folder in ("pool", "bars"):
        (tmp_path / folder).mkdir()
    options = Namespace(pool=str(tmp_path / "pool"), more=[str(tmp_path / "bars")], shares=[0.5, 0.5], looks=looks, out=str(tmp_path / "out"), start_from=str(lfkit.checkpoint.WEIGHTS), lr=1e-3,
                        average=0.5, seed=0, seconds=3.0, hold=1.0, batch_size=2, patch_size=40, report_every=1, threads=torch.get_num_threads(), device="cpu", enlarge=1)
    with pytest.raises(ValueError, match="pool: no scene in it; render some first"):
        script.train(options)
    gpu.render(tmp_path / "pool", range(3, 5))
    gpu.render(tmp_path / "bars", range(430000, 430001), script.behind)
    with pytest.raises(ValueError, match="--shares has 1 numbers for 2 folders of scenes, of a sum of 1; give one for each"):
        script.train(Namespace(**vars(options) | {"shares": [1.0]}))
    with pytest.raises(ValueError, match="a sum above 0"):
        script.train(Namespace(**vars(options) | {"shares": [0.0, 0.0]}))
    with pytest.raises(ValueError, match="--patch_size must be a multiple of 8: got 36"):
        script.train(Namespace(**vars(options) | {"patch_size": 36}))
    with pytest.raises(ValueError, match="--patch_size must be a multiple of 16: got 40"):
        script.train(Namespace(**vars(options) | {"enlarge": 1.5}))
    with pytest.raises(ValueError, match="enlarge must be 1, 1.5 or 2: got 1.2"):
        script.train(Namespace(**vars(options) | {"enlarge": 1.2}))
    with pytest.raises(ValueError, match="48 x 48 pixels, too few for crops of 56; use --patch_size 48 or less"):
        script.train(Namespace(**vars(options) | {"patch_size": 56}))
    script.train(options)
    before, (model, checkpoint) = lfkit.load_pretrained().state_dict(), lfkit.load_model(tmp_path / "out" / "last.pkl")
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    assert checkpoint["steps"] >= 1 and checkpoint["args"]["patch_size"] == 40 and checkpoint["args"]["precision"] == "float32"
    lfkit.engine.train_only(model, checkpoint["args"]["train_only"])
    assert all(parameter.requires_grad == (name.startswith(script.LATER) == (looks == "later")) for name, parameter in model.named_parameters())
    assert all((change == 0) == (name.startswith(script.LATER) == (looks == "first")) for name, change in moved.items())
