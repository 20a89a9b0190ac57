"""Pictures: what a validation keeps, and the figures of the notebooks."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange, reduce
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lfkit.disparity import disparity_levels
from lfkit.files import write_array, write_picture, write_whole
from lfkit.lightfield import as_byte, as_float
from lfkit.model import EARLIER, DeoccNet
from lfkit.see_through import compute_psnr, compute_ssim
from lfkit.sweep import ViewSweep

DISP_MAP = "viridis"   # even steps in lightness, readable without colour
ERROR_MAP = "RdBu_r"   # signed, white at 0
ERROR_LIMIT = 0.5      # pixels per view step at the ends of the error's colour bar
DISP_LABEL = "disparity (px / view step)"


def disp_limits(*maps: np.ndarray) -> tuple[float, float]:
    """The range of disparities that all of the maps lie in, but for what is not finite; never empty."""
    finite = np.concatenate([m[np.isfinite(m)] for m in map(np.asarray, maps)] + [[]])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return (low, high) if high - low > 1e-3 else (low - 0.5, high + 0.5)


def save_disparity(path: str | Path, disp: np.ndarray, limits: tuple[float, float] | None = None) -> None:
    """One disparity map 'h w' as a coloured PNG, over its own range unless limits are given."""
    low, high = limits or disp_limits(disp)
    write_whole(path, lambda file: plt.imsave(file, disp, cmap=DISP_MAP, vmin=low, vmax=high, format="png"))


def save_validation_result(log_path: str | Path, epoch: int, scene: str, center_image: np.ndarray, disp_pred: np.ndarray,
                           disp_gt: np.ndarray) -> Path:
    """Keeps one scene's validation: <scene>_train.png (the centre view), _pred.png, _gt.png and _pred.npy.

    Both disparities are drawn in one colour scale, the range of the truth, so that equal colours are equal disparities.

    Args:
        log_path: the run's directory; the files go to validation/epoch<epoch> in it.
        epoch: number of epochs trained.
        scene: the scene's name.
        center_image: 'h w c', uint8 or float in [0, 1].
        disp_pred, disp_gt: 'h w' in pixels per view step.

    Returns:
        The folder.

    Raises:
        ValueError: when the maps are not 'h w' of one shape.
    """
    if disp_pred.ndim != 2 or disp_pred.shape != disp_gt.shape:
        raise ValueError(f"disp_pred and disp_gt must be 'h w' maps of one shape: got {disp_pred.shape} and {disp_gt.shape}")
    folder = Path(log_path) / "validation" / f"epoch{epoch}"
    write_picture(folder / f"{scene}_train.png", as_byte(center_image))
    write_array(folder / f"{scene}_pred.npy", disp_pred)
    save_disparity(folder / f"{scene}_pred.png", disp_pred, disp_limits(disp_gt))
    save_disparity(folder / f"{scene}_gt.png", disp_gt)
    return folder


def _panels(count: int, height: float = 3.0, widths: list | None = None) -> tuple[Figure, np.ndarray]:
    """A row of axes on a figure that pyplot does not keep, so that a cell shows it once."""
    fig, axes = plt.subplots(1, count, figsize=(height * 1.12 * (sum(widths) if widths else count), height), dpi=80, squeeze=False,
                             layout="constrained", gridspec_kw={"width_ratios": widths} if widths else None)
    plt.close(fig)
    return fig, axes[0]


def _image(ax, image: np.ndarray, title: str, **options):
    drawn = ax.imshow(image, interpolation="nearest", **options)
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    return drawn


def plot_views(lf: np.ndarray, row: int | None = None) -> Figure:
    """The top left, centre and bottom right view, and the epipolar slice along one row of pixels.

    The slice stacks that row of pixels from every view of the middle view row: a point draws a line whose slope is its disparity.

    Args:
        lf: 'u v h w c', uint8 or float in [0, 1].
        row: pixel row of the slice; the middle one by default.
    """
    n, height = lf.shape[0], lf.shape[2]
    row = height // 2 if row is None else row
    if not 0 <= row < height:
        raise ValueError(f"row must lie in 0 ... {height - 1}: got {row}")
    fig, axes = _panels(4, widths=[1, 1, 1, 1.5])
    for ax, (u, v) in zip(axes, ((0, 0), (n // 2, n // 2), (n - 1, n - 1))):
        _image(ax, as_float(lf[u, v]), f"view ({u}, {v})")
    axes[1].axhline(row, color="red", linewidth=1)
    axes[3].imshow(as_float(lf[n // 2, :, row]), aspect="auto", interpolation="nearest")
    axes[3].set(xlabel="x (px)", ylabel="view column v")
    axes[3].set_title(f"epipolar slice, y = {row} px", fontsize=10)
    return fig


def refocus(lf: np.ndarray, disp: float) -> np.ndarray:
    """The light field focused at one disparity: the mean of its views, shifted so that what lies there coincides.

    Args:
        lf: 'u v h w c', uint8 or float in [0, 1].
        disp: in pixels per view step.

    Returns:
        'h w c' float32 in [0, 1]; each pixel the mean of the views that reach it.
    """
    views = rearrange(torch.tensor(as_float(lf)), "u v h w c -> 1 (u v) c h w")
    views = torch.cat([views, torch.ones_like(views[:, :, :1])], 2)
    total = reduce(torch.cat(list(ViewSweep(views, abs(disp)).shifted(disp)), 1), "1 (n c) h w -> h w c", "sum", c=4)
    return (total[..., :3] / total[..., 3:].clamp(min=1e-3)).clamp(0, 1).numpy()


def plot_refocus(lf: np.ndarray, disps: list[float]) -> Figure:
    """The light field focused at several disparities, in pixels per view step."""
    fig, axes = _panels(len(disps), height=2.4)
    for ax, disp in zip(axes, disps):
        _image(ax, refocus(lf, disp), f"focused at {disp:+.1f} px")
    return fig


def plot_layers(centre: np.ndarray, gt_data: np.ndarray | None, fg_disp: np.ndarray, bg_disp: np.ndarray) -> Figure:
    """The centre view, the same without its occluders where that is known, and the disparities of both layers with one colour bar."""
    pictures = {"centre view": centre} | ({} if gt_data is None else {"without occluders (gt_data)": gt_data})
    fig, axes = _panels(len(pictures) + 2, widths=[1] * (len(pictures) + 1) + [1.2])
    for ax, (title, picture) in zip(axes, pictures.items()):
        _image(ax, as_float(picture), title)
    low, high = disp_limits(fg_disp, bg_disp)
    _image(axes[-2], fg_disp, "fg_disp: the first surface", cmap=DISP_MAP, vmin=low, vmax=high)
    drawn = _image(axes[-1], bg_disp, "bg_disp: behind the occluders", cmap=DISP_MAP, vmin=low, vmax=high)
    fig.colorbar(drawn, ax=axes[-1], label=DISP_LABEL)
    return fig


def plot_disparity(pred: np.ndarray, gt: np.ndarray, title: str = "", image: np.ndarray | None = None) -> Figure:
    """Predicted beside true disparity with one colour bar, and the signed error.

    Args:
        pred, gt: 'h w' in pixels per view step.
        title: stands over the figure.
        image: 'h w c' drawn first, such as the centre view.

    Raises:
        ValueError: when the maps differ in shape.
    """
    if pred.ndim != 2 or pred.shape != gt.shape:
        raise ValueError(f"pred and gt must be 'h w' maps of one shape: got {pred.shape} and {gt.shape}")
    first = int(image is not None)
    fig, axes = _panels(3 + first, widths=[1] * first + [1, 1.2, 1.2])
    if image is not None:
        _image(axes[0], as_float(image), "centre view")
    low, high = disp_limits(gt)
    _image(axes[first], pred, "predicted background", cmap=DISP_MAP, vmin=low, vmax=high)
    drawn = _image(axes[first + 1], gt, "true background", cmap=DISP_MAP, vmin=low, vmax=high)
    fig.colorbar(drawn, ax=axes[first + 1], label=DISP_LABEL, extend="both")
    drawn = _image(axes[first + 2], pred - gt, "predicted - true", cmap=ERROR_MAP, vmin=-ERROR_LIMIT, vmax=ERROR_LIMIT)
    fig.colorbar(drawn, ax=axes[first + 2], label="error (px / view step)", extend="both")
    fig.suptitle(title, fontsize=11)
    return fig


def plot_see_through(centre: np.ndarray, image: np.ndarray, truth: np.ndarray | None = None, mask: np.ndarray | None = None,
                     bg_disp: np.ndarray | None = None) -> Figure:
    """The occluded centre view, what `see_through` makes of it, and the truth, each with its PSNR and SSIM inside the mask.

    Args:
        centre, image, truth: 'h w c', uint8 or float in [0, 1]; without truth there are no scores.
        mask: 'h w' booleans, where the scores are taken; everywhere by default.
        bg_disp: 'h w', the predicted disparity that was used, drawn last where given.
    """
    pictures = {"centre view": centre, "seen through": image} | ({} if truth is None else {"truth, without the occluder": truth})
    fig, axes = _panels(len(pictures) + (bg_disp is not None), widths=[1] * len(pictures) + [1.2] * (bg_disp is not None))
    where = None if mask is None or not mask.any() else mask
    for ax, (title, picture) in zip(axes, pictures.items()):
        if truth is not None and picture is not truth:
            title += f"\nPSNR {compute_psnr(as_float(picture), as_float(truth), where):.1f} dB, SSIM {compute_ssim(as_float(picture), as_float(truth), where):.2f}"
        _image(ax, as_float(picture), title)
    if bg_disp is not None:
        low, high = disp_limits(bg_disp)
        fig.colorbar(_image(axes[-1], bg_disp, "predicted background", cmap=DISP_MAP, vmin=low, vmax=high), ax=axes[-1], label=DISP_LABEL)
    return fig


def _inside(pixel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(y, x) when it lies in a map of that size; ValueError otherwise."""
    if not all(0 <= place < extent for place, extent in zip(pixel, size)):
        raise ValueError(f"pixel (y, x) = {tuple(pixel)} lies outside the {size[0]} x {size[1]} map")
    return tuple(pixel)


