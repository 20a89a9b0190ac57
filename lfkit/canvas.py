"""What procedural scenes are drawn with: a canvas, textures on it, and the outlines of occluders and things."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from skimage import data as pictures

OVERSAMPLE = 2       # texture and support samples a pixel: reading them between samples then blurs no view more than another
WIDEST = 6.0         # half the width of an occluder's wires, bars and ribbons, in pixels: what is behind them some views see
# the photographs that come inside scikit-image and that its documentation calls CC0 or public domain
PICTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "rocket")


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
        grid = torch.empty(*y.shape, 2, device=y.device)
        for k, place in enumerate((x, y)):  # a third of the time of stacking them
            grid[..., k] = place
        grid.mul_(scale).add_((0.5 + self.margin) * scale - 1)
        out = F.grid_sample(image[None], grid.reshape(1, 1, -1, 2), align_corners=False, padding_mode="border")
        return out.reshape(image.shape[0], *y.shape)

    def around(self, y: float, x: float, radius: float) -> tuple[slice, slice]:
        """The rows and columns within a radius of a place, in pixels, and two samples more."""
        first = [int(OVERSAMPLE * (c - radius + self.margin)) - 2 for c in (y, x)]
        return tuple(slice(max(k, 0), max(k + int(2 * OVERSAMPLE * radius) + 6, 0)) for k in first)


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
        rows, cols = canvas.around(cy, cx, radius)
        cover = (radius + 0.5 - torch.hypot(canvas.y[rows, cols] - cy, canvas.x[rows, cols] - cx)).clamp(0, 1)
        out[:, rows, cols] += cover * (colour - out[:, rows, cols])
    return out + canvas.uniform(0, 0.06) * canvas.noise(canvas.uniform(0.4, 1.5))


def _flat_texture(canvas: Canvas) -> torch.Tensor:
    shade = canvas.uniform(0.0, 0.12) * canvas.noise(2.0)
    return _colours(canvas, 1)[0][:, None, None] + shade + canvas.uniform(0.005, 0.03) * canvas.noise(0.6)


def sky_texture(canvas: Canvas) -> torch.Tensor:
    """A bright colour that changes slowly from top to bottom, with faint clouds."""
    top, bottom = (canvas.uniform(0.4, 1.0) + canvas.uniform(-0.15, 0.15, 3)[:, None, None] for _ in range(2))
    height = (canvas.y / canvas.size).clamp(0, 1)
    clouds = canvas.uniform(0, 0.1) * canvas.noise(canvas.uniform(1.8, 3.0))
    return (top + (bottom - top) * height + clouds).clamp(0, 1)


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


def coverage(distance: torch.Tensor) -> torch.Tensor:
    """A support, 'h w' in [0, 1], from a signed distance in pixels, positive inside."""
    return (distance + 0.5).clamp(0, 1)


def _turned(canvas: Canvas, cy: float, cx: float, angle: float, window=...):
    y, x = canvas.y[window] - cy, canvas.x[window] - cx
    return y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)


def _segment(canvas: Canvas, start, end, thick: float, thin: float) -> torch.Tensor:
    """Signed distance to a tapering stick from start to end."""
    (y0, x0), (y1, x1) = start, end
    dy, dx = y1 - y0, x1 - x0
    along = (((canvas.y - y0) * dy + (canvas.x - x0) * dx) / max(dy * dy + dx * dx, 1e-6)).clamp(0, 1)
    return thick + (thin - thick) * along - torch.hypot(canvas.y - y0 - along * dy, canvas.x - x0 - along * dx)


def random_place(canvas: Canvas, spread: float = 0.1) -> tuple[float, float]:
    """(y, x) in or beside the centre view, at most `spread` of its side beyond it."""
    return tuple(canvas.uniform(-spread * canvas.size, (1 + spread) * canvas.size) for _ in range(2))


def fence(canvas: Canvas, apart: tuple[float, float] = (14, 46), thinnest: float = 1.0, parts: tuple[float, float] = (0, 0.16)) -> torch.Tensor:
    """Two families of parallel wires so many pixels apart, of half a width in these parts of that and of `thinnest` pixels at least."""
    angle, period = canvas.uniform(0, math.pi), canvas.uniform(*apart)
    width = canvas.uniform(max(thinnest, parts[0] * period), min(parts[1] * period, WIDEST))
    y, x = _turned(canvas, *random_place(canvas), angle)
    bend = canvas.uniform(0, 1.5) * torch.sin(canvas.x / canvas.uniform(20, 60))
    distances = []
    for t in (y + bend, x + bend):
        stretched = period * canvas.uniform(0.7, 1.3)
        distances.append(width - (torch.remainder(t, stretched) - stretched / 2).abs())
    return coverage(torch.maximum(*distances))


def bars(canvas: Canvas, apart: tuple[float, float] = (16, 44), thinnest: float = 1.5, parts: tuple[float, float] = (0, 0.22)) -> torch.Tensor:
    """One family of parallel bars; apart, thinnest and parts as of a `fence`."""
    period = canvas.uniform(*apart)
    y, _ = _turned(canvas, *random_place(canvas), canvas.uniform(0, math.pi))
    return coverage(canvas.uniform(max(thinnest, parts[0] * period), min(parts[1] * period, WIDEST)) - (torch.remainder(y, period) - period / 2).abs())


# half the width of a leaf along its length, from -1 at its stalk to 1 at its tip, in parts of the widest
LEAF_OUTLINES = {
    "pointed": lambda along: 1 - along.square(),
    "kite": lambda along: torch.minimum((1 + along) / 0.7, (1 - along) / 1.3),
    "oval": lambda along: (1 - along.square()).sqrt(),
    "lobed": lambda along: (1 - along.square()).sqrt() * (0.7 + 0.3 * torch.cos(3 * math.pi * along)),
}


@dataclass
class LeafKind:
    """What all leaves of a bush have in common: their outline, their widths in parts of their lengths, and how much they differ in light.

    `shades` are the least and greatest brightness of a leaf, in parts of its texture's, `tint` by how much each colour differs more, `fold` by how much
    one half of a leaf is brighter than the other, and `fall` by how much its tip may be brighter or darker than its stalk.
    """

    outline: str = "pointed"
    widths: tuple[float, float] = (0.25, 0.6)
    shades: tuple[float, float] = (1.0, 1.0)
    tint: float = 0.0
    fold: float = 0.0
    fall: float = 0.0

    def light(self, canvas: Canvas, along: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """What a leaf's texture is multiplied by, 'c h w'."""
        colour = canvas.uniform(*self.shades) * (1 + self.tint * canvas.uniform(-1, 1, 3)[:, None, None])
        return colour * (1 + self.fold * across.sign() + canvas.uniform(-self.fall, self.fall) * along)


