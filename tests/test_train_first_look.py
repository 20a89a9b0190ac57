"""The script that trains the first look alone: its scenes, its losses, and that the later looks stay as they are."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import lfkit

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
script = __import__("train_first_look")
gpu = script.gpu


def test_its_scenes_are_behind_one_denser_sheet_and_repeat():
    covered = []
    for seed in range(430000, 430008):
        scene = script.behind(seed, 48)
        covered.append(float(scene.mask.mean()))
        assert scene.two_layers and (scene.fg_disp[scene.mask] > scene.bg_disp[scene.mask]).all()
    assert max(covered) < 0.75 and sum(covered) / len(covered) > 0.25
    assert torch.equal(torch.from_numpy(script.behind(430001, 48).lf), torch.from_numpy(script.behind(430001, 48).lf))


def test_the_first_look_alone_is_that_of_all_looks():
    torch.manual_seed(0)
    net, x = lfkit.DeoccNet(4, 3).train(), torch.rand(2, 9, 3, 24, 32)
    with torch.no_grad():
        both, background, *_ = net(x, earlier=True)
        seen = net.stages(x)
        _, *found = script.first_look(net, net.cost_volume(x - 0.5), net.guide(x[:, 4] - 0.5))
    for one, other in zip(found, (both, background, seen["first"])):
        assert torch.allclose(one, other, atol=1e-5)


def test_only_crops_of_known_kinds_are_held():
    ours, theirs = torch.zeros(6, 1, 2, 2), torch.ones(6, 1, 2, 2)  # two crops of three candidates
    assert script.apart(ours, theirs, torch.tensor([True, True])) == 1 and script.apart(ours, theirs, torch.tensor([False, False])) == 0
    ours[:3] = 1
    assert script.apart(ours, theirs, torch.tensor([True, False])) == 0 and script.apart(ours, theirs, torch.tensor([False, True])) == 0.5


def test_it_trains_and_leaves_the_later_looks_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SIZE", 48)
    monkeypatch.setattr(gpu.os, "nice", lambda step: 0)
    for folder in ("pool", "bars"):
        (tmp_path / folder).mkdir()
    options = Namespace(pool=str(tmp_path / "pool"), bars=str(tmp_path / "bars"), out=str(tmp_path / "out"), start_from=str(lfkit.checkpoint.WEIGHTS), lr=1e-3, average=0.5, seed=0, seconds=5.0,
                        share=0.5, hold=1.0, batch_size=2, patch_size=40, report_every=1, threads=torch.get_num_threads(), device="cpu")
    with pytest.raises(SystemExit, match="pool: no scene in it; render some first"):
        script.train(options)
    gpu.render(tmp_path / "pool", range(3, 5))
    gpu.render(tmp_path / "bars", range(430000, 430001), script.behind)
    script.train(options)
    before, (model, checkpoint) = lfkit.load_pretrained().state_dict(), lfkit.load_model(tmp_path / "out" / "last.pkl")
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    assert checkpoint["steps"] >= 1 and checkpoint["args"]["patch_size"] == 40
    assert all((change == 0) == name.startswith(script.LATER) for name, change in moved.items() if "levels" not in name)