def _marked(ax, image: np.ndarray, pixel: tuple[int, int], title: str) -> None:
    """A picture with a cross at the pixel (y, x)."""
    _image(ax, as_float(image), title)
    ax.plot(pixel[1], pixel[0], "+", color="red", markersize=14, markeredgewidth=2)


def plot_distribution(both: np.ndarray, background: np.ndarray, pixel: tuple[int, int], max_disp: float, step: float,
                      fg_disp: np.ndarray | None = None, bg_disp: np.ndarray | None = None, image: np.ndarray | None = None) -> Figure:
    """The two distributions at one pixel, and where the truth lies.

    Args:
        both, background: depDistT and depDistS of one scene, 'd h w'.
        pixel: (y, x).
        max_disp, step: the levels.
        fg_disp, bg_disp: 'h w' truth, drawn as lines where given.
        image: 'h w c', drawn beside with the pixel marked.

    Raises:
        ValueError: when the pixel lies outside the maps, or the number of levels differs.
    """
    levels = disparity_levels(max_disp, step).numpy()
    if len(levels) != both.shape[0] or both.shape != background.shape:
        raise ValueError(f"the distributions have shapes {both.shape} and {background.shape}, expected {len(levels)} levels 'd h w'")
    y, x = _inside(pixel, both.shape[1:])
    first = int(image is not None)
    fig, axes = _panels(1 + first, widths=[1] * first + [1.8])
    if image is not None:
        _marked(axes[0], image, (y, x), "centre view")
    ax = axes[first]
    ax.bar(levels - 0.18 * step, both[:, y, x], 0.36 * step, label="depDistT (both layers)", color="#0072B2")
    ax.bar(levels + 0.18 * step, background[:, y, x], 0.36 * step, label="depDistS (background)", color="#E69F00")
    for disp, name, style in ((fg_disp, "true fg_disp", "--"), (bg_disp, "true bg_disp", "-")):
        if disp is not None:
            ax.axvline(disp[y, x], linestyle=style, color="black", label=name)
    ax.set(xlabel=DISP_LABEL, ylabel="probability", ylim=(0, 1), title=f"pixel y = {y}, x = {x}")
    ax.legend(fontsize=8)
    return fig


