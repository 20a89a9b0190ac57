"""Procedural two-layer light fields with exact truth: a backdrop, things before it, occluders before all, and a camera."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange

from lfkit.canvas import OCCLUDERS, OVERSAMPLE, SOLID, THIN, WIDEST, Canvas, Thing, branches, bush_places, coverage, foliage, leaf_kind, leaves, make_texture, random_place, sky_texture
from lfkit.disparity import MAX_DISP
from lfkit.layers import window_mean
from lfkit.lightfield import Scene, as_byte
from lfkit.sheets import Sheet, nearest, render

MAX_SLOPE = 0.02     # steepest disparity slope of a backdrop or an occluder, in px per px
STEEP = 0.08         # of floors, walls and things; the HCI toolkit's and other rendered scenes have floors of 0.02 to 0.06
FLOORED = 0.7        # share of the scenes that have a floor or a steep wall
SKIES = 0.25         # share of the scenes whose backdrop is a sky, of one disparity and nearly one colour
OCCLUDED = 0.6       # share of the scenes that have occluders
DOME_SLOPE = 0.05    # at the rim of a dome
WAVE_SLOPE = 0.03    # of each wave on a sheet; two of them, times the outermost view's offset of 4, contract by a third
MIN_GAP = 0.6        # least disparity between an occluder and all behind it, in pixels per view step
NEAREST = 0.97       # the nearest occluder, as a part of max_disp
VIEWS_ASIDE = 4      # view steps from the centre of a 9 x 9 grid to its sides
LEAVES = (30, 60, 120, 180)  # most of them on each of a bush's sheets: from loose to thick
LEAF_SHADES = (0.5, 1.4)  # how bright leaves of one bush are, in parts of its texture
LEAF_SLOPE = 0.08    # of a bush's leaves, at most, in px per px
LEAF_WAVES = (0.15, 0.6)  # length of the waves by which they turn, in parts of the picture's side
WOODY = 0.6          # share of the bushes that have twigs, half of them of a texture of their own
LARGEST = 12.0       # up to this a bush's leaves grow with their nearness, in parts of WIDEST
BUSHY = 0.4          # share of the occluded scenes whose occluder is a bush, of leaves and twigs at several disparities
LIMB = 0.5           # share of the things that grow darker, or lighter, towards their edge
FADING = 0.3         # share of the things whose colour there becomes that of what lies behind them: only its motion tells where such a thing ends
TURNING = 0.9        # share of both whose surface turns away from the camera there, as that of anything round: from some views it is wider than from others
RIM_SLOPE = 0.12     # of its disparity at the very edge, at most; that of the round things in rendered scenes is some 0.1
FADE_WINDOW = 17     # samples over which the colour that a thing fades into is averaged
THINNEST = 0.1       # least room that an occluder's disparity needs, in pixels per view step
GLOSSY = 0.6         # share of the highlights that are wide and mostly faint, as on a plastered wall or a floor
SPOT_DRIFT = 3.0     # pixels that a specular spot moves over its surface per view step, at most
VIGNETTING = 0.3     # darkening of the corners, at most
JITTER = 0.01        # standard deviation of the views' exposures, at most
DARKEST = 0.2        # exposure of the darkest of the underexposed half, in parts of the full one
BLUR = 0.7           # standard deviation of the lens blur in pixels, at most
SPLIT_SEED = 1 << 32  # keeps the seeds of scenes and of crops apart


def _sheet(canvas: Canvas, low: float, high: float, support: torch.Tensor, slant: float, wavy: float = 0.5, **options) -> Sheet:
    """A sheet whose disparity stays within [low, high] over the centre view and its margin."""
    centre, half = (low + high) / 2, (high - low) / 2
    reach = canvas.size / 2 + canvas.margin
    slope = min(slant * MAX_SLOPE, 0.45 * half / reach)
    b, c = canvas.uniform(-slope, slope), canvas.uniform(-slope, slope)
    room = half - (abs(b) + abs(c)) * reach
    waves = _waves(canvas, room) if canvas.uniform(0, 1) < wavy else []
    room -= sum(w[0] for w in waves)
    a = centre + canvas.uniform(-room, room) - (b + c) * (canvas.size - 1) / 2
    return Sheet((a, b, c), make_texture(canvas), support, waves, **options)


def _waves(canvas: Canvas, room: float) -> list[tuple[float, float, float, float]]:
    """One or two waves whose amplitudes sum to less than room."""
    waves = []
    for _ in range(canvas.choose([1, 2])):
        frequency = 2 * math.pi / canvas.uniform(0.25, 2.0) / canvas.size
        turn = canvas.uniform(0, 2 * math.pi)
        amplitude = min(canvas.uniform(0, 0.5) * room, WAVE_SLOPE / frequency)
        waves.append((amplitude, frequency * math.sin(turn), frequency * math.cos(turn), canvas.uniform(0, 2 * math.pi)))
    return waves


def _steep_sheet(canvas: Canvas, low: float, high: float, support: torch.Tensor, **options) -> Sheet:
    """A sheet that may be as steep as a floor, cut off where its disparity leaves [low, high]."""
    slope, turn = canvas.uniform(0, STEEP), canvas.uniform(0, 2 * math.pi)
    if canvas.uniform(0, 1) < 0.7:  # floors and walls stand straight
        turn = canvas.choose(range(4)) * math.pi / 2
    b, c = slope * math.sin(turn), slope * math.cos(turn)
    waves = _waves(canvas, (high - low) / 2) if canvas.uniform(0, 1) < 0.4 else []
    y0, x0 = (canvas.uniform(0, canvas.size) for _ in range(2))
    sheet = Sheet((canvas.uniform(low, high) - b * y0 - c * x0, b, c), make_texture(canvas), support, waves, **options)
    disp = sheet.disp(canvas.y, canvas.x)
    sheet.support = torch.minimum(support, coverage(torch.minimum(disp - low, high - disp) / (slope + WAVE_SLOPE * len(waves) + 1e-3)))
    return sheet


def _shine(canvas: Canvas, spotted: float = 0.35) -> dict:
    """How light moves over a sheet as the view moves: on one in three a brightness that changes, on some a spot or a wide gloss that drifts."""
    strength = canvas.choose([0.0, 0.0, 0.01])
    sheen = canvas.uniform(-strength, strength), canvas.uniform(-strength, strength)
    drift = canvas.uniform(-SPOT_DRIFT, SPOT_DRIFT), canvas.uniform(-SPOT_DRIFT, SPOT_DRIFT)
    spot = canvas.uniform(0.1, 0.6), *random_place(canvas, 0.0), canvas.uniform(2, 0.15 * canvas.size + 2), *drift
    if canvas.uniform(0, 1) < GLOSSY:
        spot = 10 ** canvas.uniform(-1.7, -0.4), *random_place(canvas, 0.3), canvas.uniform(0.1, 0.7) * canvas.size, *drift
    return {"sheen": sheen, "spot": spot if canvas.uniform(0, 1) < spotted else ()}


def _thing_sheet(canvas: Canvas, thing: Thing, low: float, high: float, behind: torch.Tensor) -> Sheet:
    """A thing whose disparity stays within [low, high], but for its rim: flat, slanted, wavy, or bulging and shaded if it is round."""
    if not thing.radii or canvas.uniform(0, 1) < 0.3:
        make = canvas.choose([partial(_sheet, slant=1.0), _steep_sheet])
        return _limb(canvas, make(canvas, low, high, thing.support, **_shine(canvas)), behind)
    (y0, x0), (ry, rx) = thing.place, thing.radii
    height = min(canvas.uniform(0.2, 1.0) * (high - low), DOME_SLOPE * min(ry, rx) / 2)
    sheet = _sheet(canvas, low, high - height, thing.support, 0.5, wavy=0.0, **_shine(canvas, spotted=0.5))
    sheet.dome = height, y0, x0, ry, rx
    turn, strength = canvas.uniform(0, 2 * math.pi), canvas.uniform(0, 0.6)
    sheet.texture = sheet.texture * (1 + strength * (math.sin(turn) * (canvas.y - y0) / ry + math.cos(turn) * (canvas.x - x0) / rx).clamp(-1, 1))
    return _limb(canvas, sheet, behind)


def _limb(canvas: Canvas, sheet: Sheet, behind: torch.Tensor) -> Sheet:
    """The sheet, perhaps darker or lighter near its edge, as what turns away there is, or of the colour of what is `behind` it, a texture 'c h w'; and perhaps it does turn away.

    Its outline is then not where its brightness changes.
    """
    reach = round(OVERSAMPLE * canvas.uniform(1, 6))
    inside = 2 * window_mean(sheet.support[None, None], 2 * reach + 1)[0, 0] - 1  # 0 at the edge, 1 from `reach` samples on
    inside, kind = inside.clamp(0, 1), canvas.uniform(0, 1)
    if kind < LIMB:
        sheet.texture = sheet.texture * (1 - canvas.uniform(-0.4, 0.9) * (1 - inside))
    elif kind < LIMB + FADING:
        smooth = window_mean(behind[None], FADE_WINDOW)[0]
        strength = 0.5 + 0.5 * (kind - LIMB) / FADING  # of the number that was drawn, so that the rest of a scene is the same with or without
        sheet.texture = sheet.texture + strength * (1 - inside) * (smooth - sheet.texture)
    turned = 100 * kind % 1 / TURNING  # of the same number
    if kind < LIMB + FADING and turned < 1:
        fall = math.sqrt(turned) * RIM_SLOPE * reach / OVERSAMPLE / 2
        sheet.rim = lambda y, x: fall * (1 - canvas.read(inside[None], y, x)[0]).square()
    return sheet


def make_sheets(canvas: Canvas, max_disp: float, occluded: bool = True) -> list[Sheet]:
    """A random scene: a backdrop, a floor or wall that meets it, things that may touch and cross, and occluders in front of all.

    What is an occluder, and not a thing of the background, only its shape can tell: occluders are thin, so that what is behind them some views see; things are
    wider than the outermost views see past their edges, but for a few thin ones behind occluders.
    """
    everywhere = torch.ones_like(canvas.y)
    split = canvas.uniform(0.0, 0.6) * max_disp if occluded else 0.95 * max_disp  # occluders in front, the rest behind
    far = canvas.uniform(-0.95 * max_disp, min(split - 1.5, 0.0))
    if canvas.uniform(0, 1) < SKIES:
        sheets = [Sheet((far, 0.0, 0.0), sky_texture(canvas), everywhere)]
    else:
        sheets = [_sheet(canvas, far, far + canvas.uniform(0.3, 1.0) * (split - far), everywhere, slant=1.0, **_shine(canvas))]
    if canvas.uniform(0, 1) < FLOORED:
        sheets.append(_steep_sheet(canvas, far, split, everywhere, **_shine(canvas)))
    wall = sheets[-1].texture
    for _ in range(canvas.choose(range(1, 9))):
        thing = canvas.choose(THIN if occluded and canvas.uniform(0, 1) < 0.1 else SOLID)(canvas)
        y, x = (torch.tensor([[p]], device=canvas.device) for p in thing.place)
        here = float(nearest(canvas, sheets, y, x)[0])
        top = here + thing.width / VIEWS_ASIDE  # higher, the outermost views would see past its middle
        low = min(max(here + canvas.uniform(-0.2, 1.0) * (top - here), far), split - 0.3)
        sheets.append(_thing_sheet(canvas, thing, low, min(low + canvas.uniform(0.05, 1.5), max(top, low + 0.1), split), wall))
    return sheets + (make_occluders(canvas, split + MIN_GAP, NEAREST * max_disp) if occluded else [])


def make_occluders(canvas: Canvas, low: float, high: float, supports: Sequence[Callable] = tuple(OCCLUDERS.values())) -> list[Sheet]:
    """One to three occluders, or a bush, with disparities in [low, high], at least THINNEST apart; each support is one of `supports`, a function of the canvas."""
    if {leaves, branches} <= set(supports) and canvas.uniform(0, 1) < BUSHY:
        return _bush(canvas, low, high)
    sheets = []
    for _ in range(canvas.choose([1, 1, 2, 3])):
        least = canvas.uniform(low, high - THINNEST)
        support = canvas.choose(supports)(canvas)
        sheets.append(_sheet(canvas, least, min(least + canvas.uniform(0.05, 0.8), high), support, 0.5, occluder=True, **_shine(canvas, spotted=0.2)))
    return sheets


def _bush(canvas: Canvas, low: float, high: float) -> list[Sheet]:
    """Leaves of one kind and texture, lighter and darker, and perhaps twigs, on several sheets that lie near each other within [low, high]; thick bushes hide what is behind their middle from all views."""
    least = canvas.uniform(low, canvas.uniform(low, high - THINNEST))  # rather far than near: there is room before it for a deep bush
    most, parts, sheets = min(least + canvas.uniform(0.2, 2.0), high), canvas.choose([2, 3, 4, 6]), []
    widest = min(VIEWS_ASIDE * (least - low + MIN_GAP), LARGEST)  # what the outermost views see past; leaves grow with it
    scale = canvas.uniform(1, max(widest / WIDEST, 1))
    places, most_leaves, kind = bush_places(canvas), canvas.choose(LEAVES), leaf_kind(canvas, LEAF_SHADES)
    count = lambda: canvas.choose(range(most_leaves // 6, most_leaves))
    supports = [foliage(canvas, count(), scale, places, kind) for _ in range(parts)]
    own, wood = make_texture(canvas), canvas.uniform(0, 1)
    for support, light in supports:
        moved = own.roll((canvas.choose(range(canvas.side)), canvas.choose(range(canvas.side))), (1, 2))
        sheets.append(_bush_sheet(canvas, least, most, support, moved * canvas.uniform(0.5, 1.3) * light))
    if wood < WOODY:
        sheets.append(_bush_sheet(canvas, least, most, branches(canvas), make_texture(canvas) if wood < WOODY / 2 else own))
    return sheets


def _bush_sheet(canvas: Canvas, least: float, most: float, support: torch.Tensor, texture: torch.Tensor) -> Sheet:
    """Leaves or twigs within a part of [least, most], wavy: leaves turn this way and that."""
    start = canvas.uniform(least, most - THINNEST)
    end = min(start + canvas.uniform(0.1, 0.8), most)
    frequency, turn = 2 * math.pi / (canvas.uniform(*LEAF_WAVES) * canvas.size), canvas.uniform(0, 2 * math.pi)
    amplitude = min(canvas.uniform(0, LEAF_SLOPE) / frequency, 0.4 * (end - start))
    sheet = _sheet(canvas, start + amplitude, end - amplitude, support, 0.5, wavy=0.0, occluder=True, **_shine(canvas, spotted=0.2))
    sheet.texture = texture.clamp(0, 1)
    sheet.waves = [(amplitude, frequency * math.sin(turn), frequency * math.cos(turn), canvas.uniform(0, 2 * math.pi))]
    return sheet


def photograph(canvas: Canvas, lf: torch.Tensor, gt_data: torch.Tensor, noise: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """What a camera makes of the views: lens blur, vignetting and exposure, the same for all; a jitter of the exposure and noise, each its own.

    The centre view's exposure does not jitter, so that gt_data, which has no noise, stays the centre view without its occluders.
    """
    blur, corner = canvas.choose([0.0, canvas.uniform(0.2, BLUR)]), canvas.choose([0.0, canvas.uniform(0, VIGNETTING)])
    exposure = canvas.choose([1.0, DARKEST ** canvas.uniform(0, 1)])
    axis = torch.linspace(-1, 1, canvas.size, device=canvas.device)
    shade = exposure * (1 - corner * (axis[:, None].square() + axis.square()) / 2)[..., None]
    gains = 1 + canvas.choose([0.0, canvas.uniform(0, JITTER)]) * torch.randn(lf.shape[:2], generator=canvas.generator)
    gains[len(lf) // 2, len(lf) // 2] = 1
    sigma = noise if noise is not None else canvas.choose([0.0, 0.025 * canvas.uniform(0, 1) ** 2])
    grain = torch.randn(lf.shape, generator=canvas.generator).to(canvas.device)
    lf, gt_data = (_blurred(image, blur) * shade for image in (lf, gt_data))
    return lf * gains.to(canvas.device)[..., None, None, None] + sigma * grain, gt_data


def _blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """A small Gaussian blur of '... h w c', the edge repeated."""
    if not sigma:
        return image
    taps = [math.exp(-k**2 / (2 * sigma**2)) for k in range(-2, 3)]
    light = F.pad(rearrange(image, "... h w c -> (...) c h w").clamp(min=0).square(), (2, 2, 2, 2), mode="replicate")  # about the square of what pictures store
    for axis in (-2, -1):  # sums of slices: on a CPU a convolution of so many single channels takes several times as long
        light = sum(tap / sum(taps) * light.narrow(axis, k, light.shape[axis] - 4) for k, tap in enumerate(taps))
    return rearrange(light.sqrt(), "n c h w -> n h w c").reshape(image.shape)


def check_procedural(seed: int, size: int, views_num: int, max_disp: float) -> None:
    """ValueError for what `synthesize` can't make a scene of."""
    if not 0 <= seed < 2**63 or seed % 1 or size < 16 or views_num < 3 or views_num % 2 == 0 or not 2 <= max_disp < math.inf:
        raise ValueError(f"a procedural scene needs a whole seed from 0 and below 2 ** 63, size (of a training crop: --patch_size) >= 16, an odd views_num >= 3 and max_disp >= 2: "
                         f"got seed {seed}, size {size}, views_num {views_num}, max_disp {max_disp:g}")


