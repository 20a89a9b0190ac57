"""Draws one scene's prediction beside the truth: python scripts/figure.py SCENE OUT.png [--weights FILE]."""

import argparse

import lfkit
from lfkit.checkpoint import WEIGHTS
from lfkit.visual import plot_disparity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene")
    parser.add_argument("out")
    parser.add_argument("--weights", default=str(WEIGHTS))
    args = parser.parse_args()
    device = lfkit.choose_device()
    scene, (model, _) = lfkit.load_scene(args.scene), lfkit.load_model(args.weights, device)
    disp = lfkit.predict_scene(scene.middle(model.views_num).lf, model, device, max_length=160)[2].numpy()
    plot_disparity(disp, scene.bg_disp, scene.name, scene.centre).savefig(args.out)


if __name__ == "__main__":
    main()
