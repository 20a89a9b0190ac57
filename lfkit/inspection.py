"""Pictures to look into a prediction with: live in JupyterLab, by ipywidgets, and the same pictures, standing still, anywhere else."""

import base64
from collections.abc import Callable
from uuid import uuid4

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from ipywidgets import HTML, FloatSlider, IntSlider, Text, VBox
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lfkit.lightfield import as_byte, as_float
from lfkit.see_through import GAP
from lfkit.visual import DISP_LABEL, disp_limits, plot_distribution, plot_refocus

LINE_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7")  # apart for the colour-blind too, and from most pictures
LINE_STYLES = ("-", "--", ":")  # where two maps agree both are seen
SLOPES = 24     # lines over an epipolar slice
POINTS = 6000   # of a layer in a point cloud; more than a small picture can show
CLICK_HEIGHT = 260  # pixels on the screen of a picture to click at, at least


def explore(draw: Callable[..., Figure], **controls) -> None:
    """Shows draw(**values) as a picture, and below it controls that draw it anew in its place.

    The picture is an output like any other, so that a stored notebook, and one without a front end, has it as it was drawn first.

    Args:
        draw: makes the figure.
        controls: ipywidgets by the names of draw's arguments; each has a `value`.
    """
    values = lambda: {name: control.value for name, control in controls.items()}
    picture = display(draw(**values()), display_id=True)
    for control in controls.values():
        control.observe(lambda change: picture.update(draw(**values())), names="value")
    display(VBox(list(controls.values())))


def inspect_refocus(lf: np.ndarray, max_disp: float) -> None:
    """A slider over the disparity in focus, in pixels per view step, for a notebook; lf is 'u v h w c'."""
    slider = FloatSlider(0.0, min=-max_disp, max=max_disp, step=0.1, description="disparity", continuous_update=False)
    explore(lambda disp: plot_refocus(lf, [disp]), disp=slider)


# the distribution at a clicked pixel

