"""Procedural two-layer light fields with exact truth, rendered by solving each view's rays.

A scene is a pile of sheets. Each has a disparity d(y, x), a support and a texture, all functions of the centre view's
coordinates, which is how a point of the scene is named here: the ray of view (u, v) through its pixel (i, j) meets a sheet at
the point with y = i - (c - u) d(y, x) and x = j - (c - v) d(y, x). That is solved for (y, x); the nearest sheet that the ray
meets is seen. Nothing is warped from a rendered view, so every view shows what the others can't see.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from einops import rearrange
from skimage import data as pictures

from lfkit.disparity import MAX_DISP
from lfkit.lightfield import Scene

SOLVER_STEPS = 6     # fixed-point steps after the exact solution for a plane; the slopes below make 6 leave under 1e-3 px
MAX_SLOPE = 0.02     # steepest disparity slope of a backdrop or an occluder, in px per px
STEEP = 0.08         # of floors, walls and things; the HCI toolkit's and other rendered scenes have floors of 0.02 to 0.06
FLOORED = 0.7        # share of the scenes that have a floor or a steep wall
OCCLUDED = 0.6       # share of the scenes that have occluders
DOME_SLOPE = 0.05    # at the rim of a dome
WAVE_SLOPE = 0.03    # of each wave on a sheet; two of them, times the outermost view's offset of 4, contract by a third
OVERSAMPLE = 2       # texture and support samples a pixel: reading them between samples then blurs no view more than another
MIN_GAP = 0.6        # least disparity between an occluder and all behind it, in pixels per view step
NEAREST = 0.97       # the nearest occluder, as a part of max_disp
VIEWS_ASIDE = 4      # view steps from the centre of a 9 x 9 grid to its sides
WIDEST = 6.0         # half the width of an occluder's wires, bars and ribbons, in pixels: what is behind them some views see
LARGEST = 12.0       # up to this a bush's leaves grow with their nearness, in parts of WIDEST
BUSHY = 0.3          # share of the occluded scenes whose occluder is a bush, of leaves and twigs at several disparities
LIMB = 0.5           # share of the things that grow darker, or lighter, towards their edge
THINNEST = 0.1       # least room that an occluder's disparity needs, in pixels per view step
GLOSSY = 0.6         # share of the highlights that are wide and mostly faint, as on a plastered wall or a floor
SPOT_DRIFT = 3.0     # pixels that a specular spot moves over its surface per view step, at most
VIGNETTING = 0.3     # darkening of the corners, at most
JITTER = 0.01        # standard deviation of the views' exposures, at most
DARKEST = 0.2        # exposure of the darkest of the underexposed half, in parts of the full one
BLUR = 0.7           # standard deviation of the lens blur in pixels, at most
# the photographs that come inside scikit-image and that its documentation calls CC0 or public domain
PICTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "rocket")
SPLIT_SEED = 1 << 32  # keeps the seeds of scenes and of crops apart


@dataclass
class Sheet:
    """One textured surface: disparity a + b y + c x plus waves and a dome, seen where its support reaches 0.5."""

    plane: tuple[float, float, float]
    texture: torch.Tensor                    # 'c h w', OVERSAMPLE samples a pixel, over the margin too
    support: torch.Tensor                    # 'h w' coverage in [0, 1], likewise
    waves: list[tuple[float, float, float, float]] = field(default_factory=list)  # amplitude, y and x frequency, phase
    dome: tuple[float, ...] = ()             # a bulge towards the camera: height, y, x, radius along y and x
    occluder: bool = False
    sheen: tuple[float, float] = (0.0, 0.0)  # brightness gained per view step along u and v
    spot: tuple[float, ...] = ()             # a highlight: strength, y, x, radius in pixels, drift per view step along y and x

    def light(self, y: torch.Tensor, x: torch.Tensor, du: torch.Tensor, dv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the colour at points of the sheet is multiplied by and what is added, seen from the view at offset (du, dv)."""
        gain = 1 + self.sheen[0] * du + self.sheen[1] * dv
        if not self.spot:
            return gain, torch.zeros_like(y)
        strength, y0, x0, radius, along_y, along_x = self.spot
        square = (y - y0 - along_y * du).square() + (x - x0 - along_x * dv).square()
        return gain, strength * torch.exp(-square / (2 * radius**2))

    def disp(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Disparity at points of the centre view, in pixels per view step."""
        a, b, c = self.plane
        out = a + b * y + c * x
        for amplitude, fy, fx, phase in self.waves:
            out = out + amplitude * torch.sin(fy * y + fx * x + phase)
        if self.dome:
            height, y0, x0, ry, rx = self.dome
            out = out + height * (1 - ((y - y0) / ry).square() - ((x - x0) / rx).square()).clamp(min=0)
        return out

    def solve(self, i: torch.Tensor, j: torch.Tensor, du: torch.Tensor, dv: torch.Tensor):
        """The point (y, x) of the sheet on the ray through pixel (i, j) of the view at offset (du, dv) = (c - u, c - v)."""
        a, b, c = self.plane
        d = (a + b * i + c * j) / (1 + b * du + c * dv)
        for _ in range(SOLVER_STEPS if self.waves or self.dome else 0):
            d = self.disp(i - du * d, j - dv * d)
        return i - du * d, j - dv * d, d


class Canvas:
    """Where textures and supports are drawn: the centre view and the margin that other views see.

    Args:
        size: side of the centre view in pixels.
        margin: pixels beyond each side.
        generator: source of every random number.
        device: where tensors are made.
    """

    def __init__(self, size: int, margin: int, generator: torch.Generator, device: torch.device):
        self.size, self.margin, self.generator, self.device = size, margin, generator, device
        self.side = OVERSAMPLE * (size + 2 * margin)
        axis = (torch.arange(self.side, device=device) + 0.5) / OVERSAMPLE - 0.5 - margin
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")

    def uniform(self, low: float, high: float, *shape: int):
        """Random numbers in [low, high): one Python float, or a tensor of the given shape."""
        out = low + (high - low) * torch.rand(shape, generator=self.generator)
        return out.to(self.device) if shape else float(out)

    def choose(self, options):
        """One of the options."""
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def noise(self, slope: float, channels: int = 1) -> torch.Tensor:
        """Noise of amplitude spectrum 1 / f**slope, zero mean and unit variance, 'c h w'.

        Source: natural pictures have a slope near 1 (Field, J. Opt. Soc. Am. A 4(12), 1987).
        """
        white = torch.randn((channels, self.side, self.side), generator=self.generator).to(self.device)
        fy = torch.fft.fftfreq(self.side, device=self.device)[:, None]
        fx = torch.fft.rfftfreq(self.side, device=self.device)[None]
        radius = torch.hypot(fy, fx).clamp(min=1 / self.side)
        band_limit = torch.exp(-0.5 * (radius * OVERSAMPLE / 0.35) ** 2)  # nothing finer than a pixel
        out = torch.fft.irfft2(torch.fft.rfft2(white) * radius**-slope * band_limit, s=(self.side, self.side))
        out = out - out.mean((1, 2), keepdim=True)
        return out / out.std((1, 2), keepdim=True).clamp(min=1e-6)

    def read(self, image: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """'c h w' read at points of the centre view, bilinear, the edge repeated beyond the margin."""
        scale = 2 / (self.size + 2 * self.margin)
        grid = torch.stack([(x + 0.5 + self.margin) * scale - 1, (y + 0.5 + self.margin) * scale - 1], -1)
        shape = y.shape
        out = F.grid_sample(image[None], grid.reshape(1, -1, shape[-1], 2), align_corners=False, padding_mode="border")
        return out.reshape(image.shape[0], *shape)


# textures: 'c h w' in [0, 1]

def _colours(canvas: Canvas, count: int) -> torch.Tensor:
    """`count` random colours 'k c', more of them grey than gaudy."""
    grey = canvas.uniform(0.05, 0.95, count, 1)
    return (grey + canvas.uniform(0.02, 0.5) * canvas.uniform(-1, 1, count, 3)).clamp(0.02, 0.98)


def _noise_texture(canvas: Canvas) -> torch.Tensor:
    noise = canvas.noise(canvas.uniform(0.4, 1.8), 3)
    shared = canvas.uniform(0.3, 1.0)
    noise = shared * noise[:1] + math.sqrt(1 - shared**2) * noise
    return _colours(canvas, 1)[0][:, None, None] + canvas.uniform(0.03, 0.22) * noise


def _pattern_texture(canvas: Canvas) -> torch.Tensor:
    """Stripes, a checkerboard or a grid of lines."""
    angle, period = canvas.uniform(0, math.pi), canvas.uniform(4, 24)
    s = torch.sin((canvas.y * math.cos(angle) + canvas.x * math.sin(angle)) * 2 * math.pi / period)
    t = torch.sin((canvas.x * math.cos(angle) - canvas.y * math.sin(angle)) * 2 * math.pi / period * canvas.uniform(0.5, 1.5))
    kind = canvas.choose(["stripes", "checker", "grid"])
    value = {"stripes": s, "checker": s * t * 2, "grid": torch.maximum(s, t) - 0.6}[kind]
    weight = torch.sigmoid(value * canvas.uniform(3, 12))[None]
    first, second = _colours(canvas, 2)[:, :, None, None]
    return first * weight + second * (1 - weight) + canvas.uniform(0, 0.06) * canvas.noise(canvas.uniform(0.3, 1.5))


def _leaves_texture(canvas: Canvas) -> torch.Tensor:
    """Overlapping discs of power-law radii: edges, corners and flat parts in natural proportion.

    Source: dead leaves model, Lee, Mumford and Huang, IJCV 41, 2001.
    """
    out = _colours(canvas, 1)[0][:, None, None].expand(3, canvas.side, canvas.side).clone()
    count = 160
    low, high = 2.0, canvas.size / 3
    radii = (low**-1.5 + canvas.uniform(0, 1, count) * (high**-1.5 - low**-1.5)) ** (-1 / 1.5)
    centres = canvas.uniform(-canvas.margin, canvas.size + canvas.margin, count, 2)
    radii, order = radii.sort(descending=True)
    colours = _colours(canvas, count)
    for (cy, cx), radius, colour in zip(centres.tolist(), radii.tolist(), colours[:, :, None, None]):
        top, left = (int(OVERSAMPLE * (c - radius + canvas.margin)) - 2 for c in (cy, cx))
        extent = int(2 * OVERSAMPLE * radius) + 6
        rows = slice(max(top, 0), max(top + extent, 0))
        cols = slice(max(left, 0), max(left + extent, 0))
        cover = (radius + 0.5 - torch.hypot(canvas.y[rows, cols] - cy, canvas.x[rows, cols] - cx)).clamp(0, 1)
        out[:, rows, cols] += cover * (colour - out[:, rows, cols])
    return out + canvas.uniform(0, 0.06) * canvas.noise(canvas.uniform(0.4, 1.5))


def _flat_texture(canvas: Canvas) -> torch.Tensor:
    shade = canvas.uniform(0.0, 0.12) * canvas.noise(2.0)
    return _colours(canvas, 1)[0][:, None, None] + shade + canvas.uniform(0.005, 0.03) * canvas.noise(0.6)


@lru_cache
def _picture(name: str) -> torch.Tensor:
    """One of scikit-image's photographs, 'c h w' in [0, 1]."""
    image = torch.from_numpy(getattr(pictures, name)()).float() / 255
    return image.expand(3, *image.shape) if image.ndim == 2 else image.permute(2, 0, 1)[:3]  # read once


def _photo_texture(canvas: Canvas) -> torch.Tensor:
    """A piece of a photograph, turned, scaled and mirrored at its ends, its colours changed a little."""
    image = _picture(canvas.choose(PICTURES)).to(canvas.device)
    zoom, angle = canvas.uniform(0.6, 2.0), canvas.uniform(0, 2 * math.pi)  # picture pixels a pixel
    image = F.interpolate(image[None], scale_factor=1 / zoom, mode="bilinear", antialias=True)[0]
    y, x = _turned(canvas, *(canvas.uniform(0, side) for side in image.shape[1:]), angle)
    grid = torch.stack([2 * x / image.shape[2], 2 * y / image.shape[1]], -1)
    out = F.grid_sample(image[None], grid[None], mode="bicubic", padding_mode="reflection", align_corners=False)[0]
    tint = 1 + canvas.uniform(0, 0.3) * canvas.uniform(-1, 1, 3)[:, None, None]
    return out[torch.randperm(3, generator=canvas.generator).to(out.device)] * tint


TEXTURES = (_noise_texture, _noise_texture, _pattern_texture, _leaves_texture, _leaves_texture, _flat_texture, *[_photo_texture] * 4)


def make_texture(canvas: Canvas) -> torch.Tensor:
    """A random texture 'c h w' in [0, 1], two in five faint, as plaster, skin and sky are: down to half a grey level."""
    texture = canvas.choose(TEXTURES)(canvas)
    if canvas.uniform(0, 1) < 0.4:
        mean = texture.mean((1, 2), keepdim=True)
        texture = mean + 10 ** canvas.uniform(-1.7, -0.3) * (texture - mean)
    light = 1 + canvas.uniform(0, 0.3) * canvas.noise(2.5)  # slow light and shade
    return (texture * light.clamp(0.3, 1.7)).clamp(0, 1)


# supports: coverage 'h w' in [0, 1], from a signed distance in pixels (positive inside)

def _cover(distance: torch.Tensor) -> torch.Tensor:
    return (distance + 0.5).clamp(0, 1)


def _turned(canvas: Canvas, cy: float, cx: float, angle: float):
    y, x = canvas.y - cy, canvas.x - cx
    return y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)


