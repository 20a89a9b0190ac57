"""What each part of the network is worth in use: errors of its map of the background with one part after another left out, nothing trained.

    python benchmarks/parts.py [SCENE ...] [--seeds 8] [--first 5000] [--weights FILE]

MSEx100 / BadPix 0.07, 15 pixels from the sides, of each scene (of more than four, of their mean), and the mean over procedural ones of 160 x 160; behind it MSEx100 inside the occluder's mask. The
weights were trained with all looks: without one, those after it are given what they do not know.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import numpy as np
import torch
from looks import SIZE, cells

import lfkit
from lfkit import model as network
from lfkit.checkpoint import WEIGHTS
from lfkit.config import whole
from lfkit.faults import one_sentence
from lfkit.layers import Hourglass
from lfkit.lightfield import Scene, load_scene
from lfkit.model import CloserLook, DeoccNet, OutlineLook, SecondLook
from lfkit.synthetic import synthesize
from lfkit.tables import score_scene

ask, second = network.ask, SecondLook.forward


def ask_once(hourglass: Hourglass, evidence: list[torch.Tensor], context: list[torch.Tensor], features: torch.Tensor | None,
             after: list[torch.Tensor], half_turn: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`ask` about the light field as it comes alone; features still come and go twice."""
    out, features = ask(hourglass, evidence, context, None if features is None else features.chunk(2)[0], after, None)
    return out, torch.cat([features, features])


LEFT_OUT = {  # what takes the place of each part
    "nothing": nullcontext,
    "the bilateral filter": lambda: patch.object(network, "bilateral", lambda disp, *how: disp),
    "rims": lambda: patch.object(network, "with_rims", lambda views, disp, *how: disp),
    "enlarged views": lambda: patch.object(DeoccNet, "factor", 1),
    "the last look": lambda: patch.object(OutlineLook, "forward", lambda look, evidence, context, disp, *others: disp),
    "the closer look taken twice": lambda: patch.object(network, "REPEATED", None),
    "the half turn": lambda: patch.object(network, "ask", ask_once),
    "all closer looks": lambda: patch.object(CloserLook, "forward", lambda look, equations, evidence, context, features, disp, *others: (disp, features)),
    "the second look": lambda: patch.object(SecondLook, "forward", lambda look, evidence, context, candidates, *others: (candidates[:, 0], second(look, evidence, context, candidates, *others)[1])),
}
COLUMNS = 4  # for the given scenes, of more only the mean has one
ALONE = "all but the first look"  # which is then the map


@contextmanager
def without(part: str) -> Iterator[None]:
    """Every DeoccNet is without this part of LEFT_OUT, or ALONE, as long as the context lasts."""
    with ExitStack() as stack:
        for name in LEFT_OUT if part == ALONE else (part,):
            stack.enter_context(LEFT_OUT[name]())
        yield


def disparity(model: DeoccNet, scene: Scene) -> np.ndarray:
    """The background's disparity map, 'h w'."""
    return lfkit.predict_scene(scene.lf, model, torch.device("cpu"), progress=False)[2].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--seeds", type=whole(0), default=8)
    parser.add_argument("--first", type=whole(0), default=5000)
    parser.add_argument("--weights", default=str(WEIGHTS))
    args = parser.parse_args()
    model = lfkit.load_model(args.weights)[0]
    groups = {path: [load_scene(path)] for path in args.scenes}
    if len(groups) > COLUMNS:
        groups = {f"given, mean of {len(groups)}": sum(groups.values(), [])}
    if args.seeds:
        groups[f"procedural, mean of {args.seeds}"] = [synthesize(seed, SIZE) for seed in range(args.first, args.first + args.seeds)]
    print("| left out |" + "".join(f" {name} |" for name in groups), "|" + "---|" * (1 + len(groups)), sep="\n")
    for part in (*LEFT_OUT, ALONE):
        with without(part):
            print(f"| {part} | " + " | ".join(cells([score_scene(scene, disparity(model, scene)) for scene in scenes]) for scenes in groups.values()) + " |", flush=True)


if __name__ == "__main__":
    with one_sentence():
        main()
