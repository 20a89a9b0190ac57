"""How much of a pixel a near thing covers before the truth calls that pixel near, and how far its surface turns away there: no network in it.

    python benchmarks/touched.py SCENE ... [--seeds 12]

Along rows and columns, wherever the first surface's true disparity jumps by more than 0.4 between two pixels and the colours on either side, two to four pixels away, are even and differ: the light of the
two pixels at the jump and of their neighbours, between the far side's (0) and the near side's (1), is about what the near thing covers. Of those in each range, the share that the truth calls near.
Light is taken as the stored value to the power of 2.2. Below it, at all such jumps of which the near side is one surface, how far its disparity falls over its last RIM pixels.
"""

import argparse

import numpy as np
from outlines import outline

from lfkit.config import whole
from lfkit.dataset import HELD_OUT
from lfkit.faults import one_sentence
from lfkit.lightfield import Scene, as_float, load_scene
from lfkit.synthetic import synthesize

JUMP, SAME = 0.4, 0.25              # pixels per view step: an outline, one surface
LEAST, EVEN = 0.06, 0.02            # the two sides' light differs by more, each side's own by less
RIM = 4                             # pixels, over which what is round turns away
RANGES = (-0.1, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)


def covers(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Pixels at the outlines: what the near side covers, and whether the truth calls them near."""
    truth = scene.bg_disp if scene.fg_disp is None else scene.fg_disp
    picture, parts, near = as_float(scene.centre) ** 2.2, [], []
    for disp, light in ((truth, picture), (truth.T, picture.swapaxes(0, 1))):
        for y, first, way in outline(disp, JUMP):
            inner, outer = first + way * np.arange(5), first - way * np.arange(1, 6)
            if min(inner.min(), outer.min()) < 0 or max(inner.max(), outer.max()) >= disp.shape[1] or max(np.ptp(disp[y, inner]), np.ptp(disp[y, outer])) > SAME:
                continue
            inside, outside = light[y, inner[2:]], light[y, outer[2:]]
            step = inside.mean(0) - outside.mean(0)
            if np.linalg.norm(step) > LEAST and max(inside.std(0).max(), outside.std(0).max()) < EVEN:
                at = [*inner[:2], *outer[:2]]
                parts += list((light[y, at] - outside.mean(0)) @ step / (step @ step))
                near += [True, True, False, False]
    return np.array(parts), np.array(near, bool)


def falls(scene: Scene) -> np.ndarray:
    """By how much the near side's disparity is lower at the outlines than RIM pixels further in, in pixels per view step."""
    truth, found = scene.bg_disp if scene.fg_disp is None else scene.fg_disp, []
    for disp in (truth, truth.T):
        for y, first, way in outline(disp, JUMP):
            inner = first + way * np.arange(RIM + 1)
            if inner.min() >= 0 and inner.max() < disp.shape[1] and np.abs(np.diff(disp[y, inner])).max() < SAME:
                found.append(disp[y, inner[-1]] - disp[y, first])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--seeds", type=whole(0), default=12)
    args = parser.parse_args()
    groups = {path: [load_scene(path)] for path in args.scenes} | ({"procedural": [synthesize(HELD_OUT + 3000 + k, 160) for k in range(args.seeds)]} if args.seeds else {})
    print("| scene | pixels | " + " | ".join(f"{low:g} to {high:g}" for low, high in zip(RANGES, RANGES[1:])) + " |\n|---|" + "---|" * len(RANGES))
    for name, scenes in groups.items():
        parts, near = (np.concatenate(some) for some in zip(*map(covers, scenes)))
        shares = (near[(parts >= low) & (parts < high)] for low, high in zip(RANGES, RANGES[1:]))
        print(f"| {name} | {len(parts)} | " + " | ".join(f"{100 * part.mean():.0f} %" if len(part) else "" for part in shares) + " |")
    print("\n| scene | outlines | falls by 0.05 and more | 0.1 | 0.2 | median |\n|---|---|---|---|---|---|")
    for name, scenes in groups.items():
        fall = np.concatenate([*map(falls, scenes)])
        shares = [f"{100 * (fall >= least).mean():.0f} %" for least in (0.05, 0.1, 0.2)] + [f"{np.median(fall):.3f}"] if len(fall) else ["-"] * 4
        print(f"| {name} | {len(fall)} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    with one_sentence():
        main()