def plot_stages(model: DeoccNet, lf: np.ndarray, pixel: tuple[int, int], fg_disp: np.ndarray | None = None, bg_disp: np.ndarray | None = None) -> Figure:
    """What each stage of the network sees at one pixel: how the views agree at each candidate, the distributions, the estimates of its looks.

    Args:
        model: in evaluation mode, on the CPU or a CUDA device.
        lf: 'u v h w c', uint8 or float in [0, 1]; a crop round the pixel is enough.
        pixel: (y, x).
        fg_disp, bg_disp: 'h w' truth, drawn as lines where given.

    Raises:
        ValueError: when the pixel lies outside the views, or there are not as many of these as the model takes.
    """
    pixel = _inside(pixel, lf.shape[2:4])
    views = rearrange(torch.tensor(as_float(lf)), "u v h w c -> 1 (u v) c h w").to(model.fine_levels.device)
    with torch.inference_mode():
        seen = model.stages(views)
        at_pixel = lambda part: part[0, ..., pixel[0], pixel[1]].cpu().numpy()
        final, seen = [*map(at_pixel, model.distributions(seen))], {name: at_pixel(part) for name, part in seen.items()}
    levels, groups = model.fine_levels.cpu().numpy(), len(model.evidence.groups)
    fig, (picture, *axes) = _panels(5, 4.2)
    _marked(picture, lf[len(lf) // 2, len(lf) // 2], pixel, f"pixel y = {pixel[0]}, x = {pixel[1]}")
    evidence = seen["evidence"]
    curves = {"all views": (evidence[:, groups - 1], "-"), "best of the blocks of 3 x 3 views": (evidence[:, groups], "--"),
              "between blocks of like colour": (evidence[:, groups + 1], ":")}
    for (name, (values, style)), colour in zip(curves.items(), ("#000000", "#0072B2", "#D55E00")):
        axes[0].plot(levels, values, style, marker="o", markersize=3, label=name, color=colour)
    axes[0].set(title="1. do the views agree?", ylabel="log variance (low: they do)")
    axes[1].plot(levels, evidence[:, groups + 2], "o-", markersize=3, color="#009E73", label="share of like blocks")
    axes[1].set(title="2. how many of them?", ylabel="share", ylim=(0, 1.05))
    for ax, at, distributions in ((axes[2], levels, (seen["both"], seen["background"])), (axes[3], model.levels.cpu().numpy(), final)):
        for name, values, style, colour in zip(("depDistT (both layers)", "depDistS (background)"), distributions, ("-", "--"), ("#0072B2", "#E69F00")):
            ax.plot(at, values, style, marker="o", markersize=3, label=name, color=colour)
    axes[2].plot(seen["first"], 0.02, "^", color="black", markersize=9, label=f"first estimate {seen['first']:.2f}")
    axes[2].set(title="3. where are the peaks?", ylabel="probability", ylim=(0, 1.05))
    axes[3].plot(seen["depth_map"], 0.02, "^", color="black", markersize=9, label=f"last estimate {seen['depth_map']:.2f}\n(before: {', '.join(f'{seen[k]:.2f}' for k in EARLIER[1:])})")
    axes[3].set(title="4. with what the last look found", ylabel="probability", ylim=(0, 1.05))
    for ax in axes:
        for disp, name, style in ((fg_disp, "true fg_disp", "--"), (bg_disp, "true bg_disp", "-")):
            if disp is not None:
                ax.axvline(disp[pixel], linestyle=style, color="grey", linewidth=1, label=f"{name} {disp[pixel]:.2f}")
        ax.set_xlabel(DISP_LABEL)
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # below: curves may lie anywhere
    for _ in range(2):  # the layout makes room for the legends in its second turn, and for their last line in its third
        fig.draw_without_rendering()
    return fig


def validated_epochs(test_metric: list) -> list[int]:
    """The places in a curve of epochs that a validation came before: the others repeat the value before them."""
    return [k for k, value in enumerate(test_metric) if k == 0 or value != test_metric[k - 1]]


def plot_curves(curves: dict[str, list], trained: int | None = None, tested: dict | None = None) -> Figure:
    """Training loss, and the MSE x 100 of training and validation, over the epochs trained.

    Args:
        curves: train_loss, train_metric and test_metric, one value an epoch; metrics in squared pixels. test_metric is of before the epoch, and a value that repeats the one before was not measured.
        trained: how many epochs were trained at the last of these; as many as these are by default.
        tested: the newest validation, with epoch (how many were trained) and mse, which is drawn too where it comes after the curves'.
    """
    fig, axes = _panels(2, widths=[1.6, 1.6])
    length, validated = len(curves["train_loss"]), validated_epochs(curves["test_metric"])
    before = (length if trained is None else trained) - length
    epochs = before + 1 + np.arange(length)
    axes[0].plot(epochs, curves["train_loss"], "o-", markersize=3, color="#0072B2")
    axes[0].set(title="training loss", xlabel="epochs trained", ylabel="loss")
    axes[1].plot(epochs, 100 * np.asarray(curves["train_metric"]), "o-", markersize=3, label="training crops")
    points = [(before + k, curves["test_metric"][k]) for k in validated]
    if tested and tested["epoch"] >= before + length:
        points.append((tested["epoch"], tested["mse"]))
    axes[1].plot([x for x, _ in points], [100 * mse for _, mse in points], "s--", markersize=3, label="validation scenes")
    axes[1].set(title="background's disparity", xlabel="epochs trained", ylabel="MSE x 100 (px²)", yscale="log")
    axes[1].legend(fontsize=8)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    return fig


class LiveCurves:
    """Training curves that redraw in place in a notebook cell; `live(report)` after every epoch."""

    handle = None

    def __call__(self, report: dict) -> None:
        """Draws the curves of a report of `fit`."""
        from IPython.display import display  # a notebook has it; the command line does without
        fig = plot_curves(report["curves"], report.get("epoch"), report.get("validation"))
        if self.handle is None:
            self.handle = display(fig, display_id=True)
        else:
            self.handle.update(fig)
