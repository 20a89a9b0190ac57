"""Path-traced scenes with the truth of both layers, of solids where lfkit's generator has sheets, to score weights on.

    pip install -e ".[bench]"      # Mitsuba 3
    python benchmarks/path_traced.py Traced [--seeds 14] [--first 0] [--size 160] [--samples 64] [--unseen]
    python benchmarks/accuracy.py Traced/* --seeds 0 --embed 0

Solids, a room or a heightfield in the sun, with shading, shadows, highlights and the noise of few samples; in six of seven scenes behind bars, wire, slats, a bush, a bare
tree or grass. The camera moves in its own plane, and its principal point with it, so that disparities run from -2.5 (background) to some 3.5 px per view step (occluders). Truth is one
ray a pixel, through its centre. A seed gives the same scene each time; none of these scenes was trained on.

Source of the renderer: Mitsuba 3 (Jakob et al., 2022), its scalar variant, which needs no LLVM. With MI_DEFAULT_VARIANT=llvm_ad_rgb, where LLVM is, views take less than half the time,
and are the same but for their noise and one pixel in a thousand at outlines.
"""

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from skimage import data as pictures
from tqdm.auto import tqdm

from lfkit.config import whole
from lfkit.faults import one_sentence
from lfkit.files import check_target
from lfkit.lightfield import Scene, as_byte, save_scene

