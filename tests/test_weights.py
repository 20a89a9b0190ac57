"""The weights in the box."""

import numpy as np
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
