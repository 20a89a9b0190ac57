"""Training crops of two-layer scenes, and of clean ones behind occluders that are put there on the fly."""

import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from lfkit.augment import (REDUCE_SHARE, SHEAR_MAX, SHEAR_SHARE, augment_colour, augment_geometry, random_shear, reduce_by,
                           shear_margin)
from lfkit.lightfield import SCENE_LISTS, Scene, as_byte, as_float, load_scene, read_scene_list, training_scenes
from lfkit.occlusion import embed_occluders, occluder_supports, read_masks
from lfkit.synthetic import check_procedural, synthesize

logger = logging.getLogger("lfkit")
SYNTHETIC = "synthetic:"  # as data_dir: procedural scenes without end, never written to disk
HELD_OUT = 1 << 31        # seeds of training scenes lie below, those of validation scenes from there
HELD_OUT_SIZE = 96        # side of a validation scene, in pixels
HELD_OUT_SCENES = 8


def load_training_scene(path: Path, views_num: int) -> Scene:
    """A scene with a disparity map and the middle views_num x views_num views; ValueError when it can't be trained on."""
    scene = load_scene(path)
    if scene.bg_disp is None:
        raise ValueError(f"{path}: has no disparity of its own; training needs bg_disp: leave the scene out, "
                         "or train on scenes of `python -m lfkit synth`")
    if scene.fg_disp is None and scene.mask is not None and scene.mask.any():
        raise ValueError(f"{path}: has a mask of occluders but not their disparity; training needs fg_disp, or a scene without "
                         "occluders and mask: add fg_disp or leave the scene out")
    return scene.middle(views_num)


def warn_beyond(scenes: list[Scene], max_disp: float) -> None:
    """Says in the log which share of the pixels has a disparity beyond max_disp, and where most of them are."""
    beyond = [np.abs(scene.bg_disp) > max_disp if scene.fg_disp is None else
              (np.abs(scene.bg_disp) > max_disp) | (np.abs(scene.fg_disp) > max_disp) for scene in scenes]
    shares = [float(pixels.mean()) for pixels in beyond]
    if any(shares):
        worst = int(np.argmax(shares))
        share = sum(int(pixels.sum()) for pixels in beyond) / sum(pixels.size for pixels in beyond)
        logger.warning("%.3g %% of the training pixels have a disparity beyond max_disp %g and are left out of the loss; most in %s (%.3g %%)",
                       100 * share, max_disp, scenes[worst].name, 100 * shares[worst])


class DatasetLF(Dataset):
    """Random crops of the training scenes of a data directory.

    Each scene gives `crops_per_scene` items an epoch. What an item shows depends on (seed, epoch, index) alone, so that a run
    repeats whatever the number of workers and however often it was resumed; `set_epoch` moves on. A scene without fg_disp is
    taken for clean: occluders are put before its crops. The share of pixels beyond max_disp is logged once, when it is opened.

    Args:
        args: data_dir, patch_size, views_num, crops_per_scene, seed, max_disp, embed (probability of occluders before a crop of a
            clean scene), mask_dir (alpha images to draw them from, or None).
        augment: whether crops are turned and flipped, changed in colour and light, some noisy, partly erased, refocused or reduced.
        as_bytes: lf comes as uint8 0 ... 255, a quarter of the memory to write and to send; `train_epoch` makes it float on its device.
            For scenes that are taken as they are: without augment, and of two layers or with args.embed 0.

    Items:
        lf 'u v h w c', gt_data 'h w c', float32 in [0, 1]; mask 'h w' bool; fg_disp, bg_disp 'h w' float32 in pixels per view step.
        Where a two-layer scene lacks gt_data or mask, gt_data is NaN and mask is where fg_disp is above bg_disp.

    Raises:
        FileNotFoundError: when data_dir, a scene that a list names, mask_dir, or a picture in it is missing.
        ValueError: when a scene is damaged, smaller than patch_size, or lacks a disparity, an alpha image is unfit, or as_bytes meets what needs floats.
    """

    def __init__(self, args: Namespace, augment: bool = True, as_bytes: bool = False):
        if as_bytes and augment:
            raise ValueError("crops as bytes can't be augmented here: got as_bytes=True and augment=True; pass augment=False, and augment on the device")
        self.as_bytes = as_bytes
        self.patch_size, self.crops_per_scene = args.patch_size, args.crops_per_scene
        self.seed, self.augment, self.epoch = args.seed, augment, 0
        self.max_disp, self.embed = args.max_disp, args.embed
        self.supports = occluder_supports(read_masks(args.mask_dir) if args.mask_dir else ())
        self.scenes = [load_training_scene(path, args.views_num) for path in training_scenes(args.data_dir).values()]
        for scene in self.scenes:
            h, w = scene.lf.shape[2:4]
            if self.patch_size > min(h, w):
                raise ValueError(f"patch_size {self.patch_size} is larger than the scene {scene.name} ({h} x {w}); "
                                 f"use --patch_size {min(h, w)} or less")
            if as_bytes and self.embed and not scene.two_layers:
                raise ValueError(f"{scene.name} has one layer, and occluders are put before floats: got as_bytes=True and embed {self.embed:g}; "
                                 "use --embed 0, or as_bytes=False")
        warn_beyond(self.scenes, self.max_disp)

    def set_epoch(self, epoch: int) -> None:
        """Chooses which crops the items are."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.scenes) * self.crops_per_scene

    def __getitem__(self, index: int) -> tuple:
        if not 0 <= index < len(self):  # ends a plain for loop
            raise IndexError(f"item {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, self.epoch, index))
        item = self._crop(index, rng)
        if self.augment:
            item = augment_colour(augment_geometry(item, rng), rng)
        return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in item)

    def describe(self, index: int) -> str:
        """The scene of an item and the rows and columns that it was cut from, such as "fence [12:76, 40:104]"."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        scene = self.scenes[index % len(self.scenes)]
        side, _, _ = self._choose(scene, rng)
        top, left = corner(scene, side, rng)
        return f"{scene.name} [{top}:{top + side}, {left}:{left + side}]"

    def _choose(self, scene: Scene, rng: np.random.Generator) -> tuple[int, bool, bool]:
        """Side of an item's crop in the scene, and whether it is reduced by 2, and refocused: now and then, where the scene is large enough."""
        reduced, sheared = (self.augment and rng.random() < share for share in (REDUCE_SHARE, SHEAR_SHARE))
        side = (2 if reduced else 1) * (self.patch_size + 2 * sheared * shear_margin(scene.views_num, SHEAR_MAX))
        return (self.patch_size, False, False) if side > min(scene.lf.shape[2:4]) else (side, reduced, sheared)

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A crop of patch_size; now and then refocused or reduced by 2 from a larger one; of a clean scene, behind occluders."""
        scene = self.scenes[index % len(self.scenes)]
        side, reduced, sheared = self._choose(scene, rng)
        item = random_crop(scene, side, rng, self.as_bytes)
        item = reduce_by(item, 2) if reduced else item
        item = random_shear(item, rng, self.max_disp) if sheared else item
        if not scene.two_layers and rng.random() < self.embed:
            lf, gt_data, _, _, bg_disp = item
            lf, mask, fg_disp = embed_occluders(lf, bg_disp, rng, self.max_disp, self.supports)
            item = lf, gt_data, mask, fg_disp, bg_disp
        return item


def corner(scene: Scene, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a random square crop."""
    top, left = (int(rng.integers(0, extent - size + 1)) for extent in scene.lf.shape[2:4])
    return top, left