VIEWS_NUM = 9
FAR, NEAR, OCCLUDER = -2.5, 0.6, (1.2, 3.4)    # disparities of the back, of the nearest thing of the background, and of the occluders, in px per view step
FAR_Z, NEAREST_Z = 12.0, 2.0                   # depths with the disparities FAR and 3.5
HALF = math.tan(math.radians(20))              # half the width of the picture at depth 1
SCALE = (3.5 - FAR) / (1 / NEAREST_Z - 1 / FAR_Z)   # disparity is SCALE / depth - SHIFT
SHIFT = SCALE / FAR_Z - FAR
APART = 0.12                                   # of two things that share a pixel, in px per view step
PICTURES = ["astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "camera", "brick", "grass", "gravel"]  # lfkit's generator takes pieces of the same ones
UNSEEN = ["retina", "immunohistochemistry", "coins", "moon", "page", "text", "clock", "cell", "colorwheel"]        # and of none of these


@cache
def mitsuba():
    """The renderer, or one sentence on how to get it."""
    try:
        import mitsuba as mi
    except ImportError:
        raise SystemExit('this benchmark renders with Mitsuba 3, which is not here: pip install -e ".[bench]"') from None
    mi.set_variant(os.environ.get("MI_DEFAULT_VARIANT", "scalar_rgb"))
    return mi


def depth(disp: float) -> float:
    """The depth at which a disparity lies."""
    return SCALE / (disp + SHIFT)


# --- what things look like ---------------------------------------------------------------------------------------------------------

def noise(rng: np.random.Generator, slope: float, size: int = 256) -> np.ndarray:
    """'h w' in [0, 1] whose spectrum falls by this power."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * frequency**-slope).real
    return np.clip(0.5 + field / (4 * field.std()), 0, 1)


def picture(rng: np.random.Generator, wide: bool) -> np.ndarray:
    """'h w c' in [0, 1]: a photograph, two colours mixed by noise or boards; of things that are not wide also stripes, or next to nothing to see."""
    first, second = rng.uniform(0.1, 0.9, (2, 3))
    kind = rng.choice(["photograph", "noise", "stripes", "boards", "even"], p=[0.4, 0.5, 0, 0.1, 0] if wide else [0.35, 0.3, 0.1, 0.1, 0.15])
    if kind == "photograph":
        image = getattr(pictures, rng.choice(PICTURES))()
        return np.repeat(image[..., None], 3, -1) / 255 if image.ndim == 2 else image[..., :3] / 255
    if kind == "noise":
        share = noise(rng, rng.uniform(1.0, 2.0))
    elif kind == "stripes":
        share = 0.5 + 0.5 * np.sin(np.linspace(0, rng.uniform(20, 120), 256))[None].repeat(256, 0)
    elif kind == "boards":
        share = np.kron(rng.uniform(0, 1, (rng.integers(2, 12), rng.integers(2, 12))), np.ones((32, 32)))
    else:
        share = np.full((8, 8), 0.5) + rng.uniform(0, 0.03) * rng.standard_normal((8, 8))
    return np.clip(first + share[..., None] * (second - first), 0.02, 0.98)


def matter(rng: np.random.Generator, colour: tuple | None = None, repeats: float = 1.0) -> dict:
    """A surface: dull, or with a highlight."""
    mi = mitsuba()
    if colour is None:
        texture = {"type": "bitmap", "bitmap": mi.Bitmap(picture(rng, repeats > 1).astype(np.float32)), "raw": True,
                   "to_uv": mi.ScalarTransform4f().scale([repeats * rng.uniform(0.5, 2), repeats * rng.uniform(0.5, 2), 1])}
    else:
        texture = {"type": "rgb", "value": [float(np.clip(c, 0.01, 0.99)) for c in colour]}
    dull = {"type": "diffuse", "reflectance": texture}
    shiny = {"type": "roughplastic", "diffuse_reflectance": texture, "alpha": float(rng.uniform(0.08, 0.3))}
    return {"type": "twosided", "bsdf": shiny if rng.random() < 0.25 else dull}


def turn(rng: np.random.Generator, count: int | None = None) -> np.ndarray:
    """A random rotation '3 3', or 'count 3 3'."""
    return Rotation.random(count, random_state=int(rng.integers(1 << 31))).as_matrix()


def placed(rng: np.random.Generator, at, size, turned: bool = True):
    """A transform: scaled, turned at random, and moved."""
    mi = mitsuba()
    turning = np.eye(4)
    if turned:
        turning[:3, :3] = turn(rng)
    return mi.ScalarTransform4f().translate(list(map(float, at))) @ mi.ScalarTransform4f(turning) @ mi.ScalarTransform4f().scale(list(map(float, np.broadcast_to(size, 3))))


def mesh(vertices: np.ndarray, faces: np.ndarray, surface: dict, uv: np.ndarray | None = None):
    """A Mitsuba mesh of triangles."""
    mi = mitsuba()
    props = mi.Properties()
    props["bsdf"] = mi.load_dict(surface)
    out = mi.Mesh("mesh", len(vertices), len(faces), has_vertex_texcoords=uv is not None, props=props)
    params = mi.traverse(out)
    params["vertex_positions"], params["faces"] = vertices.astype(np.float32).ravel(), faces.astype(np.uint32).ravel()
    if uv is not None:
        params["vertex_texcoords"] = uv.astype(np.float32).ravel()
    params.update()
    return out


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles for each square of a grid of vertices, row by row."""
    at = np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)
    return np.concatenate([np.stack([at, at + 1, at + columns], -1).reshape(-1, 3), np.stack([at + 1, at + columns + 1, at + columns], -1).reshape(-1, 3)])


def rod(start, end, radius: float, surface: dict) -> dict:
    """A round bar."""
    return {"type": "cylinder", "p0": list(map(float, start)), "p1": list(map(float, end)), "radius": float(radius), "bsdf": surface}


def sheet(height: Callable, x: np.ndarray, z: np.ndarray, surface: dict):
    """A heightfield over a grid: height(x, z)."""
    across, along = np.meshgrid(x, z)
    vertices = np.stack([across, height(across, along), along], -1).reshape(-1, 3)
    uv = np.stack(np.meshgrid(np.linspace(0, 1, len(x)), np.linspace(0, 1, len(z))), -1).reshape(-1, 2)
    return mesh(vertices, grid_faces(len(z), len(x)), surface, uv)