def synthesize(seed: int, size: int = 128, views_num: int = 9, max_disp: float = MAX_DISP, occluded: bool | None = None,
               noise: float | None = None, device: torch.device | str = "cpu") -> Scene:
    """One random two-layer scene; the same arguments give the same scene.

    Args:
        seed: from 0, below 2 ** 63; one scene each.
        size: side of each view in pixels, at least 16.
        views_num: views a side, odd, at least 3.
        max_disp: no disparity of the centre view exceeds it, in pixels per view step.
        occluded: with occluders or without; by default three in five have some.
        noise: standard deviation of the sensor noise, in parts of the full range; drawn by default.
        device: where it is rendered.

    Returns:
        A `Scene` with uint8 views and the truth of both layers.

    Raises:
        ValueError: when an argument is outside what is said above.
    """
    check_procedural(seed, size, views_num, max_disp)
    if noise is not None and not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a number from 0: got {noise:g}")
    seed, size, views_num = int(seed), int(size), int(views_num)  # numpy's integers too
    generator = torch.Generator().manual_seed(SPLIT_SEED + seed)  # on the CPU: the same scene on every device
    margin = math.ceil(views_num // 2 * max_disp) + 4
    canvas = Canvas(size, margin, generator, torch.device(device))
    if occluded is None:
        occluded = canvas.uniform(0, 1) < OCCLUDED
    parts = render(canvas, make_sheets(canvas, max_disp, occluded), views_num)
    parts |= zip(("lf", "gt_data"), photograph(canvas, parts["lf"], parts["gt_data"], noise))
    parts = {name: part.cpu().numpy() for name, part in parts.items()}
    return Scene(f"synthetic_{seed:06d}", **parts | {name: as_byte(parts[name]) for name in ("lf", "gt_data")})
