import logging
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lfkit
from lfkit.dataset import HELD_OUT, SyntheticLF, open_training, random_crop, validation_scenes


def test_items(args):
    dataset = lfkit.DatasetLF(args)
    lf, gt_data, mask, fg_disp, bg_disp = dataset[0]
    assert len(dataset) == 3 and lf.shape == (3, 3, 24, 24, 3) and gt_data.shape == (24, 24, 3)
    assert lf.dtype == gt_data.dtype == fg_disp.dtype == bg_disp.dtype == torch.float32 and mask.dtype == torch.bool
    assert 0 <= lf.min() and lf.max() <= 1 and mask.shape == fg_disp.shape == bg_disp.shape == (24, 24)
    args.crops_per_scene = 5
    assert len(lfkit.DatasetLF(args)) == 15


def test_items_depend_on_seed_epoch_and_index_alone(args):
    first, second = lfkit.DatasetLF(args), lfkit.DatasetLF(args)
    second[2], second[0]
    assert torch.equal(first[1][0], second[1][0])
    second.set_epoch(1)
    assert not torch.equal(first[1][0], second[1][0])
    args.seed = 1
    assert not torch.equal(first[1][0], lfkit.DatasetLF(args)[1][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_same_batches(args, workers):
    dataset = lfkit.DatasetLF(args)
    batches = list(DataLoader(dataset, batch_size=2, num_workers=workers))
    assert torch.equal(batches[0][0][1], dataset[1][0])


def test_a_crop_is_at_the_same_place_of_every_part(scene):
    lf, gt_data, mask, fg_disp, bg_disp = random_crop(scene, 20, np.random.default_rng(0))
    centre = np.rint(lf[4, 4] * 255).astype(np.uint8)
    places = [(y, x) for y in range(29) for x in range(29) if np.array_equal(scene.centre[y:y + 20, x:x + 20], centre)]
    assert len(places) == 1
    y, x = places[0]
    at = (slice(y, y + 20), slice(x, x + 20))
    assert np.array_equal(fg_disp, scene.fg_disp[at]) and np.array_equal(bg_disp, scene.bg_disp[at]) and np.array_equal(mask, scene.mask[at])
    assert np.allclose(gt_data * 255, scene.gt_data[at], atol=1e-4)


@pytest.fixture(scope="module")
def clean_dir(tmp_path_factory):
    """Two clean scenes of 80 x 80 pixels with a disparity map and no more, within 2 pixels per view step."""
    root = tmp_path_factory.mktemp("clean")
    for seed in (0, 1):
        scene = lfkit.synthesize(seed, size=80, max_disp=2, noise=0.0, occluded=False)
        lfkit.save_scene(lfkit.Scene(scene.name, scene.lf, scene.bg_disp), root)
    return root


def test_a_clean_scene_gets_occluders_and_their_truth(args, clean_dir):
    args.data_dir = str(clean_dir)
    dataset, clean = lfkit.DatasetLF(args, augment=False), lfkit.load_scene(clean_dir / "LFs" / "synthetic_000000.npy")
    covered = []
    for epoch in range(6):
        dataset.set_epoch(epoch)
        lf, gt_data, mask, fg_disp, bg_disp = (part.numpy() for part in dataset[0])
        places = [(y, x) for y in range(57) for x in range(57) if np.array_equal(clean.bg_disp[y:y + 24, x:x + 24], bg_disp)]
        (y, x), = places
        assert np.array_equal(np.rint(gt_data * 255), clean.centre[y:y + 24, x:x + 24])
        assert np.array_equal(mask, fg_disp > bg_disp) and np.array_equal(fg_disp[~mask], bg_disp[~mask]) and fg_disp.max() <= 4
        if mask.any():
            covered.append(np.abs(lf[1, 1] - gt_data)[mask].mean())
            assert np.abs(lf[1, 1] - gt_data)[~mask].mean() < covered[-1]
    assert len(covered) >= 3 and np.mean(covered) > 0.05


def test_embed_is_the_share_of_crops_with_occluders(args, clean_dir):
    args.data_dir, args.crops_per_scene = str(clean_dir), 12
    def embedded():
        dataset = lfkit.DatasetLF(args, augment=False)
        return sum(not torch.equal(lf[1, 1], gt_data) for lf, gt_data, *_ in (dataset[k] for k in range(len(dataset))))
    often = embedded()
    args.embed = 0.5
    assert 0 < embedded() < often
    args.embed = 0.0
    assert embedded() == 0 and not lfkit.DatasetLF(args)[0][2].any()


@pytest.mark.parametrize("augment", [False, True])
def test_occluders_are_the_same_for_any_number_of_workers(args, clean_dir, augment):
    args.data_dir, args.patch_size, args.crops_per_scene = str(clean_dir), 64, 2
    dataset = lfkit.DatasetLF(args, augment)
    for item, batch in zip(range(4), DataLoader(dataset, num_workers=2)):
        assert all(torch.equal(ours, theirs[0]) for ours, theirs in zip(dataset[item], batch))


def test_occluders_come_from_the_users_alpha_images(args, clean_dir, tmp_path):
    dot = np.zeros((60, 60), np.uint8)
    dot[30, 30] = 255
    args.data_dir, args.mask_dir = str(clean_dir), str(tmp_path)
    for picture, least, most in ((dot, 0, 0.15), (255 - dot, 0.8, 1)):
        iio.imwrite(tmp_path / "a.png", picture)
        assert all(least <= lfkit.DatasetLF(args)[k][2].float().mean() <= most for k in range(2))
    iio.imwrite(tmp_path / "a.png", np.zeros((60, 60), np.uint8))
    with pytest.raises(ValueError, match="a.png: covers none of its pixels"):
        lfkit.DatasetLF(args)


def test_some_crops_are_refocused_or_reduced_where_the_scene_is_large_enough(args, clean_dir, monkeypatch):
    args.data_dir = str(clean_dir)
    dataset, plain = lfkit.DatasetLF(args), lfkit.DatasetLF(args, augment=False)
    values = set(dataset.scenes[0].bg_disp.flatten().tolist())
    kinds = {}
    for name, reduce_share, shear_share in (("none", 0, 0), ("reduced", 1, 0), ("sheared", 0, 1), ("both", 1, 1)):
        monkeypatch.setattr(lfkit.dataset, "REDUCE_SHARE", reduce_share)
        monkeypatch.setattr(lfkit.dataset, "SHEAR_SHARE", shear_share)
        item = dataset._crop(0, np.random.default_rng(3))
        assert item[0].shape == (3, 3, 24, 24, 3) and item[1].shape == (24, 24, 3) and all(m.shape == (24, 24) for m in item[2:])
        kinds[name] = item[4]
        assert set(plain._crop(0, np.random.default_rng(3))[4].flatten().tolist()) <= values
    inside = {name: set(disp.flatten().tolist()) <= values for name, disp in kinds.items()}
    assert inside == {"none": True, "reduced": False, "sheared": False, "both": False}
    assert set((2 * kinds["reduced"]).flatten().tolist()) <= values
    dataset.patch_size = 71  # with the margins of a shear that is more than the scene has
    assert dataset._crop(0, np.random.default_rng(3))[0].shape == (3, 3, 71, 71, 3)


def test_the_share_beyond_max_disp_is_said_once(args, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lfkit"), "propagate", True)
    for seed, columns in ((0, 0), (1, 10), (2, 2)):
        scene = lfkit.synthesize(seed, size=40, occluded=False)
        scene.bg_disp[:, :columns] = -4.5
        if seed == 2:
            scene.fg_disp[:, -2:] = 5
        lfkit.save_scene(lfkit.Scene(scene.name, scene.lf, scene.bg_disp, scene.fg_disp if seed == 2 else None), tmp_path)
    args.data_dir = str(tmp_path)
    dataset = lfkit.DatasetLF(args)
    dataset[0], dataset[1]
    assert [r.getMessage() for r in caplog.records] == ["11.7 % of the training pixels have a disparity beyond max_disp 4 and are left out of the "
                                                        "loss; most in synthetic_000001 (25 %)"]
    args.max_disp = 5
    lfkit.DatasetLF(args)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("lacking, sentence", [
    (["bg_disp"], r"LFs/synthetic_000000.npy: has no disparity of its own; training needs bg_disp: leave the scene out, or .*lfkit synth"),
    (["fg_disp"], "has a mask of occluders but not their disparity; training needs fg_disp.*: add fg_disp or leave the scene out")])
def test_a_scene_that_lacks_a_disparity_is_refused(args, tmp_path, lacking, sentence):
    scene = lfkit.synthesize(0, size=40, occluded=True)
    for part in lacking:
        setattr(scene, part, None)
    lfkit.save_scene(scene, tmp_path / "flat")
    args.data_dir = str(tmp_path / "flat")
    with pytest.raises(ValueError, match=sentence):
        lfkit.DatasetLF(args)


def test_a_patch_larger_than_the_scene_is_refused(args):
    args.patch_size = 41
    with pytest.raises(ValueError, match=r"patch_size 41 is larger than the scene synthetic_000001 \(40 x 40\); use --patch_size 40"):
        lfkit.DatasetLF(args)


def test_fewer_views_are_the_middle_ones(args):
    args.views_num = 5
    assert lfkit.DatasetLF(args)[0][0].shape == (5, 5, 24, 24, 3)

def test_endless_scenes_repeat_by_seed_epoch_and_index(args):
    args.data_dir, args.patch_size, args.synthetic_scenes, args.views_num = "synthetic:", 24, 3, 3
    dataset = open_training(args)
    lf, gt_data, mask, fg_disp, bg_disp = dataset[1]
    assert isinstance(dataset, SyntheticLF) and len(dataset) == 3 and lf.shape == (3, 3, 24, 24, 3) and bg_disp.shape == (24, 24)
    assert torch.equal(mask, fg_disp > bg_disp)
    assert torch.equal(open_training(args)[1][0], lf) and not torch.equal(dataset[2][0], lf)
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2))
    assert torch.equal(batches[0][0][1], lf)
    dataset.set_epoch(1)
    assert not torch.equal(dataset[1][0], lf)


def test_endless_training_validates_on_seeds_that_it_never_trains_on(args):
    args.data_dir, args.if_debug = "synthetic:", 0
    found = dict(validation_scenes(args))
    assert len(found) == 8 and all(int(name) >= HELD_OUT for name in found)
    assert all(scene.lf.shape == (3, 3, 96, 96, 3) for scene in found.values())
    args.num_workers = 2
    with pytest.raises(ValueError, match="need --num_workers 0: got 2"):
        open_training(args, "cuda:0")


def test_a_run_on_endless_scenes(args, tmp_path):
    args.data_dir, args.synthetic_scenes, args.views_num, args.epoch = "synthetic:", 2, 3, 1
    last = list(lfkit.fit(args, torch.device("cpu")))[-1]
    assert last["epoch"] == 1 and len(last["validation"]["scenes"]) == 1 and not list(tmp_path.glob("**/LFs"))


def test_an_item_is_described_by_where_it_was_cut(args):
    """The rows and columns named give, cut by hand and without augmentation, the item."""
    dataset = lfkit.DatasetLF(args, augment=False)
    dataset.set_epoch(3)
    for index in range(len(dataset)):
        name, top, bottom, left, right = re.fullmatch(r"(\S+) \[(\d+):(\d+), (\d+):(\d+)\]", dataset.describe(index)).groups()
        scene = next(s for s in dataset.scenes if s.name == name)
        assert np.array_equal(dataset[index][4].numpy(), scene.bg_disp[int(top):int(bottom), int(left):int(right)])


def test_a_refocused_crop_is_described_by_all_that_it_was_cut_from(args):
    sides = set()
    dataset = lfkit.DatasetLF(args)
    for epoch in range(40):
        dataset.set_epoch(epoch)
        top, bottom = map(int, re.search(r"\[(\d+):(\d+),", dataset.describe(0)).groups())
        sides.add(bottom - top)
    assert min(sides) == args.patch_size and len(sides) > 1


def test_a_procedural_item_is_described_by_its_seed(args):
    args.synthetic_scenes = 2
    dataset = SyntheticLF(args, augment=False)
    seed = int(dataset.describe(1).split()[-1])
    assert torch.equal(dataset[1][4], torch.from_numpy(lfkit.synthesize(seed, args.patch_size, args.views_num, args.max_disp).bg_disp))


def test_crops_as_bytes_are_the_same_crops(args):
    floats, stored = lfkit.DatasetLF(args, augment=False), lfkit.DatasetLF(args, augment=False, as_bytes=True)
    for (lf, *truth), (lf8, *truth8) in zip(floats, stored):
        assert lf8.dtype == torch.uint8 and torch.equal(lf8.float() / 255, lf) and all(torch.equal(a, b) for a, b in zip(truth, truth8))


def test_crops_as_bytes_train_alike(args):
    weights, losses = {"loss1_weight": 1.0, "loss2_weight": 1.0, "loss3_weight": 1.0}, []
    for as_bytes in (False, True):
        model, optimizer, scheduler = lfkit.build(args, torch.device("cpu"))
        dataset = lfkit.DatasetLF(args, augment=False, as_bytes=as_bytes)
        criterion = torch.nn.L1Loss()
        losses.append(lfkit.train_epoch(args, model, criterion, criterion, optimizer, scheduler, 0, weights, torch.device("cpu"), dataset)["loss"])
    assert losses[0] == losses[1]


def test_crops_as_bytes_refuse_what_needs_floats(args, clean_dir):
    with pytest.raises(ValueError, match="got as_bytes=True and augment=True; pass augment=False"):
        lfkit.DatasetLF(args, as_bytes=True)
    args.data_dir, args.views_num, args.embed = str(clean_dir), 9, 0.5
    with pytest.raises(ValueError, match=r"synthetic_00000\d has one layer, .* as_bytes=True and embed 0.5; use --embed 0"):
        lfkit.DatasetLF(args, augment=False, as_bytes=True)
    args.embed = 0
    assert lfkit.DatasetLF(args, augment=False, as_bytes=True)[0][0].dtype == torch.uint8
