"""How far an output pixel of a model sees, found by differentiation."""

import math
import weakref
from bisect import bisect_left
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lfkit.distributed import unwrap
from lfkit.memory import kept_pages

PROBE_LENGTH = 128      # pixels: a model whose reach is made of single jumps sees one of up to half of it
PROBE_LIMIT = 2048      # pixels; twice a radius that leaves crops no use
PROBE_THICKNESS = 8     # pixels of the probe's other side: enough for a path along it, little to compute
GRADIENT_GAIN = 2.0**20  # keeps products of many small slopes away from underflow
ROUNDING = 1000         # in units of the dtype's epsilon, of outputs about 1: what two orders of summation may differ by
WIDEN = (1, 1, 2, 4, 8, 16)  # pixels added, one after the other, to a radius that doesn't hold

_known = weakref.WeakKeyDictionary()


def tensors_of(outputs) -> list[Tensor]:
    """The tensors in a model's outputs: one, or tuples, lists and dicts of them; ValueError when they hold anything else."""
    leaves = tree_leaves(outputs)
    if others := [leaf for leaf in leaves if not isinstance(leaf, Tensor)]:
        raise ValueError(f"the model gave a {type(others[0]).__name__}; it must give a tensor, or a tuple, list or dict of tensors")
    return leaves


def aligned(mod: int, model: Callable) -> int:
    """The least multiple of mod at which also a model's own `pooling`, a whole number where it has one, lets crops start."""
    own = getattr(unwrap(model), "pooling", 1)
    return math.lcm(mod, own) if type(own) is int and own > 0 else mod