def _clickable(image: np.ndarray, target: str):
    """A widget that shows a picture and writes the "y, x" of a click into the text field of the class `target`."""
    data = base64.b64encode(iio.imwrite("<bytes>", as_byte(image), extension=".png")).decode()
    height, width = image.shape[:2]
    zoom = max(1, -(-CLICK_HEIGHT // height))
    click = (f"const f = document.querySelector('.{target} input'); f.value = Math.floor(event.offsetY / {zoom}) + ', ' + Math.floor(event.offsetX / {zoom}); "
             "for (const name of ['input', 'change']) f.dispatchEvent(new Event(name, {bubbles: true}));")
    return HTML(f'<img src="data:image/png;base64,{data}" width="{zoom * width}" height="{zoom * height}" '
                f'style="max-width:none; image-rendering:pixelated; cursor:crosshair" onclick="{click}">')


def read_pixel(text: str, size: tuple[int, int]) -> tuple[int, int] | None:
    """The (y, x) that a text "y, x" names; None where it names none inside the h x w picture, as while it is typed.

    >>> read_pixel("3, 5", (8, 8)), read_pixel("3,", (8, 8)), read_pixel("3, 9", (8, 8))
    ((3, 5), None, None)
    """
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        return None
    pixel = int(parts[0]), int(parts[1])
    return pixel if pixel[0] < size[0] and pixel[1] < size[1] else None


def inspect_pixel(both: np.ndarray, background: np.ndarray, image: np.ndarray, max_disp: float, step: float, pixel: tuple[int, int] | None = None,
                  fg_disp: np.ndarray | None = None, bg_disp: np.ndarray | None = None) -> None:
    """The two distributions at a pixel: click at another in the picture, or type its y, x. Args as of `plot_distribution`; the first pixel is the middle one by default."""
    size, shown = both.shape[1:], [pixel or (both.shape[1] // 2, both.shape[2] // 2)]
    target = f"lfkit-pixel-{uuid4().hex}"
    def draw(place: str) -> Figure:
        shown[0] = read_pixel(place, size) or shown[0]
        return plot_distribution(both, background, shown[0], max_disp, step, fg_disp, bg_disp, image)
    field = Text(f"{shown[0][0]}, {shown[0][1]}", description="y, x", continuous_update=False)
    field.add_class(target)
    explore(draw, place=field)
    display(_clickable(image, target))


# epipolar slices

def plot_epipolar(lf: np.ndarray, row: int, disps: dict[str, np.ndarray]) -> Figure:
    """The epipolar slice along a row of pixels, with the slopes that disparities predict for it drawn over it.

    A point that the centre view has at x, with disparity d, is at x + (c - v) d in view column v: where a line follows the picture, d is right.

    Args:
        lf: 'u v h w c', uint8 or float in [0, 1].
        row: pixel row of the centre view.
        disps: 'h w' maps by label, in pixels per view step, at most three; where one is NaN it has no line.

    Raises:
        ValueError: when the row lies outside, there are more than three maps, or a map is of another size.
    """
    lf, disps = np.asarray(lf), {label: np.asarray(disp) for label, disp in disps.items()}
    n, (height, width) = lf.shape[0], lf.shape[2:4]
    if not 0 <= row < height:
        raise ValueError(f"row must lie in 0 ... {height - 1}: got {row}")
    if len(disps) > len(LINE_COLOURS) or any(disp.shape != (height, width) for disp in disps.values()):
        raise ValueError(f"disps must be at most {len(LINE_COLOURS)} 'h w' maps of {height} x {width}: got {[disp.shape for disp in disps.values()]}")
    fig, axes = plt.subplots(2, 1, figsize=(9, 4.4), dpi=80, layout="constrained", gridspec_kw={"height_ratios": [1, 1.4]}, sharex=True)
    plt.close(fig)
    top, bottom = max(row - height // 6, 0), min(row + height // 6 + 1, height)
    axes[0].imshow(as_float(lf[n // 2, n // 2, top:bottom]), extent=(-0.5, width - 0.5, bottom - 0.5, top - 0.5), aspect="auto")
    axes[0].axhline(row, color="red", linewidth=1)
    axes[0].set(ylabel="y (px)", title=f"centre view about y = {row} px, and its epipolar slice")
    axes[1].imshow(as_float(lf[n // 2, :, row]), aspect="auto", interpolation="nearest", extent=(-0.5, width - 0.5, n - 0.5, -0.5))
    xs, views = np.linspace(0, width - 1, SLOPES + 2).round().astype(int)[1:-1], np.arange(n)
    for colour, style, (label, disp) in zip(LINE_COLOURS, LINE_STYLES, disps.items()):
        lines = axes[1].plot(xs + (n // 2 - views[:, None]) * disp[row, xs], np.repeat(views[:, None], len(xs), 1), color=colour, linestyle=style, linewidth=1.3)
        lines[0].set_label(label)
    axes[1].set(xlabel="x (px)", ylabel="view column v", xlim=(-0.5, width - 0.5), ylim=(n - 0.5, -0.5))
    if disps:
        fig.legend(fontsize=8, loc="outside lower center", ncols=len(disps))
    return fig


def inspect_epipolar(lf: np.ndarray, disps: dict[str, np.ndarray], row: int | None = None) -> None:
    """A slider over the row of `plot_epipolar`, from the middle one where none is given."""
    height = lf.shape[2]
    slider = IntSlider(height // 2 if row is None else row, min=0, max=height - 1, description="row y", continuous_update=False)
    explore(lambda row: plot_epipolar(lf, row, disps), row=slider)


# both layers in space

def plot_points(centre: np.ndarray, fg_disp: np.ndarray, bg_disp: np.ndarray, behind: np.ndarray | None = None, azimuth: float = -70.0) -> Figure:
    """Both layers as a point cloud over x, y and disparity: the background everywhere, the occluder where it is more than GAP nearer.

    Args:
        centre: 'h w c', uint8 or float in [0, 1], colours the occluder.
        fg_disp, bg_disp: 'h w' in pixels per view step.
        behind: 'h w c', colours the background, such as `see_through` gives; the centre view by default.
        azimuth: from where it is seen, in degrees.
    """
    mask = fg_disp - bg_disp > GAP
    fig = plt.figure(figsize=(6.5, 5), dpi=80)
    plt.close(fig)
    ax = fig.add_subplot(projection="3d")
    for disp, image, chosen in ((bg_disp, centre if behind is None else behind, np.ones_like(mask)), (fg_disp, centre, mask)):
        y, x = np.nonzero(chosen)
        some = slice(None, None, max(1, -(-len(y) // POINTS)))
        y, x = y[some], x[some]
        ax.scatter(x, disp[y, x], y, c=np.clip(as_float(image)[y, x], 0, 1), s=3, depthshade=False, linewidths=0)
    low, high = disp_limits(fg_disp, bg_disp)
    ax.set_xlabel("x (px)")
    ax.set_ylabel(DISP_LABEL, labelpad=12)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set(zlabel="y (px)", ylim=(high, low), zlim=(centre.shape[0], 0), title="both layers, near ones in front")
    ax.view_init(elev=15, azim=azimuth)
    ax.set_box_aspect((1.2, 1.2, 1), zoom=1.15)
    return fig


def inspect_points(centre: np.ndarray, fg_disp: np.ndarray, bg_disp: np.ndarray, behind: np.ndarray | None = None) -> None:
    """A slider over the azimuth of `plot_points`."""
    slider = IntSlider(-70, min=-180, max=180, step=10, description="azimuth", continuous_update=False)
    explore(lambda azimuth: plot_points(centre, fg_disp, bg_disp, behind, azimuth), azimuth=slider)
