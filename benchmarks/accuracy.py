"""Errors on scenes that no weights have seen, in one table a group: procedural scenes of held-out seeds, and scenes of your own with truth.

    python benchmarks/accuracy.py [SCENE ...] [--weights FILE ...] [--seeds 8] [--first 1000] [--embed 3] [--enlarge 1] [--noise 0.02] [--moved -1] [--json FILE]

Background's disparity, border 15, inside and outside the occluder's mask; "both peaks" is the percent of the pixels whose layers lie more than 2.1 steps
apart, at which depDistT has a peak within 0.25 px of each. A SCENE without occluders is scored as it comes, and, with --embed, with drawn occluders in front
of it (three seeds). A weights FILE may be the EPINET-like baseline's, of `benchmarks/train_baseline.py`.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import lfkit
from lfkit import augment
from lfkit.checkpoint import WEIGHTS
from lfkit.config import number, whole
from lfkit.dataset import HELD_OUT
from lfkit.disparity import MAX_DISP, find_peaks
from lfkit.faults import one_sentence
from lfkit.files import check_target, existing
from lfkit.inference import SYMMETRIES, predict_scene
from lfkit.lightfield import Scene, as_byte, as_float, load_scene
from lfkit.model import ENLARGE, ENLARGED
from lfkit.occlusion import embed_occluders, occluder_supports
from lfkit.synthetic import synthesize
from lfkit.tables import model_labels, score_scene

SIZE = 160     # of the procedural scenes, in pixels
APART = 2.1    # in steps: nearer layers make one peak of two at some phases
NEAR = 0.25    # pixels per view step that a peak may be off
PEAK = 0.05    # least share of the mass in a peak and its two neighbours


def both_peaks(both: np.ndarray, scene: Scene, max_disp: float, step: float, border: int = 15) -> float | None:
    """Percent of the pixels with layers far apart at which both true disparities have a peak (`find_peaks`) near them; None where there are none."""
    if scene.fg_disp is None:
        return None
    is_peak, disp = (part[0].numpy() for part in find_peaks(torch.from_numpy(both)[None], max_disp, step, PEAK))
    disp = np.where(is_peak, disp, np.inf)
    found = [np.abs(disp - truth).min(0) <= NEAR for truth in (scene.fg_disp, scene.bg_disp)]
    apart = (scene.fg_disp - scene.bg_disp > APART * step) & (np.abs(scene.fg_disp) <= max_disp) & (np.abs(scene.bg_disp) <= max_disp)
    inner = (slice(border, -border), slice(border, -border))
    return 100 * float((found[0] & found[1])[inner][apart[inner]].mean()) if apart[inner].any() else None


def embedded(scene: Scene, seed: int) -> Scene:
    """The scene behind drawn occluders."""
    lf, mask, fg_disp = embed_occluders(as_float(scene.lf), scene.bg_disp, np.random.default_rng(seed), 4.0, occluder_supports(()))
    return Scene(f"{scene.name} + occluders {seed}", as_byte(lf), scene.bg_disp, fg_disp, mask, scene.centre)


def noisy(scene: Scene, sigma: float) -> Scene:
    """The scene with normal noise of this standard deviation on all views, in parts of the full range."""
    noise = np.random.default_rng(0).standard_normal(scene.lf.shape, np.float32)
    return dataclasses.replace(scene, lf=as_byte(np.clip(as_float(scene.lf) + np.float32(sigma) * noise, 0, 1)))


def moved(scene: Scene, by: float) -> Scene:
    """The scene with all disparities so much larger (`lfkit.augment.shear`), without the pixels at its sides that not all moved views have."""
    known = [scene.mask, scene.fg_disp]
    lf, _, *parts, bg_disp = augment.shear((as_float(scene.lf), *[scene.bg_disp if part is None else part for part in (None, *known)], scene.bg_disp), by)
    mask, fg_disp = (None if part is None else new for part, new in zip(known, parts))
    return Scene(f"{scene.name} moved by {by:g}", as_byte(lf), bg_disp, fg_disp, mask)


def scenes_to_score(paths: list[str], seeds: int, first: int, embed: int):
    """(group, scene) of all that is scored."""
    for k in range(seeds):
        yield "procedural", synthesize(HELD_OUT + first + k, SIZE)
    for path in paths:
        scene = load_scene(path)
        yield "given", scene
        if scene.fg_disp is None:
            for seed in range(embed):
                yield "given, embedded", embedded(scene, seed)


def load(path: str, enlarge: float):
    """A network of lfkit, or the baseline where the file says so."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    if "epinet" not in kept:
        return lfkit.load_model(path, enlarge=enlarge)[0]
    from baselines import EpinetPosterior
    net = EpinetPosterior(kept["width"])
    net.load_state_dict(kept["epinet"])
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--weights", nargs="+", default=[str(WEIGHTS)])
    parser.add_argument("--seeds", type=whole(0), default=8)
    parser.add_argument("--first", type=whole(0), default=1000, help="first of them, after HELD_OUT")
    parser.add_argument("--embed", type=whole(0), default=3, help="occluders' seeds before each scene without any")
    parser.add_argument("--enlarge", type=float, choices=ENLARGED, default=ENLARGE, help="as `python -m lfkit validate` takes it")
    parser.add_argument("--symmetries", type=int, choices=SYMMETRIES, default=1, help="as `python -m lfkit validate` takes it")
    parser.add_argument("--noise", type=number(0), default=0.0, help="standard deviation of noise that is added to the views, in parts of the full range")
    parser.add_argument("--moved", type=float, default=0.0, metavar="DISP", help="that is added to all disparities; scenes that then have some beyond the network's are left out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for path in args.scenes:
        existing(Path(path))
    if args.json:
        check_target(args.json)
    device = lfkit.choose_device("auto")
    models = {label: load(path, args.enlarge).to(device) for label, path in zip(model_labels(args.weights), args.weights)}
    rows = []
    for group, scene in tqdm(scenes_to_score(args.scenes, args.seeds, args.first, args.embed), leave=False):
        scene = moved(scene, args.moved) if args.moved else scene
        if args.moved and max(np.abs(part).max() for part in (scene.bg_disp, scene.fg_disp) if part is not None) > MAX_DISP:
            continue
        scene = noisy(scene, args.noise) if args.noise else scene
        for label, model in models.items():
            start = time.perf_counter()
            both, _, disp = (out.numpy() for out in predict_scene(scene.lf, model, device, symmetries=args.symmetries))
            row = score_scene(scene, disp) | {"seconds": time.perf_counter() - start, "group": group, "weights": label}
            peaks = both_peaks(both, scene, model.max_disp, model.step)
            rows.append(row | ({"both_peaks": peaks} if peaks is not None else {}))
    if not rows:
        raise ValueError("no scene to score: name some, or ask for --seeds, and --moved no further than the network's disparities reach")
    keys = ("mse_x100", "bad_pix", "mse_x100_inside", "bad_pix_inside", "mse_x100_outside", "bad_pix_outside", "both_peaks")
    print("| scenes | weights | MSEx100 | BadPix 0.07 | MSEx100 in | BadPix in | MSEx100 out | BadPix out | both peaks |\n|---|---|" + "---|" * len(keys))
    for group in dict.fromkeys(row["group"] for row in rows):
        names = dict.fromkeys(row["scene"] for row in rows if row["group"] == group)
        for label in models:
            mine = [row for row in rows if row["group"] == group and row["weights"] == label]
            lines = {f"{group}, mean of {len(names)}": mine} | ({row["scene"]: [row] for row in mine} if group == "given" else {})
            if group == "procedural":
                lines[f"{group}, median"] = mine
            for name, part in lines.items():
                values = [[row[key] for row in part if key in row] for key in keys]
                middle = np.median if name.endswith("median") else np.mean
                print(f"| {name} | {label} | " + " | ".join(f"{middle(v):.2f}" if v else "-" for v in values) + " |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    with one_sentence():
        main()
