import numpy as np
import pytest
import torch

from lfkit.canvas import OCCLUDERS, TEXTURES, Canvas


@pytest.mark.parametrize("name", OCCLUDERS)
def test_occluders_cover_some_and_not_all(name):
    covers = []
    for seed in range(5):
        canvas = Canvas(64, 20, torch.Generator().manual_seed(seed), torch.device("cpu"))
        cover = OCCLUDERS[name](canvas)
        assert cover.shape == canvas.y.shape and cover.min() >= 0 and cover.max() <= 1
        covers.append(float((cover > 0.5).float().mean()))
    assert 0.01 < np.mean(covers) < 0.7


@pytest.mark.parametrize("texture", dict.fromkeys(TEXTURES))
def test_every_texture_is_a_picture_with_some_contrast(texture):
    canvas = Canvas(32, 8, torch.Generator().manual_seed(1), torch.device("cpu"))
    image = texture(canvas)
    assert image.shape == (3, canvas.side, canvas.side) and torch.isfinite(image).all() and image.std() > 0.004