def leaf_kind(canvas: Canvas, shades: tuple[float, float]) -> LeafKind:
    """A random kind of leaves: broad ones of any outline, or one in four like blades of grass; half of them folded along the middle."""
    widths = canvas.choose([LeafKind.widths] * 3 + [(0.08, 0.2)])
    return LeafKind(canvas.choose(list(LEAF_OUTLINES)), widths, shades, canvas.uniform(0, 0.2), canvas.choose([0.0, canvas.uniform(0, 0.4)]), canvas.uniform(0, 0.4))


def _leaf(canvas: Canvas, place, length: float, width: float, angle: float, outline: str = "pointed"):
    """The rows and columns that a leaf needs, and there: signed distance, place along it in [-1, 1] and pixels beside its middle."""
    window = canvas.around(*place, length)
    across, x = _turned(canvas, *place, angle, window)
    along = (x / length).clamp(-1, 1)
    return window, torch.minimum(width * LEAF_OUTLINES[outline](along) - across.abs(), length - x.abs()), along, across


def bush_places(canvas: Canvas) -> list[tuple[float, float, float]]:
    """Where leaves grow: (y, x, radius) of each bush, in pixels; none where they are spread evenly."""
    return [(*random_place(canvas), canvas.uniform(0.08, 0.2) * canvas.size) for _ in range(canvas.choose([0, 1, 2, 4]))]


