import logging
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat

import lfkit
from lfkit import overlap_crop_forward
from lfkit.inference import predict_scene
from lfkit.memory import PeakBytes, free_memory

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
    torch.manual_seed(1)  # by another, rounding may decide whether a view reaches a pixel at the image's side
    x = torch.rand(1, 81, 664, 24, 3)
    model.eval()
    with torch.inference_mode():
        expected = model(rearrange(x, "b n h w c -> b n c h w"))
    out = overlap_crop_forward(x, model, 1, 640, 304, 8)
    for a, b in zip(out, expected):  # on noise a closer look divides by little, which magnifies rounding here and there
        apart = (a - b).abs().flatten()
        assert apart.max() < 0.02 and apart.quantile(0.99) < 1e-4, (apart.max(), apart.quantile(torch.tensor([0.5, 0.9, 0.99, 0.999])))


def blur(crop):
    """A model with a radius of 5: the mean over 11 x 11 pixels that are there."""
    return F.avg_pool2d(crop[:, 0], 11, 1, 5, count_include_pad=False)


def whole_of(x, model=blur):
    return model(rearrange(torch.as_tensor(x), "b n h w c -> b n c h w"))


@pytest.mark.parametrize("size", [(1, 9), (31, 47), (97, 64), (53, 200)])
def test_auto_leaves_no_seam(size):
    x = torch.rand(1, 1, *size, 3, dtype=torch.float64)
    assert torch.allclose(overlap_crop_forward(x, blur, 1, 24, "auto"), whole_of(x), atol=1e-12)


@pytest.mark.parametrize("size", [(24, 50), (50, 24)])
def test_auto_finds_a_reach_of_nearly_half_the_scene(size):
    x = torch.rand(1, 1, *size, 3, dtype=torch.float64)
    wide = lambda crop: F.avg_pool2d(crop[:, 0], 41, 1, 20, count_include_pad=False)
    assert torch.allclose(overlap_crop_forward(x, wide, 1, 48, "auto", mod=2), whole_of(x, wide), atol=1e-12)


def test_auto_looks_no_further_than_the_scene_is_large(caplog):
    """No crop equals the whole where the whole decides, which no budget changes."""
    x, statistic = torch.rand(1, 1, 80, 40, 3), lambda crop: crop[:, 0] - crop[:, 0].mean((-1, -2), keepdim=True)
    with caplog.at_level(logging.WARNING, "lfkit"):
        assert torch.allclose(overlap_crop_forward(x, statistic, 1, "auto", "auto", memory=1), whole_of(x, statistic), atol=1e-6)
    assert "the least crop with shave 40, 80 x 40 pixels" in caplog.text


