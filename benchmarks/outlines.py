"""Where outlines lie: how many of the first pixels on either side of the background's true outlines are off by more than 0.4 px.

    python benchmarks/outlines.py SCENE ... [--seeds 12] [--weights FILE]

Along rows and columns, wherever the true disparity jumps by more than 0.5 from one pixel to the next, outside the occluder's mask and 15 pixels from the sides. An outline that is drawn too
far inside is wrong on the near side; views are not enlarged; procedural scenes of held-out seeds, beside the SCENEs, show what the generator teaches. The last column is the share of the squared error that
the first two pixels of either side make, of all that lies 15 pixels from the sides and outside the mask.
"""

import argparse
from collections import Counter

import numpy as np
import torch

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.dataset import HELD_OUT
from lfkit.faults import one_sentence
from lfkit.inference import predict_scene
from lfkit.lightfield import Scene, load_scene
from lfkit.metrics import BENCHMARK_BORDER
from lfkit.synthetic import synthesize

JUMP, SAME, WRONG, STEPS = 0.5, 0.25, 0.4, 3  # pixels per view step: an outline, one surface, an error; pixels counted on each side


def outline(disp: np.ndarray, jump: float):
    """Where 'h w' jumps by more than `jump` along a row: the row, the first column of the near side, and the step that leads further into it, 1 or -1."""
    change = np.diff(disp, axis=1)
    for y, x in np.argwhere(np.abs(change) > jump):
        way = 1 if change[y, x] > 0 else -1
        yield y, x + (way > 0), way


def count_sides(scene: Scene, disp: np.ndarray) -> Counter:
    """How many pixels there are at (side, pixels from the outline), and how many of them are off: keys (side, step, "all" or "off"); and the squared error, ("error", "beside" or "all")."""
    counts, beside = Counter(), np.zeros(scene.bg_disp.shape, bool)
    counted = np.zeros(scene.bg_disp.shape, bool)
    counted[BENCHMARK_BORDER:-BENCHMARK_BORDER, BENCHMARK_BORDER:-BENCHMARK_BORDER] = True
    if scene.mask is not None:
        counted &= ~scene.mask.astype(bool)
    for turned in (lambda m: m, np.transpose):
        truth, found, inside, marked = (turned(m) for m in (scene.bg_disp, disp, counted, beside))
        for y, near, inward in outline(truth, JUMP):
            for side, first, way in (("near", near, inward), ("far", near - inward, -inward)):
                for step in range(STEPS):
                    at = first + way * step
                    if 0 <= at < truth.shape[1] and inside[y, at] and abs(truth[y, at] - truth[y, first]) < SAME:
                        counts[side, step, "all"] += 1
                        counts[side, step, "off"] += int(abs(found[y, at] - truth[y, at]) > WRONG)
                        marked[y, at] |= step < 2
    square = (disp - scene.bg_disp) ** 2
    counts["error", "beside"], counts["error", "all"] = float(square[beside].sum()), float(square[counted].sum())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--seeds", type=whole(0), default=12)
    parser.add_argument("--weights", default=str(WEIGHTS))
    args = parser.parse_args()
    device = lfkit.choose_device("auto")
    model = lfkit.load_model(args.weights, device, 1)[0]
    groups = {path: [path] for path in args.scenes} | ({"procedural": [HELD_OUT + 3000 + k for k in range(args.seeds)]} if args.seeds else {})
    print("| scene | " + " | ".join(f"{side} {step + 1}" for side in ("near", "far") for step in range(STEPS)) + " | error |\n|---|" + "---|" * (2 * STEPS + 1))
    for name, members in groups.items():
        counts = Counter()
        for member in members:
            scene = load_scene(member) if isinstance(member, str) else synthesize(member, 160)
            with torch.inference_mode():
                counts += count_sides(scene, predict_scene(scene.lf, model, device)[2].numpy())
        share = lambda at: f"{100 * counts[*at, 'off'] / counts[*at, 'all']:.0f} %" if counts[*at, "all"] else "-"
        print(f"| {name} | " + " | ".join(share((side, step)) for side in ("near", "far") for step in range(STEPS)) + f" | {100 * counts['error', 'beside'] / max(counts['error', 'all'], 1e-9):.0f} % |", flush=True)


if __name__ == "__main__":
    with one_sentence():
        main()
