import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lfkit
from lfkit.dataset import augment_colour, augment_geometry, random_crop
from test_synthetic import warp


def test_items(args):
    dataset = lfkit.DatasetLF(args)
    lf, gt_data, mask, fg_disp, bg_disp = dataset[0]
    assert len(dataset) == 3 and lf.shape == (9, 9, 24, 24, 3) and gt_data.shape == (24, 24, 3)
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


@pytest.mark.parametrize("seed", range(8))
def test_geometry_stays_true_through_augmentation(seed):
    """After any flip and transpose, views warped by the disparity still agree with the centre; with the sign changed they don't."""
    plain = lfkit.synthesize(11, size=64, noise=0.0, occluded=False)
    item = random_crop(plain, 64, np.random.default_rng(0))
    lf, _, _, fg_disp, _ = augment_geometry(item, np.random.default_rng(seed))
    def error(disp):
        return np.median([np.nanmedian(np.abs(warp(lf[u, v] * 255, disp, 4 - u, 4 - v) - lf[4, 4])) for u, v in ((0, 2), (8, 3), (2, 8))])
    assert error(fg_disp) < 0.35 * error(-fg_disp)


def test_all_eight_symmetries_occur(scene):
    item = random_crop(scene, 16, np.random.default_rng(0))
    seen = {augment_geometry(item, np.random.default_rng(seed))[3].tobytes() for seed in range(60)}
    assert len(seen) == 8


def test_colour_changes_leave_the_maps_alone(scene):
    item = random_crop(scene, 16, np.random.default_rng(0))
    for seed in range(10):
        lf, gt_data, *maps = augment_colour(item, np.random.default_rng(seed))
        assert 0 <= lf.min() and lf.max() <= 1 and lf.dtype == np.float32 and lf.shape == item[0].shape
        assert all(a is b for a, b in zip(maps, item[2:]))
        assert not np.array_equal(lf, item[0])


def test_a_scene_without_a_foreground_is_refused(args, tmp_path):
    scene = lfkit.synthesize(0, size=40)
    scene.fg_disp = None
    lfkit.save_scene(scene, tmp_path / "flat")
    args.data_dir = str(tmp_path / "flat")
    with pytest.raises(ValueError, match="has no foreground layer; training needs fg_disp and bg_disp.*lfkit synth"):
        lfkit.DatasetLF(args)


def test_a_patch_larger_than_the_scene_is_refused(args):
    args.patch_size = 41
    with pytest.raises(ValueError, match=r"patch_size 41 is larger than the scene synthetic_000000 \(40 x 40\); use --patch_size 40"):
        lfkit.DatasetLF(args)


def test_fewer_views_are_the_middle_ones(args):
    args.views_num = 5
    assert lfkit.DatasetLF(args)[0][0].shape == (5, 5, 24, 24, 3)
