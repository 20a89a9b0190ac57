"""A whole scene through a network that is run on crops."""

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from lfkit.augment import rotate, transpose
from lfkit.crops import Crop, halve, plan_crops
from lfkit.distributed import choose_device
from lfkit.faults import release
from lfkit.lightfield import as_float, check_image
from lfkit.memory import PeakBytes, free_memory, is_out_of_memory, kept_pages
from lfkit.receptive import aligned, receptive_radius, tensors_of

logger = logging.getLogger("lfkit")
QUIET_SECONDS = 3     # progress bars wait so long before they show
FREE_SHARE = 0.5      # of the free memory is the budget where none is given: others live here too
HEADROOM = 2.1        # a budget of 1 holds tensors of 1 / HEADROOM: the rest is lost between them (measured on the CPU: glibc's heap has holes)
WAYS = ((0, False), (2, False), (0, True), (2, True), (1, False), (3, False), (1, True), (3, True))  # quarter turns, after a transposition or none
SYMMETRIES = (1, 2, 4, 8)  # how many of them may be asked for
MEASURED = (32, 64)   # sides of the two crops whose memory tells that of any, in pixels
AUTO = "auto"

_needs = weakref.WeakKeyDictionary()


class _Scene:
    """The input: where it is, what it holds, and its crops as floats on a device."""

    def __init__(self, x: Tensor | np.ndarray, model: Callable, device: torch.device | str | None, channels_last: bool):
        if x.ndim not in (5, 6) or 0 in x.shape:
            raise ValueError(f"x must be 'b n h w c', none of them 0: got shape {tuple(x.shape)}; rearrange with 'b u v h w c -> b (u v) h w c'")
        views = math.prod(x.shape[1:-3])
        if math.isqrt(views) ** 2 != views:
            raise ValueError(f"x holds {views} views, which is not a square number as a grid of views has: got shape {tuple(x.shape)}, "
                             "read as 'b n h w c'")
        self.x, self.channels_last = x, channels_last
        self.batch, self.views, self.size, self.colours = x.shape[0], views, tuple(x.shape[-3:-1]), x.shape[-1]
        self._check_values()
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        part = self.read(Crop((0, 1, 0, 1), (0, 1, 0, 1)))
        self.home = part.device
        self.device = choose_device(device) if device else self.home if parameter is None else parameter.device
        self.dtype = parameter.dtype if parameter is not None else torch.float32 if part.dtype == torch.uint8 else part.dtype

    def _check_values(self) -> None:
        """ValueError for other than uint8 and finite floats, a view at a time."""
        if self.x.dtype in (torch.uint8, np.uint8):
            return
        if not (self.x.dtype.is_floating_point if isinstance(self.x, Tensor) else np.issubdtype(self.x.dtype, np.floating)):
            raise ValueError(f"x must hold floats in [0, 1], or uint8: got {self.x.dtype}")
        for place in np.ndindex(*self.x.shape[:-3]):
            view = torch.as_tensor(np.array(self.x[place]) if isinstance(self.x, np.ndarray) else self.x[place])
            if not torch.isfinite(view).all():
                row, col, _ = (int(k) for k in (~torch.isfinite(view)).nonzero()[0])
                raise ValueError(f"x holds {view[row, col].tolist()}, which is NaN or infinite, first at row {row}, column {col} of view {place}; "
                                 "mend the scene, as every pixel that sees it would be lost")

    def read(self, crop: Crop) -> Tensor:
        """'b n h w c' as it is stored, where the scene is."""
        part = self.x[..., crop.rows[0]:crop.rows[1], crop.cols[0]:crop.cols[1], :]
        part = torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part
        return part.flatten(1, -4)

    def as_input(self, part: Tensor) -> Tensor:
        """What the model is called with: 'b n c h w', floats in [0, 1]."""
        part = rearrange(part, "b n h w c -> b n c h w")
        part = part if self.channels_last else part.contiguous()
        return (part.float().div_(255) if part.dtype == torch.uint8 else part).to(self.dtype)