def foliage(canvas: Canvas, count: int, scale: float, bushes: list, kind: LeafKind) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaves of a kind, spread evenly or in bushes, larger by a scale: their coverage 'h w', and what their texture is multiplied by, 'c h w'."""
    out, light = torch.full_like(canvas.y, -10.0), torch.ones_like(canvas.y).repeat(3, 1, 1)
    for _ in range(count):
        length, place = scale * canvas.uniform(4, 13), random_place(canvas)
        if bushes:
            y, x, radius = canvas.choose(bushes)
            away, turn = radius * canvas.uniform(0, 1.6), canvas.uniform(0, 2 * math.pi)
            place = y + away * math.sin(turn), x + away * math.cos(turn)
        window, leaf, *where = _leaf(canvas, place, length, length * canvas.uniform(*kind.widths), canvas.uniform(0, 2 * math.pi), kind.outline)
        light[:, *window] = torch.where(leaf > 0, kind.light(canvas, *where), light[:, *window])
        out[window] = torch.maximum(out[window], leaf)
    return coverage(out), light


def leaves(canvas: Canvas) -> torch.Tensor:
    """A cloud of leaves, spread evenly or in bushes."""
    bushes = bush_places(canvas)
    return foliage(canvas, canvas.choose(range(10, 60 if bushes else 40)), 1.0, bushes, leaf_kind(canvas, LeafKind.shades))[0]


def branches(canvas: Canvas) -> torch.Tensor:
    """Crooked tapering branches, with leaves on some."""
    out = torch.full_like(canvas.y, -10.0)
    leafy = canvas.uniform(0, 1) < 0.6
    for _ in range(canvas.choose(range(2, 6))):
        place, angle, thick = random_place(canvas), canvas.uniform(0, 2 * math.pi), canvas.uniform(1.0, 4.5)
        for _ in range(5):
            length = canvas.uniform(0.1, 0.3) * canvas.size
            tip = (place[0] + length * math.sin(angle), place[1] + length * math.cos(angle))
            out = torch.maximum(out, _segment(canvas, place, tip, thick, 0.75 * thick))
            if leafy:
                size = canvas.uniform(4, 11)
                window, leaf, *_ = _leaf(canvas, tip, size, size * canvas.uniform(0.3, 0.6), canvas.uniform(0, math.pi))
                out[window] = torch.maximum(out[window], leaf)
            place, angle, thick = tip, angle + canvas.uniform(-0.8, 0.8), 0.75 * thick
    return coverage(out)


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
    return coverage(torch.stack([width - (hills - level).abs() / slope for level in levels]).amax(0))


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
    return Thing(coverage((hills - level) / slope), (float(canvas.y.flatten()[top]), float(canvas.x.flatten()[top])), 0.06 * canvas.size)


def _sticks(canvas: Canvas) -> Thing:
    out = torch.full_like(canvas.y, -10.0)
    for _ in range(canvas.choose(range(1, 5))):
        out = torch.maximum(out, _segment(canvas, random_place(canvas), random_place(canvas), canvas.uniform(0.8, 3.0), canvas.uniform(0.8, 3.0)))
    return Thing(coverage(out), random_place(canvas, 0.0), 3.0)


def _foliage(canvas: Canvas) -> Thing:
    return Thing(leaves(canvas), random_place(canvas, 0.0), 4.0)


def _pile(canvas: Canvas) -> Thing:
    """A box, an ellipse or three of them, one on the other."""
    out = torch.full_like(canvas.y, -10.0)
    place, angle, sides = random_place(canvas, 0.0), canvas.choose([0.0, canvas.uniform(0, math.pi)]), []
    first = place
    for _ in range(canvas.choose([1, 1, 3])):
        y, x = _turned(canvas, *place, angle)
        tall, wide = (canvas.uniform(0.04, 0.3) * canvas.size for _ in range(2))
        sides += [tall, wide]
        box = torch.minimum(tall - y.abs(), wide - x.abs())
        ellipse = (1 - torch.hypot(y / tall, x / wide)) * min(tall, wide)
        out = torch.maximum(out, canvas.choose([box, ellipse]))
        place = tuple(p + canvas.uniform(-0.15, 0.15) * canvas.size for p in place)
    return Thing(coverage(out), first, min(sides))


def _vase(canvas: Canvas) -> Thing:
    """Upright and round, its width changing from the foot to the lip: vases, bottles, people."""
    (y0, x0), tall, wide = random_place(canvas, 0.0), canvas.uniform(0.1, 0.35) * canvas.size, canvas.uniform(0.05, 0.16) * canvas.size
    t = ((canvas.y - y0) / tall).clamp(-1, 1)
    outline = 1 + sum(canvas.uniform(-0.3, 0.3) * torch.sin((k + 1) * math.pi / 2 * t + canvas.uniform(0, 2 * math.pi)) for k in range(1, 4))
    profile = wide * outline.clamp(min=0.3)
    return Thing(coverage(torch.minimum(profile - (canvas.x - x0).abs(), tall - (canvas.y - y0).abs())), (y0, x0), float(profile.min()), (2 * tall, 1.3 * float(profile.max())))


def _ball(canvas: Canvas) -> Thing:
    (y0, x0), radius = random_place(canvas, 0.0), canvas.uniform(0.06, 0.3) * canvas.size
    ry, rx = radius, radius * canvas.uniform(0.6, 1.6)
    return Thing(coverage((1 - torch.hypot((canvas.y - y0) / ry, (canvas.x - x0) / rx)) * min(ry, rx)), (y0, x0), min(ry, rx), (1.1 * ry, 1.1 * rx))


SOLID = (_pile, _pile, _pile, _vase, _vase, _ball, _ball, _island)  # too wide to see what is behind their middle


THIN = (_sticks, _foliage)