def _segment(canvas: Canvas, start, end, thick: float, thin: float) -> torch.Tensor:
    """Signed distance to a tapering stick from start to end."""
    (y0, x0), (y1, x1) = start, end
    dy, dx = y1 - y0, x1 - x0
    along = (((canvas.y - y0) * dy + (canvas.x - x0) * dx) / max(dy * dy + dx * dx, 1e-6)).clamp(0, 1)
    return thick + (thin - thick) * along - torch.hypot(canvas.y - y0 - along * dy, canvas.x - x0 - along * dx)


def _place(canvas: Canvas, spread: float = 0.1) -> tuple[float, float]:
    return tuple(canvas.uniform(-spread * canvas.size, (1 + spread) * canvas.size) for _ in range(2))


def fence(canvas: Canvas) -> torch.Tensor:
    """Two families of parallel wires."""
    angle, period = canvas.uniform(0, math.pi), canvas.uniform(14, 46)
    width = canvas.uniform(1.0, min(0.16 * period, WIDEST))
    y, x = _turned(canvas, *_place(canvas), angle)
    bend = canvas.uniform(0, 1.5) * torch.sin(canvas.x / canvas.uniform(20, 60))
    distances = []
    for t in (y + bend, x + bend):
        stretched = period * canvas.uniform(0.7, 1.3)
        distances.append(width - (torch.remainder(t, stretched) - stretched / 2).abs())
    return _cover(torch.maximum(*distances))