def ring(rng: np.random.Generator, at, size: float):
    """A torus."""
    thick, around = rng.uniform(0.2, 0.45), np.linspace(0, 2 * np.pi, 49)
    a, b = np.meshgrid(around, around)
    points = np.stack([(1 + thick * np.cos(b)) * np.cos(a), (1 + thick * np.cos(b)) * np.sin(a), thick * np.sin(b)], -1).reshape(-1, 3)
    points = points @ turn(rng).T * size / 1.4 + at
    return mesh(points, grid_faces(len(around), len(around)), matter(rng), np.stack([a / 2 / np.pi * 3, b / 2 / np.pi], -1).reshape(-1, 2))


def solid(rng: np.random.Generator, at, size: float, upright: bool = False):
    """A ball, a box, a can, a ring or a disc."""
    kind = rng.choice(["ball", "box", "can"] if upright else ["ball", "box", "can", "ring", "disc"])
    if kind == "ring":
        return ring(rng, at, size)
    if kind == "can":
        axis = np.array([0, 1, 0]) if upright else turn(rng)[0]
        return rod(np.array(at) - size * axis, np.array(at) + size * axis, size * rng.uniform(0.2, 0.8), matter(rng))
    shape = {"ball": "sphere", "box": "cube", "disc": "disk"}[kind]
    return {"type": shape, "to_world": placed(rng, at, size * (rng.uniform(0.5, 1, 3) if kind == "box" else 1), turned=not upright), "bsdf": matter(rng)}


# --- backgrounds ---------------------------------------------------------------------------------------------------------------------

def wall(rng: np.random.Generator, z: float, repeats: float = 2.0) -> dict:
    """What lies behind everything, as wide as all views see."""
    mi = mitsuba()
    slant = mi.ScalarTransform4f().rotate([0, 1, 0], float(rng.uniform(-15, 15)))
    side = float(2 * HALF * z)
    return {"type": "rectangle", "bsdf": matter(rng, repeats=repeats),
            "to_world": mi.ScalarTransform4f().translate([0, 0, z]) @ slant @ mi.ScalarTransform4f().rotate([0, 1, 0], 180) @ mi.ScalarTransform4f().scale([side, side, 1])}


def room(rng: np.random.Generator) -> list:
    """A floor, walls, and upright things that stand on the floor."""
    ground, side = -rng.uniform(0.5, 0.9) * HALF * 8, rng.uniform(0.8, 1.3) * HALF * 9
    grid = lambda a, b: np.linspace(a, b, 2)
    flat = lambda y: lambda x, z: np.full_like(x, y)
    things = [wall(rng, 0.95 * FAR_Z), sheet(flat(ground), grid(-8, 8), grid(3.5, 13), matter(rng, repeats=3))]
    for way in (-1, 1):
        things.append({"type": "rectangle", "bsdf": matter(rng, repeats=2), "to_world": mitsuba().ScalarTransform4f().translate([way * side, 0, 9]) @
                       mitsuba().ScalarTransform4f().rotate([0, 1, 0], -90 * way) @ mitsuba().ScalarTransform4f().scale([5, 6, 1])})
    for _ in range(rng.integers(4, 10)):
        z, size = rng.uniform(depth(NEAR) + 1, FAR_Z - 1.5), rng.uniform(0.3, 1.0)
        things.append(solid(rng, (rng.uniform(-0.8, 0.8) * HALF * z, ground + size, z), size, upright=True))
    return things