@pytest.mark.parametrize("memory", [6e5, 1e6, 1e9])
def test_a_budget_decides_the_size_of_crops(memory):
    x, areas = torch.rand(1, 1, 150, 170, 3), []
    def model(crop):
        areas.append(crop.shape[0] * crop.shape[-2] * crop.shape[-1])
        return blur(crop)
    out = overlap_crop_forward(x, model, 1, "auto", 5, memory=memory)
    assert torch.allclose(out, whole_of(x), atol=1e-6)
    largest = max(areas)
    with PeakBytes() as counted:
        blur(torch.rand(1, 1, 3, 100, largest // 100))
    assert counted.peak <= memory and (largest == 150 * 170) == (memory == 1e9)


def test_memory_is_counted_by_the_tensors_that_live():
    with PeakBytes() as counted:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b[:10] + torch.ones(10)
    assert counted.peak == 8000 and counted.live == 4000 + 40 and len(c) == 10
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_cached_files_of_a_control_group_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr("lfkit.memory.Path", lambda path: tmp_path)
    for name, text in {"memory.max": "3000\n", "memory.current": "2500\n", "memory.stat": "anon 400\ninactive_file 2000\n"}.items():
        (tmp_path / name).write_text(text)
    assert free_memory(torch.device("cpu")) == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 2**20


@pytest.mark.parametrize("memory", [None, 1e5])
def test_a_budget_that_no_crop_fits_is_said(memory, caplog):
    x = torch.rand(1, 1, 80, 80, 3)
    with caplog.at_level(logging.WARNING, "lfkit"):
        overlap_crop_forward(x, blur, 1, 80 if memory is None else "auto", 5, memory=memory and 1)
    assert ("the least crop with shave 5, 18 x 18 pixels, needs about" in caplog.text) == (memory is not None)


@pytest.mark.parametrize("most", [1600, 700, 330])
def test_out_of_memory_halves_what_is_left_and_says_so_once(most, caplog):
    x, sizes = torch.rand(2, 4, 70, 90, 3), []
    def model(crop):
        sizes.append(len(crop) // 2 * crop.shape[-2] * crop.shape[-1])
        if sizes[-1] > most and len(sizes) > 1:  # in the middle of the work
            errors = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()
            raise errors[len(sizes) % 3]
        return blur(crop)
    with caplog.at_level(logging.WARNING, "lfkit"):
        out = overlap_crop_forward(x, model, 1, 40, 5, 4, batch=4)
    assert torch.allclose(out, whole_of(x), atol=1e-6)
    said = {id(r) for r in caplog.records if "out of memory on cpu" in r.getMessage()}  # one record may come to two handlers
    assert len(said) == 1 and sizes[-1] <= most


def test_out_of_memory_at_the_least_crop_and_other_errors():
    def model(crop):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MemoryError, match=r"out of memory on cpu with one crop of \d+ x \d+ pixels, the least that shave 5 allows"):
        overlap_crop_forward(torch.rand(1, 1, 60, 60, 3), model, 1, 40, 5)
    def broken(crop):
        raise RuntimeError("a fault of its own")
    with pytest.raises(RuntimeError, match="a fault of its own"):
        overlap_crop_forward(torch.rand(1, 1, 60, 60, 3), broken)


def test_a_mapped_uint8_scene_becomes_floats_a_crop_at_a_time(tmp_path):
    rng, longest = np.random.default_rng(0), []
    np.save(tmp_path / "lf.npy", rng.integers(0, 256, (3, 3, 50, 70, 3), dtype=np.uint8))
    lf = np.load(tmp_path / "lf.npy", mmap_mode="r")
    def model(crop):
        assert crop.dtype == torch.float32 and crop.is_contiguous()
        longest.append(max(crop.shape[-2:]))
        return crop[:, 4]
    expected = torch.from_numpy(np.array(lf, np.float32) / np.float32(255)).reshape(1, 9, 50, 70, 3)
    for x in (lf[None], lf.reshape(1, 9, 50, 70, 3), torch.from_numpy(np.array(lf)).reshape(1, 9, 50, 70, 3), expected.numpy()):
        assert torch.equal(overlap_crop_forward(x, model, 1, 24, 2), rearrange(expected[:, 4], "b h w c -> b c h w"))
    assert max(longest) <= 24


@pytest.mark.parametrize("b", [1, 2])
def test_several_crops_a_call_once_the_memory_is_measured(b):
    model = torch.nn.Sequential(torch.nn.Flatten(1, 2), torch.nn.Conv2d(27, 2, 3, padding=1)).eval()  # a module, whose need is measured on the first call
    x = torch.rand(b, 9, 64, 64, 3)
    out = overlap_crop_forward(x, model, 1, 24, 2, memory=1e8, batch=3)
    assert out.shape == (b, 2, 64, 64) and torch.allclose(out, model(rearrange(x, "b n h w c -> b n c h w")), atol=1e-6)


def test_several_crops_a_call():
    x, counts = torch.rand(2, 1, 70, 90, 3), []
    out = overlap_crop_forward(x, lambda crop: counts.append(len(crop) // 2) or blur(crop), 1, 30, 5, 4, batch=3)
    assert torch.allclose(out, whole_of(x), atol=1e-6) and counts[0] == 1 and max(counts) == 3


def test_layout_and_precision_are_the_callers_choice():
    x, seen = torch.rand(1, 1, 40, 40, 3), []
    def model(crop):
        seen.append((crop.stride(2), torch.is_inference_mode_enabled()))
        return F.conv2d(crop[:, 0], torch.ones(1, 3, 1, 1))
    out = overlap_crop_forward(x, model, 1, 24, 2, autocast=torch.bfloat16, channels_last=True, batch=3)
    assert out.dtype == torch.bfloat16 and all(stride == 1 and inference for stride, inference in seen) and len(seen) < 9
    assert overlap_crop_forward(x, model, 1, 24, 2).dtype == torch.float32 and seen[-1][0] > 1


def test_predict_scene_is_the_whole_image_on_middle_views_of_any_float(model):
    torch.manual_seed(0)
    small = lfkit.DeoccNet(4, 3, 1, 1.0).eval()
    lf = np.random.default_rng(0).random((5, 5, 30, 44, 3))[1:-1, 1:-1]
    with torch.inference_mode():
        expected = small(torch.from_numpy(lf.astype(np.float32)).permute(0, 1, 4, 2, 3).reshape(1, 9, 3, 30, 44))
    for options in ({}, {"max_length": 80}):
        assert all(torch.allclose(a, b[0], atol=1e-5) for a, b in zip(predict_scene(lf, small, torch.device("cpu"), **options), expected))


def test_predict_scene_hands_on_how_crops_are_cut():
    """A model that sees two pixels far: no seam with a shave of two and more, some with none."""
    lf = np.random.default_rng(0).random((3, 3, 40, 130, 3), np.float32)
    blur = lambda crop: (F.avg_pool2d(F.pad(crop[:, 4], (2, 2, 2, 2)), 5, 1),)
    by = lambda **options: predict_scene(lf, blur, torch.device("cpu"), **options)[0]
    assert torch.allclose(by(max_length=48, shave=2, mod=2), by(max_length=200, shave=0), atol=1e-6)
    assert not torch.allclose(by(max_length=48, shave=0, mod=2), by(max_length=200, shave=0), atol=1e-3)
    starts = []
    predict_scene(np.broadcast_to(np.arange(130, dtype=np.float32)[:, None] / 130, (3, 3, 40, 130, 3)), lambda crop: (starts.append(round(130 * float(crop[0, 4, 0, 0, 0]))), crop[:, 4])[1:],
                  torch.device("cpu"), 40, 2, 5)
    assert len(starts) > 3 and all(start % 5 == 0 for start in starts) and any(start % 8 for start in starts)


@pytest.mark.parametrize("pooling, multiple", [(12, 24), (torch.nn.MaxPool2d(2), 8), (1, 8), (False, 8), (0, 8)], ids=str)
def test_crops_start_where_the_models_own_pooling_lets_them(pooling, multiple):
    starts, model = [], lambda crop: (starts.append(round(200 * float(crop[0, 0, 0, 0, 0]))), crop[:, 0, 0])[1]
    model.pooling = pooling
    x = torch.arange(200.0).expand(1, 1, 8, 200)[..., None].expand(-1, -1, -1, -1, 3) / 200
    overlap_crop_forward(x, model, 1, 50, 4)
    assert len(starts) > 3 and not any(start % multiple for start in starts) and any(start % 24 for start in starts) == (multiple == 8)


def test_symmetries_are_averaged_after_they_are_turned_back():
    """A model that gives one view: turned and mirrored, that is every view it can come to lie on, each in the scene's own orientation."""
    lf = np.random.default_rng(0).random((3, 3, 20, 28, 3), np.float32)
    grey = lf.mean(-1)
    def mean_of(view, symmetries):
        model = lambda crop: (crop[:, 3 * view[0] + view[1]], crop[:, 4], crop[:, 3 * view[0] + view[1]].mean(1))
        return predict_scene(lf, model, torch.device("cpu"), 96, 0, symmetries=symmetries)
    edges, corners = [(0, 1), (2, 1), (1, 0), (1, 2)], [(0, 0), (2, 2), (0, 2), (2, 0)]
    for symmetries, edge, corner in ((1, 1, 1), (2, 2, 2), (4, 4, 2), (8, 4, 4)):
        assert np.allclose(mean_of((0, 1), symmetries)[2], np.mean([grey[place] for place in edges[:edge]], axis=0), atol=1e-6)
        colours, centre, _ = mean_of((0, 0), symmetries)
        assert np.allclose(colours, np.mean([lf[place] for place in corners[:corner]], axis=0).transpose(2, 0, 1), atol=1e-6)
        assert np.allclose(centre, lf[1, 1].transpose(2, 0, 1), atol=1e-6)
    with pytest.raises(ValueError, match="symmetries must be 1, 2, 4 or 8: got 3"):
        mean_of((0, 0), 3)


@pytest.mark.parametrize("lf, sentence", [
    (np.zeros((3, 3, 8, 8, 3), np.int32), "pixels are int32; pass uint8"), (np.zeros((3, 3, 8, 8, 3), np.uint16), "pixels are uint16; pass uint8"),
    (np.zeros((3, 3, 8, 8, 3), bool), "pixels are bool"), (np.zeros((9, 8, 8, 3), np.float32), r"'u v h w c' with a square grid of views: got shape \(9, 8, 8, 3\)"),
    (np.zeros((1, 9, 8, 8, 3), np.uint8), r"a square grid of views: got shape \(1, 9, 8, 8, 3\)"),
    (np.zeros((3, 3, 0, 8, 3), np.float32), r"none of them 0: got shape \(1, 3, 3, 0, 8, 3\)")])
def test_predict_scene_refuses_what_is_no_light_field(lf, sentence):
    with pytest.raises(ValueError, match=sentence):
        predict_scene(lf, lfkit.DeoccNet(4, 3, 1, 1.0).eval(), torch.device("cpu"))


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no device 'cuda:99' on this machine: there is cpu"):
        predict_scene(np.zeros((3, 3, 8, 8, 3), np.uint8), lfkit.DeoccNet(4, 3, 1, 1.0).eval(), "cuda:99")


def test_a_light_field_of_bytes_is_the_same_as_an_array_and_as_a_tensor():
    lf = np.random.default_rng(0).integers(0, 256, (3, 3, 24, 24, 3), np.uint8)
    net = lfkit.DeoccNet(4, 3, 1, 1.0).eval()
    outputs = [predict_scene(views, net, torch.device("cpu"))[2] for views in (lf, torch.from_numpy(lf), lf / np.float32(255))]
    assert torch.equal(outputs[0], outputs[1]) and torch.allclose(outputs[0], outputs[2], atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(monkeypatch):
    """With convolutions in float32; in TensorFloat-32, PyTorch's default, 2 % of the disparities are off by more than 0.001 px and 0.04 % by more than 0.01."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    net = lfkit.DeoccNet(4, 3, 1, 1.0).eval()
    x = torch.randint(0, 256, (1, 9, 150, 170, 3), dtype=torch.uint8)
    expected = overlap_crop_forward(x, net, 1, 96, 16)
    net.cuda()
    out = overlap_crop_forward(x, net, 1, 96, 16)
    assert all(o.device.type == "cpu" and ((o - e).abs() > 1e-3).float().mean() < 0.01 for o, e in zip(out, expected))  # of two equal peaks rounding chooses
    local = torch.nn.Sequential(torch.nn.Flatten(1, 2), torch.nn.Conv2d(27, 2, 1)).cuda()  # sees one pixel: crops of any size give the same
    whole_view = overlap_crop_forward(x, local, 1, 200, 0)
    for memory in (None, 1e6):
        assert torch.allclose(overlap_crop_forward(x, local, 1, 96, 0, memory=memory), whole_view, atol=1e-3)
    assert overlap_crop_forward(x.cuda(), net)[2].is_cuda


def test_bad_input():
    with pytest.raises(ValueError, match="max_length 32 can't cover an axis of 64 pixels with shave 16 and mod 8.*use max_length .--test_length. 40 or more"):
        overlap_crop_forward(whole(64, 8), lambda crop: crop[:, 0], max_length=32)
    with pytest.raises(ValueError, match=r"x must be 'b n h w c', none of them 0: got shape \(9, 9, 3\)"):
        overlap_crop_forward(torch.zeros(9, 9, 3), lambda crop: crop)
    with pytest.raises(ValueError, match=r"made \(18, 18\) pixels of a crop of \(9, 9\) at scale 1"):
        overlap_crop_forward(whole(9, 9), lambda crop: repeat(crop[:, 0], "b c h w -> b c (h 2) (w 2)"))
    with pytest.raises(ValueError, match="gave a str"):
        overlap_crop_forward(whole(9, 9), lambda crop: "no")
    with pytest.raises(ValueError, match="must be at least 1"):
        overlap_crop_forward(whole(9, 9), lambda crop: crop, scale=0)
    with pytest.raises(ValueError, match=r"outputs differ in size: \(9, 9\), \(4, 4\) of a crop of \(9, 9\) at scale 1; each must have \(9, 9\)"):
        overlap_crop_forward(whole(9, 9), lambda crop: (crop[:, 0], F.avg_pool2d(crop[:, 0], 2)))
    with pytest.raises(ValueError, match="gave first axes of .* for 2 crops of 1; expected 2: pass batch=1"):
        overlap_crop_forward(whole(60, 60), lambda crop: crop[:1, 0], 1, 24, 2, batch=2)
    with pytest.raises(ValueError, match="x holds 8 views, which is not a square number"):
        overlap_crop_forward(whole(9, 9, n=8), lambda crop: crop[:, 0])
    with pytest.raises(ValueError, match="x must hold floats.*, or uint8: got torch.int64"):
        overlap_crop_forward(whole(9, 9).long(), lambda crop: crop[:, 0])
    with pytest.raises(ValueError, match=r"lf: float pixels must lie in \[0, 1\], got 0 to 84.9.*; divide by 255"):
        predict_scene(np.linspace(0, 255, 9 * 8 * 8 * 3, dtype=np.float32).reshape(3, 3, 8, 8, 3), lambda crop: crop, torch.device("cpu"))
    x = whole(9, 9, n=4)
    x[0, 3, 2, 5, 1] = float("nan")
    for broken in (x, x.numpy()):
        with pytest.raises(ValueError, match=r"x holds .*nan.*, which is NaN or infinite, first at row 2, column 5 of view \(0, 3\)"):
            overlap_crop_forward(broken, lambda crop: crop[:, 0])
    for max_length, shave in (("car", 16), (None, 16), (20.5, 2), (20, 2.5)):
        with pytest.raises(ValueError, match=f"max_length and shave also 'auto': got 1, 8, {max_length!r} and {shave!r}"):
            overlap_crop_forward(whole(9, 9), lambda crop: crop[:, 0], 1, max_length, shave)
    for memory, batch in ((None, 0), (None, 1.5), (float("nan"), None)):
        with pytest.raises(ValueError, match=f"memory must be above 0 bytes and batch a whole number from 1: got {memory} and {batch}"):
            overlap_crop_forward(whole(9, 9), lambda crop: crop[:, 0], memory=memory, batch=batch)