def random_crop(scene: Scene, size: int, rng: np.random.Generator, as_bytes: bool = False) -> tuple[np.ndarray, ...]:
    """One square crop at the same place of every view and map, as (lf, gt_data, mask, fg_disp, bg_disp); lf as uint8 where asked for.

    A scene without fg_disp is clean: its fg_disp is bg_disp, its gt_data the centre view, its mask empty.
    """
    top, left = corner(scene, size, rng)
    at = (slice(top, top + size), slice(left, left + size))
    lf = scene.lf[(slice(None), slice(None), *at)]
    lf = np.array(as_byte(lf)) if as_bytes else as_float(lf)
    bg_disp = scene.bg_disp[at]
    if scene.fg_disp is None:
        return lf, as_float(lf[scene.views_num // 2, scene.views_num // 2]), np.zeros_like(bg_disp, bool), bg_disp, bg_disp
    fg_disp = scene.fg_disp[at]
    gt_data = np.full(lf.shape[2:], np.nan, np.float32) if scene.gt_data is None else as_float(scene.gt_data[at])
    return lf, gt_data, scene.mask[at], fg_disp, bg_disp


class SyntheticLF(DatasetLF):
    """Procedural crops without end: every item of every epoch is a scene of its own, rendered when it is asked for.

    Args:
        args: patch_size, views_num, max_disp, seed, synthetic_scenes (items an epoch).
        device: where scenes are rendered; on a CUDA device use num_workers 0.
        augment: as in `DatasetLF`, but for what the renderer varies itself.

    Items: as in `DatasetLF`; they depend on (seed, epoch, index) alone.

    Raises:
        ValueError: when `synthesize` can't make scenes of these args.
    """

    def __init__(self, args: Namespace, device: torch.device | str = "cpu", augment: bool = True):
        check_procedural(args.seed, args.patch_size, args.views_num, args.max_disp)
        self.args, self.device, self.seed, self.augment, self.epoch = args, device, args.seed, augment, 0

    def __len__(self) -> int:
        return self.args.synthetic_scenes

    def describe(self, index: int) -> str:
        """The seed of an item's scene."""
        return f"the procedural scene of seed {np.random.default_rng((self.seed, self.epoch, index)).integers(HELD_OUT)}"

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        scene = synthesize(int(rng.integers(HELD_OUT)), self.args.patch_size, self.args.views_num, self.args.max_disp, device=self.device)
        return random_crop(scene, self.args.patch_size, rng)


def open_training(args: Namespace, device: torch.device | str = "cpu") -> DatasetLF:
    """The training crops that args.data_dir names: a data directory, or `synthetic:`."""
    if args.data_dir != SYNTHETIC:
        return DatasetLF(args)
    if args.num_workers and torch.device(device).type == "cuda":
        raise ValueError(f"scenes rendered on a CUDA device need --num_workers 0: got {args.num_workers}; loader processes can't share the device")
    return SyntheticLF(args, device)


def validation_scenes(args: Namespace, share: slice = slice(None)) -> Iterator[tuple[str, Scene]]:
    """Name and scene, with the middle views_num x views_num views, of all that a validation goes through, or of a share of them.

    Those of the list that args.if_debug chooses; of `synthetic:`, scenes of held-out seeds.
    """
    if args.data_dir == SYNTHETIC:
        for k in range(1 if args.if_debug else HELD_OUT_SCENES)[share]:
            yield str(HELD_OUT + k), synthesize(HELD_OUT + k, HELD_OUT_SIZE, args.views_num, args.max_disp)
        return
    for name, path in list(read_scene_list(args.data_dir, SCENE_LISTS[args.if_debug]).items())[share]:
        yield name, load_scene(path).middle(args.views_num)