class _Lanes:
    """Copies to and from a CUDA device that run beside its computation, through pinned memory; plain ones elsewhere."""

    def __init__(self, scene: _Scene):
        self.device, self.home = scene.device, scene.home
        self.apart = self.device.type == "cuda" and self.home.type == "cpu"
        if self.apart:
            self.up, self.down = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)

    def send(self, part: Tensor) -> Tensor:
        """A crop on the device; the computation that follows waits for it, the caller does not."""
        if not self.apart:
            return part.to(self.device)
        pinned, stream = part.contiguous().pin_memory(), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.up):
            sent = pinned.to(self.device, non_blocking=True)
        stream.wait_stream(self.up)
        sent.record_stream(stream)  # made on another stream than the one that reads it
        return sent

    def fetch(self, out):
        """Outputs on their way home, and a function that waits until they are there."""
        if not self.apart:
            return tree_map(lambda o: o.to(self.home), out), lambda: None
        self.down.wait_stream(torch.cuda.current_stream(self.device))
        def copy(o):
            host = torch.empty(o.shape, dtype=o.dtype, pin_memory=True)
            host.copy_(o, non_blocking=True)
            o.record_stream(self.down)
            return host
        with torch.cuda.stream(self.down):
            home = tree_map(copy, out)
        return home, self.down.record_event().synchronize


class _Stitcher:
    """Collects what the model gives for crops into outputs of the whole size, whatever their structure."""

    def __init__(self, scene: _Scene, scale: int):
        self.size, self.batch, self.scale, self.whole, self.splits = scene.size, scene.batch, scale, None, False

    def check(self, out, crop: Crop, count: int) -> None:
        """ValueError where an output's size is not scale times the crop's."""
        expected, parts = tuple(self.scale * extent for extent in crop.shape), tensors_of(out)
        sizes = [tuple(o.shape[-2:]) for o in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"the model's outputs differ in size: {', '.join(map(str, sizes))} of a crop of {crop.shape} at scale {self.scale}; "
                             f"each must have {expected} as its last two axes")
        if any(size != expected for size in sizes):
            raise ValueError(f"the model made {sizes[0]} pixels of a crop of {crop.shape} at scale {self.scale}; expected {expected} as "
                             "each output's last two axes: pass the model's own scale")
        self.splits = all(o.ndim > 2 and len(o) == count * self.batch for o in parts)
        if count > 1 and not self.splits:
            raise ValueError(f"the model gave first axes of {[len(o) for o in parts]} for {count} crops of {self.batch}; expected "
                             f"{count * self.batch}: pass batch=1")

    def add(self, out, crops: list[Crop]) -> None:
        """Keeps of each crop's output the part that is its own."""
        if self.whole is None:
            one = lambda o: o[:self.batch] if len(crops) > 1 else o
            self.whole = tree_map(lambda o: o.new_empty(*one(o).shape[:-2], *(self.scale * extent for extent in self.size)), out)
        for k, crop in enumerate(crops):
            (y0, _, ya, yb), (x0, _, xa, xb) = (tuple(self.scale * place for place in axis) for axis in crop)
            def copy(whole, part):
                part = part[k * self.batch:(k + 1) * self.batch] if len(crops) > 1 else part
                whole[..., ya:yb, xa:xb] = part[..., ya - y0:yb - y0, xa - x0:xb - x0]
                return whole
            tree_map(copy, self.whole, out)


