"""What each look adds, and how much of it is chance: errors of every look's map of the background, of scenes as they come and turned and mirrored.

    python benchmarks/looks.py [SCENE ...] [--seeds 0] [--first 5000] [--ways 8] [--weights FILE]

Scenes go through the network whole, and as large as they are. MSEx100 / BadPix 0.07, 15 pixels from the sides, of each scene, and of the mean over the procedural ones; behind it MSEx100 inside the occluder's
mask. With --ways above 1 also of each further way (as `--symmetries` has them), turned back, and of the mean of all ways' maps. The procedural seeds are training seeds, not held-out ones, so
that weights may have been trained on them; those that are shipped were not, by their card. The last row of a scene is a bound: for each pixel, of the three values that the last look
chooses from, the one nearest to the truth.
"""

import argparse

import numpy as np
import torch
from einops import rearrange

import lfkit
from lfkit.augment import rotate, transpose
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.faults import one_sentence
from lfkit.inference import SYMMETRIES, WAYS
from lfkit.lightfield import Scene, as_float, load_scene
from lfkit.model import EARLIER, OUTLINE_REACH, DeoccNet, extremes
from lfkit.synthetic import synthesize
from lfkit.tables import score_scene

SIZE = 160  # of the procedural scenes, in pixels
LOOKS = (*EARLIER, "depth_map")
BEST = "best choice of the last"


def maps(model: DeoccNet, scene: Scene, ways: int) -> np.ndarray:
    """The looks' maps of a scene in the first `ways` of WAYS, turned back: 'way look h w'."""
    found = []
    for quarters, transposed in WAYS[:ways]:
        (lf,) = rotate(transpose((scene.lf,)) if transposed else (scene.lf,), quarters)
        with torch.inference_mode():
            seen = model.stages(rearrange(torch.from_numpy(as_float(np.ascontiguousarray(lf))), "u v h w c -> 1 (u v) c h w"))
        looks = np.stack([np.rot90(seen[name][0].numpy(), -quarters) for name in LOOKS])
        found.append(looks.swapaxes(1, 2) if transposed else looks)
    return np.stack(found)


def best_choice(disp: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each pixel's own value in the map before the last look, and the least and the greatest around, the one nearest to the truth; all 'h w'."""
    choices = np.concatenate([disp[None], extremes(torch.from_numpy(np.ascontiguousarray(disp))[None], OUTLINE_REACH)[0].numpy()])
    return np.take_along_axis(choices, np.abs(choices - truth).argmin(0)[None], 0)[0]


def cells(rows: list[dict]) -> str:
    """The mean of scenes' rows; in their masks that of those that have one."""
    mean = lambda key: np.mean([row[key] for row in rows if key in row]) if any(key in row for row in rows) else None
    inside = mean("mse_x100_inside")
    return f"{mean('mse_x100'):.2f} / {mean('bad_pix'):.2f}" + (f" in {inside:.2f}" if inside is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--seeds", type=whole(0), default=0)
    parser.add_argument("--first", type=whole(0), default=5000)
    parser.add_argument("--ways", type=int, default=1, choices=SYMMETRIES)
    parser.add_argument("--weights", default=str(WEIGHTS))
    args = parser.parse_args()
    model = lfkit.load_model(args.weights, enlarge=1)[0]
    groups = [(path, [path]) for path in args.scenes] + ([("procedural", range(args.first, args.first + args.seeds))] if args.seeds else [])
    columns = ["scenes", "look", "as they come", *(f"way {k + 1}" for k in range(1, args.ways)), *(["mean of the maps"] if args.ways > 1 else [])]
    print("|".join(["", *columns, ""]), "|" + "---|" * len(columns), sep="\n")
    for name, members in groups:
        rows = {}
        for member in members:
            scene = load_scene(member) if isinstance(member, str) else synthesize(member, SIZE)
            found = maps(model, scene, args.ways)
            for k, versions in enumerate([*found, found.mean(0)][:args.ways + (args.ways > 1)]):
                for look, disp in zip((*LOOKS, BEST), (*versions, best_choice(versions[-2], scene.bg_disp))):
                    rows.setdefault((look, k), []).append(score_scene(scene, disp))
        for look in (*LOOKS, BEST):
            print(f"| {name} | {look} | " + " | ".join(cells(rows[look, k]) for k in range(len(columns) - 2)) + " |", flush=True)


if __name__ == "__main__":
    with one_sentence():
        main()