def _noise(shape: tuple, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Views in [0, 1] without touching the global generators: white noise for an even seed, smooth for an odd one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    if seed % 2:
        coarse = torch.rand((*shape[:3], -(-shape[3] // 4), -(-shape[4] // 4)), generator=generator)
        smooth = F.interpolate(coarse, scale_factor=(1, 4, 4), mode="nearest")[..., :shape[3], :shape[4]]
        x = 0.9 * smooth + 0.1 * x
    return x.to(device, dtype)


def _support(outputs: list[Tensor], x: Tensor, axis: int, pixels: range, scale: int, generator: torch.Generator) -> tuple[int, int]:
    """First and last place along an axis of x that the outputs at these pixels of that axis depend on."""
    total = 0.0
    for out in outputs:
        part = out.narrow(axis, scale * pixels[0], scale * len(pixels))
        total = total + (part * torch.randn(part.shape, generator=generator).to(part) * GRADIENT_GAIN).sum()
    (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    if gradient is None:
        return pixels[0], pixels[-1]
    others = [k for k in range(x.ndim) if k != x.ndim + axis]
    places = (gradient != 0).sum(others).nonzero().flatten().tolist() or pixels
    return places[0], places[-1]


def _reach(model: Callable, shape: tuple, axis: int, scale: int, mod: int, seed: int, dtype, device) -> int | None:
    """The radius along one axis, over every phase of the pooling; None where the probe is too short to tell."""
    x = _noise(shape, seed, dtype, device).requires_grad_()
    outputs = [out for out in tensors_of(model(x)) if out.requires_grad]
    if not outputs:
        raise ValueError("no output of the model has a derivative by its input, so that its receptive field can't be found; pass shave as a number")
    generator = torch.Generator().manual_seed(seed)
    phases = range(shape[axis] // 2 // mod * mod, shape[axis])[:mod]
    radius, left = 0, [phases[1:-1], phases[-1:], phases[:1]]
    while left:  # from the last one: mostly no phase sees further than the first one and the last
        if pixels := left.pop():
            first, last = _support(outputs, x, axis, pixels, scale, generator)
            if first == 0 or last == shape[axis] - 1:
                return None
            bound = max(pixels[-1] - first, last - pixels[0])  # none of them sees further
            if len(pixels) == 1:
                radius = max(radius, bound)
            elif bound > radius:
                left += [pixels[:len(pixels) // 2], pixels[len(pixels) // 2:]]
    return radius


def _differentiated(model: Callable, thickness: int, most: float, n: int, c: int, scale: int, mod: int, dtype, device) -> int:
    """The largest reach over both axes and two kinds of input, on probes as long as it takes; most where probes long enough for that are too short."""
    thickness, length, radius = -(-thickness // mod) * mod, -(-PROBE_LENGTH // mod) * mod, 0
    for seed in (0, 1):
        for axis in (-2, -1):
            while (found := _reach(model, (1, n, c, *((length, thickness) if axis == -2 else (thickness, length))), axis, scale, mod, seed,
                                   dtype, device)) is None:
                if length // 2 - mod >= most:
                    return most
                longer = min(2 * length, 2 * (most + mod))
                if longer > PROBE_LIMIT:
                    raise ValueError(f"an output of the model depends on pixels {length // 2 - mod} away and further, as one with a statistic over "
                                     "the image does: no crop equals the whole; pass shave as a number, and expect seams")
                length = longer
            radius = max(radius, found)
    return radius


def _holds(model: Callable, radius: int, n: int, c: int, scale: int, mod: int, dtype, device) -> bool:
    """Whether crops that start at multiples of mod agree, radius pixels inside them, with the whole image around them."""
    side = 2 * radius + mod
    margin = mod * max(1, -(-(PROBE_LENGTH - side) // (2 * mod)))
    starts = {margin, max(margin - mod, mod)}  # a pooling that both are in step with divides mod
    for seed in (2, 3):  # one of them may hit a tie that rounding decides
        x = _noise((1, n, c, side + 2 * margin, side + 2 * margin), seed, dtype, device)
        with torch.no_grad():
            whole, differences = tensors_of(model(x)), []
            for start in starts:
                inner, outer = (slice(scale * low, scale * (low + mod)) for low in (radius, radius + start))
                differences += [(a[..., outer, outer].double() - b[..., inner, inner].double()).abs().max() / a.double().abs().max().clamp(min=1)
                                for a, b in zip(whole, tensors_of(model(x[..., start:start + side, start:start + side].contiguous())))]
        if all(d <= ROUNDING * torch.finfo(dtype).eps for d in differences):
            return True
    return False


def _found(model: Callable, most: float, *probe) -> int:
    """The least radius that holds, or most; probe: n, c, scale, mod, dtype, device."""
    with torch.inference_mode(False), torch.enable_grad(), kept_pages():
        for thickness in (PROBE_THICKNESS, PROBE_LENGTH):  # a path that runs aslant leaves a narrow probe
            radius = first = _differentiated(model, thickness, most, *probe)
            if radius >= most or _holds(model, radius, *probe):
                return min(radius, most)
        for more in WIDEN:  # something has no derivative
            failed, radius = radius, radius + more
            if radius >= most:
                return most
            if _holds(model, radius, *probe):
                between = range(failed + 1, radius)
                return (*between, radius)[bisect_left(between, True, key=lambda r: _holds(model, r, *probe))]
    raise ValueError(f"the model's crops don't equal the whole image {first} to {radius} pixels inside them, though its derivatives reach {first}: "
                     f"mod {probe[3]} must be a multiple of its pooling, and it must be in evaluation mode; "
                     "or pass shave as a number, and expect seams")


def receptive_radius(model: Callable, n: int | None = None, c: int = 3, *, scale: int = 1, mod: int = 8, dtype: torch.dtype | None = None,
                     device: torch.device | str | None = None, most: float = math.inf) -> int:
    """How many pixels away the furthest input pixel lies that an output pixel depends on: the least `shave` that leaves no seam.

    Outputs at every phase of the pooling are differentiated by random inputs, on narrow probes along both axes that are doubled until the
    gradients no longer touch their ends; then a square crop is compared with the whole around it, which also covers what has no derivative
    (a choice by argmax), and the radius widened where they differ. A single jump of more than 64 pixels is not seen.

    Args:
        model: any callable, called with 'b n c h w'; in evaluation mode where that matters.
        n: views in all; views_num ** 2 of the model where not given.
        c: colours.
        scale: output pixels a pixel.
        mod: a multiple of the model's pooling, in pixels: crops agree with the whole only where they start at multiples of the pooling; made one of its own `pooling` where it has one.
        dtype: of the probes; the model's own, or float32.
        device: of the probes; the model's own, or the CPU.
        most: from which on it does not matter how large the radius is: it is then not looked for further, and most is given.

    Returns:
        The radius in pixels, the larger one where the axes or sides differ. Kept for a module until its weights or layers change, or what its repr tells.

    Raises:
        ValueError: when n is not known, outputs have no derivative, or depend on the whole image, or mod is no multiple of the pooling.

    Source: effective receptive fields by gradients, Luo et al., NeurIPS 2016; here their support, not their size.

    >>> receptive_radius(lambda x: nn.functional.avg_pool2d(x[:, 0], 7, 1, 3), n=1)
    3
    """
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if n is None and not hasattr(model, "views_num"):
        raise ValueError("the model has no views_num, which would say how many views it takes; pass n, the number of views in all")
    n, mod = model.views_num**2 if n is None else n, aligned(mod, model)
    dtype = dtype or (parameter.dtype if parameter is not None else torch.float32)
    device = torch.device(device or (parameter.device if parameter is not None else "cpu"))
    if not isinstance(model, nn.Module):
        return _found(model, most, n, c, scale, mod, dtype, device)
    state = tuple((id(p), 0 if p.is_inference() else p._version) for p in model.parameters())
    key = n, c, scale, mod, dtype, device, model.training, repr(model), state
    known, radius, looked = _known.get(model, (None, 0, 0))
    if known != key or most > looked:
        radius = _found(model, most, n, c, scale, mod, dtype, device)
        _known[model] = key, radius, most if radius == most else math.inf
    return min(radius, most)
