"""What lies behind bars: those of the generator, and denser ones than any that it draws.

    python benchmarks/bars.py [--weights FILE] [--seeds 8]

Procedural scenes of 144 x 144 (seeds from 1048576 on), each behind one sheet of parallel bars; background's disparity, border 15, in the bars' mask and outside it; views are not enlarged.
"""

import argparse
from functools import partial
from unittest.mock import patch

import numpy as np

import lfkit
from lfkit import synthetic
from lfkit.canvas import bars
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.faults import one_sentence
from lfkit.inference import predict_scene
from lfkit.tables import score_scene

FIRST, SIZE = 1 << 20, 144


KINDS = {"the generator's: 16 to 44 px apart, up to 44 %": bars, "10 to 20 px apart, 20 to 44 %": partial(bars, apart=(10, 20), thinnest=0, parts=(0.1, 0.22)),
         "8 to 14 px apart, 44 to 60 %": partial(bars, apart=(8, 14), thinnest=0, parts=(0.22, 0.3))}


def behind(support, seed: int, size: int = SIZE) -> lfkit.Scene:
    """A procedural scene behind one sheet of this support."""
    def occluders(canvas, low, high):
        least = canvas.uniform(low, high - synthetic.THINNEST)
        return [synthetic._sheet(canvas, least, min(least + canvas.uniform(0.05, 0.8), high), support(canvas), 0.5, occluder=True)]
    with patch.object(synthetic, "make_occluders", occluders):
        return lfkit.synthesize(seed, size, occluded=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--seeds", type=whole(1), default=8)
    args = parser.parse_args()
    device = lfkit.choose_device("auto")
    model = lfkit.load_model(args.weights, device, 1)[0]
    keys = ("mse_x100", "bad_pix", "mse_x100_inside", "bad_pix_inside", "mse_x100_outside", "bad_pix_outside")
    print("| bars | covered (%) | MSEx100 | BadPix 0.07 | MSEx100 in | BadPix in | MSEx100 out | BadPix out |\n|---|---|" + "---|" * len(keys))
    for name, support in KINDS.items():
        scenes = [behind(support, FIRST + k) for k in range(args.seeds)]
        rows = [score_scene(scene, predict_scene(scene.lf, model, device)[2].numpy()) for scene in scenes]
        print(f"| {name} | {100 * np.mean([scene.mask.mean() for scene in scenes]):.0f} | " + " | ".join(f"{np.mean([row[key] for row in rows]):.2f}" for key in keys) + " |", flush=True)


if __name__ == "__main__":
    with one_sentence():
        main()
