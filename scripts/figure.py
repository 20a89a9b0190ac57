"""Draws what the centre view sees, what is seen through its occluder, and the truth: python scripts/figure.py SCENE OUT.png [--weights FILE]."""

import argparse
from pathlib import Path

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.faults import one_sentence
from lfkit.files import check_target
from lfkit.see_through import see_through
from lfkit.visual import plot_disparity, plot_see_through

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene")
    parser.add_argument("out")
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--what", default="pictures", choices=("pictures", "disparity"), help="the pictures, or the predicted and the true disparity")
    args = parser.parse_args()
    device = lfkit.choose_device()
    check_target(Path(args.out))
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{args.out}: a figure's file must end in {', '.join(SUFFIXES)}; name another")
    scene, (model, _) = lfkit.load_scene(args.scene), lfkit.load_model(args.weights, device)
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
    figure.savefig(args.out)


if __name__ == "__main__":
    with one_sentence():
        main()