def bars(canvas: Canvas) -> torch.Tensor:
    """One family of parallel bars."""
    period = canvas.uniform(16, 44)
    y, _ = _turned(canvas, *_place(canvas), canvas.uniform(0, math.pi))
    return _cover(canvas.uniform(1.5, min(0.22 * period, WIDEST)) - (torch.remainder(y, period) - period / 2).abs())


def _leaf(canvas: Canvas, place, length: float, width: float, angle: float) -> torch.Tensor:
    y, x = _turned(canvas, *place, angle)
    along = (x / length).clamp(-1, 1)
    return torch.minimum(width * (1 - along.square()) - y.abs(), length - x.abs())


def leaves(canvas: Canvas, part: int = 1, scale: float = 1.0) -> torch.Tensor:
    """A cloud of pointed leaves, spread evenly or in bushes; or one of several parts of it, or of leaves larger by a scale."""
    out = torch.full_like(canvas.y, -10.0)
    bushes = [(*_place(canvas), canvas.uniform(0.08, 0.2) * canvas.size) for _ in range(canvas.choose([0, 1, 2, 4]))]
    for _ in range(math.ceil(canvas.choose(range(10, 60 if bushes else 40)) / part)):
        length, place = scale * canvas.uniform(4, 13), _place(canvas)
        if bushes:
            y, x, radius = canvas.choose(bushes)
            away, turn = radius * canvas.uniform(0, 1.6), canvas.uniform(0, 2 * math.pi)
            place = y + away * math.sin(turn), x + away * math.cos(turn)
        out = torch.maximum(out, _leaf(canvas, place, length, length * canvas.uniform(0.25, 0.6), canvas.uniform(0, math.pi)))
    return _cover(out)


