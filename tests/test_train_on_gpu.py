"""The script that trains the shipped weights on a GPU, on this machine's processor: its crops, its loss, and what it writes."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

import lfkit
from lfkit import augment
from lfkit.losses import CRITERIA, DISP_CRITERIA, WEIGHT_NAMES

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
script = __import__("train_on_gpu")
CPU = torch.device("cpu")


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Two rendered scenes, of the script's own function."""
    monkeypatch.setattr(script, "SIZE", 48)
    monkeypatch.setattr(script.os, "nice", lambda step: 0)
    script.render(tmp_path, range(3, 5))
    return script.Pool(tmp_path, CPU, 0, 40)


def test_the_pool_takes_in_each_scene_once(pool):
    assert pool.grow() == 2 and pool.grow() == 2
    for scene, seed in zip(pool.scenes, (3, 4)):
        rendered = lfkit.synthesize(seed, 48)
        assert all(np.array_equal(part, getattr(rendered, name)) for part, name in zip(scene, ("lf", "fg_disp", "bg_disp")))
    script.render(pool.folder, range(5, 6))
    assert pool.grow() == 3 and not list(pool.folder.glob("*.part"))


@pytest.mark.parametrize("by", (0, -1, 1))
def test_crops_keep_their_geometry_however_they_are_moved_and_turned(pool, monkeypatch, by):
    """A wall at disparity d = 1, or one more or less: view (u, v) shows at p what the centre shows at p - d * (c - u, c - v), in each crop, and its maps are those of the crop's place."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    lf = np.stack([[texture[8 - (4 - u):56 - (4 - u), 8 - (4 - v):56 - (4 - v)] for v in range(9)] for u in range(9)])
    place = lf[4, 4, :, :, 0].astype(np.float32)  # a map that says where it was cut from
    pool.scenes, pool.moves = [[torch.from_numpy(part) for part in (lf, place, place + 1)]], [[by]]
    monkeypatch.setattr(pool, "recoloured", lambda views: views)
    views, fg_disp, bg_disp = pool.crops(24)
    assert views.shape == (24, 81, 3, 40, 40) and torch.equal(bg_disp, fg_disp + 1)
    centre = views[:, 40]
    assert torch.allclose(255 * centre[:, 0], fg_disp - by, atol=1e-4)
    for n in range(81):
        du, dv = (1 + by) * (4 - n // 9), (1 + by) * (4 - n % 9)
        inside = (..., slice(8 + du, 32 + du), slice(8 + dv, 32 + dv))
        assert torch.equal(views[:, n][inside], centre[..., 8:32, 8:32])
    ways = {way.tobytes() for way in fg_disp.numpy()}
    assert len(ways) > (20 if by == 0 else 6)  # a moved view leaves a crop of 40 of 48 one place, and eight ways to turn it


def test_scenes_are_moved_as_far_as_their_disparities_allow(pool):
    pool.grow()
    ends = [(float(bg_disp.min()), float(fg_disp.max())) for _, fg_disp, bg_disp in pool.scenes]
    assert pool.moves == [[by for by in (-1, 0, 1) if by == 0 or (low + by >= -4 and high + by <= 4)] for low, high in ends]
    pool.moves, pool.patch = [[-1, 0, 1]] * 2, 44  # of 48: no view of a moved crop would be whole
    _, fg_disp, bg_disp = pool.crops(20)
    assert bg_disp.min() >= min(low for low, _ in ends) and fg_disp.max() <= max(high for _, high in ends)


def test_colours_change_as_augment_colour_changes_them(pool, monkeypatch):
    monkeypatch.setattr(augment, "NOISE_SHARE", 0)
    monkeypatch.setattr(augment, "ERASE_SHARE", 0)
    views = torch.rand(3, 81, 3, 8, 8)
    out, rng = pool.recoloured(views), np.random.default_rng(0)
    mixes = [np.eye(3)[rng.permutation(3)] if rng.random() >= augment.GREY_SHARE else np.repeat(rng.dirichlet(np.ones(3))[None], 3, axis=0) for _ in range(3)]
    light = [rng.uniform(*span, (3, 1, 1, 1, 1)).ravel() for span in (augment.BRIGHTNESS, augment.CONTRAST, augment.GAMMA)]
    for crop, mine, mix, *numbers in zip(views, out, mixes, *light):
        item = rearrange(crop, "(u v) c h w -> u v h w c", u=9).numpy(), np.zeros((8, 8, 3), np.float32), None, None, None
        expected = augment.change_light(augment.mix_colours(item, mix), *numbers)[0]
        assert np.allclose(rearrange(mine, "(u v) c h w -> u v h w c", u=9), expected, atol=1e-6)


def test_noise_and_erased_regions_leave_the_centre_whole(pool, monkeypatch):
    monkeypatch.setattr(augment, "ERASE_SHARE", 1)
    monkeypatch.setattr(augment, "NOISE_SHARE", 0)
    flat = torch.full((6, 81, 3, 40, 40), 0.5)
    crops = torch.cat([pool.recoloured(flat) for _ in range(2)])
    touched = (crops - crops[:, 40:41]).abs().flatten(2).amax(2) > 0.01  # of a flat crop all but what was erased stays one colour
    assert (touched.sum(1) == 1).all() and len(touched.nonzero()[:, 1].unique()) > 4
    monkeypatch.setattr(augment, "ERASE_SHARE", 0)
    assert pool.recoloured(flat).flatten(1).std(1).max() < 1e-6
    monkeypatch.setattr(augment, "NOISE_SHARE", 1)
    noise = pool.recoloured(flat).flatten(1).std(1)
    assert (noise > 0).all() and noise.max() <= 1.05 * augment.NOISE_MAX


def test_the_loss_is_that_of_training_loss():
    """By weights in place of choices; pixels beyond the levels are left out of both."""
    torch.manual_seed(0)
    model = lfkit.DeoccNet(4, 3).train()
    views, bg_disp = torch.rand(2, 9, 3, 24, 24), 3 * torch.rand(2, 24, 24)
    fg_disp = bg_disp + torch.rand(2, 24, 24).round() * 1.5
    bg_disp[0, :5], fg_disp[0, :5] = 4.5, 4.7
    with torch.autocast("cpu", torch.bfloat16):
        outputs = tuple(out.float() for out in model(views, earlier=True))
    expected, _ = lfkit.training_loss(outputs, fg_disp, bg_disp, DISP_CRITERIA["l1_huber"](), CRITERIA["ce"](), dict(zip(WEIGHT_NAMES, (1, 1, script.LOSS3_WEIGHT))),
                                      4, 1, script.HIDDEN_WEIGHT)
    assert (fg_disp > 4).any() and (fg_disp > bg_disp)[bg_disp < 4].any()
    assert torch.allclose(script.loss_of(model, views, fg_disp, bg_disp), expected, rtol=1e-5)


def test_it_trains_and_writes_averaged_weights(pool, monkeypatch, tmp_path):
    """A few steps on the CPU: all four checkpoints are there, load, and differ from what they started from by no more than steps of the rate can."""
    monkeypatch.setattr(script, "WAIT_FOR", 2)
    start = lfkit.checkpoint.WEIGHTS
    options = Namespace(pool=str(pool.folder), out=str(tmp_path / "out"), start_from=str(start), batch_size=1, lr=1e-3, average=0.5, seed=0, seconds=4.0, graph=0, report_every=1, patch_size=40)
    script.train(options, CPU)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["at_50.pkl", "at_75.pkl", "at_90.pkl", "last.pkl"]
    before, (model, checkpoint) = lfkit.load_pretrained().state_dict(), lfkit.load_model(tmp_path / "out" / "last.pkl")
    steps = checkpoint["steps"]
    moved = max(float((value - before[name]).abs().max()) for name, value in model.state_dict().items())
    assert steps >= 1 and 0 < moved < 20 * steps * options.lr and not checkpoint["optimizer_state_dict"]
    assert checkpoint["args"]["patch_size"] == 40 and checkpoint["args"]["lr"] == 1e-3 and checkpoint["args"]["seed"] == 0