def hills(rng: np.random.Generator) -> list:
    """A wavy ground, trunks and stones before a sky."""
    bumps = [(rng.uniform(0.1, 0.5), *rng.uniform(-1.5, 1.5, 2), rng.uniform(0, 6)) for _ in range(4)]
    level, climb = -rng.uniform(1.3, 1.8), rng.uniform(0, 0.15)
    height = lambda x, z: level + climb * (z - 4) + sum(a * np.sin(fx * x + fz * z + phase) * (z - 3) / 9 for a, fx, fz, phase in bumps)
    things = [wall(rng, 0.95 * FAR_Z, repeats=1.5), sheet(height, np.linspace(-8, 8, 80), np.linspace(3.6, 12, 80), matter(rng, repeats=4))]
    for _ in range(rng.integers(3, 9)):
        z = rng.uniform(depth(NEAR) + 0.6, FAR_Z - 2)
        x = rng.uniform(-1, 1) * HALF * z
        y, surface = float(height(np.array(x), np.array(z))), matter(rng)
        if rng.random() < 0.5:
            things.append(rod((x, y - 0.5, z), (x + rng.uniform(-1, 1), y + 8, z + rng.uniform(-0.5, 0.5)), rng.uniform(0.08, 0.4), surface))
        else:
            things.append({"type": "sphere", "to_world": placed(rng, (x, y, z), rng.uniform(0.2, 0.8)), "bsdf": surface})
    return things


def pile(rng: np.random.Generator) -> list:
    """Solids in any pose before a wall."""
    things = [wall(rng, rng.uniform(0.7, 0.95) * FAR_Z)]
    for _ in range(rng.integers(8, 22)):
        z, size = rng.uniform(depth(NEAR) + 0.9, 0.75 * FAR_Z), rng.uniform(0.2, 0.9)
        things.append(solid(rng, (*(rng.uniform(-1, 1, 2) * HALF * z), z), size))
    return things


# --- occluders -----------------------------------------------------------------------------------------------------------------------

def fence_plane(rng: np.random.Generator) -> Callable:
    """Where an upright occluder stands: depth at x."""
    z, slope = depth(rng.uniform(OCCLUDER[0] + 0.3, OCCLUDER[1] - 0.3)), rng.uniform(-0.2, 0.2)
    return lambda x: z + slope * x


def bars(rng: np.random.Generator) -> list:
    z, surface, gap, thick = fence_plane(rng), matter(rng), rng.uniform(0.14, 0.3), rng.uniform(0.015, 0.05)
    posts = [rod((x, -2, z(x)), (x + rng.normal(0, 0.01), 2, z(x)), thick, surface) for x in np.arange(-1.6, 1.6, gap) + rng.uniform(0, gap)]
    return posts + [rod((-2, y, z(-2)), (2, y, z(2)), thick, surface) for y in rng.uniform(-0.8, 0.8, rng.integers(0, 3))]


def wire(rng: np.random.Generator) -> list:
    z, surface, gap, thick = fence_plane(rng), matter(rng, rng.uniform(0.1, 0.8, 3)), rng.uniform(0.14, 0.32), rng.uniform(0.006, 0.018)
    return [rod((x - way, -1.5, z(x - way)), (x + way, 1.5, z(x + way)), thick, surface) for way in (-1.5, 1.5) for x in np.arange(-3, 3, gap)]


def slats(rng: np.random.Generator) -> list:
    mi = mitsuba()
    z, surface, gap, tilt, turned = fence_plane(rng)(0), matter(rng), rng.uniform(0.13, 0.25), rng.uniform(-40, 40), rng.random() < 0.3
    upright = mi.ScalarTransform4f().rotate([0, 0, 1], 90.0 * turned)
    return [{"type": "cube", "bsdf": surface, "to_world": mi.ScalarTransform4f().translate([0, 0, z]) @ upright @ mi.ScalarTransform4f().translate([0, float(y), 0]) @
             mi.ScalarTransform4f().rotate([1, 0, 0], float(tilt)) @ mi.ScalarTransform4f().scale([2, float(gap * rng.uniform(0.15, 0.3)), 0.005])} for y in np.arange(-1.5, 1.5, gap)]


