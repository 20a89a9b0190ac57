"""Training crops of two-layer scenes, augmented so that the geometry stays true."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from lfkit.lightfield import Scene, as_float, load_scene, training_scenes

NOISE_MAX = 0.03         # standard deviation of added noise, in parts of the full range
GAMMA = (0.8, 1.25)      # the field's range, see EPINET (CVPR 2018), section 3.3
BRIGHTNESS = (0.6, 1.3)


def load_training_scene(path: Path, views_num: int) -> Scene:
    """A scene with both layers and the middle views_num x views_num views; ValueError when it can't be trained on."""
    scene = load_scene(path)
    if not scene.two_layers:
        lacking = "disparity of its own" if scene.bg_disp is None else "foreground layer"
        raise ValueError(f"{path}: has no {lacking}; training needs fg_disp and bg_disp: leave the scene out, "
                         "or train on scenes of `python -m lfkit synth`")
    return scene.middle(views_num)


class DatasetLF(Dataset):
    """Random crops of the training scenes of a data directory.

    Each scene gives `crops_per_scene` items an epoch. What an item shows depends on (seed, epoch, index) alone, so that a run
    repeats whatever the number of workers and however often it was resumed; `set_epoch` moves on.

    Args:
        args: data_dir, patch_size, views_num, crops_per_scene, seed.
        augment: whether crops are flipped, transposed, and changed in colour, brightness, gamma and noise.

    Items:
        lf 'u v h w c', gt_data 'h w c', float32 in [0, 1]; mask 'h w' bool; fg_disp, bg_disp 'h w' float32 in pixels per view step.
        Where a scene lacks gt_data or mask, gt_data is NaN and mask is where fg_disp is above bg_disp.

    Raises:
        FileNotFoundError: when data_dir, or a scene that a list names, is missing.
        ValueError: when a scene is damaged, smaller than patch_size, or lacks a layer.
    """

    def __init__(self, args: Namespace, augment: bool = True):
        self.patch_size, self.crops_per_scene = args.patch_size, args.crops_per_scene
        self.seed, self.augment, self.epoch = args.seed, augment, 0
        self.scenes = [load_training_scene(path, args.views_num) for path in training_scenes(args.data_dir).values()]
        for scene in self.scenes:
            h, w = scene.lf.shape[2:4]
            if self.patch_size > min(h, w):
                raise ValueError(f"patch_size {self.patch_size} is larger than the scene {scene.name} ({h} x {w}); "
                                 f"use --patch_size {min(h, w)} or less")

    def set_epoch(self, epoch: int) -> None:
        """Chooses which crops the items are."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.scenes) * self.crops_per_scene

    def __getitem__(self, index: int) -> tuple:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        item = random_crop(self.scenes[index % len(self.scenes)], self.patch_size, rng)
        if self.augment:
            item = augment_colour(augment_geometry(item, rng), rng)
        lf, gt_data, mask, fg_disp, bg_disp = (torch.from_numpy(np.ascontiguousarray(part)) for part in item)
        return lf, gt_data, mask, fg_disp, bg_disp


def random_crop(scene: Scene, size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One square crop at the same place of every view and map, as (lf, gt_data, mask, fg_disp, bg_disp)."""
    top, left = (int(rng.integers(0, extent - size + 1)) for extent in scene.lf.shape[2:4])
    at = (slice(top, top + size), slice(left, left + size))
    lf = as_float(scene.lf[(slice(None), slice(None), *at)])
    fg_disp, bg_disp = scene.fg_disp[at], scene.bg_disp[at]
    gt_data = np.full(lf.shape[2:], np.nan, np.float32) if scene.gt_data is None else as_float(scene.gt_data[at])
    mask = fg_disp > bg_disp if scene.mask is None else scene.mask[at]
    return lf, gt_data, mask, fg_disp, bg_disp


def augment_geometry(item: tuple, rng: np.random.Generator) -> tuple:
    """A random flip up-down, flip left-right and transpose; views and pixels move together, so no disparity changes."""
    lf, *maps = item
    for axis in (0, 1):
        if rng.random() < 0.5:
            lf = np.flip(lf, (axis, axis + 2))
            maps = [np.flip(m, axis) for m in maps]
    if rng.random() < 0.5:
        lf = lf.transpose(1, 0, 3, 2, 4)
        maps = [m.swapaxes(0, 1) for m in maps]
    return (lf, *maps)


def augment_colour(item: tuple, rng: np.random.Generator) -> tuple:
    """Random colour order or grey, brightness, contrast, gamma and noise; one change for all views, but for the noise."""
    lf, gt_data, *maps = item
    mix = np.eye(3, dtype=np.float32)[rng.permutation(3)]
    if rng.random() < 0.2:
        mix = np.repeat(rng.dirichlet(np.ones(3)).astype(np.float32)[None], 3, axis=0)
    gain, gamma = np.float32(rng.uniform(*BRIGHTNESS)), np.float32(rng.uniform(*GAMMA))
    def change(image):
        return np.clip(image @ mix.T * gain, 0, 1) ** gamma
    lf = change(lf)
    if rng.random() < 0.5:
        lf = lf + rng.standard_normal(lf.shape, np.float32) * np.float32(rng.uniform(0, NOISE_MAX))
    return (np.clip(lf, 0, 1), change(gt_data), *maps)
