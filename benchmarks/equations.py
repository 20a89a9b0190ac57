"""What the network measures, without any learned number: how far from the truth its equations lie, and how often the candidate that its windows prefer is the true one.

    python benchmarks/equations.py SCENE [--region TOP BOTTOM LEFT RIGHT] [--border 15] [--off 0.3] [--hidden]

For the equations of the views' colours, of their detail, and of the detail within blocks of views, over each window: the share of the pixels whose correction lies within
0.07 px of the right one, the correction's median and root mean square about the right one, and the standard error that the equations claim, for views whose
errors are independent noise. The views are read at the truth plus `--off`, so that a perfect equation asks for a correction of minus that. Then, for each window in which the first look's candidates compete and each kind of
variance by which they do: the share of the pixels for which a best candidate lies within half a pixel per view step of the truth, and how many a pixel has: one, but where variances are cut off and a candidate is best among its neighbours.
"""

import argparse

import numpy as np
import torch
from einops import rearrange
from torch.nn.functional import pad

from lfkit import DeoccNet
from lfkit.equations import trusted, window_correction
from lfkit.evidence import RIVAL_REACH, RIVALS, ROBUST, SEARCH
from lfkit.faults import one_sentence
from lfkit.lightfield import as_float, load_scene
from lfkit.model import FINE, WINDOWS

THRESHOLD = 0.07
NEAR = 0.5
SETS = ("colours", "detail", "detail within blocks")
KINDS = ("all views", "best four blocks", "like blocks", "detail of all views", "detail of the best four blocks")


def corrections(net: DeoccNet, views: torch.Tensor, disp: torch.Tensor):
    """For each set of equations and each window: names, the correction and its claimed standard error, 'h w'."""
    views = views - 0.5
    equations, _ = net.equations(views, disp, views[:, views.shape[1] // 2])
    for name, parts in zip(SETS, equations):
        for cell, side in WINDOWS:
            change, energy, left = window_correction(trusted(parts), cell, side)
            yield name, f"{cell * side} x {cell * side}", change[0, 0], (left / energy / (views.shape[1] * (cell * side) ** 2)).sqrt()[0, 0]


def preferred(net: DeoccNet, views: torch.Tensor):
    """For each window, which candidates are its best ones, 'd k h w' by each kind of variance; where variances are cut off, those that are best within RIVAL_REACH."""
    around = round(RIVAL_REACH * FINE / net.step)
    for place, worse in enumerate(net.cost_volume(views - 0.5)[1][0].split(RIVALS, 1)):
        cell, side, _ = (*SEARCH, *ROBUST)[place]
        cut = place >= len(SEARCH)
        least = pad(worse, (0, 0, 0, 0, 0, 0, around, around), value=torch.inf).unfold(0, 2 * around + 1, 1).amin(-1) if cut else worse.amin(0)
        yield f"{cell * side} x {cell * side}" + ", cut off" * cut, worse <= least + 1e-6  # between cells a best candidate is not quite 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene")
    parser.add_argument("--region", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"), help="rows and columns that are read; sides are multiples of 8")
    parser.add_argument("--border", type=int, default=15, help="pixels that are not counted at each side of the region")
    parser.add_argument("--off", type=float, default=0.0, help="pixels per view step by which the views are read too near")
    parser.add_argument("--hidden", action="store_true", help="count the pixels in the scene's mask alone")
    args = parser.parse_args()
    scene = load_scene(args.scene)
    top, bottom, left, right = args.region or (0, scene.bg_disp.shape[0] // 8 * 8, 0, scene.bg_disp.shape[1] // 8 * 8)
    if (bottom - top) % 8 or (right - left) % 8:
        parser.error(f"sides of the region must be multiples of 8: got {bottom - top} x {right - left}")
    if args.hidden and scene.mask is None:
        parser.error(f"--hidden counts the pixels in the scene's mask, and {args.scene} has none: leave it out")
    views = rearrange(torch.from_numpy(np.ascontiguousarray(as_float(scene.lf[:, :, top:bottom, left:right]))), "u v h w c -> 1 (u v) c h w")
    disp = torch.from_numpy(np.ascontiguousarray(scene.bg_disp[top:bottom, left:right])).float()
    counted = torch.zeros_like(disp, dtype=torch.bool)
    counted[args.border:-args.border or None, args.border:-args.border or None] = True
    if args.hidden:
        counted &= torch.from_numpy(np.ascontiguousarray(scene.mask[top:bottom, left:right]))
    print(f"| equations of | window | within 0.07 px | median | rms about {-args.off + 0.0:+g} | claimed |\n|---|---|---|---|---|---|")
    net = DeoccNet(views_num=len(scene.lf))
    with torch.inference_mode():
        for name, window, change, error in corrections(net, views, disp[None] + args.off):
            change, error = change[counted], error[counted]
            wrong = change + args.off
            print(f"| {name} | {window} | {100 * (wrong.abs() < THRESHOLD).float().mean():.1f} % | {change.median():+.3f} | {wrong.square().mean().sqrt():.3f} | {error.median():.3f} |")
        print("\n| window | " + " | ".join(KINDS) + " |\n" + "|---" * (1 + RIVALS) + "|")
        near = (net.fine_levels[:, None, None] - disp).abs() <= NEAR
        for window, best in preferred(net, views):
            hit = (best & near[:, None]).any(0)[:, counted].float().mean(1)
            several = best.sum(0)[:, counted].float().mean(1)
            print(f"| {window} | " + " | ".join(f"{100 * share:.1f} % ({count:.1f})" for share, count in zip(hit, several)) + " |")


if __name__ == "__main__":
    with one_sentence():
        main()