def leaves(rng: np.random.Generator, places: np.ndarray, size: float) -> list:
    """A leaf at each place, of four triangles folded along its middle, in a few shades of one colour."""
    outline = np.array([[0, -1, 0], [0.4, -0.1, 0.12], [0, 1, -0.1], [-0.4, -0.1, 0.12], [0, -0.1, 0]])
    faces, colour, out = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]), rng.uniform([0.1, 0.2, 0.05], [0.5, 0.6, 0.3]), []
    for some in np.array_split(places, 6):
        turns = turn(rng, len(some))
        points = np.einsum("nij,kj->nki", turns, outline) * size * rng.uniform(0.6, 1.2, (len(some), 1, 1)) + some[:, None]
        out.append(mesh(points.reshape(-1, 3), (faces + 5 * np.arange(len(some))[:, None, None]).reshape(-1, 3), matter(rng, colour * rng.uniform(0.7, 1.3))))
    return out


def twig(rng: np.random.Generator, start: np.ndarray, way: np.ndarray, thick: float, forks: int, surface: dict) -> tuple[list, list]:
    """A branch and those that leave it; and the places at its ends."""
    end = start + way
    rods, ends = [rod(start, end, thick, surface)], [end]
    for _ in range(rng.integers(2, 4) if forks else 0):
        bend = Rotation.from_rotvec(rng.normal(0, 0.5, 3) * [0.4, 0.4, 1]).as_matrix()
        more, last = twig(rng, start + rng.uniform(0.4, 1) * way, bend @ way * rng.uniform(0.5, 0.85), 0.65 * thick, forks - 1, surface)
        rods, ends = rods + more, ends + last
    return rods, ends


def bush(rng: np.random.Generator) -> list:
    z, clumps, places = depth(rng.uniform(1.8, 3.0)), rng.integers(1, 5), []
    for _ in range(clumps):
        centre, spread = (*(rng.uniform(-0.9, 0.9, 2) * HALF * z), z), rng.uniform(0.15, 0.45)
        places.append(rng.normal(0, 1, (int(rng.uniform(60, 300)), 3)) * [spread, spread, min(spread, 0.12)] + centre)
    stems = [rod((p[0, 0], -2, z), p.mean(0), rng.uniform(0.01, 0.03), matter(rng, (0.25, 0.18, 0.1))) for p in places]
    return leaves(rng, np.concatenate(places), rng.uniform(0.06, 0.14)) + stems


def bare_tree(rng: np.random.Generator) -> list:
    z, surface, out = depth(rng.uniform(1.7, 2.9)), matter(rng, (0.3, 0.22, 0.15) * rng.uniform(0.5, 1.6, 3)), []
    for _ in range(rng.integers(2, 4)):
        rods, ends = twig(rng, np.array([rng.uniform(-1, 1) * HALF * z, -1.2, z]), np.array([rng.normal(0, 0.2), rng.uniform(0.6, 1.0), rng.normal(0, 0.05)]), rng.uniform(0.025, 0.06), 4, surface)
        out += rods + (leaves(rng, np.array(ends), rng.uniform(0.03, 0.07)) if rng.random() < 0.5 else [])
    return out


def grass(rng: np.random.Generator) -> list:
    """Bent blades from below."""
    z, colour, blades = depth(rng.uniform(1.8, 3.0)), rng.uniform([0.1, 0.25, 0.05], [0.5, 0.6, 0.25]), []
    for _ in range(int(rng.uniform(40, 160))):
        root, lean, tall = np.array([rng.uniform(-1.3, 1.3) * HALF * z, -1.2 * HALF * z, z + rng.normal(0, 0.08)]), rng.normal(0, 0.25, 2), rng.uniform(0.4, 1.8) * HALF * z
        t = np.linspace(0, 1, 8)[:, None]
        middle = root + t * [0, tall, 0] + t**2 * [lean[0], 0, 0.3 * lean[1]]
        wide = rng.uniform(0.008, 0.025) * (1 - t) * [1, 0, rng.normal(0, 0.5)]
        blades.append(mesh(np.stack([middle - wide, middle + wide], 1).reshape(-1, 3), grid_faces(len(t), 2), matter(rng, colour * rng.uniform(0.6, 1.4))))
    return blades


