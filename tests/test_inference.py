from collections import namedtuple

import pytest
import torch
from einops import rearrange, repeat

from lfkit import overlap_crop_forward

SIZES = [(1, 9), (7, 5), (48, 48), (49, 97), (101, 53), (64, 131)]


def whole(h, w, n=1, batch=1):
    return torch.arange(batch * n * h * w * 3, dtype=torch.float32).reshape(batch, n, h, w, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_length, shave, mod", [(48, 16, 8), (40, 16, 8), (21, 5, 3), (9, 0, 1), (1000, 16, 8)])
def test_arange_plus_one_equals_the_whole(size, max_length, shave, mod):
    x = whole(*size)
    out = overlap_crop_forward(x, lambda crop: crop[:, 0] + 1, 1, max_length, shave, mod)
    assert torch.equal(out, rearrange(x[:, 0], "b h w c -> b c h w") + 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_convolution_equals_the_whole_where_shave_covers_it(size):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 2, 2 * 5 + 1, padding=5).double()
    x = torch.rand(2, 1, *size, 3, dtype=torch.float64)
    model = lambda crop: convolution(crop[:, 0])
    expected = model(rearrange(x, "b n h w c -> b n c h w"))
    assert torch.allclose(overlap_crop_forward(x, model, 1, 23, 5, 4), expected, atol=1e-12)
    if max(size) > 23:
        assert not torch.allclose(overlap_crop_forward(x, model, 1, 23, 1, 4), expected, atol=1e-6)


def test_scale():
    x = whole(50, 37)
    model = lambda crop: repeat(crop[:, 0], "b c h w -> b c (h i) (w j)", i=3, j=3)
    assert torch.equal(overlap_crop_forward(x, model, 3, 24, 4, 4), model(rearrange(x, "b n h w c -> b n c h w")))


def test_structure_and_axes_are_the_models_own():
    Pair = namedtuple("Pair", "volume map")
    x = whole(50, 60, n=4, batch=2)
    model = lambda crop: {"pair": Pair(crop, crop[:, 0, 0]), "list": [crop[0, 0]], "tuple": (crop.mean((1, 2)),)}
    out = overlap_crop_forward(x, model, 1, 30, 4, 8)
    expected = model(rearrange(x, "b n h w c -> b n c h w"))
    assert isinstance(out["pair"], Pair) and isinstance(out["list"], list) and isinstance(out["tuple"], tuple)
    assert torch.equal(out["pair"].volume, expected["pair"].volume) and torch.equal(out["pair"].map, expected["pair"].map)
    assert torch.equal(out["list"][0], expected["list"][0]) and torch.equal(out["tuple"][0], expected["tuple"][0])


def test_crops_start_at_multiples_of_mod_and_stay_short():
    seen = []
    overlap_crop_forward(whole(1, 200), lambda crop: seen.append(crop.clone()) or crop[:, 0], 1, 50, 7, 8)
    first = [int(crop[0, 0, 0, 0, 0]) // 3 for crop in seen]
    assert all(start % 8 == 0 for start in first) and all(crop.shape[-1] <= 50 for crop in seen)
    assert first == [0, 32, 64, 96, 128, 160]  # the fewest, and as short as six can be: 46 pixels, the last 40


def test_the_result_can_be_changed_in_place():
    out = overlap_crop_forward(whole(9, 9), lambda crop: crop[:, 0], max_length=8, shave=1, mod=2)
    out += 1
    assert out.min() == 1


def test_the_network_on_crops_equals_the_whole(model):
    x = torch.rand(1, 81, 150, 40, 3)
    model.eval()
    with torch.inference_mode():
        expected = model(rearrange(x, "b n h w c -> b n c h w"))
    out = overlap_crop_forward(x, model, 1, 144, 64, 8)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(out, expected))


def test_bad_input():
    with pytest.raises(ValueError, match="max_length 32 can't cover an axis of 64 pixels with shave 16 and mod 8.*use max_length 40 or more"):
        overlap_crop_forward(whole(64, 8), lambda crop: crop[:, 0], max_length=32)
    with pytest.raises(ValueError, match=r"x must be 'b n h w c': got shape \(9, 9, 3\)"):
        overlap_crop_forward(torch.zeros(9, 9, 3), lambda crop: crop)
    with pytest.raises(ValueError, match=r"made \(18, 18\) pixels of a crop of \(9, 9\) at scale 1"):
        overlap_crop_forward(whole(9, 9), lambda crop: repeat(crop[:, 0], "b c h w -> b c (h 2) (w 2)"))
    with pytest.raises(ValueError, match="gave a str"):
        overlap_crop_forward(whole(9, 9), lambda crop: "no")
    with pytest.raises(ValueError, match="must be at least 1"):
        overlap_crop_forward(whole(9, 9), lambda crop: crop, scale=0)
