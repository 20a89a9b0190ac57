"""Draws what the centre view sees, what is seen through its occluder, and the truth.

    python scripts/figure.py SCENE OUT.png [--what disparity] [--weights FILE] [--dpi N]

SCENE is one of your own, or `synthetic:SEED` for the procedural scene of that seed, which needs no data; seeds from 2147483648 on are never trained on.
"""

import argparse
import math
from pathlib import Path

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.dataset import SYNTHETIC
from lfkit.faults import one_sentence
from lfkit.files import check_target
from lfkit.see_through import see_through
from lfkit.visual import plot_disparity, plot_see_through

SIZE = 160  # side of a procedural scene, in pixels
SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", metavar="SCENE")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--what", default="pictures", choices=("pictures", "disparity"), help="the pictures, or the predicted and the true disparity")
    parser.add_argument("--dpi", type=whole(1), help="dots an inch; by default 160, or as many as it takes for each pixel of the scene to have one")
    args = parser.parse_args()
    device = lfkit.choose_device()
    check_target(Path(args.out))
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{args.out}: a figure's file must end in {', '.join(SUFFIXES)}; name another")
    seed = args.scene.removeprefix(SYNTHETIC)
    if seed != args.scene and not seed.isdecimal():
        raise ValueError(f"{args.scene}: after {SYNTHETIC} comes the seed of a scene, a whole number; name another")
    scene = lfkit.load_scene(args.scene) if seed == args.scene else lfkit.synthesize(int(seed), SIZE)
    model, _ = lfkit.load_model(args.weights, device)
    if args.what == "disparity" and scene.bg_disp is None:
        raise ValueError(f"{args.scene}: has no true disparity of the background to draw; put it there, or leave out --what")
    both, _, depth_map = lfkit.predict_scene(scene.middle(model.views_num).lf, model, device)
    disp, fg_disp = depth_map.numpy(), lfkit.nearest_peak(both[None], model.max_disp, model.step)[0].numpy()
    if args.what == "disparity":
        figure = plot_disparity(disp, scene.bg_disp, scene.name, scene.centre)
    else:
        image, _ = see_through(scene.lf, disp, fg_disp)
        figure = plot_see_through(scene.centre, image, scene.gt_data, scene.mask, disp)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    shown = min(axes.get_window_extent().height for axes in figure.axes if axes.images) / figure.dpi  # inches
    figure.savefig(args.out, dpi=args.dpi or max(160, math.ceil(max(disp.shape) / shown)))


if __name__ == "__main__":
    with one_sentence():
        main()