class _Runner:
    """Calls the model on batches of crops, with fewer and smaller ones once memory has run out."""

    def __init__(self, scene: _Scene, model: Callable, scale: int, shave: int | str, mod: int, autocast: torch.dtype | None):
        self.scene, self.model, self.mod, self.autocast = scene, model, mod, autocast
        self.asked, self.stitcher, self.lanes, self.halved = shave, _Stitcher(scene, scale), _Lanes(scene), False

    @cached_property
    def shave(self) -> int:
        """The shave, found when it is first needed: a scene that goes through whole needs none. From half of a scene's longer side on no crop of it is smaller than the whole."""
        if self.asked != AUTO:
            return self.asked
        return receptive_radius(self.model, self.scene.views, self.scene.colours, scale=self.stitcher.scale, mod=self.mod, dtype=self.scene.dtype,
                                device=self.scene.device, most=-(-max(self.scene.size) // 2))

    def call(self, crops: list[Crop]):
        """The model's outputs of crops of one shape, batched."""
        parts = [self.scene.read(crop) for crop in crops]
        sent = self.lanes.send(torch.cat(parts) if len(parts) > 1 else parts[0])
        precision = torch.autocast(self.scene.device.type, self.autocast) if self.autocast else nullcontext()
        with torch.inference_mode(), precision:
            out = self.model(self.scene.as_input(sent))
        self.stitcher.check(out, crops[0], len(crops))
        return self.lanes.fetch(out)

    def _attempt(self, crops: list[Crop]):
        """The same, or None when memory ran out."""
        try:
            return self.call(crops)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release(error)
        if not self.halved:
            logger.warning("out of memory on %s with %d crop(s) of %d x %d pixels: going on with half of it", self.scene.device, len(crops),
                           *crops[0].shape)
        self.halved = True
        return None

    def run(self, crops: list[Crop], batch: int, bar: tqdm, between: Callable[[], None] = lambda: None):
        """The stitched outputs of all crops, the largest first. A batch's results come home while the next is computed.

        `between` is called before each batch.
        """
        waiting, under_way = deque(sorted(crops, key=lambda crop: crop.shape, reverse=True)), None
        while waiting or under_way:
            group, most = [], batch if self.stitcher.splits else 1  # the first call, of one crop, tells whether outputs can be split
            while waiting and len(group) < most and waiting[0].shape == (group or waiting)[0].shape:
                group.append(waiting.popleft())
            between()
            started = self._attempt(group) if group else None
            if under_way:
                done, (out, wait) = under_way
                wait()
                self.stitcher.add(out, done)
                bar.update(sum((c.rows[3] - c.rows[2]) * (c.cols[3] - c.cols[2]) for c in done))
            under_way = (group, started) if started else None
            if group and not started:
                batch, waiting = self._smaller(group, waiting)
        return self.stitcher.whole

    def _smaller(self, group: list[Crop], waiting: deque) -> tuple[int, deque]:
        """Half the batch, or halves of every crop that waits."""
        if len(group) > 1:
            return len(group) // 2, deque([*group, *waiting])
        halves = [halve(crop, self.shave, self.mod) for crop in group] + [halve(crop, self.shave, self.mod) or [crop] for crop in waiting]
        if not halves[0]:
            raise MemoryError(f"out of memory on {self.scene.device} with one crop of {group[0].shape[0]} x {group[0].shape[1]} pixels, the least "
                              f"that shave {self.shave} allows; free memory, or take a smaller network, a smaller shave or another device")
        return 1, deque(sorted((part for parts in halves for part in parts), key=lambda crop: crop.shape, reverse=True))


def _peak(runner: _Runner, side: tuple[int, int]) -> int:
    """Bytes that a call of the model on a crop takes at its peak, the crop included."""
    with PeakBytes() as counted:
        runner.call([Crop(*((0, extent, 0, extent) for extent in side))])
    return counted.peak


def _need(runner: _Runner) -> tuple[float, float]:
    """Bytes that a crop needs, as a fixed part and one a pixel, from two small crops; kept for a module."""
    scene, model = runner.scene, runner.model
    small, large = (tuple(min(extent, -(-side // runner.mod) * runner.mod) for extent in scene.size) for side in MEASURED)
    key = scene.batch, scene.views, scene.colours, scene.dtype, scene.device, runner.autocast, repr(model), getattr(model, "training", None), small, large
    kept = _needs.setdefault(model, {}) if isinstance(model, nn.Module) else {}
    if key not in kept:
        low, high = _peak(runner, small), _peak(runner, large)
        slope = (high - low) / (math.prod(large) - math.prod(small)) if large != small else high / math.prod(large)
        kept[key] = HEADROOM * max(0.0, low - slope * math.prod(small)), HEADROOM * max(1.0, slope)
    return kept[key]


def _plan(runner: _Runner, max_length: int | str, memory: float | None, batch: int | None) -> tuple[list[Crop], int]:
    """The crops, and how many go through at once."""
    scene, mod, on_cpu = runner.scene, runner.mod, runner.scene.device.type == "cpu"
    longest = max(*scene.size, 1) if max_length == AUTO else max_length
    whole = [Crop(*((0, extent, 0, extent) for extent in scene.size))] if max(scene.size) <= longest else []
    unbounded = max_length != AUTO and memory is None
    if whole and (unbounded or math.prod(scene.size) <= math.prod(MEASURED)):
        return whole, 1
    crops = whole or plan_crops(scene.size, longest, runner.shave, mod)
    if unbounded and (on_cpu or batch == 1):
        return crops, batch or 1  # more at once are not faster on the CPU
    with kept_pages() if on_cpu else nullcontext():
        fixed, slope = _need(runner)
    memory = memory or FREE_SHARE * free_memory(scene.device)
    area = max(1, (memory - fixed) / slope)
    if max(math.prod(crop.shape) for crop in crops) > area:
        crops = plan_crops(scene.size, longest, runner.shave, mod, area)
    height, width = crops[0].shape
    needed = fixed + slope * height * width
    if needed > memory:
        logger.warning("the least crop with shave %d, %d x %d pixels, needs about %.0f MiB, more than the %.0f MiB of the budget: going on with it; a smaller shave needs less, and leaves seams",
                       runner.shave, height, width, needed / 2**20, memory / 2**20)
    fitting = max(1, int(memory / needed))
    return crops, min(fitting, batch or (1 if on_cpu else fitting))


def _check_options(scale: int, max_length: int | str, shave: int | str, mod: int, memory: float | None, batch: int | None) -> None:
    """ValueError for values out of range."""
    numbers = [scale, 1 if max_length == AUTO else max_length, mod, 0 if shave == AUTO else shave]
    if not all(isinstance(value, Integral) for value in numbers):
        raise ValueError(f"scale and mod must be whole numbers, max_length and shave also {AUTO!r}: got {scale!r}, {mod!r}, {max_length!r} and {shave!r}")
    if min(numbers[:3]) < 1 or numbers[3] < 0:
        raise ValueError(f"scale, max_length and mod must be at least 1 and shave at least 0: got {scale}, {max_length}, {mod} and {shave}")
    if (memory is not None and not memory > 0) or (batch is not None and not (isinstance(batch, Integral) and batch >= 1)):
        raise ValueError(f"memory must be above 0 bytes and batch a whole number from 1: got {memory} and {batch}")


def overlap_crop_forward(x: Tensor | np.ndarray, model: Callable, scale: int = 1, max_length: int | str = 96, shave: int | str = 16, mod: int = 8, *,
                         memory: float | None = None, batch: int | None = None, device: torch.device | str | None = None,
                         autocast: torch.dtype | None = None, channels_last: bool = False, progress: bool = True):
    """Runs a model over overlapping crops and stitches every output to the whole size.

    Equal to the model on the whole image, to float rounding, where shave covers the model's receptive field and mod is a multiple of its pooling.
    When memory runs out, the crops that are left go on with half the batch or half the size.

    Args:
        x: views 'b n h w c', n a square number, float in [0, 1] or uint8 in [0, 255]; a tensor or an array, such as a memory-mapped file, of
            which only the crops at hand are read and become floats. Also 'b u v h w c', whose views need not lie together in memory.
        model: any callable, called with 'b n c h w' crops; gives a tensor, or a tuple, list or dict of tensors, whose
            last two axes are `scale` times the crop's. In evaluation mode where that matters.
        scale: output pixels a pixel.
        max_length: longest side of a crop, in pixels; "auto" takes the grid that reads the fewest pixels within the memory.
        shave: pixels at a crop's inner sides that are not trusted; "auto" takes the model's `receptive_radius`, for no seam.
        mod: crops start at multiples of it, and of the model's own `pooling` where it has one; the last crop may have any size.
        memory: budget of a call of the model, in bytes; half of what the device has free where not given. The whole outputs come on top.
        batch: most crops a call; as many as the budget holds on CUDA where not given, one on the CPU, where more are not faster.
        device: where the model runs; where its parameters are, or x, where not given.
        autocast: dtype of mixed precision, such as torch.bfloat16; none where not given, as it is not exact.
        channels_last: calls the model with crops whose colours lie together in memory, as in x; contiguous ones otherwise.
        progress: shows a bar when it takes longer than three seconds.

    Returns:
        What the model returns, with the last two axes of the whole, on the device of x.

    Raises:
        ValueError: when x is not 'b n h w c', holds NaN, or n is no square; max_length can't work with shave and mod; outputs differ in size or
            have another than scale times the crop's; the device is not there.
        MemoryError: when the least crop is still too large.
    """
    _check_options(scale, max_length, shave, mod, memory, batch)
    mod = aligned(mod, model)
    scene = _Scene(x, model, device, channels_last)
    runner = _Runner(scene, model, scale, shave, mod, autocast)
    crops, batch = _plan(runner, max_length, memory, batch)
    heavy = scene.device.type == "cpu" and math.prod(crops[0].shape) > MEASURED[1]**2  # smaller tensors are reused anyway
    bar = tqdm(total=math.prod(scene.size), desc="pixels", unit="px", unit_scale=True, leave=False, delay=QUIET_SECONDS, disable=not progress)
    with bar, kept_pages() if heavy else nullcontext(lambda: None) as give_back:
        return runner.run(crops, batch, bar, give_back)


def predict_scene(lf: np.ndarray, model: Callable, device: torch.device, max_length: int | str = AUTO, shave: int | str = AUTO, mod: int = 8,
                  symmetries: int = 1, **options) -> tuple:
    """A whole light field 'u v h w c' through the model, without seams unless told otherwise.

    Args:
        lf: float in [0, 1], or uint8; may be memory-mapped.
        model: gives (depDistT, depDistS, depth_map).
        device: where the model is.
        max_length, shave, mod, options: as `overlap_crop_forward` takes them.
        symmetries: 1, 2, 4 or 8 ways to turn and mirror the light field, views and pixels together, whose results are turned back and averaged, in as many times the time
            (test-time augmentation). 2 adds the half turn, 4 the transpositions of both, 8 the quarter turns of these.

    Returns:
        (depDistT 'd h w', depDistS 'd h w', depth_map 'h w'), tensors on the CPU.

    Raises:
        ValueError: when lf is no light field or holds floats outside [0, 1], or symmetries another number.

    Source: geometric self-ensemble, Timofte et al., CVPR 2016.
    """
    if symmetries not in SYMMETRIES:
        raise ValueError(f"symmetries must be 1, 2, 4 or 8: got {symmetries}")
    lf = np.asarray(lf)
    if lf.ndim != 5 or lf.shape[0] != lf.shape[1]:
        raise ValueError(f"a light field is 'u v h w c' with a square grid of views: got shape {lf.shape}; reorder its axes")
    lf = lf if lf.dtype == np.uint8 else as_float(lf)
    if lf.size:
        check_image(lf, "lf")
    total = None
    for quarters, transposed in WAYS[:symmetries]:
        (views,) = rotate(transpose((lf,)) if transposed else (lf,), quarters)
        outputs = overlap_crop_forward(views[None], model, 1, max_length, shave, mod, device=device, **options)
        outputs = [out[0].rot90(-quarters, (-2, -1)) for out in outputs]
        outputs = [out.mT if transposed else out for out in outputs]
        total = outputs if total is None else [a + b for a, b in zip(total, outputs)]
    return tuple(out / symmetries for out in total)
