"""What the network measures, without any learned number: how far from the truth its equations lie, and how often the candidate that its windows prefer is the true one.

    python benchmarks/equations.py SCENE [--region TOP BOTTOM LEFT RIGHT] [--border 15]

For the equations of the views' colours and of their detail, over each window: the share of the pixels whose correction is below 0.07 px, its median (a bias), its
root mean square, and the standard error that the equations claim, for views whose errors are independent noise. The views are read at the truth, where a perfect
equation asks for no correction. Then, for each window in which the first look's candidates compete and each kind of variance by which they do: the share of the pixels for which the best
candidate lies within half a pixel per view step of the truth.
"""

import argparse

import numpy as np
import torch
from einops import rearrange

from lfkit import DeoccNet
from lfkit.lightfield import as_float, load_scene
from lfkit.model import RIVALS, SEARCH, WINDOWS, window_correction

THRESHOLD = 0.07
NEAR = 0.5
KINDS = ("all views", "best four blocks", "like blocks", "detail of all views", "detail of the best four blocks")


def corrections(net: DeoccNet, views: torch.Tensor, disp: torch.Tensor):
    """For each set of equations and each window: names, the correction and its claimed standard error, 'h w'."""
    views = views - 0.5
    equations, _ = net.equations(views, disp, views[:, views.shape[1] // 2])
    for name, parts in zip(("colours", "detail"), equations):
        for cell, side in WINDOWS:
            change, energy, left = window_correction(parts, cell, side)
            yield name, f"{cell * side} x {cell * side}", change[0, 0], (left / energy / (views.shape[1] * (cell * side) ** 2)).sqrt()[0, 0]


def preferred(net: DeoccNet, views: torch.Tensor):
    """For each window, the disparity 'k h w' that it prefers by each of the kinds of variance."""
    features = net.cost_volume(views - 0.5)[:, -RIVALS * len(SEARCH):]
    for (cell, side, _), worse in zip(SEARCH, features.split(RIVALS, 1)):
        yield f"{cell * side} x {cell * side}", net.fine_levels[worse.argmin(0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene")
    parser.add_argument("--region", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"), help="rows and columns that are read; sides are multiples of 8")
    parser.add_argument("--border", type=int, default=15, help="pixels that are not counted at each side of the region")
    args = parser.parse_args()
    scene = load_scene(args.scene)
    top, bottom, left, right = args.region or (0, scene.bg_disp.shape[0] // 8 * 8, 0, scene.bg_disp.shape[1] // 8 * 8)
    if (bottom - top) % 8 or (right - left) % 8:
        parser.error(f"sides of the region must be multiples of 8: got {bottom - top} x {right - left}")
    views = rearrange(torch.from_numpy(np.ascontiguousarray(as_float(scene.lf[:, :, top:bottom, left:right]))), "u v h w c -> 1 (u v) c h w")
    disp = torch.from_numpy(np.ascontiguousarray(scene.bg_disp[top:bottom, left:right])).float()
    inside = slice(args.border, -args.border or None)
    print("| equations of | window | below 0.07 px | median | rms | claimed |\n|---|---|---|---|---|---|")
    net = DeoccNet(views_num=len(scene.lf))
    with torch.inference_mode():
        for name, window, change, error in corrections(net, views, disp[None]):
            change, error = change[inside, inside], error[inside, inside]
            print(f"| {name} | {window} | {100 * (change.abs() < THRESHOLD).float().mean():.1f} % | {change.median():+.3f} | {change.square().mean().sqrt():.3f} | {error.median():.3f} |")
        print("\n| window | " + " | ".join(KINDS) + " |\n" + "|---" * (1 + RIVALS) + "|")
        for window, found in preferred(net, views):
            near = ((found - disp).abs() <= NEAR)[:, inside, inside].float().mean((1, 2))
            print(f"| {window} | " + " | ".join(f"{100 * share:.1f} %" for share in near) + " |")


if __name__ == "__main__":
    main()