def branches(canvas: Canvas) -> torch.Tensor:
    """Crooked tapering branches, with leaves on some."""
    out = torch.full_like(canvas.y, -10.0)
    leafy = canvas.uniform(0, 1) < 0.6
    for _ in range(canvas.choose(range(2, 6))):
        place, angle, thick = _place(canvas), canvas.uniform(0, 2 * math.pi), canvas.uniform(1.0, 4.5)
        for _ in range(5):
            length = canvas.uniform(0.1, 0.3) * canvas.size
            tip = (place[0] + length * math.sin(angle), place[1] + length * math.cos(angle))
            out = torch.maximum(out, _segment(canvas, place, tip, thick, 0.75 * thick))
            if leafy:
                size = canvas.uniform(4, 11)
                out = torch.maximum(out, _leaf(canvas, tip, size, size * canvas.uniform(0.3, 0.6), canvas.uniform(0, math.pi)))
            place, angle, thick = tip, angle + canvas.uniform(-0.8, 0.8), 0.75 * thick
    return _cover(out)


def _relief(canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth hills 'h w' and their slope per pixel."""
    noise = F.avg_pool2d(canvas.noise(canvas.uniform(2.0, 2.6))[None], 5, 1, 2)[0, 0]
    gy, gx = torch.gradient(noise)
    return noise, torch.hypot(gy, gx).clamp(min=1e-2) * OVERSAMPLE


def vines(canvas: Canvas) -> torch.Tensor:
    """Winding ribbons of even width: the contour lines of hills."""
    hills, slope = _relief(canvas)
    levels = [torch.quantile(hills[::8, ::8].flatten(), canvas.uniform(0.15, 0.85)) for _ in range(canvas.choose([1, 2, 3]))]
    width = canvas.uniform(1.0, 0.7 * WIDEST)
    return _cover(torch.stack([width - (hills - level).abs() / slope for level in levels]).amax(0))


OCCLUDERS = {"fence": fence, "bars": bars, "leaves": leaves, "branches": branches, "vines": vines}


@dataclass
class Thing:
    """The outline of a thing in the background: its support, where it stands, half its width where it is narrow, in pixels; and its radii if it is round."""

    support: torch.Tensor
    place: tuple[float, float]
    width: float
    radii: tuple[float, ...] = ()


def _island(canvas: Canvas) -> Thing:
    hills, slope = _relief(canvas)
    level = torch.quantile(hills[::8, ::8].flatten(), canvas.uniform(0.7, 0.88))
    top = int(hills.argmax())
    return Thing(_cover((hills - level) / slope), (float(canvas.y.flatten()[top]), float(canvas.x.flatten()[top])), 0.06 * canvas.size)


def _sticks(canvas: Canvas) -> Thing:
    out = torch.full_like(canvas.y, -10.0)
    for _ in range(canvas.choose(range(1, 5))):
        out = torch.maximum(out, _segment(canvas, _place(canvas), _place(canvas), canvas.uniform(0.8, 3.0), canvas.uniform(0.8, 3.0)))
    return Thing(_cover(out), _place(canvas, 0.0), 3.0)


def _foliage(canvas: Canvas) -> Thing:
    return Thing(leaves(canvas), _place(canvas, 0.0), 4.0)


def _pile(canvas: Canvas) -> Thing:
    """A box, an ellipse or three of them, one on the other."""
    out = torch.full_like(canvas.y, -10.0)
    place, angle, sides = _place(canvas, 0.0), canvas.choose([0.0, canvas.uniform(0, math.pi)]), []
    first = place
    for _ in range(canvas.choose([1, 1, 3])):
        y, x = _turned(canvas, *place, angle)
        tall, wide = (canvas.uniform(0.04, 0.3) * canvas.size for _ in range(2))
        sides += [tall, wide]
        box = torch.minimum(tall - y.abs(), wide - x.abs())
        ellipse = (1 - torch.hypot(y / tall, x / wide)) * min(tall, wide)
        out = torch.maximum(out, canvas.choose([box, ellipse]))
        place = tuple(p + canvas.uniform(-0.15, 0.15) * canvas.size for p in place)
    return Thing(_cover(out), first, min(sides))


def _vase(canvas: Canvas) -> Thing:
    """Upright and round, its width changing from the foot to the lip: vases, bottles, people."""
    (y0, x0), tall, wide = _place(canvas, 0.0), canvas.uniform(0.1, 0.35) * canvas.size, canvas.uniform(0.05, 0.16) * canvas.size
    t = ((canvas.y - y0) / tall).clamp(-1, 1)
    outline = 1 + sum(canvas.uniform(-0.3, 0.3) * torch.sin((k + 1) * math.pi / 2 * t + canvas.uniform(0, 2 * math.pi)) for k in range(1, 4))
    profile = wide * outline.clamp(min=0.3)
    return Thing(_cover(torch.minimum(profile - (canvas.x - x0).abs(), tall - (canvas.y - y0).abs())), (y0, x0), float(profile.min()), (2 * tall, 1.3 * float(profile.max())))


def _ball(canvas: Canvas) -> Thing:
    (y0, x0), radius = _place(canvas, 0.0), canvas.uniform(0.06, 0.3) * canvas.size
    ry, rx = radius, radius * canvas.uniform(0.6, 1.6)
    return Thing(_cover((1 - torch.hypot((canvas.y - y0) / ry, (canvas.x - x0) / rx)) * min(ry, rx)), (y0, x0), min(ry, rx), (1.1 * ry, 1.1 * rx))


SOLID = (_pile, _pile, _pile, _vase, _vase, _ball, _ball, _island)  # too wide to see what is behind their middle
THIN = (_sticks, _foliage)


# scenes

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
    sheet.support = torch.minimum(support, _cover(torch.minimum(disp - low, high - disp) / (slope + WAVE_SLOPE * len(waves) + 1e-3)))
    return sheet


def _shine(canvas: Canvas, spotted: float = 0.35) -> dict:
    """How light moves over a sheet as the view moves: on one in three a brightness that changes, on some a spot or a wide gloss that drifts."""
    strength = canvas.choose([0.0, 0.0, 0.01])
    sheen = canvas.uniform(-strength, strength), canvas.uniform(-strength, strength)
    drift = canvas.uniform(-SPOT_DRIFT, SPOT_DRIFT), canvas.uniform(-SPOT_DRIFT, SPOT_DRIFT)
    spot = canvas.uniform(0.1, 0.6), *_place(canvas, 0.0), canvas.uniform(2, 0.15 * canvas.size + 2), *drift
    if canvas.uniform(0, 1) < GLOSSY:
        spot = 10 ** canvas.uniform(-1.7, -0.4), *_place(canvas, 0.3), canvas.uniform(0.1, 0.7) * canvas.size, *drift
    return {"sheen": sheen, "spot": spot if canvas.uniform(0, 1) < spotted else ()}


def _thing_sheet(canvas: Canvas, thing: Thing, low: float, high: float) -> Sheet:
    """A thing whose disparity stays within [low, high]: flat, slanted, wavy, or bulging and shaded if it is round."""
    if not thing.radii or canvas.uniform(0, 1) < 0.3:
        make = canvas.choose([partial(_sheet, slant=1.0), _steep_sheet])
        return _limb(canvas, make(canvas, low, high, thing.support, **_shine(canvas)))
    (y0, x0), (ry, rx) = thing.place, thing.radii
    height = min(canvas.uniform(0.2, 1.0) * (high - low), DOME_SLOPE * min(ry, rx) / 2)
    sheet = _sheet(canvas, low, high - height, thing.support, 0.5, wavy=0.0, **_shine(canvas, spotted=0.5))
    sheet.dome = height, y0, x0, ry, rx
    turn, strength = canvas.uniform(0, 2 * math.pi), canvas.uniform(0, 0.6)
    sheet.texture = sheet.texture * (1 + strength * (math.sin(turn) * (canvas.y - y0) / ry + math.cos(turn) * (canvas.x - x0) / rx).clamp(-1, 1))
    return _limb(canvas, sheet)


def _limb(canvas: Canvas, sheet: Sheet) -> Sheet:
    """The sheet, perhaps darker or lighter near its edge, as what turns away there is: its outline is then not where its brightness changes."""
    width = 2 * round(OVERSAMPLE * canvas.uniform(1, 6)) + 1
    inside = 2 * F.avg_pool2d(sheet.support[None, None], width, 1, width // 2, count_include_pad=False)[0, 0] - 1  # 0 at the edge, 1 from some pixels on
    strength = canvas.uniform(-0.4, 0.9) if canvas.uniform(0, 1) < LIMB else 0.0
    sheet.texture = sheet.texture * (1 - strength * (1 - inside.clamp(0, 1)))
    return sheet


def make_sheets(canvas: Canvas, max_disp: float, occluded: bool = True) -> list[Sheet]:
    """A random scene: a backdrop, a floor or wall that meets it, things that may touch and cross, and occluders in front of all.

    What is an occluder, and not a thing of the background, only its shape can tell: occluders are thin, so that what is behind them some views see; things are
    wider than the outermost views see past their edges, but for a few thin ones behind occluders.
    """
    everywhere = torch.ones_like(canvas.y)
    split = canvas.uniform(0.0, 0.6) * max_disp if occluded else 0.95 * max_disp  # occluders in front, the rest behind
    far = canvas.uniform(-0.95 * max_disp, min(split - 1.5, 0.0))
    sheets = [_sheet(canvas, far, far + canvas.uniform(0.3, 1.0) * (split - far), everywhere, slant=1.0, **_shine(canvas))]
    if canvas.uniform(0, 1) < FLOORED:
        sheets.append(_steep_sheet(canvas, far, split, everywhere, **_shine(canvas)))
    for _ in range(canvas.choose(range(1, 9))):
        thing = canvas.choose(THIN if occluded and canvas.uniform(0, 1) < 0.1 else SOLID)(canvas)
        y, x = (torch.tensor([[p]], device=canvas.device) for p in thing.place)
        here = float(nearest(canvas, sheets, y, x)[0])
        top = here + thing.width / VIEWS_ASIDE  # higher, the outermost views would see past its middle
        low = min(max(here + canvas.uniform(-0.2, 1.0) * (top - here), far), split - 0.3)
        sheets.append(_thing_sheet(canvas, thing, low, min(low + canvas.uniform(0.05, 1.5), max(top, low + 0.1), split)))
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
    """Leaves and twigs of one texture, lighter and darker, on several sheets that lie near each other within [low, high]."""
    least = canvas.uniform(low, high - THINNEST)
    most, parts, sheets = min(least + canvas.uniform(0.2, 1.5), high), canvas.choose([2, 3, 4]), []
    widest = min(VIEWS_ASIDE * (least - low + MIN_GAP), LARGEST)  # what the outermost views see past; leaves grow with it
    scale = canvas.uniform(1, max(widest / WIDEST, 1))
    supports = [leaves(canvas, 2, scale) for _ in range(parts)] + ([branches(canvas)] if canvas.uniform(0, 1) < 0.5 else [])
    for support in supports:
        start = canvas.uniform(least, most - THINNEST)
        sheet = _sheet(canvas, start, min(start + canvas.uniform(0.1, 0.5), high), support, 0.5, occluder=True, **_shine(canvas, spotted=0.2))
        if sheets:
            sheet.texture = (sheets[0].texture.roll((canvas.choose(range(canvas.side)), canvas.choose(range(canvas.side))), (1, 2)) * canvas.uniform(0.5, 1.3)).clamp(0, 1)
        sheets.append(sheet)
    return sheets


def sheet_layers(canvas: Canvas, sheets: list[Sheet], i, j, du, dv) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the rays of v views meet each of s sheets: disparities 's v h w', coverages 's v h w', colours 's c v h w'."""
    disps, covers, colours = [], [], []
    for sheet in sheets:
        y, x, disp = sheet.solve(i, j, du, dv)
        gain, glare = sheet.light(y, x, du, dv)
        read = canvas.read(torch.cat([sheet.texture, sheet.support[None]]), y, x)
        disps.append(disp)
        covers.append(read[-1])
        colours.append(read[:-1] * gain + glare)
    return torch.stack(disps), torch.stack(covers), torch.stack(colours)


def blend(disps: torch.Tensor, covers: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """What the rays see, 'v c h w' for v views: the layers laid over one another from far to near, ray by ray."""
    order = disps.argsort(0)
    covers = covers.gather(0, order)
    colours = colours.gather(0, order[:, None].expand(-1, 3, *order.shape[1:]))
    out = colours[0]
    for cover, colour in zip(covers[1:], colours[1:]):
        out = out + cover * (colour - out)
    return out.transpose(0, 1)


def nearest(canvas: Canvas, sheets: list[Sheet], i, j) -> tuple[torch.Tensor, torch.Tensor]:
    """Disparity of the nearest sheet at pixels of the centre view, and whether an occluder is that sheet, both 'h w'."""
    best = torch.full_like(i, -math.inf)
    mask = torch.zeros_like(i, dtype=torch.bool)
    for sheet in sheets:
        disp = sheet.disp(i, j)
        hit = (canvas.read(sheet.support[None], i, j)[0] >= 0.5) & (disp > best)
        best = torch.where(hit, disp, best)
        mask = torch.where(hit, torch.full_like(mask, sheet.occluder), mask)
    return best, mask


def render(canvas: Canvas, sheets: list[Sheet], views_num: int) -> dict[str, torch.Tensor]:
    """All views of the sheets and the truth of the centre view.

    Returns:
        lf 'u v h w c' and gt_data 'h w c', float32 about [0, 1]; mask 'h w' bool; fg_disp and bg_disp 'h w' in pixels per view step.
    """
    centre = views_num // 2
    axis = torch.arange(canvas.size, dtype=torch.float32, device=canvas.device)
    i, j = torch.meshgrid(axis, axis, indexing="ij")
    offset = centre - torch.arange(views_num, dtype=torch.float32, device=canvas.device)
    du, dv = (axis.reshape(-1, 1, 1) for axis in torch.meshgrid(offset, offset, indexing="ij"))
    some = views_num if canvas.device.type == "cpu" else views_num**2  # a row of views stays in a CPU's cache; a GPU takes all at once
    rows = [blend(*sheet_layers(canvas, sheets, i[None], j[None], *part)) for part in zip(du.split(some), dv.split(some))]
    behind = [s for s in sheets if not s.occluder]
    fg_disp, mask = nearest(canvas, sheets, i, j)
    bg_disp, _ = nearest(canvas, behind, i, j)
    zero = torch.zeros_like(du[:1])
    gt_data = blend(*sheet_layers(canvas, behind, i[None], j[None], zero, zero))[0]
    lf = rearrange(torch.cat(rows), "(u v) c h w -> u v h w c", u=views_num)
    return {"lf": lf, "gt_data": rearrange(gt_data, "c h w -> h w c"),
            "mask": mask, "fg_disp": fg_disp, "bg_disp": bg_disp}


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
    taps = torch.exp(-torch.arange(-2.0, 3.0, device=image.device).square() / (2 * sigma**2))
    taps = taps / taps.sum()
    planes = rearrange(image.reshape(-1, *image.shape[-3:]), "n h w c -> (n c) 1 h w")
    planes = F.conv2d(F.pad(planes, (2, 2, 2, 2), mode="replicate"), (taps[:, None] * taps)[None, None])
    return rearrange(planes, "(n c) 1 h w -> n h w c", c=image.shape[-1]).reshape(image.shape)


def synthesize(seed: int, size: int = 128, views_num: int = 9, max_disp: float = MAX_DISP, occluded: bool | None = None,
               noise: float | None = None, device: torch.device | str = "cpu") -> Scene:
    """One random two-layer scene; the same arguments give the same scene.

    Args:
        seed: 0 or more; one scene each.
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
    if seed < 0 or size < 16 or views_num < 3 or views_num % 2 == 0 or max_disp < 2:
        raise ValueError(f"a scene needs seed >= 0, size >= 16, an odd views_num >= 3 and max_disp >= 2: got seed {seed}, "
                         f"size {size}, views_num {views_num}, max_disp {max_disp:g}")
    generator = torch.Generator().manual_seed(SPLIT_SEED + seed)  # on the CPU: the same scene on every device
    margin = math.ceil(views_num // 2 * max_disp) + 4
    canvas = Canvas(size, margin, generator, torch.device(device))
    if occluded is None:
        occluded = canvas.uniform(0, 1) < OCCLUDED
    parts = render(canvas, make_sheets(canvas, max_disp, occluded), views_num)
    lf, gt_data = photograph(canvas, parts["lf"], parts["gt_data"], noise)
    to_byte = lambda image: (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Scene(name=f"synthetic_{seed:06d}", lf=to_byte(lf),
                 gt_data=to_byte(gt_data), mask=parts["mask"].cpu().numpy(),
                 fg_disp=parts["fg_disp"].cpu().numpy(), bg_disp=parts["bg_disp"].cpu().numpy())
