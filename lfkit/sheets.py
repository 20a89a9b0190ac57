"""Light fields of sheets, rendered by solving each view's rays.

A sheet has a disparity d(y, x), a support and a texture, all functions of the centre view's coordinates, which is how a point
of the scene is named here: the ray of view (u, v) through its pixel (i, j) meets a sheet at the point with y = i - (c - u) d(y, x)
and x = j - (c - v) d(y, x). That is solved for (y, x); the nearest sheet that the ray meets is seen. Nothing is warped from a
rendered view, so every view shows what the others can't see.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange

from lfkit.canvas import Canvas

TOUCHED = 0.12       # a pixel whose nearest sheet covers this much of it has that sheet's disparity: HCI's truth asks for some 0.1, one ray a pixel for 0.5
RIM_STEPS = 12       # the slopes of rims make these leave under 0.02 px in the corner views, and mostly under 2e-4
SOLVER_STEPS = 6     # fixed-point steps after the exact solution for a plane; the slopes of procedural scenes make 6 leave under 1e-3 px


@dataclass
class Sheet:
    """One textured surface: disparity a + b y + c x plus waves and a dome, less a rim's fall, seen where its support reaches TOUCHED."""

    plane: tuple[float, float, float]
    texture: torch.Tensor                    # 'c h w', OVERSAMPLE samples a pixel, over the margin too
    support: torch.Tensor                    # 'h w' coverage in [0, 1], likewise
    waves: list[tuple[float, float, float, float]] = field(default_factory=list)  # amplitude, y and x frequency, phase
    dome: tuple[float, ...] = ()             # a bulge towards the camera: height, y, x, radius along y and x
    rim: Callable | None = None              # points (y, x) to how much its disparity falls there, as it turns away from the camera
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
        return out - self.rim(y, x) if self.rim else out

    def solve(self, i: torch.Tensor, j: torch.Tensor, du: torch.Tensor, dv: torch.Tensor):
        """The point (y, x) of the sheet on the ray through pixel (i, j) of the view at offset (du, dv) = (c - u, c - v)."""
        a, b, c = self.plane
        d = (a + b * i + c * j) / (1 + b * du + c * dv)
        for _ in range(RIM_STEPS if self.rim else SOLVER_STEPS if self.waves or self.dome else 0):
            d = self.disp(i - du * d, j - dv * d)
        return i - du * d, j - dv * d, d


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
    """What the rays see, 'v c h w' for v views: the layers laid over one another from far to near, ray by ray.

    Light adds up, not the values that pictures store; it is about their square.
    """
    order = disps.argsort(0)
    covers = covers.gather(0, order)
    colours = colours.gather(0, order[:, None].expand(-1, 3, *order.shape[1:])).clamp(min=0).square()
    out = colours[0]
    for cover, colour in zip(covers[1:], colours[1:]):
        out = out + cover * (colour - out)
    return out.sqrt().transpose(0, 1)


def nearest(canvas: Canvas, sheets: list[Sheet], i, j) -> tuple[torch.Tensor, torch.Tensor]:
    """Disparity of the nearest sheet at pixels of the centre view, and whether an occluder is that sheet, both 'h w'."""
    best = torch.full_like(i, -math.inf)
    mask = torch.zeros_like(i, dtype=torch.bool)
    for sheet in sheets:
        disp = sheet.disp(i, j)
        hit = (canvas.read(sheet.support[None], i, j)[0] >= TOUCHED) & (disp > best)
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