BACKGROUNDS = {"room": room, "hills": hills, "pile": pile}
OCCLUDERS = {"nothing": lambda rng: [], "bars": bars, "wire": wire, "slats": slats, "bush": bush, "bare_tree": bare_tree, "grass": grass}


# --- a scene -------------------------------------------------------------------------------------------------------------------------

def lights(rng: np.random.Generator) -> list:
    """Light from everywhere, and a sun that casts shadows."""
    sun = {"type": "directional", "direction": [float(c) for c in (rng.uniform(-1, 1), rng.uniform(-1.2, -0.3), rng.uniform(0.2, 1))],
           "irradiance": {"type": "rgb", "value": float(rng.uniform(0.4, 2.0))}}
    return [sun, {"type": "constant", "radiance": {"type": "rgb", "value": [float(c) for c in rng.uniform(0.25, 0.5) * rng.uniform(0.85, 1.15, 3)]}}]


def sensor(size: int, u: int, v: int, filter: str, moved: float = 0.0):
    """The camera of view (u, v), for which all disparities are so much larger."""
    mi, middle, step = mitsuba(), VIEWS_NUM // 2, SCALE / (size / 2 / HALF)  # step: of the camera, for a disparity of SCALE / depth pixels
    right, down = float(v - middle), float(u - middle)
    # Mitsuba's x axis runs to the left of its pictures; the principal point follows the camera, so that depth SCALE / shift stays where it is
    at, shift = [-right * step, -down * step, 0.0], SHIFT - moved
    return mi.load_dict({"type": "perspective", "fov": 40, "near_clip": 0.1, "far_clip": 100.0, "sampler": {"type": "multijitter"},
                         "principal_point_offset_x": -right * shift / size, "principal_point_offset_y": -down * shift / size,
                         "to_world": mi.ScalarTransform4f().look_at(origin=at, target=[at[0], at[1], 1], up=[0, 1, 0]),
                         "film": {"type": "hdrfilm", "width": size, "height": size, "pixel_format": "rgb", "rfilter": {"type": filter}}})


