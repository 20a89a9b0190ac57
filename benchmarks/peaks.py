"""What the distributions gain from the last look's estimate, by the share of the background's part that it takes (`lfkit.model.LAST_SHARE`), and the nearer layer's map by the least mass of its peaks.

    python benchmarks/peaks.py [SCENE ...] [--seeds 24] [--first 1000] [--weights FILE]

Both peaks as in `accuracy.py`, then the cross-entropy of depDistT and of depDistS with the truth's two-bin distributions, border 15, means over the scenes of a group; views are not enlarged. "Missed": of the pixels whose layers lie far
apart, those whose background has no peak near it, though the disparity map is right to RIGHT px. The second table: MSEx100 and BadPix 0.07 of fg_disp over all pixels, and the percent of the occluder's mask where it is off
by more than a pixel, which are mostly occluders that are missed (`lfkit.disparity.LIKELY_MASS`); the PSNR in dB of what is seen through them in the mask, by that map and the network's of the background.
"""

import argparse

import numpy as np
import torch
from accuracy import APART, NEAR, PEAK, SIZE, both_peaks
from einops import rearrange

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.dataset import HELD_OUT
from lfkit.disparity import find_peaks, get_disp_distribution, nearest_peak, on_levels
from lfkit.faults import one_sentence
from lfkit.lightfield import Scene, as_float, load_scene
from lfkit.metrics import BAD_PIX
from lfkit.model import DeoccNet, revised
from lfkit.see_through import compute_psnr, see_through
from lfkit.synthetic import synthesize

SHARES = (0.0, 0.3, 0.6, 0.7, 0.8, 0.9, 1.0)
RIGHT = 0.3     # pixels per view step
MASSES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
GROSS = 1.0     # pixels per view step
INNER = (..., slice(15, -15), slice(15, -15))


def missed(both: torch.Tensor, scene: Scene, disp: torch.Tensor, model: DeoccNet) -> float:
    """Percent of the pixels with layers far apart whose background has no peak, though the map is right; NaN where there are none."""
    is_peak, places = find_peaks(both, model.max_disp, model.step, PEAK)
    off = torch.where(is_peak, (places - torch.from_numpy(scene.bg_disp)).abs(), torch.inf).amin(1)[0][INNER].numpy()
    fg, bg = scene.fg_disp[INNER], scene.bg_disp[INNER]
    apart = (fg - bg > APART * model.step) & (np.abs(fg) <= model.max_disp) & (np.abs(bg) <= model.max_disp)
    lost = (off > NEAR) & (np.abs(disp[0][INNER].numpy() - bg) <= RIGHT)
    return 100 * float(lost[apart].mean()) if apart.any() else np.nan


def look(scene: Scene, model: DeoccNet) -> dict[str, torch.Tensor]:
    """What the network's stages see."""
    with torch.inference_mode():
        return model.stages(rearrange(torch.from_numpy(as_float(scene.lf)), "u v h w c -> 1 (u v) c h w"))


def nearer(scene: Scene, seen: dict[str, torch.Tensor], model: DeoccNet) -> list[tuple[float, ...]]:
    """At each least mass: MSEx100 and BadPix of the nearer layer's map, the percent of the mask's pixels where it is off by more than a pixel, and the PSNR of what is seen through there."""
    both, rows = model.distributions(seen)[0], []
    mask = (np.zeros(scene.bg_disp.shape, bool) if scene.mask is None else scene.mask)[INNER]
    for mass in MASSES:
        fg_disp = nearest_peak(both, model.max_disp, model.step, mass)[0].numpy()
        off = np.abs(fg_disp - scene.fg_disp)[INNER]
        hidden = mask.any() and scene.gt_data is not None
        psnr = compute_psnr(see_through(scene.lf, seen["depth_map"][0].numpy(), fg_disp)[0], scene.gt_data, scene.mask) if hidden else np.nan
        rows.append((100 * float(np.mean(off**2)), 100 * float((off > BAD_PIX).mean()), 100 * float((off[mask] > GROSS).mean()) if mask.any() else np.nan, psnr))
    return rows


def score(scene: Scene, seen: dict[str, torch.Tensor], model: DeoccNet) -> list[tuple[float, ...]]:
    """At each share: both peaks, the two cross-entropies, and what is missed."""
    first = model.train().distributions(seen)  # the first look's own
    model.eval()
    disp, rows = seen["depth_map"], []
    truth_bg, truth_fg = (get_disp_distribution(d[None], model.max_disp, model.step) for d in (scene.bg_disp, scene.fg_disp))
    entropy = lambda p, target: -float((target * p.clamp(min=1e-6).log()).sum(1)[INNER].mean())
    for share in SHARES:
        both, background = revised(*first, on_levels(disp, model.levels), share)
        peaks = both_peaks(both[0].numpy(), scene, model.max_disp, model.step)
        rows.append((np.nan if peaks is None else peaks, entropy(both, (truth_bg + truth_fg) / 2), entropy(background, truth_bg), missed(both, scene, disp, model)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--seeds", type=whole(0), default=24)
    parser.add_argument("--first", type=whole(0), default=1000)
    parser.add_argument("--weights", default=str(WEIGHTS))
    args = parser.parse_args()
    model = lfkit.load_model(args.weights, enlarge=1)[0]
    procedural = {f"procedural, {args.seeds} seeds": (synthesize(HELD_OUT + args.first + k, SIZE) for k in range(args.seeds))} if args.seeds else {}
    groups = procedural | {path: [load_scene(path)] for path in args.scenes}
    tables = {name: [(score(scene, seen, model), nearer(scene, seen, model)) for scene in scenes for seen in [look(scene, model)]] for name, scenes in groups.items()}
    print("| scenes | share | both peaks | depDistT | depDistS | missed |\n|---|---|---|---|---|---|")
    for name, rows in tables.items():
        for share, row in zip(SHARES, np.nanmean([shares for shares, _ in rows], 0)):
            print(f"| {name} | {share:g} | {row[0]:.1f} % | {row[1]:.3f} | {row[2]:.3f} | {row[3]:.1f} % |")
    print("\n| scenes | least mass | fg MSEx100 | fg BadPix | off in the mask | PSNR dB |\n|---|---|---|---|---|---|")
    for name, rows in tables.items():
        for mass, row in zip(MASSES, np.nanmean([masses for _, masses in rows], 0)):
            print(f"| {name} | {mass:g} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.1f} % | {row[3]:.2f} |")


if __name__ == "__main__":
    with one_sentence():
        main()