def hits(scene, size: int, down: float = 0.0, right: float = 0.0) -> np.ndarray:
    """Disparities 'h w' of what the centre view's rays meet, one ray a pixel, through its middle or so many pixels below and right of it; NaN where nothing is."""
    mi, camera = mitsuba(), sensor(size, VIEWS_NUM // 2, VIEWS_NUM // 2, "box")
    def meet(x, y):
        ray, _ = camera.sample_ray(0, 0.5, mi.Point2f(x, y), mi.Point2f(0.5))
        hit = scene.ray_intersect(ray)
        return np.where(hit.is_valid(), SCALE / np.maximum(hit.p.z, 1e-3) - SHIFT, np.nan)
    if mi.variant().startswith("scalar"):
        meet = np.vectorize(meet, otypes=[np.float32])
    y, x = np.mgrid[:size, :size].reshape(2, -1) + 0.5
    return meet((x + right) / size, (y + down) / size).astype(np.float32).reshape(size, size)


def nearest_with(disp: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """'h w', of the disparities 'h w k' of k rays a pixel, the middle one first: that of the nearest thing that so much of a pixel's weights (k,) meets, at the ray of it that is nearest to the middle."""
    order = np.argsort(-disp, -1, kind="stable")
    things = np.cumsum(-np.diff(np.take_along_axis(disp, order, -1), axis=-1, prepend=np.inf) > APART, -1)
    out = disp[..., 0].copy()
    for thing in range(things.max(), 0, -1):
        its_own = things == thing
        enough = (weights[order] * its_own).sum(-1) >= share * weights.sum()
        middle = np.where(its_own, order, len(weights) - 1).min(-1)
        out[enough] = np.take_along_axis(disp, middle[..., None], -1)[..., 0][enough]
    return out


def true_disp(scene, size: int, filter: str = "box", touched: float | None = None) -> np.ndarray:
    """'h w' of the centre view: one ray through the middle of each pixel; with `touched`, the nearest thing that this share of a pixel sees, of many rays weighted as the camera's filter does."""
    if touched is None:
        return hits(scene, size)
    places = sorted(product(np.linspace(-0.4, 0.4, 5) if filter == "box" else np.linspace(-0.9, 0.9, 7), repeat=2), key=lambda at: math.hypot(*at))
    weights = np.array([1.0 if filter == "box" else math.exp(-2 * (down**2 + right**2)) for down, right in places])
    return nearest_with(np.stack([hits(scene, size, *at) for at in places], -1), weights, touched)


def kinds(seed: int) -> tuple[str, str]:
    """Of a seed's background and occluder."""
    return tuple(list(some)[seed % len(some)] for some in (BACKGROUNDS, OCCLUDERS))


def name_of(seed: int) -> str:
    return "_".join([f"{seed:03d}", *kinds(seed)])


def draw(seed: int) -> tuple[list, list]:
    """The parts of a scene's background, with the lights, and its occluders."""
    rng, (background, occluder) = np.random.default_rng(seed), kinds(seed)
    return BACKGROUNDS[background](rng) + lights(rng), OCCLUDERS[occluder](rng)


def load(parts: list):
    """Mitsuba's scene of these parts."""
    return mitsuba().load_dict({"type": "scene", "integrator": {"type": "path", "max_depth": 4}} | {f"part{k}": part for k, part in enumerate(parts)})


def limits(seed: int, size: int) -> tuple[float, float]:
    """Least and largest disparity that the centre view has."""
    disp = hits(load(sum(draw(seed), [])), size)
    return float(np.nanmin(disp)), float(np.nanmax(disp))


def render(seed: int, size: int, samples: int, touched: float | None = None, moved: float = 0.0) -> Scene:
    """The light field of a seed and what is true of its centre view, as `true_disp` has it; with all disparities `moved` by so much."""
    mi = mitsuba()
    name, (background, occluders) = name_of(seed), draw(seed)
    whole, behind = load(background + occluders), load(background)
    filter, centre = ("box", "gaussian")[seed // 2 % 2], (VIEWS_NUM // 2, VIEWS_NUM // 2)
    shot = lambda scene, u, v: np.array(mi.render(scene, sensor=sensor(size, u, v, filter, moved), spp=samples, seed=VIEWS_NUM * u + v))
    views = np.stack([[shot(whole, u, v) for v in range(VIEWS_NUM)] for u in range(VIEWS_NUM)])
    exposure = 0.9 / np.quantile(views[centre], 0.97)
    developed = lambda light: as_byte(np.clip(light * exposure, 0, 1).astype(np.float32) ** np.float32(1 / 2.2))
    bg_disp = true_disp(behind, size, filter, touched) + np.float32(moved)
    if not occluders:
        return Scene(name, developed(views), bg_disp)
    fg_disp = true_disp(whole, size, filter, touched) + np.float32(moved)
    mask = fg_disp > bg_disp + 0.01
    return Scene(name, developed(views), bg_disp, np.where(mask, fg_disp, bg_disp), mask, developed(shot(behind, *centre)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=whole(0), default=14)
    parser.add_argument("--first", type=whole(0), default=0)
    parser.add_argument("--size", type=whole(16), default=160)
    parser.add_argument("--samples", type=whole(1), default=64, help="rays a pixel, best a square number")
    parser.add_argument("--unseen", action="store_true", help="the same scenes with photographs of which training scenes have no piece, in place of the nine that they have")
    args = parser.parse_args(argv)
    if args.unseen:
        PICTURES[:] = UNSEEN
    mitsuba()
    check_target(args.out / "scene")
    for seed in tqdm(range(args.first, args.first + args.seeds), disable=None):
        name = name_of(seed) + "_unseen" * args.unseen
        if not (args.out / name).exists():
            save_scene(replace(render(seed, args.size, args.samples), name=name), args.out, "hci")


if __name__ == "__main__":
    with one_sentence():
        main()
